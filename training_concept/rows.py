# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From documents to rows of token ids, map-style or streamed: how rows look, and what became of the documents."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import count, islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

from training_concept.chunking import DocumentPacker, LineFramer, Row, RowMaker, StreamCutter
from training_concept.data import DOCUMENTS_PER_BATCH, TEXT, encode_texts, text_lines, token_dtype, tokenize_documents
from training_concept.packing import default_max_documents, pack_documents
from training_concept.sources import AnyDataset, SourceError, read_through

logger = logging.getLogger(__name__)

PACKINGS = ("documents", "stream")
LINES = "lines"
LONGEST_DEFAULT_SEQUENCE = 1024
# What is packed together: the last row of it is half empty on average.
ROWS_PACKED_TOGETHER = 256
TOKENS_PACKED_TOGETHER = 2_000_000
# A reader can have drawn blank shards once or twice.
EMPTY_PASSES = 100


class RowArguments(Protocol):
    """The fields of the training script's data arguments that say how texts become rows."""

    max_seq_length: int | None
    packing: str | None
    max_documents_per_row: int | None
    line_by_line: bool
    document_length_schedule: list[int] | None
    max_train_samples: int | None
    max_eval_samples: int | None
    preprocessing_num_workers: int | None
    overwrite_cache: bool


@dataclass(frozen=True)
class RowFormat:
    """How documents become rows.

    Attributes:
        packing: "documents" (whole documents, or windows of long ones, beside one another, their borders kept),
            "stream" (joined, and cut wherever a row is full) or "lines" (each line a row, long ones cut off).
        length: N, most tokens in a row, special ones included.
        ends: classifier and separator token.
        dtype: of the token ids.
        max_document_length: packed documents only: most tokens of one, special ones included; the rest of it becomes
            further documents.
        max_documents: packed documents only: most documents in a row.
    """

    packing: str
    length: int
    ends: tuple[int, int]
    dtype: str
    max_document_length: int
    max_documents: int

    @property
    def features(self) -> Features:
        """Columns of the rows."""
        columns = {"input_ids": List(Value(self.dtype))}
        return Features(columns | ({"document_lengths": List(Value("int32"))} if self.packing == "documents" else {}))

    @property
    def layout(self) -> tuple[int, int, tuple[int, int], int]:
        """What `pack_documents` is told."""
        return self.length, self.max_document_length, self.ends, self.max_documents

    def count_documents(self, lengths: np.ndarray, number: int) -> dict[str, int]:
        """`RowCounts` of `number` documents (or lines), of which those with text have these many tokens."""
        too_long = int((lengths > self.max_document_length - len(self.ends)).sum())
        return {
            "documents": len(lengths),
            "blank": number - len(lengths),
            "cut": too_long if self.packing == "documents" else 0,
            "truncated": too_long if self.packing == LINES else 0,
        }

    def count_rows(self, lengths: np.ndarray) -> dict[str, int]:
        """`RowCounts` of rows of these many tokens."""
        return {"tokens": int(lengths.sum()), "rows": len(lengths), "room": len(lengths) * self.length}

    def maker(self) -> RowMaker:
        """Makes rows of documents that come one after another."""
        if self.packing == "documents":
            return DocumentPacker(*self.layout)
        if self.packing == "stream":
            return StreamCutter(self.length, self.ends, self.dtype)
        return LineFramer(self.length, self.ends)


def row_format(args: RowArguments, tokenizer: PreTrainedTokenizerBase, takes_documents: bool) -> RowFormat:
    """The format of a run's rows.

    Args:
        args: `max_seq_length`, `packing`, `line_by_line`, `max_documents_per_row`.
        tokenizer: with a classifier and a separator token.
        takes_documents: whether the model can tell the documents of a row apart (`document_lengths`).

    Raises:
        ValueError: a tokenizer without these tokens, a length under 3, packed documents for a model that does not
            tell them apart, settings that exclude each other.
    """
    for name in ("cls_token", "sep_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(f"rows need a tokenizer with a {name}; this one has none")
    if args.packing not in (None, *PACKINGS):
        raise ValueError(f"--packing {args.packing} is not one of {', '.join(PACKINGS)}.")
    if args.packing and args.line_by_line:
        raise ValueError("--packing and --line_by_line exclude each other.")
    if args.packing == "documents" and not takes_documents:
        raise ValueError("This model cannot tell the documents of a row apart: use --packing stream.")
    packing = LINES if args.line_by_line else args.packing or ("documents" if takes_documents else "stream")
    length = resolve_sequence_length(args.max_seq_length, tokenizer)
    if args.max_documents_per_row is not None and args.max_documents_per_row < 1:
        raise ValueError(f"--max_documents_per_row must be at least 1, got {args.max_documents_per_row}.")
    return RowFormat(
        packing=packing,
        length=length,
        ends=(tokenizer.cls_token_id, tokenizer.sep_token_id),
        dtype=token_dtype(tokenizer),
        max_document_length=length,
        max_documents=args.max_documents_per_row or default_max_documents(length),
    )


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


@dataclass(frozen=True)
class RowCounts:
    """What became of the documents of a source.

    Attributes:
        documents: documents (or lines) with text.
        blank: documents without, which are skipped.
        cut: documents longer than a window, which became several.
        truncated: lines longer than a row, which lost their end.
        tokens: tokens in the rows, special ones included.
        rows: how many rows.
        room: tokens that these rows could hold.
    """

    documents: int = 0
    blank: int = 0
    cut: int = 0
    truncated: int = 0
    tokens: int = 0
    rows: int = 0
    room: int = 0

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def efficiency(self) -> float:
        """Share of the rows' room that tokens fill, 0 to 1."""
        return self.tokens / self.room if self.room else 0.0

    def __str__(self) -> str:
        notes = {"blank, skipped": self.blank, "cut in windows": self.cut, "cut off at a row's end": self.truncated}
        told = "".join(f" ({number:,} {note})" for note, number in notes.items() if number)
        filled = f"{self.efficiency:.1%} full"
        return f"{self.documents:,} documents{told}, {self.tokens:,} tokens in {self.rows:,} rows, {filled}"


def make_rows(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    row_format: RowFormat,
    *,
    num_proc: int | None = None,
    overwrite_cache: bool = False,
) -> tuple[Dataset, RowCounts]:
    """Turn documents into rows of token ids; cached where the documents are.

    The rows do not depend on `num_proc`: it only tokenises.

    Args:
        documents: column `text`.
        tokenizer: any.
        row_format: what rows look like. Packed documents are taken in groups of some hundred rows' worth.
        num_proc: processes that tokenise.
        overwrite_cache: make again what is cached.

    Returns:
        Rows `input_ids` (at most N tokens), packed ones with `document_lengths`, and what was counted.
    """
    by_line = row_format.packing == LINES
    tokens = tokenize_documents(
        documents, tokenizer, num_proc=num_proc, overwrite_cache=overwrite_cache, by_line=by_line
    )
    lengths = list_lengths(tokens)
    # Without lines that are blank, for which nothing is stored.
    counts = row_format.count_documents(lengths, len(lengths) if by_line else len(documents))
    if not len(lengths):
        return tokens, RowCounts(**counts)
    rows = _ROW_BUILDERS[row_format.packing](tokens, lengths, row_format, not overwrite_cache)
    return rows, RowCounts(**counts, **row_format.count_rows(list_lengths(rows)))


def _map_rows(
    tokens: Dataset, function: Callable, row_format: RowFormat, use_cache: bool, desc: str, **options: Any
) -> Dataset:
    """Rows that `function` makes of batches of tokenised documents; `options` are those of `Dataset.map`."""
    rows = tokens.with_format("arrow").map(
        function,
        batched=True,
        features=row_format.features,
        load_from_cache_file=use_cache,
        desc=f"{desc} {row_format.length} tokens",
        **options,
    )
    return rows.with_format(None)


def _pack(tokens: Dataset, lengths: np.ndarray, row_format: RowFormat, use_cache: bool) -> Dataset:
    wanted = max(ROWS_PACKED_TOGETHER * row_format.length, TOKENS_PACKED_TOGETHER)
    return _map_rows(
        tokens,
        _pack_batch,
        row_format,
        use_cache,
        "Packing in rows of",
        batch_size=max(1, round(wanted / lengths.mean())),
        remove_columns=tokens.column_names,
        fn_kwargs={"layout": row_format.layout},
    )


def _pack_batch(documents: pa.Table, layout: tuple[int, int, tuple[int, int], int]) -> dict[str, list[np.ndarray]]:
    rows, lengths = pack_documents(list_values(documents, "input_ids"), *layout)
    return {"input_ids": rows, "document_lengths": lengths}


def _cut(tokens: Dataset, lengths: np.ndarray, row_format: RowFormat, use_cache: bool) -> Dataset:
    return _map_rows(
        tokens,
        _cut_batch,
        row_format,
        use_cache,
        "Cutting in rows of",
        with_indices=True,
        batch_size=DOCUMENTS_PER_BATCH,
        fn_kwargs={"cutter": row_format.maker(), "last_document": len(tokens) - 1},
    )


def _cut_batch(
    documents: pa.Table, indices: Sequence[int], cutter: StreamCutter, last_document: int
) -> dict[str, list[np.ndarray]]:
    rows = list(cutter.push(list_values(documents, "input_ids")))
    rows += cutter.finish() if indices[-1] == last_document else []
    return {"input_ids": [row["input_ids"] for row in rows]}


def _frame(tokens: Dataset, lengths: np.ndarray, row_format: RowFormat, use_cache: bool) -> Dataset:
    framer = row_format.maker()
    return _map_rows(
        tokens, _frame_batch, row_format, use_cache, "Framing lines of up to", fn_kwargs={"framer": framer}
    )


def _frame_batch(documents: pa.Table, framer: LineFramer) -> dict[str, list[np.ndarray]]:
    return {"input_ids": [row["input_ids"] for row in framer.push(list_values(documents, "input_ids"))]}


_ROW_BUILDERS: dict[str, Callable[[Dataset, np.ndarray, RowFormat, bool], Dataset]] = {
    "documents": _pack,
    "stream": _cut,
    LINES: _frame,
}


def list_values(table: pa.Table, column: str) -> list[np.ndarray]:
    """A column of lists of an Arrow table as one array a row, without a copy where Arrow allows it."""
    rows: list[np.ndarray] = []
    for chunk in table[column].chunks:
        ends = np.cumsum(chunk.value_lengths().to_numpy())
        rows += np.split(chunk.flatten().to_numpy(), ends[:-1])
    return rows


def list_lengths(rows: Dataset, column: str = "input_ids") -> np.ndarray:
    """Number of values in each list of a column, int64 [rows]."""
    tables = rows.with_format("arrow").iter(10_000)
    lengths = [chunk.value_lengths().to_numpy() for table in tables for chunk in table[column].chunks]
    return np.concatenate([np.empty(0, dtype=np.int64), *lengths])


@dataclass(frozen=True)
class RowStream:
    """Rows that are made of a stream of documents while it is read.

    Each shard is read on its own, so that what lies in a shard makes the same rows whichever worker reads it. A shard
    that breaks off is read on from there (see `read_through`).

    Attributes:
        documents: column `text`.
        label: names the source in errors.
        tokenizer: any.
        row_format: what rows look like. Packed documents are taken in groups of some hundred rows' worth.
    """

    documents: IterableDataset
    label: str
    tokenizer: PreTrainedTokenizerBase
    row_format: RowFormat

    @property
    def num_shards(self) -> int:
        return self.documents.num_shards

    def __iter__(self) -> Iterator[Row]:
        """Rows as from `make_rows`: once, in the order of the shards."""
        return self._read(range(self.num_shards), Counter())

    def passes(self, seed: tuple[int, ...], reader: int = 0, readers: int = 1) -> Iterator[dict[str, Any]]:
        """Rows of one pass after another, without end, each with the number of passes before (`epoch`).

        Every pass has the shards in another order, which follows from the seed. Of several readers each gets a part of
        every pass, and together they get all of it.

        Raises:
            SourceError: the source breaks off, or has not given a row for `EMPTY_PASSES` passes.
        """
        empty = 0
        for epoch in count():
            order = np.random.default_rng((*seed, epoch)).permutation(self.num_shards)
            counts: Counter[str] = Counter()
            for row in self._read(order[reader::readers], counts):
                yield {**row, "epoch": epoch}
            told = RowCounts(**counts)
            empty = 0 if counts["rows"] else empty + 1
            if empty == EMPTY_PASSES:
                raise SourceError(f"source {self.label} gives no rows")
            logger.info("source %s, reader %d of %d, pass %d: %s", self.label, reader + 1, readers, epoch + 1, told)

    def _read(self, shards: Iterable[int], counts: Counter[str]) -> Iterator[Row]:
        """The rows of these shards, counted in `counts` by the names of `RowCounts`."""
        for shard in shards:
            documents = read_through(self.documents.shard(self.num_shards, int(shard)), self.label)
            for row in self._make(documents, counts):
                counts.update(self.row_format.count_rows(np.array([len(row["input_ids"])])))
                yield row

    def _make(self, documents: Iterator[Mapping[str, Any]], counts: Counter[str]) -> Iterator[Row]:
        maker = self.row_format.maker()
        while batch := list(islice(documents, DOCUMENTS_PER_BATCH)):
            texts = [row[TEXT] for row in batch]
            encoded = encode_texts(text_lines(texts) if self.row_format.packing == LINES else texts, self.tokenizer)
            full = [ids for ids in encoded if len(ids)]
            lengths = np.fromiter(map(len, full), dtype=np.int64)
            counts.update(self.row_format.count_documents(lengths, len(encoded)))
            yield from maker.push(full)
        yield from maker.finish()


def read_ahead(rows: RowStream, limit: int | None) -> Dataset:
    """Read the rows of a stream, the first `limit` of them if that is given, and keep them in memory."""
    read = list(islice(rows, limit))
    features = rows.row_format.features
    return Dataset.from_dict({name: [row[name] for row in read] for name in features}, features=features)


@dataclass(frozen=True)
class RunRows:
    """The rows of a run, by source.

    Attributes:
        format: of the rows.
        train: rows for each longest document of the curriculum in turn; empty if there is nothing to train on.
        validation: rows to evaluate on, in memory if the source is streamed.
        counts: by role (train, validation) and source, where it is known before training; of training rows the last
            of a curriculum.
    """

    format: RowFormat
    train: Sequence[Mapping[str, Dataset | RowStream]]
    validation: Mapping[str, Dataset]
    counts: Mapping[str, Mapping[str, RowCounts]]

    @property
    def streams(self) -> bool:
        """Whether the training rows are made while training."""
        return any(isinstance(rows, RowStream) for stage in self.train for rows in stage.values())


def build_rows(
    documents: Mapping[str, Mapping[str, AnyDataset]],
    tokenizer: PreTrainedTokenizerBase,
    row_format: RowFormat,
    args: RowArguments,
    evaluates: bool = True,
) -> RunRows:
    """Make the training and validation rows of all sources.

    Args:
        documents: by source and role, as from `load_documents`.
        tokenizer: any.
        row_format: of the rows.
        args: `document_length_schedule`, `max_train_samples` and `max_eval_samples` (rows of each source; of a stream
            these are read before training), `preprocessing_num_workers`, `overwrite_cache`.
        evaluates: whether validation rows are needed. Those of a stream are read before training.

    Raises:
        ValueError: a source without text, a schedule for streams or for rows that are not packed documents.
    """
    train: list[Mapping[str, Dataset | RowStream]] = []
    counts: dict[str, dict[str, RowCounts]] = {}
    build = partial(_source_rows, documents, tokenizer, args=args)
    for window in _windows(documents, row_format, args):
        stage, counts["train"] = build("train", replace(row_format, max_document_length=window))
        train += [stage] if stage else []
    validation: dict[str, Dataset | RowStream] = {}
    if evaluates:
        validation, counts["validation"] = build("validation", row_format)
    return RunRows(row_format, train, validation, counts)


def _windows(
    documents: Mapping[str, Mapping[str, AnyDataset]], row_format: RowFormat, args: RowArguments
) -> Sequence[int]:
    """Longest document of each stage of the curriculum."""
    if not args.document_length_schedule:
        return [row_format.max_document_length]
    flag = f"--document_length_schedule {' '.join(map(str, args.document_length_schedule))}"
    if row_format.packing != "documents":
        raise ValueError(f"{flag} is for packed documents (--packing documents).")
    if any(isinstance(split, IterableDataset) for splits in documents.values() for split in splits.values()):
        raise ValueError(f"{flag} is not for streams, whose length is not known.")
    if min(args.document_length_schedule) < 3 or max(args.document_length_schedule) > row_format.length:
        raise ValueError(f"{flag} must lie between 3 and --max_seq_length {row_format.length}.")
    return args.document_length_schedule


def _source_rows(
    documents: Mapping[str, Mapping[str, AnyDataset]],
    tokenizer: PreTrainedTokenizerBase,
    role: str,
    row_format: RowFormat,
    args: RowArguments,
) -> tuple[dict[str, Dataset | RowStream], dict[str, RowCounts]]:
    """Rows and counts of all sources that have a split for `role`."""
    limit = args.max_train_samples if role == "train" else args.max_eval_samples
    rows: dict[str, Dataset | RowStream] = {}
    counts: dict[str, RowCounts] = {}
    for label, splits in documents.items():
        if role not in splits:
            continue
        if isinstance(splits[role], IterableDataset):
            stream = RowStream(splits[role], label, tokenizer, row_format)
            if role == "validation" and limit is None:
                logger.warning("Source %s is read to its end for evaluation; --max_eval_samples limits that.", label)
            rows[label] = stream if role == "train" and limit is None else read_ahead(stream, limit)
        else:
            made, counted = make_rows(
                splits[role],
                tokenizer,
                row_format,
                num_proc=args.preprocessing_num_workers,
                overwrite_cache=args.overwrite_cache,
            )
            rows[label] = made if limit is None else made.take(min(limit, len(made)))
            counts[label] = replace(counted, **row_format.count_rows(list_lengths(rows[label])))
            _log_counts(label, role, counts[label])
        if next(iter(rows[label]), None) is None:
            raise ValueError(f"the {role} split of source {label} holds no text")
    return rows, counts


def _log_counts(label: str, role: str, counts: RowCounts) -> None:
    level = logging.WARNING if counts.truncated else logging.INFO
    logger.log(level, "source %s, %s: %s", label, role, counts)
