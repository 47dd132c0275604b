# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From a recipe to documents, and from documents to token ids: load, hold out for validation, tokenise."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice

import numpy as np
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

from training_concept.recipes import ROLES, DataRecipe, Source
from training_concept.sources import AnyDataset, load_source, read_through, stable_fraction

logger = logging.getLogger(__name__)

TEXT = "text"
LARGEST_UINT16 = 2**16
# Documents can be whole books; the tokenizer keeps about 150 bytes a token until a call is done.
DOCUMENTS_PER_BATCH = 100
CHARACTERS_PER_PIECE = 1_000_000
CHARACTERS_PER_CALL = 4_000_000
DOCUMENTS_OF_A_STREAM = 10_000
HOLD_OUT_SALT = b"validation"


# Loading


def load_documents(
    recipe: DataRecipe, *, cache_dir: str | None = None, token: str | bool | None = None, num_proc: int | None = None
) -> dict[str, dict[str, AnyDataset]]:
    """Load the documents of a recipe.

    A source without a validation split has `validation_split_percentage` percent of its training documents held out.
    Which ones depends on their text alone: every run, whatever its seed, order and number of workers, streaming or
    not, is validated on the same documents.

    Args:
        recipe: what to load.
        cache_dir: where `datasets` keeps its Arrow files.
        token: access token for private datasets on the Hub.
        num_proc: processes that hash documents.

    Returns:
        By source and role (train, validation, test) documents with the one column `text`. Only a source that was given
        files for validation alone is without `train`, and `test` is there if the source has such a split.

    Raises:
        OSError: a file or dataset that is not there or cannot be reached.
        ValueError: naming the source: it cannot be read, has no rows, lacks a split or column, its column is not text,
            or it has too few documents to hold some out.
    """
    load = partial(load_source, streaming=recipe.streaming, cache_dir=cache_dir, token=token)
    loaded = {source.label: _by_role(source, load(source)) for source in recipe.sources}
    for label, roles in loaded.items():
        if "validation" not in roles:
            roles["train"], roles["validation"] = hold_out(
                roles["train"], recipe.validation_split_percentage, num_proc, f"source {label}"
            )
    return loaded


def _by_role(source: Source, splits: Mapping[str, AnyDataset]) -> dict[str, AnyDataset]:
    roles = {role: source.split_of(role) for role in ROLES}
    there = {role: splits[split] for role, split in roles.items() if split in splits}
    missing = [roles[role] for role in ROLES if source.demands(role) and role not in there]
    if missing or not there.keys() & {"train", "validation"}:
        wanted = missing[0] if missing else roles["train"]
        raise ValueError(f"source {source.label} has no split {wanted!r}; it has: {', '.join(map(str, splits))}")
    return {role: _text_column(split, role, source) for role, split in there.items()}


def _text_column(split: AnyDataset, role: str, source: Source) -> AnyDataset:
    """Keep the text column only, under the name `text`."""
    where = f"the {role} split of source {source.label}"
    rows = read_through(split, source.label) if isinstance(split, IterableDataset) else iter(split)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{where} holds no rows")
    column = source.text_column or (TEXT if TEXT in first else next(iter(first)))
    if column not in first:
        raise ValueError(f"{where} has no column {column!r} (text_column); it has: {', '.join(first)}")
    if not isinstance(first[column], str | None):
        raise ValueError(
            f"column {column!r} of {where} holds {type(first[column]).__name__}, not text; set text_column"
        )
    split = split.select_columns([column])
    return split if column == TEXT else split.rename_column(column, TEXT)


def hold_out(
    documents: AnyDataset, percentage: float, num_proc: int | None = None, where: str = "the source"
) -> tuple[AnyDataset, AnyDataset]:
    """Split documents in training and validation documents by a hash of their text.

    Copies of a document land on the same side. Order is kept.

    Args:
        documents: column `text`.
        percentage: expected share of validation documents, in percent. A map-style dataset gives at least one.
        num_proc: processes that hash; ignored when streaming.
        where: what errors call the documents.

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
        number = int((fractions < 1).sum())
        raise ValueError(f"{where}: {number} documents with text are too few to hold some out: give validation texts")
    return documents.select(np.flatnonzero(~held)), documents.select(np.flatnonzero(held))


def _hold_out_fraction(text: str | None) -> float:
    # Nothing is to be learned about a model from a blank text: those stay with training, which skips them.
    return stable_fraction(text, HOLD_OUT_SALT) if text and text.strip() else 1.0


def _hold_out_fractions(batch: Mapping[str, list]) -> dict[str, list[float]]:
    return {"fraction": [_hold_out_fraction(text) for text in batch[TEXT]]}


def training_texts(documents: Mapping[str, Mapping[str, AnyDataset]]) -> Iterator[str]:
    """
    The training texts of all sources, long ones in pieces (see `cut_text`), to train a tokenizer on.

    Of a stream, which may be endless, these are the first `DOCUMENTS_OF_A_STREAM`.
    """
    for label, splits in documents.items():
        split = splits.get("train", ())
        is_stream = isinstance(split, IterableDataset)
        for row in islice(read_through(split, label), DOCUMENTS_OF_A_STREAM) if is_stream else split:
            yield from cut_text(row[TEXT] or "")


# Tokens


def token_dtype(tokenizer: PreTrainedTokenizerBase) -> str:
    """Type that token ids are stored in: uint16 if the vocabulary fits, else int32."""
    return "uint16" if len(tokenizer) <= LARGEST_UINT16 else "int32"


def tokenize_documents(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_proc: int | None = None,
    overwrite_cache: bool = False,
    by_line: bool = False,
) -> Dataset:
    """Token ids of documents, without special tokens; cached where the documents are.

    A special token spelled out in a text ("[MASK]") is read as ordinary characters.

    Args:
        documents: column `text`.
        tokenizer: any.
        num_proc: processes that tokenise.
        overwrite_cache: tokenise again what is cached.
        by_line: take each line for a document.

    Returns:
        Column `input_ids` (`token_dtype`); documents that are blank, or that the tokenizer makes nothing of, are left
        out.
    """
    return documents.map(
        _tokenize_batch,
        batched=True,
        batch_size=DOCUMENTS_PER_BATCH,
        remove_columns=documents.column_names,
        fn_kwargs={"tokenizer": tokenizer, "by_line": by_line},
        features=Features({"input_ids": List(Value(token_dtype(tokenizer)))}),
        num_proc=num_proc,
        load_from_cache_file=not overwrite_cache,
        desc="Tokenising",
    )


def _tokenize_batch(batch: Mapping[str, list], tokenizer: PreTrainedTokenizerBase, by_line: bool) -> dict[str, list]:
    texts = text_lines(batch[TEXT]) if by_line else batch[TEXT]
    return {"input_ids": [ids for ids in encode_texts(texts, tokenizer) if len(ids)]}


def text_lines(texts: Iterable[str | None]) -> Iterator[str]:
    return (line for text in texts if text for line in text.splitlines())


def encode_texts(texts: Iterable[str | None], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Token ids of each text, without special tokens; none for a text that is blank.

    A long text is tokenised in pieces, so that memory stays bounded. They are cut in front of white space, where
    byte-level BPE and WordPiece split anyway: the tokens are those of the whole text.
    """
    texts = list(texts)
    pieces = [(index, piece) for index, text in enumerate(texts) if text and text.strip() for piece in cut_text(text)]
    encoded: list[list[np.ndarray]] = [[np.empty(0, dtype=token_dtype(tokenizer))] for _ in texts]
    for group in _calls(pieces):
        encoding = tokenizer(
            [piece for _, piece in group],
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for (index, _), ids in zip(group, encoding["input_ids"], strict=True):
            encoded[index].append(np.array(ids, dtype=token_dtype(tokenizer)))
    return [np.concatenate(parts) for parts in encoded]


def cut_text(text: str, limit: int | None = None) -> Iterator[str]:
    """Pieces of at most `limit` characters (`CHARACTERS_PER_PIECE`), cut in front of white space if there is some."""
    limit = limit or CHARACTERS_PER_PIECE
    while len(text) > limit:
        space = max(text.rfind(mark, 1, limit + 1) for mark in " \n")
        end = len(text[: max(space, 0)].rstrip()) or limit
        yield text[:end]
        text = text[end:]
    yield text


def _calls(pieces: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Groups of pieces that have few enough characters for one call of the tokenizer."""
    group: list[tuple[int, str]] = []
    size = 0
    for index, piece in pieces:
        if group and size + len(piece) > CHARACTERS_PER_CALL:
            yield group
            group, size = [], 0
        group.append((index, piece))
        size += len(piece)
    if group:
        yield group
