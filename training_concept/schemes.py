# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a row are masked together: tokens, whole words, spans or collocations, always exactly K tokens.

A scheme picks *units*, stretches of tokens that are masked as one. No unit holds a special token or crosses a border
between documents. Where the last unit does not fit what is left of K, another one that does takes its place; only
if none does is a unit cut.

All draws are raw 64-bit integers of the row's own stream, which are the same in every version of numpy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from transformers import PreTrainedTokenizerBase

from training_concept.collocations import PmiVocabulary
from training_concept.words import WordBoundaries

LARGEST_DRAW = np.iinfo(np.uint64).max

Draw: TypeAlias = Callable[[int], np.ndarray]
"""The next so many integers of a row's stream, uint64."""

Units: TypeAlias = tuple[np.ndarray, np.ndarray]
"""First tokens and lengths in tokens, both int64 [U]."""


@dataclass(frozen=True)
class Row:
    """What a scheme sees of a row of n tokens without its padding.

    Attributes:
        ids: int64 [n].
        maskable: bool [n], tokens that are not special.
        borders: where documents begin that no special token marks, int64.
    """

    ids: np.ndarray
    maskable: np.ndarray
    borders: np.ndarray


@dataclass(frozen=True)
class SchemeOptions:
    """What the schemes can be told; each reads its own part.

    Attributes:
        vocab_size: token ids of the model.
        span_distribution: `geometric` or `uniform` lengths of spans.
        span_success_probability: p of the geometric distribution.
        min_span_length: shortest span.
        max_span_length: longest span.
        span_unit: what the lengths of spans count, `word` or `token`.
        pmi_vocabulary: collocations, or the file that holds them.
    """

    vocab_size: int
    span_distribution: str = "geometric"
    span_success_probability: float = 0.2
    min_span_length: int = 1
    max_span_length: int = 10
    span_unit: str = "word"
    pmi_vocabulary: PmiVocabulary | str | Path | None = None


class Scheme(Protocol):
    """A way to pick K tokens of a row.

    Attributes:
        replaces_units: whether a unit as a whole becomes mask tokens, random tokens or stays (80-10-10), not each
            of its tokens by itself.
    """

    replaces_units: bool

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: SchemeOptions) -> None: ...

    def choose(self, row: Row, count: int, draw: Draw) -> Units:
        """Pick units of `count` tokens in all, of which the row has at least as many that are maskable."""


class TokenScheme:
    """Each token by itself, without replacement (Devlin et al., 2019)."""

    replaces_units = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: SchemeOptions) -> None: ...

    def choose(self, row: Row, count: int, draw: Draw) -> Units:
        positions = smallest(draw(len(row.ids)), row.maskable, count)
        return positions, np.ones_like(positions)


class WholeWordScheme:
    """Words in random order; one that exceeds what is left of K is passed over (the released code of BERT)."""

    replaces_units = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: SchemeOptions) -> None:
        self.boundaries = WordBoundaries.from_tokenizer(tokenizer, options.vocab_size)

    def choose(self, row: Row, count: int, draw: Draw) -> Units:
        words = find_words(row, self.boundaries)
        return take_in_order(words, random_order(draw, len(words[0])), count)


class SpanScheme:
    """Spans of random lengths at random places (SpanBERT; Joshi et al., 2020).

    Lengths are drawn independently, from `min_span_length` to `max_span_length`: geometric ones in proportion to
    (1 - p)^length, which with the defaults of the paper (p = .2, 1 to 10) have mean 3.8; or uniform ones. They count
    words or tokens.

    The paper draws spans until the budget is spent and leaves open what becomes of overlaps; to reject them would
    favour short spans, the more so the higher the rate. Here the gaps between the spans are drawn instead: all
    arrangements of the spans on the row, joined to a ring, are equally likely. So lengths keep their distribution,
    every place is masked equally often at any rate, and spans may touch but not overlap. The last span is cut to
    give K. One that meets a special token, a border between documents or the row's end is two spans.
    """

    replaces_units = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: SchemeOptions) -> None:
        _check_span_options(options)
        lengths = np.arange(options.min_span_length, options.max_span_length + 1)
        failure = 1 - options.span_success_probability
        if options.span_distribution == "uniform":
            failure = 1.0
        # Relative to the shortest, of which else nothing may be left to divide by.
        weights = failure ** (lengths - lengths[0])
        self.lengths = lengths
        self.probabilities = weights / weights.sum()
        # A draw below the i-th limit and not below the one before means the i-th length.
        limits = np.cumsum(self.probabilities)[:-1] * 2.0**64
        self.limits = np.minimum(limits, np.nextafter(2.0**64, 0)).astype(np.uint64)
        by_word = options.span_unit == "word"
        self.boundaries = WordBoundaries.from_tokenizer(tokenizer, options.vocab_size) if by_word else None

    def choose(self, row: Row, count: int, draw: Draw) -> Units:
        words = find_words(row, self.boundaries) if self.boundaries else _single_tokens(row)
        begins, lengths = words
        spans: np.ndarray = np.zeros(len(begins), dtype=np.int64)
        order, numbers = self._arrange(lengths, count, draw)
        ends = np.cumsum(lengths[order])
        fitting = np.searchsorted(ends, count, side="right")
        spans[order[:fitting]] = numbers[:fitting]
        rest = count - (int(ends[fitting - 1]) if fitting else 0)
        pieces = _join(words, spans, row)
        if not rest:
            return pieces
        others = begins[spans == 0], lengths[spans == 0]
        last = take_in_order(others, random_order(draw, len(others[0])), rest)
        return np.concatenate([pieces[0], last[0]]), np.concatenate([pieces[1], last[1]])

    def _arrange(self, lengths: np.ndarray, count: int, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Lay spans over words of these `lengths` until they hold `count` tokens.

        Returns:
            The words in spans, in the order of the ring, and the number of each one's span, from 1. Both int64.
        """
        num_words, num_tokens = len(lengths), int(lengths.sum())
        sizes = self.lengths[np.searchsorted(self.limits, draw(num_words), side="right")]
        keys, turn = draw(num_words), int(draw(1)[0] % np.uint64(num_words))
        covered, held = 0, 0
        while held < count:
            covered = min(covered - (held - count) * num_words // num_tokens, num_words)
            order, numbers = _ring(sizes, covered, keys, turn)
            held = int(lengths[order].sum())
        return order, numbers


class PmiScheme:
    """Collocations and the words outside them, in random order as in `WholeWordScheme` (Levine et al., 2021).

    Where n-grams of the vocabulary overlap, the longest is the unit, and of equally long ones one drawn at random.
    The paper says so of n-grams that hold another and draws among all others that overlap.
    """

    replaces_units = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: SchemeOptions) -> None:
        vocabulary = options.pmi_vocabulary
        if vocabulary is None:
            raise ValueError(
                "the masking scheme 'pmi' needs pmi_vocabulary, a file that python -m training_concept.pmi writes"
            )
        self.boundaries = WordBoundaries.from_tokenizer(tokenizer, options.vocab_size)
        if not isinstance(vocabulary, PmiVocabulary):
            vocabulary = PmiVocabulary.load(vocabulary, tokenizer)
        self.vocabulary = vocabulary

    def choose(self, row: Row, count: int, draw: Draw) -> Units:
        begins, lengths = find_words(row, self.boundaries)
        stretches = np.cumsum(_breaks((begins, lengths), row))
        ngrams, sizes = self.vocabulary.find(row.ids, begins, begins + lengths, stretches)
        keep = _without_overlaps(ngrams, sizes, draw(len(ngrams)), len(begins))
        is_first: np.ndarray = np.ones(len(begins), dtype=bool)
        is_first[expand(ngrams[keep] + 1, sizes[keep] - 1)] = False
        first = np.flatnonzero(is_first)
        units = begins[first], np.add.reduceat(lengths, first)
        return take_in_order(units, random_order(draw, len(first)), count)


SCHEMES: dict[str, type[Scheme]] = {
    "token": TokenScheme,
    "whole_word": WholeWordScheme,
    "span": SpanScheme,
    "pmi": PmiScheme,
}


def build_scheme(name: str, tokenizer: PreTrainedTokenizerBase, options: SchemeOptions) -> Scheme:
    """Build the scheme called `name`.

    Raises:
        ValueError: an unknown name, or what the scheme cannot do with its options or this tokenizer.
    """
    if name not in SCHEMES:
        raise ValueError(f"the masking scheme {name!r} is unknown; known are: {', '.join(SCHEMES)}")
    return SCHEMES[name](tokenizer, options)


def smallest(draws: np.ndarray, maskable: np.ndarray, count: int) -> np.ndarray:
    """The `count` maskable places with the smallest draws, ascending: a sample without replacement.

    draws uint64 [n], maskable bool [n] -> int64 [count].
    """
    if count == 0:
        return np.empty(0, dtype=np.int64)
    keys = np.where(maskable, draws, LARGEST_DRAW)
    return np.flatnonzero(maskable & (keys <= np.partition(keys, count - 1)[count - 1]))


def expand(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The members of stretches, one stretch after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - ends + lengths, lengths)


def find_words(row: Row, boundaries: WordBoundaries) -> Units:
    """The words that can be masked, in order; a border between documents ends a word."""
    starts = boundaries.starts(row.ids)
    starts[row.borders] = True
    begins = np.flatnonzero(starts)
    lengths = np.diff(begins, append=len(starts))
    keep = row.maskable[begins]
    return begins[keep], lengths[keep]


def random_order(draw: Draw, count: int) -> np.ndarray:
    """A permutation of `count` things, int64."""
    return np.argsort(draw(count), kind="stable")


def take_in_order(units: Units, order: np.ndarray, count: int) -> Units:
    """Take units in this order, passing over those that exceed what is left of `count` tokens.

    If none fits what is left, the first one passed over is cut to it.
    """
    begins, lengths = units[0][order], units[1][order]
    taken: np.ndarray = np.zeros(len(order), dtype=bool)
    candidates, rest = np.arange(len(order)), count
    while rest and len(candidates):
        ends = np.cumsum(lengths[candidates])
        fitting = np.searchsorted(ends, rest, side="right")
        taken[candidates[:fitting]] = True
        rest -= int(ends[fitting - 1]) if fitting else 0
        candidates = candidates[fitting:]
        candidates = candidates[lengths[candidates] <= rest]
    if rest:
        cut = np.flatnonzero(~taken)[0]
        taken[cut], lengths[cut] = True, rest
    return begins[taken], lengths[taken]


def _single_tokens(row: Row) -> Units:
    positions = np.flatnonzero(row.maskable)
    return positions, np.ones_like(positions)


def _ring(sizes: np.ndarray, covered: int, keys: np.ndarray, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Place spans of the first `sizes` on a ring of places, so that they cover `covered` of them.

    Each span is a single place at first, the others and it equally likely to be any; then it unfolds.

    Args:
        sizes: drawn lengths of spans, int64 [P]; the last one that is used is cut.
        covered: at most P.
        keys: random integers [P].
        turn: where on the ring the first place lies.

    Returns:
        The places covered, in the order of the ring, and the number of each one's span, from 1.
    """
    ends = np.cumsum(sizes)
    count = int(np.searchsorted(ends, covered)) + 1
    sizes = sizes[:count].copy()
    sizes[-1] -= ends[count - 1] - covered
    num_slots = len(keys) - covered + count
    slots = np.sort(np.argpartition(keys[:num_slots], count - 1)[:count])
    begins = slots + np.cumsum(sizes - 1) - (sizes - 1) + turn
    return expand(begins, sizes) % len(keys), np.repeat(np.arange(1, count + 1), sizes)


def _breaks(words: Units, row: Row) -> np.ndarray:
    """Mark the words that do not follow on the one before, bool [W]: a special token or a border lies between."""
    begins, lengths = words
    is_border: np.ndarray = np.zeros(len(row.ids), dtype=bool)
    is_border[row.borders] = True
    breaks = is_border[begins]
    breaks[1:] |= begins[1:] != begins[:-1] + lengths[:-1]
    return breaks


def _join(words: Units, spans: np.ndarray, row: Row) -> Units:
    """Join neighbouring words of the same span to units; spans int64 [W], 0 for words outside."""
    begins, lengths = words
    is_first = _breaks(words, row)
    is_first[1:] |= spans[1:] != spans[:-1]
    is_first[:1] = True
    first = np.flatnonzero(is_first & (spans > 0))
    return begins[first], np.add.reduceat(np.where(spans > 0, lengths, 0), first) if len(first) else first


def _without_overlaps(begins: np.ndarray, sizes: np.ndarray, keys: np.ndarray, num_words: int) -> list[int]:
    """Pick n-grams that share no word: longer ones first, equally long ones in the order of their keys."""
    occupied = bytearray(num_words)
    kept = []
    order = np.lexsort((keys, -sizes))
    for index, begin, size in zip(order.tolist(), begins[order].tolist(), sizes[order].tolist(), strict=True):
        if occupied.find(1, begin, begin + size) < 0:
            occupied[begin : begin + size] = b"\1" * size
            kept.append(index)
    return kept


def _check_span_options(options: SchemeOptions) -> None:
    if options.span_distribution not in ("geometric", "uniform"):
        raise ValueError(f"span_distribution must be geometric or uniform, got {options.span_distribution!r}")
    if options.span_unit not in ("word", "token"):
        raise ValueError(f"span_unit must be word or token, got {options.span_unit!r}")
    if not 0 < options.span_success_probability < 1:
        raise ValueError(
            "span_success_probability must lie between 0 and 1 (both excluded), got "
            f"{options.span_success_probability}"
        )
    if not 1 <= options.min_span_length <= options.max_span_length:
        raise ValueError(
            "min_span_length must be at least 1 and not exceed max_span_length, got "
            f"{options.min_span_length} and {options.max_span_length}"
        )
