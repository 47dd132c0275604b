# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Long texts in passages that overlap, cut between words."""

import re
from collections.abc import Iterable, Iterator, Sequence
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
    if overlap:
        firsts = list(range(0, max(len(offsets) - overlap, 1), max_tokens - overlap))
        lasts = [min(first + max_tokens, len(offsets)) for first in firsts]
    else:
        firsts = _word_begins(text, offsets, max_tokens)
        lasts = [*firsts[1:], len(offsets)]
    spans = [[offsets[first][0], offsets[last - 1][1]] for first, last in zip(firsts, lasts, strict=True)]
    for before, after in pairwise(spans):
        spaces = [after[0] + space.start() for space in re.finditer(r"\s", text[after[0] : before[1]])]
        if spaces:  # else a word is longer than the overlap
            before[1], after[0] = spaces[-1], spaces[0]
    return spans


def _word_begins(text: str, offsets: Sequence[tuple[int, int]], max_tokens: int) -> list[int]:
    """First tokens of passages of at most `max_tokens`, each the first of a word unless that is longer than these."""
    firsts = [0]
    while (limit := firsts[-1] + max_tokens) < len(offsets):
        begins = (
            token
            for token in range(limit, firsts[-1], -1)
            # A tokenizer of bytes has the space before a word inside the word's token.
            if text[max(offsets[token][0] - 1, 0)].isspace() or text[offsets[token][0]].isspace()
        )
        firsts.append(next(begins, limit))
    return firsts
