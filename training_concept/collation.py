# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What the collators of rows of token ids share: padding, checks, and random integers that depend on a row alone."""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from training_concept.schemes import Draw

IGNORED_LABEL = -100
NO_POSITION = -1


class RowCollator:
    """What collators share: padding, checks of the ids, and a stream of random integers for each row.

    Args:
        tokenizer: names the padding and other special tokens.
        seed: another seed, other draws.
        length: the padded length N of every batch; by default that of its longest row.
        vocab_size: token ids of the model, if it has more than the tokenizer.
        max_documents: columns of `document_lengths`; by default as many as the batch needs.

    Raises:
        ValueError: a tokenizer without padding token, or one with more tokens than `vocab_size`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        length: int | None,
        vocab_size: int | None,
        max_documents: int | None = None,
    ) -> None:
        check_token(tokenizer, "pad_token")
        self.seed = seed
        self.length = length
        self.max_documents = max_documents
        self.pad_token_id = tokenizer.pad_token_id
        self.vocab_size = vocab_size or len(tokenizer)
        if self.vocab_size < len(tokenizer):
            raise ValueError(f"the model has {vocab_size} token ids, fewer than the tokenizer's {len(tokenizer)}")
        self.is_maskable: np.ndarray = np.ones(self.vocab_size, dtype=bool)
        self.is_maskable[tokenizer.all_special_ids] = False

    def pad(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Pad the `input_ids` of B rows on the right, int64 [B, N].

        Raises:
            ValueError: a row without tokens, of padding only, longer than `length`, or with an id outside the
                vocabulary.
        """
        tokens = [np.asarray(row["input_ids"]) for row in rows]
        longest = max(map(len, tokens))
        if self.length is not None and longest > self.length:
            raise ValueError(f"a row of the batch holds {longest} tokens, more than the length of {self.length}")
        ids = lay_out(tokens, self.length or longest, self.pad_token_id)
        self._check(ids)
        return ids

    def documents(self, rows: Sequence[Mapping[str, Any]], ids: np.ndarray) -> np.ndarray | None:
        """The lengths of the documents of packed rows, int64 [B, D], 0 behind a row's last; `None` if none is packed.

        Raises:
            ValueError: packed rows beside others, with padding, with lengths that do not add up to the row's, or with
                more than `max_documents`.
        """
        packed = [document_lengths_of(row) for row in rows if row.get("document_lengths") is not None]
        if not packed:
            return None
        if len(packed) < len(rows):
            raise ValueError(
                f"{len(packed)} of the {len(rows)} rows of the batch have document_lengths: give them all or none"
            )
        most = self.max_documents or max(map(len, packed))
        documents: np.ndarray = np.zeros((len(rows), most), dtype=np.int64)
        for index, lengths in enumerate(packed):
            if len(lengths) > most:
                raise ValueError(f"row {index} of the batch holds {len(lengths)} documents; max_documents is {most}")
            tokens = ids[index, : len(rows[index]["input_ids"])]
            if (lengths < 1).any() or lengths.sum() != len(tokens) or (tokens == self.pad_token_id).any():
                raise ValueError(
                    f"row {index} of the batch is packed: its document_lengths must be positive and add up to its "
                    f"{len(tokens)} tokens, none of them padding, got {lengths.tolist()}"
                )
            documents[index, : len(lengths)] = lengths
        return documents

    def _check(self, ids: np.ndarray) -> None:
        outside = (ids < 0) | (ids >= self.vocab_size)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise ValueError(
                f"row {row} of the batch holds the token id {ids[row, column]}, outside the vocabulary of "
                f"{self.vocab_size} tokens"
            )
        blank = (ids == self.pad_token_id).all(axis=1)
        if blank.any():
            raise ValueError(f"row {blank.argmax()} of the batch is empty or holds only padding")

    def stream(self, tokens: np.ndarray, epoch: int) -> Draw:
        """The random integers of a row, given its tokens without padding [n]."""
        content: bytes = tokens.astype("<i4").tobytes()
        key = hashlib.blake2b(content, digest_size=16, key=struct.pack("<qq", self.seed, epoch)).digest()
        # The raw stream of a counter-based generator is the same in every numpy version.
        return np.random.Philox(key=int.from_bytes(key, "little")).random_raw


def check_token(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if getattr(tokenizer, name) is None:
        raise ValueError(f"masking needs a tokenizer with a {name}; this one has none")


def checked_rates(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    rates = tuple(values) if isinstance(values, Sequence) else (values,)
    for rate in rates:
        if not 0 < rate < 1:
            raise ValueError(f"{name} must lie between 0 and 1 (both excluded), got {rate}")
    if not rates:
        raise ValueError(f"{name} is an empty list: give at least one rate")
    return rates


def share_of(rates: Sequence[float], lengths: np.ndarray | int) -> np.ndarray:
    """These shares of rows of so many tokens, rounded, at least 1: int64 [B]."""
    return np.maximum(np.floor(np.array(rates) * lengths + 0.5).astype(np.int64), 1)


def epoch_of(row: Mapping[str, Any]) -> int:
    try:
        return int(row["epoch"])
    except KeyError:
        raise ValueError(
            "the rows carry no 'epoch', so every epoch would get the same masks: wrap the dataset with "
            "training_concept.mixture.with_epochs and, with Trainer, set remove_unused_columns=False"
        ) from None


def lay_out(rows: Sequence[np.ndarray], width: int | None, fill: int) -> np.ndarray:
    """Rows of integers, filled up on the right to `width` (by default the longest row's): int64 [B, width]."""
    columns: np.ndarray = np.full((len(rows), width or max(map(len, rows))), fill, dtype=np.int64)
    for target, values in zip(columns, rows, strict=True):
        target[: len(values)] = values
    return columns


def document_lengths_of(row: Mapping[str, Any]) -> np.ndarray:
    """Tokens of each document of a row, int64; none if it is not packed."""
    lengths = row.get("document_lengths")
    return np.asarray(() if lengths is None else lengths, dtype=np.int64)


def places_in_documents(in_use: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the tokens of rows lie in their documents, which stand end to end.

    Args:
        in_use: bool [B, N], tokens that are no padding.
        lengths: tokens of each document, int64 [B, D], 0 behind a row's last.

    Returns:
        The place of each token in its document, -1 on padding, and its document, 0 on padding; both int64 [B, N].
    """
    rank, ends = np.cumsum(in_use, axis=1) - 1, np.cumsum(lengths, axis=1)
    documents = (rank[:, :, None] >= ends[:, None, :-1]).sum(axis=2)
    places = rank - np.take_along_axis(ends - lengths, documents, axis=1)
    return np.where(in_use, places, NO_POSITION), np.where(in_use, documents, 0)


def count_in_documents(chosen: np.ndarray, documents: np.ndarray, number: int) -> np.ndarray:
    """How many of the chosen tokens each of `number` documents has, int64 [B, D].

    chosen bool [B, N], documents int64 [B, N].
    """
    return (chosen[:, :, None] & (documents[:, :, None] == np.arange(number))).sum(axis=1)


def gather_chosen(values: np.ndarray, chosen: np.ndarray, width: int | None, fill: int) -> np.ndarray:
    """The chosen ones of `values` [B, N], moved to the front of their rows: int64 [B, width]; see `lay_out`."""
    return lay_out([row[mask] for row, mask in zip(values, chosen, strict=True)], width, fill)
