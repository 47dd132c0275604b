# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of collocations that PMI masking masks as one: its file, and how it is found in rows of token ids.

The file is UTF-8 text: comment lines (`# `) that say how it was made, a line of column names, then a line for each
n-gram with its text, number of words, count and PMI, separated by tabs. It belongs to no tokenizer: the texts are
tokenised when it is read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from evaluation_concept.files import draft
from training_concept.words import WordBoundaries

COLUMNS = ("ngram", "n", "count", "pmi")
COMMENT = "# "
HASH_BASE = 0x9E3779B97F4A7C17  # odd, hence with an inverse modulo 2^64
HASH_BITS = 64
TEXTS_PER_BATCH = 10_000


@dataclass(frozen=True)
class Collocation:
    """An n-gram of `n` words that the corpus holds `count` times, and its pointwise mutual information in nats."""

    text: str
    n: int
    count: int
    pmi: float


def write_collocations(path: Path, collocations: Iterable[Collocation], comments: Sequence[str]) -> None:
    """Write a vocabulary as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path) as draft_path, draft_path.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{COMMENT}{comment}\n" for comment in comments)
        lines.write("\t".join(COLUMNS) + "\n")
        lines.writelines(f"{each.text}\t{each.n}\t{each.count}\t{each.pmi:.4f}\n" for each in collocations)


def read_collocations(path: str | Path) -> list[Collocation]:
    """Read a vocabulary.

    Raises:
        OSError: a file that cannot be read.
        ValueError: one that is not a vocabulary, naming the line.
    """
    try:
        # Not splitlines(), which takes more characters for line ends than a text file has.
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no PMI vocabulary: it is not UTF-8 text ({error})") from error
    header = "\t".join(COLUMNS)
    if header not in lines:
        raise ValueError(f"{path} is no PMI vocabulary: it has no line of the column names {', '.join(COLUMNS)}")
    first = lines.index(header) + 1
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines[first:], first + 1)]


def _parse(line: str, place: str) -> Collocation:
    try:
        text, n, count, pmi = line.split("\t")
        return Collocation(text, int(n), int(count), float(pmi))
    except ValueError:
        raise ValueError(f"{place}: expected an n-gram, n, count and pmi separated by tabs, got {line!r}") from None


class PmiVocabulary:
    """Finds n-grams in rows of token ids.

    An n-gram is known by a 64-bit hash of its tokens; that some other tokens of a row have the hash of one of 10^6
    n-grams happens once in 10^13 times.

    Args:
        ngrams: token ids of the n-grams.
        max_ngram: words of the longest.
    """

    def __init__(self, ngrams: Sequence[Sequence[int]], max_ngram: int) -> None:
        lengths = np.array([len(ngram) for ngram in ngrams], dtype=np.int64)
        ends = np.cumsum(lengths)
        tokens = np.array([token for ngram in ngrams for token in ngram], dtype=np.int64)
        self.max_ngram = max_ngram
        self.hashes = np.unique(hash_sequences(hash_sums(tokens), ends - lengths, ends))
        # Most n-grams of a text are no collocation; one look in a small table tells so of 15 in 16.
        self.shift = np.uint64(HASH_BITS - max(16 * len(ngrams), 2**10).bit_length())
        self.may_hold: np.ndarray = np.zeros(2 ** (HASH_BITS - int(self.shift)), dtype=bool)
        self.may_hold[self.hashes >> self.shift] = True

    @staticmethod
    def load(path: str | Path, tokenizer: PreTrainedTokenizerBase) -> "PmiVocabulary":
        """Read the vocabulary in the file `path` and tokenise it.

        Each n-gram is known in the tokens that it has behind a space, and in those at the beginning of a text.
        What is a single word to this tokenizer, or holds a word unknown to it, is left out.

        Raises:
            OSError, ValueError: as `read_collocations`, or a vocabulary of which nothing is left.
        """
        boundaries = WordBoundaries.from_tokenizer(tokenizer)
        texts = [collocation.text for collocation in read_collocations(path)]
        ngrams: list[list[int]] = []
        sizes: list[int] = []
        for ids in _tokenise([form for text in texts for form in (f" {text}", text)], tokenizer):
            row = np.array(ids, dtype=np.int64)
            size = int(boundaries.starts(row).sum())
            if size > 1 and not boundaries.alone[row].any():
                ngrams.append(ids)
                sizes.append(size)
        if not ngrams:
            raise ValueError(f"{path} holds no n-gram of two words or more of this tokenizer")
        return PmiVocabulary(ngrams, max(sizes))

    def find(
        self, ids: np.ndarray, begins: np.ndarray, ends: np.ndarray, stretches: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find all n-grams of a row, overlapping ones included.

        Args:
            ids: token ids, int64 [n].
            begins: first token of each word, int64 [W].
            ends: token behind each word, int64 [W].
            stretches: number of the stretch that each word lies in, int64 [W]; n-grams cross no border of stretches.

        Returns:
            First word and number of words of each, both int64.
        """
        sums = hash_sums(ids)
        longest = min(self.max_ngram, len(begins))
        words = [np.flatnonzero(stretches[size - 1 :] == stretches[: 1 - size]) for size in range(2, longest + 1)]
        first = np.concatenate([np.empty(0, dtype=np.int64), *words])
        sizes: np.ndarray = np.repeat(np.arange(2, longest + 1), list(map(len, words)))
        found = self._contains(hash_sequences(sums, begins[first], ends[first + sizes - 1]))
        return first[found], sizes[found]

    def _contains(self, hashes: np.ndarray) -> np.ndarray:
        """Indices of the hashes that are in the vocabulary."""
        candidates = np.flatnonzero(self.may_hold[hashes >> self.shift])
        wanted = hashes[candidates]
        places = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return candidates[self.hashes[places] == wanted]


def hash_sums(ids: np.ndarray) -> np.ndarray:
    """Sums that `hash_sequences` reads off the hash of any stretch of these ids: int [n] -> uint64 [n + 1].

    The hash is a polynomial modulo 2^64 with a pseudo-random coefficient for each token.
    """
    powers, _ = _powers((len(ids) + 1).bit_length())
    sums: np.ndarray = np.zeros(len(ids) + 1, dtype=np.uint64)
    np.cumsum(_scramble(ids) * powers[: len(ids)], out=sums[1:])
    return sums


def hash_sequences(sums: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Hashes of the stretches of ids from `begins` up to `ends`, each int64 [S] -> uint64 [S]."""
    _, inverse = _powers(len(sums).bit_length())
    return (sums[ends] - sums[begins]) * inverse[begins]


@lru_cache(maxsize=4)
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers of the base and of its inverse, from 0 to 2^bits - 1."""
    bases = (HASH_BASE, pow(HASH_BASE, -1, 2**HASH_BITS))
    first, second = (np.cumprod(np.append(np.uint64(1), np.full(2**bits - 1, base, np.uint64))) for base in bases)
    return first, second


def _scramble(ids: np.ndarray) -> np.ndarray:
    """Pseudo-random 64-bit integers of token ids (the output function of SplitMix64; Steele et al., 2014)."""
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterable[list[int]]:
    for begin in range(0, len(texts), TEXTS_PER_BATCH):
        batch = list(texts[begin : begin + TEXTS_PER_BATCH])
        yield from tokenizer(batch, add_special_tokens=False)["input_ids"]
