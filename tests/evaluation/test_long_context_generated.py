# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""ListOps and the documents after RULER: right values and labels, exact lengths, seeds, published settings."""

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluation_concept.long_context import listops, ruler
from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.tasks import Example, Sources
from evaluation_concept.long_context.vocabularies import byte_tokenizer

RULER = [task.name for task in ruler.TASKS]
NAMED = {"[MIN": "min", "[MAX": "max", "[MED": "median", "[SM": "total"}


def by_python(expression: str) -> int:
    """The value of an expression by Python's own parser."""
    source = expression
    for name, function in NAMED.items():
        source = source.replace(f"{name} ", f"{function}([")
    source = source.replace("]", "])")
    source = ",".join(source.split()).replace("([,", "([")
    functions = {
        "min": min,
        "max": max,
        "median": lambda values: int(statistics.median(values)),
        "total": lambda values: sum(values) % 10,
    }
    return eval(source, {"__builtins__": {}}, functions)


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[tuple[str, str]]]:
    return listops.generate((150, 20, 30), seed=1)


def test_values_of_listops_are_right(drawn):
    for pairs in drawn.values():
        for text, value in pairs:
            assert str(by_python(text)) == value == str(listops.evaluate(text.split()))


def test_listops_by_hand():
    assert listops.evaluate(["[MAX", "2", "9", "[MIN", "4", "7", "]", "0", "]"]) == 9
    assert listops.evaluate(["[MED", "1", "2", "]"]) == 1
    assert listops.evaluate(["[MED", "5", "1", "9", "]"]) == 5
    assert listops.evaluate(["[SM", "5", "6", "[SM", "9", "9", "]", "]"]) == 9
    for wrong in ("[MAX 2 9", "2 ] ]", "1 2"):
        with pytest.raises(ValueError):  # noqa: PT011 (int's own message, or one of brackets)
            listops.evaluate(wrong.split())


def test_listops_keeps_the_published_limits(drawn):
    texts = [text for pairs in drawn.values() for text, _ in pairs]
    assert len(set(texts)) == 200
    assert all(500 < len(text.split()) < 2000 for text in texts)
    assert listops.SIZES == (96_000, 2_000, 2_000)
    for text in texts:
        depths, arguments = walk(text.split())
        assert max(depths) <= 10
        assert all(2 <= number <= 10 for number in arguments)
    assert {value for pairs in drawn.values() for _, value in pairs} == set("0123456789")


def walk(tokens: list[str]) -> tuple[list[int], list[int]]:
    """Depth of each node, the root's being 1, and the number of arguments of each operator."""
    depths, arguments, open_ones = [], [], [0]
    for token in tokens:
        if token == "]":
            arguments.append(open_ones.pop())
            continue
        depths.append(len(open_ones))
        open_ones[-1] += 1
        if token.startswith("["):
            open_ones.append(0)
    return depths, arguments


def test_listops_is_the_same_for_a_seed_and_kept_in_a_file(tmp_path, drawn):
    assert listops.generate((150, 20, 30), seed=1) == drawn
    assert listops.generate((5, 1, 1), seed=2)["train"] != drawn["train"][:5]
    sources = Sources(sizes=(4, 2, 2), seed=3, cache_dir=tmp_path)
    first = listops.load(sources)
    (path,) = tmp_path.iterdir()
    changed = path.stat().st_mtime_ns
    assert listops.load(sources) == first
    assert path.stat().st_mtime_ns == changed
    assert listops.load(replace(sources, cache_dir=None)) == first


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word that it has seen; any other is one unknown token."""
    words = {word: number for number, word in enumerate(("[UNK]", ".", "the", "a"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def sources(length: int = 700, **changes: object) -> Sources:
    return Sources(tokenizer=word_tokenizer(), length=length, sizes=(3, 1, 2), **changes)


@pytest.mark.parametrize("name", RULER)
@pytest.mark.parametrize("length", [700, 5000])
def test_documents_have_exactly_the_length_asked_for(name, length):
    given = sources(length)
    splits = TASKS[name].load(given)
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 3, "validation": 1, "test": 2}
    for examples in splits.values():
        for example in examples:
            assert len(given.counter(name)(example.query, example.text)["input_ids"]) == length


@pytest.mark.parametrize("name", RULER)
def test_candidates_stand_where_they_are_said_to(name):
    for example in TASKS[name].load(sources())["train"]:
        assert sorted(example.candidates) == list(example.candidates)
        for place, choice in zip(example.candidates, example.choices, strict=True):
            assert example.text[place:].startswith(choice)
            assert example.text[place - 1] == " "


def test_the_needle_says_the_label():
    for example in TASKS["ruler_needle"].load(sources())["train"]:
        key = example.query.removeprefix("What is the special magic word for ").removesuffix("?")
        assert example.text.count("special magic word") == 1
        assert f"The special magic word for {key} is {example.label}." in example.text


def test_one_of_many_keys_is_asked_for():
    for example in TASKS["ruler_multi_key"].load(sources())["train"]:
        key = example.query.removeprefix("What is the special magic word for ").removesuffix("?")
        about = [number for number, choice in enumerate(example.choices) if f" {key} " in choice]
        assert about == list(example.selected)
        assert len(example.candidates) == 700 // ruler.TOKENS_PER_KEY


def test_variables_that_have_the_value_are_selected():
    for example in TASKS["ruler_variable_tracking"].load(sources())["train"]:
        value = example.query.removeprefix("Which variables have the value ").removesuffix("?")
        known: dict[str, str] = {}
        right = []
        for number, choice in enumerate(example.choices):
            _, new, _, old = choice.removesuffix(".").split()
            known[new] = known.get(old, old)
            right += [number] * (known[new] == value)
        assert right == list(example.selected)
        assert len(right) == ruler.HOPS + 1


def test_the_ten_most_common_words_are_selected():
    for length in (700, 5000):
        for example in TASKS["ruler_common_words"].load(sources(length))["train"]:
            counts = {choice: example.text.split().count(choice) for choice in example.choices}
            ten = sorted(counts, key=lambda word: -counts[word])[:10]
            assert {example.choices[number] for number in example.selected} == set(ten)
            assert len(example.choices) > 10


@pytest.mark.parametrize("name", RULER)
def test_documents_are_the_same_for_a_seed_only(name):
    load = TASKS[name].load
    assert load(sources()) == load(sources())
    assert load(sources())["train"] != load(sources(seed=1))["train"]
    train, test = (set(map(text, load(sources())[split])) for split in ("train", "test"))
    assert not train & test


def text(example: Example) -> str:
    return example.text


def test_needles_stand_anywhere_in_the_document():
    given = Sources(tokenizer=word_tokenizer(), length=400, sizes=(60, 1, 1))
    places = [each.text.index("special magic") / len(each.text) for each in TASKS["ruler_needle"].load(given)["train"]]
    assert min(places) < 0.2
    assert max(places) > 0.8


def test_a_haystack_of_ones_own(tmp_path):
    (tmp_path / "hay.txt").write_text("First straw. Second straw! Third straw?", encoding="utf-8")
    example = TASKS["ruler_needle"].load(sources(haystack=tmp_path / "hay.txt"))["train"][0]
    assert "Second straw! Third straw? First straw." in example.text
    (tmp_path / "empty.txt").write_text(" ", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.txt holds no text"):
        TASKS["ruler_needle"].load(sources(haystack=tmp_path / "empty.txt"))
    with pytest.raises(FileNotFoundError):
        TASKS["ruler_needle"].load(sources(haystack=Path(tmp_path / "no.txt")))


@pytest.mark.parametrize("name", RULER)
def test_lengths_that_are_too_short_are_refused(name):
    with pytest.raises(ValueError, match="too short"):
        TASKS[name].load(sources(12))


def test_tokenizers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="needs a tokenizer"):
        TASKS["ruler_needle"].load(Sources())
    with pytest.raises(ValueError, match="no token for any of"):
        TASKS["ruler_needle"].load(Sources(tokenizer=byte_tokenizer(), sizes=(1, 1, 1)))
