# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Keeps what is scored out of what is trained on: the manifest of excluded texts, and the search for their words.

A text overlaps with an excluded one if both hold the same run of `RUN_LENGTH` words, the measure of the GPT-3 paper
(Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C). Words are runs of lower-case letters a-z and
digits, so that spacing, case and punctuation do not matter. An excluded text that is shorter than such a run counts
as a whole, if it has `MIN_RUN_LENGTH` words; below that it is too common to tell.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from training_concept.corpus.fetch import Package, PackageCache
from training_concept.corpus.readers import EXCLUSION_READERS, Document, Reader
from training_concept.corpus.sources import SOURCES
from training_concept.corpus.splits import split_of

RUN_LENGTH = 13
MIN_RUN_LENGTH = 8
TEXTS_PER_SEARCH = 1000
RULES = ("all", "test")
MANIFEST = Path(__file__).resolve().parents[2] / "recipes" / "exclusions.yaml"

# An odd multiplier keeps all 64 bits of a hash; this is 2**64 divided by the golden ratio.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_LETTERS_AND_DIGITS = b"abcdefghijklmnopqrstuvwxyz0123456789"
_TO_WORDS = bytes(code if code in _LETTERS_AND_DIGITS else ord(" ") for code in range(256))


@dataclass(frozen=True)
class Exclusion:
    """
    An entry of the manifest.

    Attributes:
        name: as reports and errors call it; its documents' splits depend on it too, unless it is of a source.
        why: what scores these texts.
        rule: "all" of its documents are excluded, or those of the "test" split, as `split_of` says.
        source: a source of the corpus, whose documents these are; else `None`.
        package: what they are in, if they are of no source.
        reader: how they are read from the package.
    """

    name: str
    why: str
    rule: str
    source: str | None = None
    package: Package | None = None
    reader: Reader | None = None

    @property
    def packages(self) -> list[Package]:
        return SOURCES[self.source].packages if self.source else [self.package] if self.package else []

    def documents(self, cache: PackageCache) -> Iterator[Document]:
        """The excluded documents, from those of its packages that are there."""
        for document in self._all_documents(cache):
            if self.rule == "all" or split_of(self.source or self.name, document.id) == "test":
                yield document

    def _all_documents(self, cache: PackageCache) -> Iterable[Document]:
        if self.source:
            return SOURCES[self.source].documents(cache)
        assert self.package
        assert self.reader
        return self.reader(cache.path(self.package)) if cache.path(self.package).is_dir() else ()


def read_manifest(path: Path = MANIFEST) -> list[Exclusion]:
    """
    Read the manifest of exclusions.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an entry that is not complete, or names a rule, source, package or reader that does not exist.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("exclusions"), dict):
        raise ValueError(f"{path} has no table of exclusions")
    try:
        return [_parse_entry(name, entry) for name, entry in content["exclusions"].items()]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parse_entry(name: str, entry: dict[str, Any]) -> Exclusion:
    origin = {"source"} if "source" in entry else {"package", "reader"}
    if set(entry) != {"why", "rule"} | origin:
        raise ValueError(f"{name} must have the keys why, rule, and either source or package and reader")
    for key, known in (("rule", RULES), ("source", tuple(SOURCES)), ("reader", tuple(EXCLUSION_READERS))):
        if key in entry and entry[key] not in known:
            raise ValueError(f"{name} has the {key} {entry[key]!r}; known: {', '.join(known)}")
    if "source" in entry:
        return Exclusion(name, entry["why"], entry["rule"], source=entry["source"])
    package, reader = Package.parse(entry["package"]), EXCLUSION_READERS[entry["reader"]]
    return Exclusion(name, entry["why"], entry["rule"], package=package, reader=reader)


class WordHashes(dict[bytes, int]):
    """64-bit hash of each word met so far."""

    def __missing__(self, word: bytes) -> int:
        value = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "big")
        self[word] = value
        return value


def normalise(text: str) -> list[bytes]:
    """The words of a text: runs of letters a-z and digits, lower case."""
    return text.lower().encode("ascii", "replace").translate(_TO_WORDS).split()


@dataclass(frozen=True)
class Overlap:
    """
    A text that holds words of an excluded one.

    Attributes:
        index: of the text among those searched.
        exclusion: name of the first entry of the manifest that the words are of.
        words: of the first run found, joined by spaces.
    """

    index: int
    exclusion: str
    words: str


class OverlapIndex:
    """
    The runs of words of excluded texts, as 64-bit hashes.

    Another run has one of these hashes by chance with a probability of the number of runs over 2**64.

    Args:
        texts: excluded texts, each with the name of its exclusion.
    """

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self.names: list[str] = []
        self._hashes = WordHashes()
        found: dict[int, list[tuple[np.ndarray, int]]] = {}
        for name, text in texts:
            if name not in self.names:
                self.names.append(name)
            words = normalise(text)
            if len(words) >= MIN_RUN_LENGTH:
                length = min(len(words), RUN_LENGTH)
                found.setdefault(length, []).append((self._runs_of(words, length)[-1], self.names.index(name)))
        self._runs = {length: _sort_runs(runs) for length, runs in found.items()}

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _ in self._runs.values())

    def search(self, texts: Sequence[str]) -> list[Overlap]:
        """Find the texts that overlap with an excluded one; words do not run on from one text to the next."""
        words_of_texts = [normalise(text) for text in texts]
        # A word that no text can hold parts two of them, so that all are searched at once.
        words = [word for words in words_of_texts for word in (*words, b"|")]
        ends = np.cumsum([len(words) + 1 for words in words_of_texts])
        first: dict[int, Overlap] = {}
        for length, hashes in enumerate(self._runs_of(words, max(self._runs, default=0)), start=1):
            for position, owner in self._known(hashes, length):
                text = int(np.searchsorted(ends, position, side="right"))
                run = b" ".join(words[position : position + length]).decode()
                first.setdefault(text, Overlap(text, self.names[owner], run))
        return [first[text] for text in sorted(first)]

    def _runs_of(self, words: Sequence[bytes], longest: int) -> list[np.ndarray]:
        """Hashes of all runs of 1 to `longest` words, one array a length; a run's is made from the shorter one's."""
        hashes = np.fromiter(map(self._hashes.__getitem__, words), dtype=np.uint64, count=len(words))
        runs = [hashes]
        while len(runs) < longest:
            runs.append(runs[-1][:-1] * _MULTIPLIER + hashes[len(runs) :])
        return runs

    def _known(self, hashes: np.ndarray, length: int) -> Iterator[tuple[int, int]]:
        """Position and owner of those hashes of runs of `length` words that the index holds."""
        if length not in self._runs:
            return
        known, owners = self._runs[length]
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        for position in np.flatnonzero(known[places] == hashes):
            yield int(position), int(owners[places[position]])


def _sort_runs(runs: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes in ascending order, each once, and who has each first."""
    owners: np.ndarray = np.repeat(
        np.array([owner for _, owner in runs], dtype=np.uint8), [len(hashes) for hashes, _ in runs]
    )
    hashes, firsts = np.unique(np.concatenate([hashes for hashes, _ in runs]), return_index=True)
    return hashes, owners[firsts]


def index_exclusions(exclusions: Iterable[Exclusion], cache: PackageCache) -> OverlapIndex:
    """Read the excluded texts from the packages that are there."""
    return OverlapIndex(
        (exclusion.name, " ".join(document.paragraphs()))
        for exclusion in exclusions
        for document in exclusion.documents(cache)
    )


def find_overlaps(texts: Iterable[str], exclusions: OverlapIndex) -> Iterator[tuple[str, Overlap]]:
    """
    Find what should not have been trained on.

    Args:
        texts: paragraphs.
        exclusions: as `index_exclusions` makes it.

    Yields:
        Each text that overlaps with an excluded one, with how.
    """
    for batch in batched(texts, TEXTS_PER_SEARCH):
        yield from ((batch[overlap.index], overlap) for overlap in exclusions.search(batch))


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of `size` items, the last one maybe shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
