# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The command that trains a tokenizer on a data recipe: what it learns from, saves, says and refuses."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from transformers import AutoTokenizer

from training_concept import train_tokenizer as command
from training_concept.tokenization import train_tokenizer
from training_concept.train_tokenizer import Fit, WeightedTexts, fit_table, main, measure_fit, sampled_fractions

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two sources of 60 documents each, the second with a character of its own; one in 20 % is held out."""
    sources = {}
    for name, word in (("plain", "house"), ("strange", "ðouse")):
        path = tmp_path / f"{name}.jsonl"
        rows = (json.dumps({"text": text_of(index, word)}) for index in range(60))
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        sources[name] = {"path": str(path)}
    return write_recipe(tmp_path / "recipe.yaml", sources)


def text_of(index: int, word: str = "house") -> str:
    return f"the red {word} number {index}"


def write_recipe(path: Path, sources: dict, **settings: object) -> Path:
    content = {"sources": sources, "validation_split_percentage": 20.0} | settings
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
def test_a_recipe_gives_a_tokenizer_that_loads(recipe, tmp_path, capsys, model):
    folder = tmp_path / "tokenizer"
    main([str(recipe), "--output_dir", str(folder), "--vocab_size", "290", "--model", model])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer("the red house", add_special_tokens=False)["input_ids"]) == 3
    assert {path.name for path in folder.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer_training.json",
    }
    record = json.loads((folder / "tokenizer_training.json").read_text(encoding="utf-8"))
    assert record["model"] == model
    assert set(record["fractions"]) == {"plain", "strange"}
    printed = capsys.readouterr().out
    assert f"Tokenizer of {len(tokenizer)} tokens" in printed
    assert "| plain " in printed
    assert "| strange " in printed


def test_it_is_trained_on_training_documents_alone(recipe, tmp_path, monkeypatch):
    seen: list[str] = []
    train = command.train_tokenizer

    def watched(texts, *rest, **settings):
        seen.extend(texts)
        return train(texts, *rest, **settings)

    monkeypatch.setattr(command, "train_tokenizer", watched)
    main([str(recipe), "--output_dir", str(tmp_path / "tokenizer"), "--vocab_size", "290"])
    held_out = {text for text in map(text_of, range(60)) if text not in seen}
    assert 1 <= len(held_out) < 30
    assert len(seen) == len(set(seen))


def test_weights_are_met_by_taking_a_part_of_the_larger_source():
    fractions = sampled_fractions({"a": 100, "b": 1000}, {"a": 1.0, "b": 2.0})
    assert fractions == {"a": 1.0, "b": 0.2}
    assert sampled_fractions({"a": 100, "b": 0}, {"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 0.0}


def test_a_weighted_mixture_is_a_sample_that_is_the_same_every_time():
    documents = {
        name: Dataset.from_dict({"text": [f"{name} {index:04}" for index in range(2000)] + [None, " "]})
        for name in "ab"
    }
    texts = WeightedTexts.of(documents, {"a": 1.0, "b": 4.0})
    taken = list(texts)
    assert list(texts) == taken
    counts = [sum(text.startswith(name) for text in taken) for name in "ab"]
    assert counts[1] == 2000
    assert counts[0] == pytest.approx(500, abs=60)  # three standard deviations
    assert list(WeightedTexts.of(documents, None)) == [
        text for name in "ab" for text in documents[name]["text"][:2000]
    ]


def test_only_the_first_documents_are_read_if_asked(recipe, tmp_path, monkeypatch):
    counts = []
    train = command.train_tokenizer

    def watched(texts, *rest, **settings):
        counts.append(len(list(texts)))
        return train(texts, *rest, **settings)

    monkeypatch.setattr(command, "train_tokenizer", watched)
    main([str(recipe), "--output_dir", str(tmp_path / "out"), "--vocab_size", "290", "--max_documents", "7"])
    assert counts == [14]


def test_a_stream_is_read_too(recipe, tmp_path):
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    sources = {name: source | {"weight": 1.0} for name, source in content["sources"].items()}
    streaming = write_recipe(tmp_path / "streaming.yaml", sources, streaming=True)
    main([str(streaming), "--output_dir", str(tmp_path / "out"), "--vocab_size", "290", "--max_documents", "40"])
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) <= 290
    with pytest.raises(ValueError, match=r"is streamed.*set --max_documents"):
        main([str(streaming), "--output_dir", str(tmp_path / "other")])


def test_the_fit_is_counted_in_characters_bytes_and_words():
    tokenizer = train_tokenizer(["red house red house"] * 5, 280)
    fit = measure_fit(tokenizer, ["red house", "réd 12"])
    assert (fit.documents, fit.characters, fit.bytes) == (2, 15, 16)
    # "red", " house"; "r", two bytes, "d", " ", "1", "2".
    assert fit.tokens == 9
    # Words: red and house, each one token behind a space, and réd, which is not.
    assert (fit.words, fit.whole_words, fit.unknown) == (3, 2, 0)


def test_an_unknown_word_is_neither_whole_nor_hidden():
    tokenizer = train_tokenizer(["red house red house"] * 5, 60, model="wordpiece")
    fit = measure_fit(tokenizer, ["red zzz"])
    assert (fit.tokens, fit.unknown, fit.words, fit.whole_words) == (2, 1, 2, 1)


def test_the_table_gives_rates_by_source():
    fit = Fit(documents=2, characters=100, bytes=120, tokens=40, unknown=4, words=10, whole_words=5)
    other = Fit(documents=1, characters=100, bytes=100, tokens=10, unknown=1, words=10, whole_words=10)
    table = fit_table(300, {"books": fit, "mail": other}, {"books": 0.25, "mail": 1.0})
    assert table.rows == [
        ["books", 0.25, 2, 40, 2.5, 3.0, 0.5, 0.1],
        ["mail", 1.0, 1, 10, 10.0, 10.0, 1.0, 0.1],
        ["all", None, 3, 50, 4.0, 4.4, 0.75, 0.1],
    ]


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors"])
def test_a_folder_with_other_files_is_refused_and_left_alone(recipe, tmp_path, name):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text("mine", encoding="utf-8")
    for extra in ([], ["--overwrite_output_dir"]):
        with pytest.raises(ValueError, match="holds something else"):
            main([str(recipe), "--output_dir", str(folder), *extra])
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_trained_tokenizer_is_replaced_only_if_asked(recipe, tmp_path):
    settings = [str(recipe), "--output_dir", str(tmp_path / "out"), "--max_documents", "20"]
    main([*settings, "--vocab_size", "290"])
    with pytest.raises(ValueError, match=r"holds a tokenizer.*--overwrite_output_dir"):
        main([*settings, "--vocab_size", "280"])
    main([*settings, "--vocab_size", "280", "--overwrite_output_dir"])
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 280


def test_a_large_vocabulary_is_warned_of(recipe, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="training_concept.train_tokenizer"):
        main([str(recipe), "--output_dir", str(tmp_path / "out"), "--vocab_size", "65537"])
    assert "each takes 4 bytes" in caplog.text


def test_a_mistake_is_one_line_on_stderr(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "training_concept.train_tokenizer", "missing.yaml", "--output_dir", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert "missing.yaml" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_that_is_too_small_leaves_no_folder(recipe, tmp_path):
    with pytest.raises(ValueError, match="vocab_size must be at least 261"):
        main([str(recipe), "--output_dir", str(tmp_path / "out"), "--vocab_size", "10"])
    assert not (tmp_path / "out").exists()
