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


class RowCollator:
    """What collators share: padding, checks of the ids, and a stream of random integers for each row.

    Args:
        tokenizer: names the padding and other special tokens.
        seed: another seed, other draws.
        length: the padded length N of every batch; by default that of its longest row.
        vocab_size: token ids of the model, if it has more than the tokenizer.

    Raises:
        ValueError: a tokenizer without padding token, or one with more tokens than `vocab_size`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, seed: int, length: int | None, vocab_size: int | None
    ) -> None:
        check_token(tokenizer, "pad_token")
        self.seed = seed
        self.length = length
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
        ids: np.ndarray = np.full((len(rows), self.length or longest), self.pad_token_id, dtype=np.int64)
        for target, row in zip(ids, tokens, strict=True):
            target[: len(row)] = row
        self._check(ids)
        return ids

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


def document_lengths_of(row: Mapping[str, Any]) -> np.ndarray:
    """Tokens of each document of a row, int64; none if it is not packed."""
    lengths = row.get("document_lengths")
    return np.asarray(() if lengths is None else lengths, dtype=np.int64)
