# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Trained tokenizers: reproducible, with BERT's special tokens and a mask that stands for a word; BPE is lossless."""

import hashlib
import logging
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training_concept import tokenization
from training_concept.tokenization import train_tokenizer

REPOSITORY = Path(__file__).parents[2]
# Ties between pairs, which a hash order would break differently from process to process.
TRAIN_AND_HASH = """
import hashlib
from training_concept.tokenization import train_tokenizer
texts = [f"{a}{b} {b}{a}{c}" for a in "abcdefgh" for b in "klmnop" for c in "xyz"] * 2
for model, vocab_size in (("bpe", 400), ("wordpiece", 100)):
    tokenizer = train_tokenizer(texts, vocab_size, model=model)
    print(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest())
"""


@pytest.fixture(scope="module", params=[False, True], ids=["cased", "uncased"])
def wordpiece(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    texts = ["The red house", "a red house in the Café", "houses, redder houses! thé"] * 3
    return train_tokenizer(texts, 120, model="wordpiece", lowercase=request.param)


def test_training_is_the_same_in_every_process() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN_AND_HASH],
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, threads in (("1", "1"), ("2", "4"))
    ]
    digests = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [len(digest) for digest in digests[0]] == [64, 64]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "text",
    [
        "red green",
        " Leading, trailing ",
        "tabs\tand\n\nlines\r\n",
        "don't  stop -- 3.14 $5,000!",
        "naïve café Ωμέγα 中文字 עברית",
        "emoji 👩‍👩‍👧 and \x07 control",
    ],
)
def test_any_text_survives_encoding_and_decoding(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_decomposed_characters_are_composed(tokenizer: PreTrainedTokenizerFast) -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    assert tokenizer(decomposed)["input_ids"] == tokenizer("café")["input_ids"]


def test_special_tokens_and_templates_are_those_of_bert(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token] == (
        tokenizer.convert_ids_to_tokens([0, 1, 2, 3])
    )
    assert tokenizer.mask_token_id == 4
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("red house", "blue"))
    pair = tokenizer("red house", "blue")
    assert list(pair) == ["input_ids", "token_type_ids", "attention_mask"]
    assert pair["input_ids"] == [2, *first, 3, *second, 3]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer("red house")["input_ids"] == [2, *first, 3]


def test_the_mask_stands_for_a_word_and_the_space_before_it(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens, whole = (
        tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        for text in ("the red [MASK] is blue", "the red house is blue")
    )
    place = tokens.index("[MASK]")
    assert whole[:place] == tokens[:place]
    assert whole[place] == "Ġhouse"
    assert whole[place + 1 :] == tokens[place + 1 :]


def test_a_saved_tokenizer_is_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["red [MASK] house", "café number seven\n"]
    assert loaded(texts, texts) == tokenizer(texts, texts)
    assert loaded.model_max_length == tokenizer.model_max_length
    assert loaded.model_input_names == tokenizer.model_input_names
    assert hashlib.sha256(loaded.backend_tokenizer.to_str().encode()).digest() == (
        hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).digest()
    )


def test_wordpiece_marks_what_continues_a_word(wordpiece: PreTrainedTokenizerFast) -> None:
    assert wordpiece.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert sorted(wordpiece.all_special_ids) == [0, 1, 2, 3, 4]
    tokens = wordpiece.convert_ids_to_tokens(wordpiece("red reds, [MASK] xed", add_special_tokens=False)["input_ids"])
    assert tokens[:5] == ["red", "red", "##s", ",", "[MASK]"]
    # All characters but the unknown "x" can begin and continue words; one unknown character makes the word unknown.
    assert tokens[5:] == ["[UNK]"]
    assert wordpiece.decode(wordpiece("redder house")["input_ids"], skip_special_tokens=True) == "redder house"
    # No word has a comma inside, so no token is spent on that.
    assert "##," not in wordpiece.get_vocab()


def test_wordpiece_lowers_case_and_drops_accents_if_asked(wordpiece: PreTrainedTokenizerFast) -> None:
    cased, plain = (wordpiece(text)["input_ids"] for text in ("The Café", "the cafe"))
    lowers = not any("T" in token for token in wordpiece.get_vocab() if not token.startswith("["))
    assert (cased == plain) == lowers
    assert wordpiece.unk_token_id not in cased


def test_a_wordpiece_tokenizer_survives_saving(wordpiece: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    wordpiece.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.to_str() == wordpiece.backend_tokenizer.to_str()
    assert loaded("red [MASK]", "the house") == wordpiece("red [MASK]", "the house")


def test_wordpiece_takes_texts_that_can_be_read_once() -> None:
    texts = ["red house", "red mouse"]
    listed, streamed = (train_tokenizer(given, 40, model="wordpiece") for given in (texts, iter(texts)))
    assert listed.get_vocab() == streamed.get_vocab()


def test_a_wordpiece_alphabet_keeps_the_frequent_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenization, "LARGEST_ALPHABET", 3)
    vocabulary = train_tokenizer(["abc abc abz"], 30, model="wordpiece").get_vocab()
    assert {"a", "b", "c"} < set(vocabulary)
    assert "z" not in "".join(vocabulary)


def test_bpe_lowers_case_if_asked() -> None:
    tokenizer = train_tokenizer(["Red House"], 300, lowercase=True)
    assert tokenizer.decode(tokenizer("RED Café", add_special_tokens=False)["input_ids"]) == "red café"


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of bpe, wordpiece, got 'unigram'"):
        train_tokenizer(["red"], 300, model="unigram")


def test_a_vocabulary_smaller_than_the_characters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 11 \(special tokens and 3 characters, .*\), got 10"):
        train_tokenizer(["red"], 10, model="wordpiece")


def test_the_declared_length_is_kept() -> None:
    assert train_tokenizer(["red house"], 261, 4096).model_max_length == 4096


def test_a_small_corpus_gives_fewer_tokens_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="training_concept.tokenization"):
        tokenizer = train_tokenizer(["red house"] * 3, 5000)
    assert len(tokenizer) < 300
    assert f"the corpus gave {len(tokenizer)} tokens, fewer than the 5000 wanted" in caplog.text


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size must be at least 261"):
        train_tokenizer(["red"], 260)


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_a_corpus_without_text_is_refused(texts: list[str], model: str) -> None:
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        train_tokenizer(texts, 300, model=model)
