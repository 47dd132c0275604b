# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The trained tokenizer: reproducible, lossless, with BERT's special tokens and a mask that stands for a word."""

import hashlib
import logging
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training_concept.tokenization import train_tokenizer

REPOSITORY = Path(__file__).parents[2]
# Ties between pairs, which a hash order would break differently from process to process.
TRAIN_AND_HASH = """
import hashlib
from training_concept.tokenization import train_tokenizer
tokenizer = train_tokenizer([f"{a}{b} {b}{a}{c}" for a in "abcdefgh" for b in "klmnop" for c in "xyz"] * 2, 400)
print(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest())
"""


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
    digests = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(digests[0]) == 64
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


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_a_corpus_without_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        train_tokenizer(texts, 300)
