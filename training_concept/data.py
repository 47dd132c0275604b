# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From texts to rows of token ids: load, hold out validation documents, tokenise, cut in chunks, count epochs."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
    load_dataset,
)
from transformers import PreTrainedTokenizerBase

from training_concept.chunking import StreamCutter
from training_concept.sources import PACKAGE_PREFIX, load_files, load_package, stable_fraction

logger = logging.getLogger(__name__)

TEXT = "text"
FEATURES = Features({"input_ids": List(Value("int32"))})
LONGEST_DEFAULT_SEQUENCE = 1024
# Documents can be whole books; the tokenizer keeps about 150 bytes a token until a batch is done.
DOCUMENTS_PER_BATCH = 100
HOLD_OUT_SALT = b"validation"

AnyDataset: TypeAlias = Dataset | IterableDataset
AnyDatasetDict: TypeAlias = DatasetDict | IterableDatasetDict


class DataArguments(Protocol):
    """The fields of the training script's data arguments that are read here; their names are the stock scripts'."""

    dataset_name: str | None
    dataset_config_name: str | None
    train_file: str | None
    validation_file: str | None
    text_column_name: str | None
    validation_split: str
    validation_split_percentage: int
    max_seq_length: int | None
    preprocessing_num_workers: int | None
    line_by_line: bool
    max_train_samples: int | None
    max_eval_samples: int | None
    overwrite_cache: bool
    streaming: bool


def load_text_datasets(
    data_args: DataArguments, *, cache_dir: str | None = None, token: str | bool | None = None
) -> AnyDatasetDict:
    """Load training and validation documents: a Hub dataset, `package:NAME`, or local files.

    A source without the split `validation_split` has `validation_split_percentage` percent of its training
    documents held out. Which ones depends on their text alone: every run, whatever its seed, order and number of
    workers, streaming or not, is validated on the same documents.

    Args:
        data_args: what to load.
        cache_dir: where `datasets` keeps its Arrow files.
        token: access token for private Hub datasets.

    Returns:
        `train` and `validation` (`validation` alone if only a validation file is given), each with the one
        column `text`. An `IterableDatasetDict` if `data_args.streaming`.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: no source or two, a file that cannot be read as text, a missing split or column, a column
            that is not text, too few documents to hold some out.
    """
    splits = _load_source(data_args, cache_dir, token)
    named = _named_splits(splits, data_args)
    texts = {name: _text_column(split, name, data_args.text_column_name) for name, split in named.items()}
    if "validation" not in texts:
        texts["train"], texts["validation"] = hold_out(
            texts["train"], data_args.validation_split_percentage, data_args.preprocessing_num_workers
        )
    return type(splits)(texts)


def _load_source(data_args: DataArguments, cache_dir: str | None, token: str | bool | None) -> AnyDatasetDict:
    name = data_args.dataset_name
    named = {"train": data_args.train_file, data_args.validation_split: data_args.validation_file}
    files = {split: path for split, path in named.items() if path}
    if files and not name:
        return load_files(files, streaming=data_args.streaming, cache_dir=cache_dir)
    if files or not name:
        raise ValueError("give either dataset_name or train_file and validation_file as the source of texts")
    if not name.startswith(PACKAGE_PREFIX):
        return load_dataset(
            name, data_args.dataset_config_name, cache_dir=cache_dir, token=token, streaming=data_args.streaming
        )
    splits = load_package(name.removeprefix(PACKAGE_PREFIX))
    if data_args.streaming:
        return IterableDatasetDict({split: documents.to_iterable_dataset() for split, documents in splits.items()})
    return splits


def _named_splits(splits: Mapping[str, AnyDataset], data_args: DataArguments) -> dict[str, AnyDataset]:
    """Pick the training split and, under the name `validation`, the one asked for."""
    wanted = {"train": "train", "validation": data_args.validation_split}
    named = {name: splits[split] for name, split in wanted.items() if split in splits}
    explicit = data_args.validation_split != "validation"
    if not named or (explicit and "validation" not in named):
        missing = data_args.validation_split if explicit else "train"
        raise ValueError(f"the source has no split {missing!r}; it has: {', '.join(splits)}")
    return named


def _text_column(split: AnyDataset, name: str, requested: str | None) -> AnyDataset:
    """Keep the text column only, under the name `text`."""
    first = next(iter(split), None)
    if first is None:
        raise ValueError(f"the {name} split holds no rows")
    column = requested or (TEXT if TEXT in first else next(iter(first)))
    if column not in first:
        raise ValueError(f"the {name} split has no column {column!r} (text_column_name); it has: {', '.join(first)}")
    if not isinstance(first[column], str | None):
        kind = type(first[column]).__name__
        raise ValueError(f"column {column!r} of the {name} split holds {kind}, not text; set text_column_name")
    split = split.select_columns([column])
    return split if column == TEXT else split.rename_column(column, TEXT)


def hold_out(documents: AnyDataset, percentage: float, num_proc: int | None = None) -> tuple[AnyDataset, AnyDataset]:
    """Split documents in training and validation documents by a hash of their text.

    Copies of a document land on the same side. Order is kept.

    Args:
        documents: column `text`.
        percentage: expected share of validation documents, in percent. A map-style dataset gives at least one.
        num_proc: processes that hash; ignored when streaming.

    Raises:
        ValueError: a percentage not between 0 and 100, or fewer than two documents (map-style only).
    """
    if not 0 < percentage < 100:
        raise ValueError(f"validation_split_percentage must lie between 0 and 100 (both excluded), got {percentage}")
    share = percentage / 100
    if isinstance(documents, IterableDataset):
        return (
            documents.filter(lambda text: _hold_out_fraction(text) >= share, input_columns=TEXT),
            documents.filter(lambda text: _hold_out_fraction(text) < share, input_columns=TEXT),
        )
    hashed = documents.map(
        _hold_out_fractions, batched=True, remove_columns=[TEXT], num_proc=num_proc, desc="Hashing documents"
    )
    fractions = np.array(hashed["fraction"][:])
    held = (fractions < share) | (fractions == fractions.min())
    if not (fractions[~held] < 1).any():
        count = int((fractions < 1).sum())
        raise ValueError(f"{count} documents with text are too few to hold some out: give a validation_file")
    return documents.select(np.flatnonzero(~held)), documents.select(np.flatnonzero(held))


def _hold_out_fraction(text: str | None) -> float:
    # Nothing is to be learned about a model from a blank text: those stay with training, which skips them.
    return stable_fraction(text, HOLD_OUT_SALT) if text and text.strip() else 1.0


def _hold_out_fractions(batch: Mapping[str, list]) -> dict[str, list[float]]:
    return {"fraction": [_hold_out_fraction(text) for text in batch[TEXT]]}


def resolve_sequence_length(max_seq_length: int | None, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens in a row, N. Unset: what the tokenizer declares, at most 1024. A set value wins over the tokenizer's.

    Raises:
        ValueError: no room for a token between the two special tokens.
    """
    if max_seq_length is None:
        return min(tokenizer.model_max_length, LONGEST_DEFAULT_SEQUENCE)
    if max_seq_length < 3:
        raise ValueError(
            f"max_seq_length must be at least 3 (one token between two special ones), got {max_seq_length}"
        )
    if max_seq_length > tokenizer.model_max_length:
        logger.warning(
            "max_seq_length=%d exceeds the %d tokens that the tokenizer declares; the model decides what it can take",
            max_seq_length,
            tokenizer.model_max_length,
        )
    return max_seq_length


def tokenize_and_chunk(
    raw: AnyDatasetDict, tokenizer: PreTrainedTokenizerBase, data_args: DataArguments
) -> AnyDatasetDict:
    """Turn documents into rows of token ids.

    By default the documents of a split are joined, one separator token between two, and cut in rows of exactly
    N = `max_seq_length` tokens, `[CLS] N-2 tokens [SEP]`. The last row ends where the stream ends and overlaps the
    row before it, so that nothing is dropped and all shapes agree; a stream shorter than one row makes one short
    row. When streaming, each shard of the source is a stream of its own.

    With `line_by_line` each line that is not blank is a row of at most N tokens; what does not fit is cut off, and
    the number of such lines is logged.

    A special token spelled out in a text ("[MASK]") is read as ordinary characters.

    Args:
        raw: splits with a column `text`.
        tokenizer: with a classifier and a separator token.
        data_args: `max_seq_length`, `line_by_line`, `preprocessing_num_workers`, `overwrite_cache`, and
            `max_train_samples` and `max_eval_samples`, which limit rows.

    Returns:
        The same splits with the one column `input_ids` (int32).

    Raises:
        ValueError: a tokenizer without these tokens, a length under 3, a split without text.
    """
    for name in ("cls_token", "sep_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(f"rows need a tokenizer with a {name}; this one has none")
    length = resolve_sequence_length(data_args.max_seq_length, tokenizer)
    build = _line_rows if data_args.line_by_line else _chunk_rows
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_eval_samples}
    rows = {name: build(split, name, tokenizer, length, data_args) for name, split in raw.items()}
    return type(raw)({name: _limit(split, limits.get(name)) for name, split in rows.items()})


def _limit(rows: AnyDataset, limit: int | None) -> AnyDataset:
    if limit is None or (isinstance(rows, Dataset) and limit >= len(rows)):
        return rows
    return rows.take(limit)


def _line_rows(
    split: AnyDataset, name: str, tokenizer: PreTrainedTokenizerBase, length: int, data_args: DataArguments
) -> AnyDataset:
    rows = _map_texts(split, data_args, _encode_lines, tokenizer=tokenizer, length=length)
    _check_has_rows(rows, name)
    if isinstance(rows, Dataset) and (truncated := sum(rows["truncated"][:])):
        logger.warning("%d of the %d lines of the %s split were cut to %d tokens", truncated, len(rows), name, length)
    return rows.remove_columns("truncated")


def _chunk_rows(
    split: AnyDataset, name: str, tokenizer: PreTrainedTokenizerBase, length: int, data_args: DataArguments
) -> AnyDataset:
    documents = _map_texts(split, data_args, _encode_documents, tokenizer=tokenizer).with_format("arrow")
    _check_has_rows(documents, name)
    frame = (length, tokenizer.cls_token_id, tokenizer.sep_token_id)
    if isinstance(documents, IterableDataset):
        shards = [documents.shard(documents.num_shards, index) for index in range(documents.num_shards)]
        return IterableDataset.from_generator(
            _cut_shards, features=FEATURES, gen_kwargs={"shards": shards, "frame": frame}
        )
    rows = documents.map(
        _cut_batch,
        batched=True,
        with_indices=True,
        fn_kwargs={"cutter": StreamCutter(*frame), "last_document": len(documents) - 1},
        features=FEATURES,
        load_from_cache_file=not data_args.overwrite_cache,
        desc=f"Cutting in rows of {length} tokens",
    )
    return rows.with_format(None)


def _check_has_rows(rows: AnyDataset, name: str) -> None:
    if isinstance(rows, Dataset) and len(rows) == 0:
        raise ValueError(f"the {name} split holds no text")


def _map_texts(split: AnyDataset, data_args: DataArguments, function: Callable, **fn_kwargs: Any) -> AnyDataset:
    options: dict[str, Any] = {"batched": True, "batch_size": DOCUMENTS_PER_BATCH, "remove_columns": [TEXT]}
    if isinstance(split, Dataset):
        options["num_proc"] = data_args.preprocessing_num_workers
        options["load_from_cache_file"] = not data_args.overwrite_cache
        options["desc"] = "Tokenising"
    return split.map(function, fn_kwargs=fn_kwargs, **options)


def _encode(texts: Iterable[str | None], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Token ids of the texts that are not blank, without special tokens."""
    texts = [text for text in texts if text and text.strip()]
    if not texts:
        return []
    encoding = tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return [np.array(ids, dtype=np.int32) for ids in encoding["input_ids"]]


def _encode_documents(batch: Mapping[str, list], tokenizer: PreTrainedTokenizerBase) -> dict[str, list]:
    return {"input_ids": _encode(batch[TEXT], tokenizer)}


def _encode_lines(batch: Mapping[str, list], tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, list]:
    lines = _encode((line for text in batch[TEXT] if text for line in text.splitlines()), tokenizer)
    ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    return {
        "input_ids": [np.pad(ids[: length - 2], 1, constant_values=ends) for ids in lines],
        "truncated": [len(ids) > length - 2 for ids in lines],
    }


def _cut_batch(
    documents: pa.Table, indices: Sequence[int], cutter: StreamCutter, last_document: int
) -> dict[str, list[np.ndarray]]:
    rows = list(cutter.push(token_rows(documents)))
    return {"input_ids": rows + list(cutter.finish()) if indices[-1] == last_document else rows}


def _cut_shards(shards: Sequence[IterableDataset], frame: tuple[int, int, int]) -> Iterator[dict[str, np.ndarray]]:
    for shard in shards:
        cutter = StreamCutter(*frame)
        for documents in shard.iter(DOCUMENTS_PER_BATCH):
            yield from ({"input_ids": row} for row in cutter.push(token_rows(documents)))
        yield from ({"input_ids": row} for row in cutter.finish())


def token_rows(table: pa.Table) -> list[np.ndarray]:
    """The column `input_ids` of an Arrow table as one int32 array a row, without a copy where Arrow allows it."""
    rows: list[np.ndarray] = []
    for chunk in table["input_ids"].chunks:
        ends = np.cumsum(chunk.value_lengths().to_numpy())
        rows += np.split(chunk.flatten().to_numpy(), ends[:-1])
    return rows


class ChunkDataset(torch.utils.data.Dataset):
    """Rows of a map-style dataset with the epoch beside them, which `MaskingCollator` draws its masks from.

    The epoch lives in shared memory, so that workers which outlive an epoch see it change.

    Args:
        chunks: column `input_ids`.
    """

    def __init__(self, chunks: Dataset) -> None:
        self.chunks = chunks.with_format("arrow")
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Called by `accelerate`, `Trainer` or `ChunkSampler` when an epoch begins."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Rows `{"input_ids": int32 [N], "epoch": int}`; PyTorch's loader asks for a whole batch at once."""
        return [{"input_ids": ids, "epoch": self.epoch} for ids in token_rows(self.chunks[indices])]


class ChunkStream(torch.utils.data.IterableDataset):
    """Rows of a streaming dataset with the epoch beside them; otherwise as `ChunkDataset`."""

    def __init__(self, chunks: IterableDataset) -> None:
        self.chunks = chunks
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Called by `accelerate` when an epoch begins; a shuffled stream changes its order with it."""
        self._epoch.fill_(epoch)
        self.chunks.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.chunks:
            yield {"input_ids": row["input_ids"], "epoch": int(self._epoch)}


def with_epochs(chunks: AnyDataset) -> ChunkDataset | ChunkStream:
    """Wrap rows of token ids for training and evaluation with `MaskingCollator`."""
    return ChunkStream(chunks) if isinstance(chunks, IterableDataset) else ChunkDataset(chunks)


class ChunkSampler(torch.utils.data.Sampler[int]):
    """Visits every row once, in an order drawn from the seed and the dataset's epoch.

    accelerate tells a sampler or a dataset of a new epoch, depending on how many batch samplers it has wrapped
    (one for several processes, one to resume in mid-epoch). A sampler that passes the epoch on to the dataset, and
    takes its own from there, hears of it in every case.

    Args:
        dataset: what is sampled, and where the epoch is kept.
        seed: another seed, other orders.
    """

    def __init__(self, dataset: ChunkDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Called by `accelerate` when an epoch begins."""
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.dataset.epoch)).permutation(len(self))
        yield from map(int, order)
