# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The documents that models are timed on: random tokens, of fixed or normally distributed lengths, and layouts."""

from dataclasses import dataclass

import numpy as np
import torch

# The share of masked tokens of ModernBERT and Ettin, and of our recipes.
MASKED = 0.3
# BERT's 30,522 rounded up to a multiple of 64, so that the matrix product of the output layer has its fast kernels.
VOCABULARY = 30528
PAD, MASK, FIRST_WORD = 0, 4, 5
SHORTEST = 8


@dataclass(frozen=True)
class Batch:
    """
    Documents as a model takes them.

    Attributes:
        input_ids: int64 `[B, N]`, masked and padded.
        lengths: int64 `[B, D]`, tokens of the documents that lie end to end in each row.
        masked: int64 `[M]`, the masked tokens by their index in the flat `input_ids`, in order.
        targets: int64 `[M]`, what they were.
        longest: the most tokens that a document can have.
        padded: whether rows may have padding.
        packed: whether all documents lie in one row, else each has its own.
    """

    input_ids: torch.Tensor
    lengths: torch.Tensor
    masked: torch.Tensor
    targets: torch.Tensor
    longest: int
    padded: bool
    packed: bool

    @property
    def num_tokens(self) -> int:
        """Tokens that are no padding."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Documents:
    """
    Tokens of documents end to end, without padding.

    Attributes:
        lengths: tokens in each.
        words: int64 `[T]`, before masking.
        masked: int64 `[M]`, indices of the tokens to mask, in order.
        longest: the most tokens that a document can have.
        fixed: whether all documents have `longest` tokens.
    """

    lengths: list[int]
    words: torch.Tensor
    masked: torch.Tensor
    longest: int
    fixed: bool

    def to_batch(self, packed: bool, masks: bool) -> Batch:
        """
        A batch on the device of `words`.

        Args:
            packed: whether all documents lie in one row `[1, T]`; else each has a row `[D, longest]`.
            masks: whether tokens are masked, as for training.
        """
        lengths = torch.tensor(self.lengths, device=self.words.device)
        ids = self.words.clone()
        if masks:
            ids[self.masked] = MASK
        targets = self.words[self.masked]
        if packed:
            return Batch(ids[None], lengths[None], self.masked, targets, self.longest, False, True)
        document = torch.repeat_interleave(lengths)
        place = torch.arange(len(ids), device=ids.device) - (lengths.cumsum(0) - lengths)[document]
        index = document * self.longest + place
        rows = ids.new_full((len(lengths) * self.longest,), PAD).scatter(0, index, ids)
        rows = rows.view(-1, self.longest)
        return Batch(rows, lengths[:, None], index[self.masked], targets, self.longest, not self.fixed, False)


def make_documents(
    length: int, tokens: int, variable: bool, count: int, device: torch.device, vocabulary: int = VOCABULARY
) -> list[Documents]:
    """
    `count` times the documents of a batch of `tokens` tokens.

    Of fixed length all have `length` tokens. Of variable length they are drawn from a normal distribution of mean
    `length / 2` and deviation `length / 8`; the lengths of all batches are the same in another order, so that shapes
    are static as with a token budget.

    Raises:
        ValueError: if not even one document of `length` tokens fits.
    """
    if length > tokens:
        raise ValueError(f"a document of {length} tokens does not fit into a batch of {tokens}; raise --tokens.")
    rng = np.random.default_rng(length)
    lengths = draw_lengths(length, tokens, rng) if variable else [length] * (tokens // length)
    return [_fill(rng.permutation(lengths).tolist(), length, variable, rng, device, vocabulary) for _ in range(count)]


def draw_lengths(length: int, tokens: int, rng: np.random.Generator) -> list[int]:
    """Lengths of normal distribution (see `make_documents`), between `SHORTEST` and `length`; `tokens` in all."""
    drawn = rng.normal(length / 2, length / 8, size=8 * tokens // length + 8)
    drawn = drawn.round().astype(int).clip(SHORTEST, length)
    count = int(np.searchsorted(drawn.cumsum(), tokens)) + 1
    lengths = drawn[:count].tolist()
    lengths[-1] -= sum(lengths) - tokens
    if lengths[-1] < SHORTEST and count > 1:
        lengths[-2] -= SHORTEST - lengths[-1]
        lengths[-1] = SHORTEST
    return lengths


def masked_counts(lengths: list[int], variable: bool) -> list[int]:
    """Masked tokens of every document: `MASKED` of each, and for variable lengths also of all together."""
    if not variable:
        return [round(MASKED * length) for length in lengths]
    upto = np.rint(MASKED * np.cumsum(lengths)).astype(int)
    return np.diff(upto, prepend=0).tolist()


def _fill(
    lengths: list[int], longest: int, variable: bool, rng: np.random.Generator, device: torch.device, vocabulary: int
) -> Documents:
    words = torch.from_numpy(rng.integers(FIRST_WORD, vocabulary, sum(lengths)))
    starts = np.cumsum(lengths) - lengths
    masked = [
        start + np.sort(rng.choice(length, count, replace=False))
        for start, length, count in zip(starts, lengths, masked_counts(lengths, variable), strict=True)
    ]
    return Documents(
        lengths, words.to(device), torch.from_numpy(np.concatenate(masked)).to(device), longest, not variable
    )
