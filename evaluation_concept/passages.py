# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Long texts in passages that overlap, cut between words."""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


class Passage(NamedTuple):
    """
    A piece of a text.

    Attributes:
        name: what the text is called.
        start: its first character, counted in the text from 0.
        text: the piece.
    """

    name: str
    start: int
    text: str


def split_texts(
    texts: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_tokens: int, overlap: int
) -> Iterator[Passage]:
    """
    The passages of texts `(name, text)`, in their order; one without a word has none.

    Args:
        tokenizer: a fast one.
        max_tokens: tokens of a passage, without special ones.
        overlap: how many of them the next passage has, too.

    Raises:
        ValueError: if passages would be empty, or not get on.
    """
    if not 0 <= overlap < max_tokens:
        raise ValueError(f"Passages of {max_tokens} tokens cannot overlap by {overlap}.")
    for name, text in texts:
        for start, end in _spans(text, tokenizer, max_tokens, overlap):
            piece = text[start:end]
            if piece.strip():
                yield Passage(name, start + len(piece) - len(piece.lstrip()), piece.strip())


def _spans(text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int, overlap: int) -> list[list[int]]:
    """First character of each passage, and that behind its last."""
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    offsets = encoded["offset_mapping"]
    if not offsets:
        return []
    firsts = range(0, max(len(offsets) - overlap, 1), max_tokens - overlap)
    spans = [[offsets[first][0], offsets[first : first + max_tokens][-1][1]] for first in firsts]
    for before, after in pairwise(spans):
        spaces = [after[0] + space.start() for space in re.finditer(r"\s", text[after[0] : before[1]])]
        if spaces:  # else a word is longer than the overlap
            before[1], after[0] = spaces[-1], spaces[0]
    return spans
