# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Long texts without what is behind their first tokens, found without tokenising all of them."""

from bisect import bisect_right
from collections.abc import Sequence

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

# Of a text so much is read at first to find some tokens, and so many times more where that was too little.
CHARACTERS_PER_TOKEN, MORE = 8, 4
# Characters read behind words whose tokens are relied upon.
MARGIN = 256


def cut_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, number: int) -> list[str]:
    """
    Starts of texts, with the same first `number` tokens, of the same characters, as the whole texts.

    A fast tokenizer splits a text into words, and turns each into tokens without a look at the others. So one that
    has ended, with white space, the start of another and a margin read behind it, has the tokens of the whole text.
    As long as these are too few, more is read: all of it if nothing splits the text.

    Args:
        texts: n of them.
        tokenizer: theirs; if it is a slow one, or drops starts of texts, these stay whole.
        number: of tokens, without special ones.
    """
    found, length = list(texts), number * CHARACTERS_PER_TOKEN + MARGIN
    rows = list(range(len(found))) if tokenizer.is_fast and tokenizer.truncation_side == "right" else []
    while rows := [row for row in rows if len(texts[row]) > length]:
        starts = [texts[row][:length] for row in rows]
        encodings = tokenizer(starts, add_special_tokens=False, verbose=False).encodings
        settled = [_settled_tokens(*pair) >= number for pair in zip(starts, encodings, strict=True)]
        for row, start, is_enough in zip(rows, starts, settled, strict=True):
            found[row] = start if is_enough else found[row]
        rows, length = [row for row, is_enough in zip(rows, settled, strict=True) if not is_enough], length * MORE
    return found


def _settled_tokens(start: str, encoding: Encoding) -> int:
    """How many tokens of `start` are so whatever comes behind it."""
    chunks = start[:-MARGIN].rsplit(maxsplit=1)
    reach = len(chunks[0]) if len(chunks) > 1 else 0
    ends, words = [end for _, end in encoding.offsets], encoding.word_ids
    # A word that goes on behind that is left out as a whole.
    beyond = bisect_right(ends, reach)
    return words.index(words[beyond]) if beyond < len(words) else 0
