# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts whose words have part-of-speech tags, as the Brown corpus writes them: `The/at jury/nn said/vbd`."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from evaluation_concept.states import evenly

# Beginnings of the Brown tags of each part of speech, longest first where one begins another.
TAGS = {
    "noun": ("nn", "nr"),
    "name": ("np",),
    "verb": ("vb", "be", "hv", "do", "md"),
    "adjective": ("jj",),
    "adverb": ("rb", "rn", "ql", "wrb", "wql", "rp"),
    "pronoun": ("pn", "pp", "wp", "ex"),
    "determiner": ("at", "dt", "ap", "ab", "wdt"),
    "preposition": ("in", "to"),
    "conjunction": ("cc", "cs"),
    "number": ("cd", "od"),
}
PUNCTUATION, OTHER = "punctuation", "other"
PARTS_OF_SPEECH = (*TAGS, PUNCTUATION, OTHER)
# What stands in front of the tag proper (a foreign word) and behind it (in a title, in a headline, mentioned).
FOREIGN, NEGATED = "fw-", "*"
QUOTES = {"``": '"', "''": '"'}
NO_SPACE_BEFORE = {",", ".", ";", ":", "?", "!", ")", "''", "'"}
NO_SPACE_BEHIND = {"``", "("}


class TaggedWord(NamedTuple):
    """A word and its part of speech, an index into `PARTS_OF_SPEECH`."""

    word: str
    part: int


@dataclass(frozen=True)
class TaggedText:
    """
    A text and the part of speech of each of its characters.

    Attributes:
        text: words with spaces between them, punctuation as people write it.
        parts: int64 `[characters]`, index into `PARTS_OF_SPEECH`; -1 for spaces.
    """

    text: str
    parts: np.ndarray


def read_tagged_folder(folder: Path) -> list[TaggedText]:
    """
    The tagged texts of a folder, in the order of their names; files without tags, such as a README, are left out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no file in it has tagged words.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} (--tagged_corpus).")
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    texts = [join_words(words) for path in paths if (words := read_words(path))]
    if not texts:
        raise ValueError(f"{folder} holds no file of tagged words such as The/at jury/nn said/vbd (--tagged_corpus).")
    return texts


def read_words(path: Path) -> list[TaggedWord]:
    """The tagged words of a file; none if it is another kind of file, with words that have no tags."""
    try:
        items = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError:
        return []
    if not items or not all("/" in item for item in items):
        return []
    split = (item.rpartition("/") for item in items)
    return [TaggedWord(word, PARTS_OF_SPEECH.index(part_of_speech(tag))) for word, _, tag in split]


@cache
def part_of_speech(tag: str) -> str:
    """The one of `PARTS_OF_SPEECH` that a Brown tag, such as `nns-tl` or `fw-in+at`, belongs to."""
    tag = tag.removeprefix(FOREIGN)
    if not tag[:1].isalpha() and tag != NEGATED:
        return PUNCTUATION
    matches = (name for name, beginnings in TAGS.items() if tag.startswith(beginnings))
    return "adverb" if tag == NEGATED else next(matches, OTHER)


def join_words(words: list[TaggedWord]) -> TaggedText:
    """A text of `words`: no space in front of a comma, and quotation marks in place of two accents."""
    pieces, parts, glued = [], [], True
    for word, part in words:
        shown = QUOTES.get(word, word)
        if not (glued or word in NO_SPACE_BEFORE):
            pieces.append(" ")
            parts.append([-1])
        pieces.append(shown)
        parts.append([part] * len(shown))
        glued = word in NO_SPACE_BEHIND
    return TaggedText("".join(pieces), np.concatenate(parts))


def tag_tokens(
    texts: list[TaggedText], tokenizer: PreTrainedTokenizerBase, length: int, most: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """
    Rows of at most `length` tokens, and the part of speech of every token: that of its first character but spaces.

    Returns:
        `input_ids` and indices into `PARTS_OF_SPEECH`, int64 `[N]` each; -1 for special tokens.
    """
    picked = [texts[index] for index in evenly(len(texts), most)]
    rows, tags = [], []
    for tagged in picked:
        encoding = tokenizer(
            tagged.text,
            truncation=True,
            max_length=length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            split_special_tokens=True,
        )
        rows.append(np.array(encoding["input_ids"]))
        spans = zip(encoding["offset_mapping"], encoding["special_tokens_mask"], strict=True)
        tags.append(np.array([-1 if special else _first_part(tagged.parts[slice(*span)]) for span, special in spans]))
    return rows, tags


def _first_part(parts: np.ndarray) -> int:
    there = parts[parts >= 0]
    return int(there[0]) if len(there) else -1
