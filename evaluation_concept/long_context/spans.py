# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Where answers stand in a text."""

import re
from collections.abc import Iterable

MOST_SPANS = 20


def find_spans(text: str, answers: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """
    Where answers stand in a text as whole words, whatever their case and white space, ascending.

    Returns:
        The first 20 places at most, each as (first character, character behind the last).
    """
    found: set[tuple[int, int]] = set()
    for answer in answers:
        words = answer.strip(" .").split()
        if words:
            found.update(match.span() for match in re.finditer(_pattern(words), text, re.IGNORECASE))
    return tuple(sorted(found)[:MOST_SPANS])


def _pattern(words: list[str]) -> str:
    # Chinese has no white space around words.
    before, after = (r"(?<!\w)" if words[0].isascii() else ""), (r"(?!\w)" if words[-1].isascii() else "")
    return before + r"\s+".join(map(re.escape, words)) + after
