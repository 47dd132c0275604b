# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Count the n-grams of a sequence of words, and score them by pointwise mutual information.

Counting is exact, level by level: an n-gram is counted only if both (n-1)-grams in it are frequent, and its code is
made of the first one's number and its last word. Memory: 12 bytes for each word of the sequence, and while a level is
counted about 60 bytes for each different n-gram that is counted on it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BORDER = -1
NGRAMS_PER_BLOCK = 2**23


@dataclass(frozen=True)
class Level:
    """The frequent n-grams of one length, numbered.

    Attributes:
        counts: occurrences, int64 [G].
        prefix: number of the (n-1)-gram that it begins with, int64 [G]; nothing for words.
        suffix: number of the (n-1)-gram that it ends with, int64 [G]; nothing for words.
        last: form of its last word, int64 [G]; for words the number in the lexicon.
        total: occurrences of all n-grams of this length.
    """

    counts: np.ndarray
    prefix: np.ndarray
    suffix: np.ndarray
    last: np.ndarray
    total: int


def count_ngrams(forms: np.ndarray, word_of_form: np.ndarray, max_ngram: int, min_count: int) -> list[Level]:
    """Count the n-grams of 1 to `max_ngram` words.

    Args:
        forms: the form of each word, int32 [W], -1 where no n-gram goes on.
        word_of_form: int32 [F].
        max_ngram: words of the longest.
        min_count: what occurs less often is left out.

    Returns:
        A level for each length.
    """
    breaks = np.flatnonzero(np.concatenate([[True], forms < 0, [True]]))
    stretches = np.diff(breaks) - 1
    words: np.ndarray = np.append(word_of_form, np.int32(BORDER))[forms]
    counts = np.bincount(words[words >= 0], minlength=len(word_of_form))
    frequent = np.flatnonzero(counts >= min_count)
    number_of_word: np.ndarray = np.full(len(counts) + 1, BORDER, dtype=np.int32)
    number_of_word[frequent] = np.arange(len(frequent))
    nothing: np.ndarray = np.empty(0, dtype=np.int64)
    levels = [Level(counts[frequent], nothing, nothing, frequent, int(stretches.sum()))]
    # Place by place the number of the n-gram that begins there, -1 for none that is frequent.
    numbers = number_of_word[words]
    suffix_of_form = number_of_word[word_of_form]
    codes = nothing
    for n in range(2, max_ngram + 1):
        previous = codes
        codes, counts = _count_codes(numbers, forms, n, len(word_of_form), min_count)
        prefix, last = np.divmod(codes, max(len(word_of_form), 1))
        suffix = suffix_of_form[last]
        if n > 2:
            suffix, _ = find_sorted(previous, levels[-1].suffix[prefix] * len(word_of_form) + last)
        levels.append(Level(counts, prefix, suffix, last, int(np.maximum(stretches - n + 1, 0).sum())))
        _renumber(numbers, forms, n, len(word_of_form), codes)
    return levels


def _count_codes(
    numbers: np.ndarray, forms: np.ndarray, n: int, num_forms: int, min_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the frequent n-grams, ascending, and how often they occur; both int64 [G]."""
    codes: np.ndarray = np.empty(0, dtype=np.int64)
    counts = codes
    for begin, end in _blocks_of_places(len(numbers) - n + 1):
        _, block = _codes(numbers, forms, n, num_forms, begin, end)
        new, new_counts = np.unique(block, return_counts=True)
        every = np.concatenate([codes, new])
        order = np.argsort(every, kind="stable")
        first = np.flatnonzero(np.diff(every[order], prepend=BORDER))
        codes = every[order[first]]
        counts = np.add.reduceat(np.concatenate([counts, new_counts])[order], first) if len(first) else counts
    frequent = counts >= min_count
    return codes[frequent], counts[frequent]


def _renumber(numbers: np.ndarray, forms: np.ndarray, n: int, num_forms: int, codes: np.ndarray) -> None:
    """Turn the numbers of (n-1)-grams into those of n-grams with these codes, in place."""
    last = max(len(numbers) - n + 1, 0)
    for begin, end in _blocks_of_places(last):
        places, block = _codes(numbers, forms, n, num_forms, begin, end)
        found, is_frequent = find_sorted(codes, block)
        numbers[begin:end] = BORDER
        numbers[places[is_frequent]] = found[is_frequent]
    numbers[last:] = BORDER


def _blocks_of_places(end: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(begin + NGRAMS_PER_BLOCK, end)) for begin in range(0, end, NGRAMS_PER_BLOCK))


def _codes(
    numbers: np.ndarray, forms: np.ndarray, n: int, num_forms: int, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """The places from `begin` up to `end` where an n-gram of two frequent (n-1)-grams begins, and its code."""
    first, second = numbers[begin:end], numbers[begin + 1 : end + 1]
    places: np.ndarray = begin + np.flatnonzero((first >= 0) & (second >= 0))
    return places, numbers[places].astype(np.int64) * num_forms + forms[places + n - 1]


def find_sorted(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in the ascending `keys` each wanted one is, or would be, and whether it is there."""
    places = np.asarray(np.searchsorted(keys, wanted))
    is_there: np.ndarray = np.zeros(len(wanted), dtype=bool)
    if len(keys):
        is_there = keys[np.minimum(places, len(keys) - 1)] == wanted
    return places, is_there


def pmi_scores(levels: Sequence[Level]) -> list[np.ndarray]:
    """PMI_n, in nats, of the n-grams of each level from the second on, float64 [G] each."""
    logs = [np.log(level.counts / max(level.total, 1)) for level in levels]
    # By length the highest log-probability that an n-gram's parts have, over all ways to cut it in one part or more.
    best, scores = logs[:1], []
    for n in range(2, len(levels) + 1):
        cuts = [
            best[k - 1][_shorten(levels, n, k, "prefix")] + best[n - k - 1][_shorten(levels, n, n - k, "suffix")]
            for k in range(1, n)
        ]
        parts = np.max(cuts, axis=0)
        scores.append(logs[n - 1] - parts)
        best.append(np.maximum(logs[n - 1], parts))
    return scores


def _shorten(levels: Sequence[Level], n: int, length: int, end: str) -> np.ndarray:
    """Numbers of the n-grams of so many words that the n-grams begin with (`prefix`) or end with (`suffix`)."""
    numbers = np.arange(len(levels[n - 1].counts))
    for longer in range(n, length, -1):
        numbers = getattr(levels[longer - 1], end)[numbers]
    return numbers
