# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Masking for masked language modelling: exactly K tokens a row, drawn from the row's content and the epoch.

Masks do not depend on a global random state. The same row in the same epoch gets the same mask whatever the
batch size, its batch mates, the number of workers, or how often training was interrupted and resumed.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100
NO_POSITION = -1
LARGEST_DRAW = np.iinfo(np.uint64).max


class MaskingCollator:
    """Pads rows of token ids to a batch and masks exactly K tokens in each.

    K is `mlm_probability` times the row's length (special tokens included), rounded, and at least 1. The K
    tokens are drawn without replacement among those that are not special; a row with fewer such tokens has all
    of them masked.

    Args:
        tokenizer: names the padding, mask and other special tokens.
        mlm_probability: share of a row's tokens to predict, between 0 and 1 exclusive.
        mask_replace_prob: share of the predicted tokens that become the mask token.
        random_replace_prob: share of the predicted tokens that become a random token; the rest stay as they are.
        seed: another seed, other masks.
        pad_to_multiple_of: round the padded length N up to a multiple of this. A batch whose rows all have
            that length stays as it is.
        vocab_size: token ids of the model, if it has more than the tokenizer.

    Raises:
        ValueError: a probability outside its range, a tokenizer without padding or mask token, or one with more
            tokens than `vocab_size`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mlm_probability: float = 0.3,
        mask_replace_prob: float = 1.0,
        random_replace_prob: float = 0.0,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        _check_probabilities(mlm_probability, mask_replace_prob, random_replace_prob)
        for name in ("pad_token", "mask_token"):
            if getattr(tokenizer, name) is None:
                raise ValueError(f"masking needs a tokenizer with a {name}; this one has none")
        self.mlm_probability = mlm_probability
        self.mask_replace_prob = mask_replace_prob
        self.masks_all = mask_replace_prob == 1
        self.random_replace_prob = random_replace_prob
        self.seed = seed
        self.pad_to_multiple_of = pad_to_multiple_of or 1
        self.pad_token_id = tokenizer.pad_token_id
        self.mask_token_id = tokenizer.mask_token_id
        self.vocab_size = vocab_size or len(tokenizer)
        if self.vocab_size < len(tokenizer):
            raise ValueError(f"the model has {vocab_size} token ids, fewer than the tokenizer's {len(tokenizer)}")
        self.is_maskable: np.ndarray = np.ones(self.vocab_size, dtype=bool)
        self.is_maskable[tokenizer.all_special_ids] = False
        # Random replacements are words of the tokenizer, never the spare ids of a larger embedding table.
        self.replacements = np.flatnonzero(self.is_maskable[: len(tokenizer)])

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate B rows.

        Args:
            rows: each with `input_ids` (token ids, special tokens in place) and `epoch` (an integer).

        Returns:
            `input_ids` [B, N]; `labels` [B, N], -100 where nothing is to be predicted; `masked_positions`
            [B, K], ascending, -1 behind the last of a row with fewer (only if every predicted token became the
            mask token; then at most N - K tokens of a row are visible); `attention_mask` [B, N] if any row is
            padded. All int64.

        Raises:
            ValueError: a row without tokens, of padding only, with an id outside the vocabulary, or without `epoch`.
        """
        tokens = [np.asarray(row["input_ids"], dtype=np.int64) for row in rows]
        ids = self._pad(tokens, max(map(len, tokens)))
        self._check(ids)
        num_masked = self._num_masked(ids)
        if self.masks_all:
            ids = self._pad(tokens, max(ids.shape[1], self._room(ids, num_masked)))
        attended = ids != self.pad_token_id
        draws = self._draw(ids, attended, [_epoch(row) for row in rows])
        chosen = _smallest(draws[0], self.is_maskable[ids], num_masked)
        batch = {
            "input_ids": self._replace(ids, chosen, draws),
            "labels": np.where(chosen, ids, IGNORED_LABEL),
        }
        if not attended.all():
            batch["attention_mask"] = attended.astype(np.int64)
        if self.masks_all:
            batch["masked_positions"] = _positions(chosen, num_masked)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _pad(self, rows: list[np.ndarray], length: int) -> np.ndarray:
        """Pad on the right to [B, N], N the next multiple of `pad_to_multiple_of` from `length` on."""
        length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        ids: np.ndarray = np.full((len(rows), length), self.pad_token_id, dtype=np.int64)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = row
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

    def _num_masked(self, ids: np.ndarray) -> np.ndarray:
        """K of each row, [B]."""
        lengths = (ids != self.pad_token_id).sum(axis=1)
        wanted = np.floor(self.mlm_probability * lengths + 0.5).astype(np.int64)
        return np.minimum(np.maximum(wanted, 1), self.is_maskable[ids].sum(axis=1))

    def _room(self, ids: np.ndarray, num_masked: np.ndarray) -> int:
        """The N that holds the visible tokens of every row beside the K of the batch; more than the longest row
        only if some row has too few tokens to mask."""
        visible = (ids != self.pad_token_id).sum(axis=1) - num_masked
        return int(visible.max() + num_masked.max())

    def _draw(self, ids: np.ndarray, attended: np.ndarray, epochs: Sequence[int]) -> np.ndarray:
        """Uniform 64-bit integers [R, B, N]: R = 1 to choose by, and 2 more if predicted tokens are not all masked."""
        replicas = 1 if self.masks_all else 3
        draws = np.zeros((replicas, *ids.shape), dtype=np.uint64)
        for index, (row, keep, epoch) in enumerate(zip(ids, attended, epochs, strict=True)):
            tokens = row[keep].astype("<i4")
            key = hashlib.blake2b(tokens, digest_size=16, key=struct.pack("<qq", self.seed, epoch)).digest()
            # The raw stream of a counter-based generator is the same in every numpy version.
            generator = np.random.Philox(key=int.from_bytes(key, "little"))
            draws[:, index, keep] = generator.random_raw(replicas * len(tokens)).reshape(replicas, -1)
        return draws

    def _replace(self, ids: np.ndarray, chosen: np.ndarray, draws: np.ndarray) -> np.ndarray:
        if self.masks_all:
            return np.where(chosen, self.mask_token_id, ids)
        action = draws[1] / 2.0**64
        masked = chosen & (action < self.mask_replace_prob)
        randomised = chosen & ~masked & (action < self.mask_replace_prob + self.random_replace_prob)
        words = self.replacements[draws[2] % np.uint64(len(self.replacements))]
        return np.where(masked, self.mask_token_id, np.where(randomised, words, ids))


def _check_probabilities(mlm_probability: float, mask_replace_prob: float, random_replace_prob: float) -> None:
    if not 0 < mlm_probability < 1:
        raise ValueError(f"mlm_probability must lie between 0 and 1 (both excluded), got {mlm_probability}")
    if min(mask_replace_prob, random_replace_prob) < 0 or mask_replace_prob + random_replace_prob > 1:
        raise ValueError(
            "mask_replace_prob and random_replace_prob must not be negative and add up to at most 1, got "
            f"{mask_replace_prob} and {random_replace_prob}"
        )


def _epoch(row: Mapping[str, Any]) -> int:
    try:
        return int(row["epoch"])
    except KeyError:
        raise ValueError(
            "the rows carry no 'epoch', so every epoch would get the same masks: wrap the dataset with "
            "training_concept.data.with_epochs and, with Trainer, set remove_unused_columns=False"
        ) from None


def _smallest(draws: np.ndarray, maskable: np.ndarray, num_masked: np.ndarray) -> np.ndarray:
    """Mark, in each row, the `num_masked` maskable positions with the smallest draws: a sample without replacement.

    draws, maskable [B, N] and num_masked [B] -> bool [B, N].
    """
    keys = np.where(maskable, draws, LARGEST_DRAW)
    last = np.maximum(num_masked - 1, 0)[:, None]
    threshold = np.take_along_axis(np.sort(keys, axis=1), last, axis=1)
    return maskable & (keys <= threshold)


def _positions(chosen: np.ndarray, num_masked: np.ndarray) -> np.ndarray:
    """Columns of the marked places, [B, max(num_masked)], filled up with -1."""
    rows, columns = np.nonzero(chosen)
    slots = np.arange(len(rows)) - np.repeat(np.cumsum(num_masked) - num_masked, num_masked)
    positions = np.full((len(chosen), max(num_masked.max(), 1)), NO_POSITION, dtype=np.int64)
    positions[rows, slots] = columns
    return positions
