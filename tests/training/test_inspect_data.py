# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What inspect_data shows of small recipes whose numbers are known."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from training_concept.inspect_data import Example, main, pick_examples, render, sample_rows
from training_concept.tokenization import train_tokenizer

REPOSITORY = Path(__file__).parents[2]
WORDS = ("red", "green", "blue", "river")
SOURCES = {"short": [4, 10, 0], "long": [30, 6]}


def text_of(num_words: int) -> str:
    """A text of so many words, each of which is one token."""
    return " ".join(WORDS[index % len(WORDS)] for index in range(num_words))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([text_of(8)] * 3, 60, model="wordpiece")


@pytest.fixture(scope="module")
def tokenizer_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Training documents of `SOURCES`' numbers of words; twice as much weight on the first source."""
    sources = {}
    for name, lengths in SOURCES.items():
        files = {}
        for split, numbers in {"train": lengths, "validation": [3]}.items():
            files[split] = str(tmp_path / f"{name}_{split}.jsonl")
            lines = (json.dumps({"text": text_of(number)}) + "\n" for number in numbers)
            Path(files[split]).write_text("".join(lines), encoding="utf-8")
        weight = 2.0 if name == "short" else 1.0
        sources[name] = {"data_files": files, "weight": weight, "license": f"CC0 ({name})"}
    return write_recipe(tmp_path / "recipe.yaml", {"sources": sources})


def write_recipe(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def look(recipe: Path, tokenizer_folder: Path, *settings: str) -> dict:
    """Run the command on rows of 16 tokens and return the figures that it writes."""
    path = recipe.parent / "figures.json"
    fixed = ["--tokenizer_name", str(tokenizer_folder), "--max_seq_length", "16", "--json", str(path)]
    main([str(recipe), *fixed, *settings])
    return json.loads(path.read_text(encoding="utf-8"))


def test_sources_are_summarised(recipe, tokenizer_folder):
    short, long = look(recipe, tokenizer_folder)["sources"]
    assert (short["name"], short["documents"], short["blank"], short["tokens"]) == ("short", 2, 1, 14)
    assert short["quantiles"] == [4, 4, 4, 10, 10, 10]
    assert (long["documents"], long["blank"], long["tokens"]) == (2, 0, 36)
    assert (short["size_share"], long["size_share"]) == (0.28, 0.72)
    assert (short["weight_share"], long["weight_share"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (short["license"], long["license"]) == ("CC0 (short)", "CC0 (long)")


def test_rows_are_summarised(recipe, tokenizer_folder):
    packing = look(recipe, tokenizer_folder, "--max_documents_per_row", "2")["packing"]
    # 6 and 12 tokens with special ones do not fit one row of 16; nor do windows of 16, 16 and 4, and 8, any more
    # tightly than in 3.
    assert packing["short"]["counts"] | {"blank": 1} == packing["short"]["counts"]
    assert packing["short"]["counts"]["rows"] == 2
    assert packing["short"]["efficiency"] == 18 / 32
    assert packing["short"]["documents_per_row"] == 1
    assert (packing["long"]["counts"]["rows"], packing["long"]["counts"]["cut"]) == (3, 1)
    assert packing["long"]["efficiency"] == 44 / 48
    assert packing["long"]["documents_per_row"] == pytest.approx(4 / 3)


def test_a_stream_is_cut_wherever_a_row_is_full(recipe, tokenizer_folder, capsys):
    packing = look(recipe, tokenizer_folder, "--packing", "stream")["packing"]
    assert packing["long"]["documents_per_row"] is None
    assert packing["long"]["efficiency"] == 1
    assert "(packing: stream)" in capsys.readouterr().out


def test_masks_are_measured_by_scheme(recipe, tokenizer_folder):
    masking = look(recipe, tokenizer_folder)["masking"]
    assert set(masking) == {"token", "whole_word", "span"}
    for summary in masking.values():
        assert summary["exact_rows"] == summary["rows"] == 6
        # K of rows of 6, 12, 16, 16, 4 and 8 tokens at 0.3, rounded.
        assert summary["masked"] == 2 + 4 + 5 + 5 + 1 + 2
        assert summary["tokens"] == 62
        # Every word is one token.
        assert summary["whole_words"] is None
        assert summary["part_rates"]["single"] == 19 / 50
    assert masking["span"]["span_length"] > masking["token"]["span_length"]


def test_ngrams_are_masked_with_a_vocabulary(recipe, tokenizer_folder, tmp_path, capsys):
    vocabulary = tmp_path / "pmi.tsv"
    vocabulary.write_text("ngram\tn\tcount\tpmi\nred green\t2\t9\t1.0\n", encoding="utf-8")
    assert "pmi" in look(recipe, tokenizer_folder, "--pmi_vocabulary", str(vocabulary))["masking"]
    assert "needs --pmi_vocabulary" not in capsys.readouterr().out


def test_the_validation_split_can_be_looked_at(recipe, tokenizer_folder, capsys):
    sources = look(recipe, tokenizer_folder, "--split", "validation")["sources"]
    assert [source["tokens"] for source in sources] == [3, 3]
    assert "the validation documents of each source" in capsys.readouterr().out


def test_of_a_stream_the_first_documents_are_read_and_it_says_so(recipe, tokenizer_folder, capsys):
    content = yaml.safe_load(recipe.read_text(encoding="utf-8")) | {"streaming": True}
    streaming = write_recipe(recipe.with_name("streaming.yaml"), content)
    assert [source["documents"] for source in look(streaming, tokenizer_folder)["sources"]] == [2, 2]
    assert "the first 1,000 train documents of each source" in capsys.readouterr().out
    figures = look(streaming, tokenizer_folder, "--max_documents", "1")
    assert [source["tokens"] for source in figures["sources"]] == [4, 30]
    assert figures["extent"] == "the first 1 train documents of each source"


def test_a_pipe_gets_markdown_with_marked_spans(recipe, tokenizer_folder, capsys):
    look(recipe, tokenizer_folder, "--num_examples", "3", "--masking_scheme", "span", "--span_distribution", "uniform")
    printed = capsys.readouterr().out
    assert "| short  |" in printed
    assert "|--------|" in printed
    assert "Examples, masked by the scheme span" in printed
    examples = [line for line in printed.splitlines() if line.startswith(("short: ", "long: "))]
    assert len(examples) == 3
    assert all("⟦" in example and "[CLS]" in example for example in examples)
    assert "\x1b" not in printed


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_colours_unless_none_are_wanted(tokenizer, no_color):
    text = render(Example("x", tokenizer("red green blue")["input_ids"], [(1, 3)]), tokenizer)
    file = io.StringIO()
    Console(file=file, force_terminal=True, no_color=no_color, color_system="truecolor").print(text)
    assert "⟦" in file.getvalue()
    assert ("\x1b[1;30" in file.getvalue()) != no_color


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
def test_an_example_shows_the_text_and_the_borders_between_spans(model):
    tokenizer = train_tokenizer(["a red house in the blue river"] * 3, 400 if model == "bpe" else 120, model=model)
    ids = tokenizer("a red house in the blue river")["input_ids"]
    assert len(ids) == 9
    text = render(Example("x", ids, [(2, 4), (4, 5), (7, 8)]), tokenizer).plain
    assert text.replace("[CLS] ", "[CLS]").replace(" [SEP]", "[SEP]") == (
        "[CLS]a ⟦red house⟧ ⟦in⟧ the blue ⟦river⟧[SEP]"
    )


def test_part_of_a_word_is_marked_without_a_space():
    tokenizer = train_tokenizer(["red reds"] * 3, 60, model="wordpiece")
    ids = [tokenizer.vocab[token] for token in ("red", "##s", "red")]
    assert render(Example("x", ids, [(1, 2)]), tokenizer).plain == "red⟦s⟧ red"


def test_masked_white_space_can_be_seen():
    tokenizer = train_tokenizer(["red\n\nred  red"] * 3, 300)
    ids = tokenizer("red\n red", add_special_tokens=False)["input_ids"]
    line_end = ids.index(tokenizer("\n", add_special_tokens=False)["input_ids"][0])
    assert render(Example("x", ids, [(line_end, line_end + 1)]), tokenizer).plain.split() == ["red", "⟦↵⟧", "red"]


def test_a_long_example_is_cut(tokenizer):
    ids = tokenizer(text_of(300))["input_ids"]
    text = render(Example("x", ids, [(118, 123), (200, 201)]), tokenizer).plain
    assert text.endswith("⟧ ... (302 tokens)")
    assert text.count("⟦") == 1


def test_rows_are_sampled_by_the_shares_of_their_sources():
    rows = {name: Dataset.from_dict({"input_ids": [[index] for index in range(100)]}) for name in "ab"}
    sample = sample_rows(rows, {"a": 0.75, "b": 0.25}, 40)
    assert [name for name, _ in sample].count("a") == 30
    assert [row["input_ids"] for name, row in sample if name == "b"] == [[index] for index in range(0, 100, 11)]
    assert len(sample_rows(rows, {"a": 0.999, "b": 0.001}, 1000)) == 101


def test_no_examples_are_no_error():
    assert pick_examples([], 5, None) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--split", "dev"], "--split dev is not one of train, validation, test"),
        (["--max_documents", "0"], "--max_documents 0 is too few"),
        (["--masking_scheme", "words"], "'words'"),
        (["--split", "test"], "has a split for test"),
    ],
)
def test_mistakes_are_explained(recipe, tokenizer_folder, settings, message):
    with pytest.raises(ValueError, match=message):
        look(recipe, tokenizer_folder, *settings)


def test_a_missing_recipe_is_one_line_on_stderr(tokenizer_folder, tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "training_concept.inspect_data", "no.yaml", "--tokenizer_name", str(tokenizer_folder)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert "no.yaml" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
