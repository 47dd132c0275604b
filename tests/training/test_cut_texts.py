# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Long texts are cut before they are tokenised: less is read, and no row of any tokenizer is another one for it."""

import random
from collections.abc import Callable

import datasets
import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evaluation_concept import cutting
from evaluation_concept.glue import GLUE_TASKS
from evaluation_concept.long_context.baselines import first_tokens
from evaluation_concept.long_context.tasks import EXTRACTIVE, SELECTION, Example, Task
from evaluation_concept.long_context.vocabularies import byte_tokenizer
from evaluation_concept.tasks import Examples
from training_concept.finetuning.data import cut_rows, tokenize
from training_concept.long_context.forms import PositionExamples, decide, make_rows
from training_concept.long_context.positions import tokenize_positions
from training_concept.tokenization import SPECIAL_TOKENS, train_tokenizer

PIECES = [
    *(
        "a",
        "little text",
        "letters",
        "Don't stop",
        "it's",
        "12345678",
        "3.14159",
        "end.",
        "...",
        "(x)",
        "[MASK]",
        "[SEP",
    ),
    *(
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\n",
        "\n\n\n",
        " \n ",
        "\r\n",
        "\t",
        "      ",
        "\x0b",
        "\x1c",
        "\xa0",
        "\u3000",
        "\u200b",
    ),
    *(
        "é",
        "e\u0301",
        "\u0301\u0302",
        "ß",
        "İ",
        "ﷺ",
        "日本語の文",
        "नमस्ते",
        "한국",
        "👩‍👩‍👧",
        "🇩🇪",
        "\ufffd",
        "\x00",
        "\u0600",
    ),
]
ODD = [
    "",
    " ",
    "\n" * 3000,
    "x" * 3000,
    "é" * 3000,
    "日本語" * 900,
    "ab " * 900,
    "a\n" * 900,
    "1" * 3000,
    "a." * 900 + " b",
]


def odd_texts(seed: int, number: int) -> list[str]:
    """Random texts of odd pieces, the same for a seed; long words and runs of one piece are among them."""
    draw = random.Random(seed)
    return [
        "".join(draw.choice(PIECES) * draw.choice((1, 1, 1, 1, 2, 40)) for _ in range(draw.randint(0, 300)))
        for _ in range(number)
    ]


def with_unigrams() -> PreTrainedTokenizerBase:
    """As XLM-R's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [str(token) for token in SPECIAL_TOKENS.values()]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator([*odd_texts(1, 9), *PIECES], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def with_new_lines() -> PreTrainedTokenizerBase:
    """Split as by GPT-4's: new lines belong to what stands before them; some models' regard these only."""
    tokenizer = train_tokenizer([*odd_texts(2, 9), *PIECES], 400)
    pattern = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}(?=(?:\p{N}{3})*\b)| ?[^\s\p{L}\p{N}]+[\r\n]*"
    split = pre_tokenizers.Split(Regex(pattern + r"|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bpe": lambda: train_tokenizer([*odd_texts(3, 9), *PIECES], 400),
    "wordpiece": lambda: train_tokenizer([*odd_texts(4, 9), *PIECES], 400, model="wordpiece", lowercase=True),
    "bytes": byte_tokenizer,
    "unigrams": with_unigrams,
    "new lines": with_new_lines,
}


# A token for each byte makes the longest rows.
SLOW = pytest.param("bytes", marks=pytest.mark.slow)


@pytest.fixture(params=[*(name for name in TOKENIZERS if name != "bytes"), SLOW], scope="module")
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


def read_characters(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A list that gets the number of characters of each call of the tokenizer."""
    read, whole = [], type(tokenizer).__call__

    def reads(self: PreTrainedTokenizerBase, *columns: list[str], **options: object) -> object:
        read.append(sum(len(text) for column in columns for text in column))
        return whole(self, *columns, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", reads)
    return read


def encoded(columns: list[list[str]], tokenizer: PreTrainedTokenizerBase, length: int) -> list[tuple]:
    """Token ids, types, mask and offsets of each row."""
    options = {"truncation": True, "max_length": length, "return_offsets_mapping": True}
    # One by one: what is dropped of a pair is kept for a while, each part of one text beside each of the other.
    return [tuple(tokenizer(*texts, **options).values()) for texts in zip(*columns, strict=True)]


@pytest.mark.parametrize("sizes", [(8, 256), (1, 8)], ids=["as it is", "cut at many places"])
def test_no_row_changes_when_texts_are_cut(monkeypatch, any_tokenizer, sizes):
    """Texts and pairs, also where both are long and an odd number of tokens is left for them."""
    monkeypatch.setattr(cutting, "CHARACTERS_PER_TOKEN", sizes[0])
    monkeypatch.setattr(cutting, "MARGIN", sizes[1])
    texts = [*odd_texts(5, 12), *ODD]
    shorter = [text[:400] for text in texts]
    pair = [shorter, [*shorter[7:], *shorter[:7]]]
    for columns in ([texts], pair, [["a query"] * len(texts), texts]):
        for length in (40, 41):
            cut = cut_rows(columns, any_tokenizer, length)
            pairs = zip(encoded(cut, any_tokenizer, length), encoded(columns, any_tokenizer, length), strict=True)
            assert [row for row, (found, expected) in enumerate(pairs) if found != expected] == []


def test_most_of_a_long_text_is_not_read(monkeypatch):
    tokenizer = train_tokenizer(["a little text to learn letters from"] * 3, 300)
    text = "a little text " * 20_000
    examples = Examples((("letters", "a"), (text, "text")), None)
    expected = tokenizer(["letters", "a"], [text, "text"], truncation=True, max_length=32)["input_ids"]
    read = read_characters(monkeypatch, tokenizer)
    rows = tokenize(examples, GLUE_TASKS["mnli"], tokenizer, 32)
    assert rows["input_ids"][:] == expected
    assert 0 < sum(read) < len(text) / 100


def test_a_text_that_nothing_splits_is_read_to_its_end(monkeypatch):
    tokenizer = byte_tokenizer()
    read = read_characters(monkeypatch, tokenizer)
    text = "a b " * 1000
    assert cutting.cut_texts([text], tokenizer, 10) == [text]
    assert sum(read) < 1.5 * len(text)


def test_texts_stay_whole_where_their_starts_are_dropped():
    tokenizer = train_tokenizer(["a little text to learn letters from"] * 3, 300)
    tokenizer.truncation_side = "left"
    text = "a little text " * 1000 + "letters"
    assert cutting.cut_texts([text], tokenizer, 10) == [text]


def positions_of(tokenizer: PreTrainedTokenizerBase, task: Task, examples: list[Example], length: int) -> list[dict]:
    rows = make_rows(task, (), examples)
    assert isinstance(rows, PositionExamples)
    return list(tokenize_positions(task, rows, tokenizer, length))


@pytest.mark.parametrize("kind", [SELECTION, EXTRACTIVE])
def test_positions_are_those_of_the_whole_documents(monkeypatch, any_tokenizer, kind):
    """Of candidates and answers before and behind the cut."""
    task = Task("t", "f", kind, "accuracy", lambda sources: {})
    draw = random.Random(6)
    examples = []
    for number, text in enumerate(text for text in odd_texts(7, 12) if text.strip()):
        places = sorted(draw.sample(range(len(text)), min(len(text), 6)))
        spans = tuple((place, min(place + 9, len(text))) for place in places)
        asked = {"candidates": tuple(places), "selected": (0,)} if kind == SELECTION else {"spans": spans}
        examples.append(Example(str(number), text, "which one?", **asked))
    found = positions_of(any_tokenizer, task, examples, 64)
    monkeypatch.setattr(cutting, "CHARACTERS_PER_TOKEN", 10**6)
    pairs = zip(found, positions_of(any_tokenizer, task, examples, 64), strict=True)
    assert [row for row, (cut, whole) in enumerate(pairs) if cut != whole] == []


@pytest.mark.parametrize("kind", [SELECTION, EXTRACTIVE])
def test_most_of_a_long_document_is_not_read(monkeypatch, kind):
    tokenizer = train_tokenizer(["a little text to learn letters from"] * 3, 300)
    text = "a little text " * 20_000
    asked = {"candidates": (2, 9, 250_000), "selected": (0,)} if kind == SELECTION else {"spans": ((9, 13),)}
    read = read_characters(monkeypatch, tokenizer)
    task = Task("t", "f", kind, "accuracy", lambda sources: {})
    row = positions_of(tokenizer, task, [Example("1", text, "letters", **asked)], 64)[0]
    assert 0 < sum(read) < len(text) / 100
    assert len(row["input_ids"]) == 64
    places = row["positions"] if kind == SELECTION else row["targets"]
    whole = tokenizer("letters", text, truncation=True, max_length=64)
    first, last = (whole.char_to_token(0, character, 1) for character in (9, 12))
    assert places == ([whole.char_to_token(0, 2, 1), first, -1] if kind == SELECTION else [first, last])


def test_texts_may_be_more_than_two_gibibytes(monkeypatch):
    """Rows of the type that has no such end are what is mapped."""
    seen: list[pa.DataType] = []
    whole = datasets.Dataset.map

    def map_and_see(self: datasets.Dataset, *args: object, **kwargs: object) -> datasets.Dataset:
        seen.extend(self.data.schema.types)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(datasets.Dataset, "map", map_and_see)
    tokenizer = train_tokenizer(["a little text to learn letters from"] * 3, 300)
    tokenize(Examples((("a", "b"), ("c", "d")), np.array([0, 1])), GLUE_TASKS["mnli"], tokenizer, 12)
    task = Task("t", "f", SELECTION, "accuracy", lambda sources: {})
    positions_of(tokenizer, task, [Example("1", "a text", "which?", candidates=(0,), selected=(0,))], 12)
    assert len(seen) == 4
    assert set(seen) == {pa.large_string()}


def test_baselines_read_the_same_first_tokens_as_models():
    # So many spaces that twenty characters a token are not enough.
    text = " ".join(["word" + " " * 60] * 40)
    tokenizer = TOKENIZERS["wordpiece"]()
    (cut,) = first_tokens([Example("1", text)], tokenizer, 20)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(cut.text, add_special_tokens=False)["input_ids"] == whole[:20]


def test_an_answer_is_found_without_the_rest_of_its_document(monkeypatch):
    tokenizer = train_tokenizer(["a little text to learn letters from"] * 3, 300)
    text = "a little text " * 20_000
    whole = tokenizer("letters", text, truncation=True, max_length=64, return_offsets_mapping=True)
    first, last = (whole.char_to_token(0, character, 1) for character in (9, 12))
    read = read_characters(monkeypatch, tokenizer)
    task = Task("t", "f", EXTRACTIVE, "accuracy", lambda sources: {})
    outputs = np.array([[first, last, 1.0]])
    assert decide(task, (), [Example("1", text, "letters", spans=((9, 13),))], outputs, tokenizer, 64) == ["text"]
    assert 0 < sum(read) < len(text) / 100
