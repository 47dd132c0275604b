# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Where words begin, read off token ids alone: by tables over the vocabulary, without a look at the text.

A word is what the tokenizer's pre-tokenisation splits a text into, before it splits that in tokens. How it shows in
the ids depends on the vocabulary:

- byte-level BPE, pre-tokenised as by GPT-2 (Radford et al., 2019): a word is a run of letters, of numbers or of
  other characters with at most one space before it, a contraction ("'s", so that "don't" is "don" + "'t"), or a run
  of white space. Characters are told apart by the tokens' first and last ones.
- WordPiece: a word begins with every token that has no continuation prefix ("##"). Punctuation stands alone, so
  that "don't" is three words.
- SentencePiece and its like: a word begins with "▁", and punctuation belongs to the word before it.

Special tokens and other added tokens are words by themselves, and so is every token of a vocabulary of whole words.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

SENTENCE_PIECE_SPACE = "▁"
CONTRACTIONS = (b"'s", b"'t", b"'re", b"'ve", b"'m", b"'ll", b"'d")

# What a byte-level token begins with and ends with. Bytes that go on with a character of the token before are PART.
LETTER, NUMBER, OTHER, PART, ALONE, BLANK = range(6)
# Only at the beginning: a single blank character; a space before something else.
ONE_BLANK, SPACED = 6, 7
# Only at the end: a lone space, which belongs to the word behind it; a contraction, which nothing continues.
LONE_SPACE, CONTRACTION = 6, 7
NUM_CLASSES = 8


class WordBoundaries:
    """Tells which tokens begin a word.

    Args:
        begins: bool [V], tokens that begin a word wherever they stand.
        alone: bool [V], tokens that are words by themselves.
        spaced: bool [V], tokens that stand for a space and what follows it, or that no token shows a space before.
    """

    def __init__(self, begins: np.ndarray, alone: np.ndarray, spaced: np.ndarray) -> None:
        self.begins = begins | alone
        self.alone = alone
        self.spaced = spaced

    @staticmethod
    def from_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> "WordBoundaries":
        """Build the tables of a fast tokenizer.

        Args:
            tokenizer: byte-level BPE, WordPiece, SentencePiece-like, or of whole words.
            vocab_size: ids that the tables cover, if more than the tokenizer has; the others are words by themselves.

        Raises:
            ValueError: a tokenizer without a `tokenizers` backend, or one whose words do not show in its tokens.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("word boundaries need a fast tokenizer; this one has no `tokenizers` backend")
        size = max(vocab_size or 0, len(tokenizer))
        alone: np.ndarray = np.ones(size, dtype=bool)
        alone[list(tokenizer.get_vocab().values())] = False
        alone[list(tokenizer.added_tokens_decoder)] = True
        tokens = {token: index for token, index in tokenizer.get_vocab().items() if not alone[index]}
        if type(backend.model).__name__ == "WordPiece":
            prefix: str = backend.model.continuing_subword_prefix
            begins = _where(tokens, size, lambda token: not token.startswith(prefix))
            return WordBoundaries(begins, alone, begins | alone)
        if set(pre_tokenizers.ByteLevel.alphabet()) <= tokens.keys():
            return ByteLevelBoundaries(tokens, alone)
        spaced = _where(tokens, size, lambda token: token.startswith(SENTENCE_PIECE_SPACE))
        if spaced.any():
            return WordBoundaries(spaced, alone, spaced | alone)
        if type(backend.model).__name__ == "WordLevel":
            every = np.ones_like(alone)
            return WordBoundaries(every, alone, every)
        raise ValueError(
            f"the words of this {type(backend.model).__name__} tokenizer cannot be read off its tokens, which are "
            "neither byte-level BPE nor WordPiece nor SentencePiece: use the masking scheme 'token', or 'span' with "
            "span_unit='token'"
        )

    def starts(self, ids: np.ndarray) -> np.ndarray:
        """Mark the tokens that begin a word: ids int [n] -> bool [n]. The first token always does."""
        starts = self.begins[ids]
        starts[1:] |= self.alone[ids[:-1]]
        starts[:1] = True
        return starts


class ByteLevelBoundaries(WordBoundaries):
    """Word boundaries of byte-level BPE.

    They are those of the tokenizer but for a character that is cut between two tokens, which counts as what most
    characters with its first bytes are ("½", in a vocabulary without it, as a sign, not a number), and for a
    contraction of more than two tokens ("'" + "r" + "e").

    Args:
        tokens: id of each token that is not added to the vocabulary.
        alone: bool [V].
    """

    def __init__(self, tokens: dict[str, int], alone: np.ndarray) -> None:
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        first: np.ndarray = np.full(len(alone), ALONE, dtype=np.int8)
        last = first.copy()
        spaced = alone.copy()
        for token, index in tokens.items():
            content = bytes(byte_of[character] for character in token)
            first[index], last[index] = _first_class(content), _last_class(content)
            spaced[index] = content.startswith(b" ")
        super().__init__(np.zeros_like(alone), alone, spaced)
        self.first = first
        self.last = last * np.int8(NUM_CLASSES)
        self.start_table = _start_table().ravel()
        # A contraction that the vocabulary has no token for.
        self.is_apostrophe = _where(tokens, len(alone), lambda token: token == "'")
        self.is_tail = _where(tokens, len(alone), lambda token: f"'{token}".encode() in CONTRACTIONS)

    def starts(self, ids: np.ndarray) -> np.ndarray:
        """Mark the tokens that begin a word: ids int [n] -> bool [n]. The first token always does."""
        first, last = self.first[ids], self.last[ids]
        if (parts := last == PART * NUM_CLASSES).any():
            # The rest of a character is of the class that its beginning has.
            last = last[np.maximum.accumulate(np.where(parts, 0, np.arange(len(ids))))]
        starts: np.ndarray = np.ones(len(ids), dtype=bool)
        starts[1:] = self.start_table[last[:-1] + first[1:]]
        # The last character of white space goes with what follows it, or stands alone if it is no space.
        starts[:-1] |= (first[:-1] == ONE_BLANK) & (first[1:] < PART)
        is_cut = starts[:-1] & self.is_apostrophe[ids[:-1]] & self.is_tail[ids[1:]]
        starts[1:] &= ~is_cut
        starts[2:] |= is_cut[:-1]
        return starts


def _where(tokens: dict[str, int], size: int, condition: Callable[[str], bool]) -> np.ndarray:
    marked: np.ndarray = np.zeros(size, dtype=bool)
    marked[[index for token, index in tokens.items() if condition(token)]] = True
    return marked


def _start_table() -> np.ndarray:
    """Whether a word begins between a token of the last class [row] and one of the first class [column]."""
    table: np.ndarray = np.ones((NUM_CLASSES, NUM_CLASSES), dtype=bool)
    table[[LETTER, NUMBER, OTHER], [LETTER, NUMBER, OTHER]] = False
    table[np.ix_([BLANK, LONE_SPACE], [BLANK, ONE_BLANK])] = False
    table[LONE_SPACE, [LETTER, NUMBER, OTHER]] = False
    table[:, PART] = False
    table[ALONE] = True
    return table


def _first_class(content: bytes) -> int:
    if _is_continuation(content[0]):
        return PART
    if content.startswith(b" ") and not _is_blank(content):
        return SPACED
    if _is_blank(content):
        return ONE_BLANK if len(content.decode()) == 1 else BLANK
    length = next((index for index in range(1, len(content)) if not _is_continuation(content[index])), len(content))
    return _class_of(content[:length])


def _last_class(content: bytes) -> int:
    if content == b" ":
        return LONE_SPACE
    if content in CONTRACTIONS:
        return CONTRACTION
    begin = next((index for index in reversed(range(len(content))) if not _is_continuation(content[index])), None)
    return PART if begin is None else _class_of(content[begin:])


def _is_continuation(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _is_blank(content: bytes) -> bool:
    return all(map(_is_white_space, content.decode(errors="replace")))


def _is_white_space(character: str) -> bool:
    # Python takes the four information separators for white space, Unicode does not.
    return character.isspace() and character not in "\x1c\x1d\x1e\x1f"


@cache
def _class_of(prefix: bytes) -> int:
    """The class of a character of which the first bytes are given; of several possible ones the most frequent."""
    missing = (prefix[0] >= 0xC0) + (prefix[0] >= 0xE0) + (prefix[0] >= 0xF0) + 1 - len(prefix)
    if prefix[0] >= 0xF0 and missing:
        return OTHER  # a quarter of a million possible characters, of which emoji are met most
    candidates = [prefix]
    for _ in range(missing):
        candidates = [start + bytes([byte]) for start in candidates for byte in range(0x80, 0xC0)]
    characters = "".join(candidate.decode(errors="ignore") for candidate in candidates)
    classes = Counter(
        _character_class(character) for character in characters if unicodedata.category(character) != "Cn"
    )
    return classes.most_common(1)[0][0] if classes else OTHER


def _character_class(character: str) -> int:
    if _is_white_space(character):
        return BLANK
    return {"L": LETTER, "N": NUMBER}.get(unicodedata.category(character)[0], OTHER)
