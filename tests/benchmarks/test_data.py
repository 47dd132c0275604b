# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The figures of the data pipeline: what is counted, which keys it goes to, and what a GPU machine must not need."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from benchmarks import data, loading
from benchmarks.loading import (
    EndlessBatches,
    LoaderSpeed,
    PackedRows,
    ShuffledPasses,
    Waiting,
    num_tokens,
    time_waiting,
)
from benchmarks.offline import corpus_tokens, packing_table
from benchmarks.results import ROOT, read_results
from training_concept.export import export
from training_concept.inspect_data import PackingSummary
from training_concept.rows import RowCounts
from training_concept.tokenization import train_tokenizer

FACTS = {"commit": "abc1234", "date": "2026-01-31", "device": "a GPU", "preset": "small", "workers": 3}
SPEEDS = [LoaderSpeed(512, "token", [90.0, 110.0]), LoaderSpeed(8192, "span", [50.0, 50.0])]
WAITING = [
    Waiting(512, "token", tokens=1000, loaded=[2.0, 4.0], cached=[1.0, 3.0], in_next=[0.5, 0.5]),
    Waiting(8192, "span", tokens=1000, loaded=[10.0, 10.0], cached=[9.0, 10.0], in_next=[1.0, 1.0]),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["red green blue river"] * 3, 300)


@pytest.fixture(scope="module")
def folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of two sources, the tokenizer, and the parts of an export of both."""
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer.save_pretrained(folder / "tokenizer")
    sources = {}
    for name, count in (("books", 30), ("mail", 60)):
        path = folder / f"{name}.jsonl"
        lines = (
            json.dumps({"text": f"{index} " + "red green blue river " * (index % 9 + 1)}) for index in range(count)
        )
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        sources[name] = {"path": str(path)}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"sources": sources}), encoding="utf-8")
    export(recipe, str(folder / "tokenizer"), folder / "parts")
    return folder


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "waiting.json"
    content = {**FACTS, "loader": [vars(speed) for speed in SPEEDS], "waiting": [vars(entry) for entry in WAITING]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_padding_does_not_count():
    ids = torch.zeros(2, 8, dtype=torch.long)
    assert num_tokens({"input_ids": ids}) == 16
    assert num_tokens({"input_ids": ids, "attention_mask": torch.tensor([[1, 1], [1, 0]])}) == 3
    assert num_tokens({"input_ids": ids, "document_lengths": torch.tensor([[4, 3], [5, 0]])}) == 12


def test_a_speed_is_that_behind_the_warm_up(monkeypatch):
    now = 0.0

    def batches():
        nonlocal now
        for tokens, seconds in [(1000, 0.1), (10, 2.0), (20, 2.0), (30, 2.0), (40, 2.0)]:
            now += seconds
            yield {"input_ids": torch.zeros(1, tokens)}

    monkeypatch.setattr(loading.time, "perf_counter", lambda: now)
    assert loading.tokens_per_second(batches(), seconds=5.0, warm_up=1) == (10 + 20 + 30) / 6.0


def test_waiting_is_what_the_loader_adds_to_a_step(monkeypatch):
    now = 0.0

    def batches():
        nonlocal now
        while True:
            now += 1.0
            yield {"input_ids": torch.zeros(2, 8)}

    def step(batch):
        nonlocal now
        now += 3.0

    monkeypatch.setattr(loading.time, "perf_counter", lambda: now)
    tokens, loaded, cached, in_next = time_waiting(step, batches(), steps=5, rounds=2, warm_up=1)
    waiting = Waiting(8, "token", tokens, loaded, cached, in_next)
    assert tokens == 16
    assert waiting.loaded == [4.0, 4.0]
    assert waiting.cached == [3.0, 3.0]
    assert waiting.shares == waiting.next_shares == [0.25, 0.25]


def test_every_pass_visits_every_row_once_in_another_order():
    visit = ShuffledPasses(40)
    passes = [[visit(number) for number in range(start, start + 40)] for start in (0, 40)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(40))
    assert passes[0] != passes[1]
    assert [visit(number) for number in range(40)] == passes[0]


def test_documents_are_packed_in_memory_as_on_disk(tokenizer):
    rows = PackedRows([np.arange(5, 12)] * 40, 128, tokenizer)
    assert len(rows) == 20  # two documents in a row at most
    (item,) = rows.__getitems__([3])
    assert item["document_lengths"].tolist() == [9, 9]
    assert len(item["input_ids"]) == 18
    assert item["epoch"] == 0


def test_batches_never_end():
    assert list(islice(EndlessBatches(lambda number: number % 3, 2), 4)) == [[0, 1], [2, 0], [1, 2], [0, 1]]


def test_a_gpu_machine_needs_no_datasets():
    code = (
        "import sys\n"
        "for name in ('datasets', 'evaluate', 'pyarrow', 'rich', 'lxml'): sys.modules[name] = None\n"
        "import benchmarks.data"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_loader_and_training_are_measured_and_merged(folder, tmp_path, capsys):
    record, path = tmp_path / "waiting.json", tmp_path / "data.json"
    small = ["--preset", "nano", "--lengths", "16", "--tokens_per_step", "64", "--steps", "1", "--warm_up", "1"]
    quick = ["--runs", "2", "--seconds", "0.01", "--workers", "0"]
    schemes = ["--schemes", "token", "span"]
    data.main(["gpu", "--parts", str(folder / "parts"), "--output", str(record), *small, *quick, *schemes], path)
    assert not path.exists()
    assert "| 16 | span |" in capsys.readouterr().out
    data.main(["merge", str(record)], path)
    results = read_results(path)
    assert set(results.figures) == {"gpu_wait_share_nano"}
    assert results.figures["gpu_wait_share_nano"].runs == 2
    rows = results.tables["waiting"].rows
    assert [row[:2] for row in rows] == [[16, "token"], [16, "span"]]
    assert all(speed > 0 for row in rows for speed in row[2:4])


def test_a_recipe_is_measured_here(folder, tmp_path, monkeypatch):
    size = {"documents": 2, "bytes": 1000, "words": 20}
    splits = {name: size | {"tokens": tokens} for name, tokens in (("train", 70), ("validation", 0), ("test", 30))}
    books = {"group": "general", "license": "CC0", "splits": splits, "filtered": 1, "duplicates": 0, "excluded": {}}
    corpus = {"sources": {"books": books}}
    (tmp_path / "corpus.json").write_text(json.dumps(corpus), encoding="utf-8")
    path = tmp_path / "data.json"
    named = ["--recipe", str(folder / "recipe.yaml"), "--tokenizer_name", str(folder / "tokenizer")]
    quick = ["--runs", "1", "--seconds", "0.01", "--workers", "0", "--corpus", str(tmp_path)]
    data.main(["corpus", *named, *quick], path)
    results = read_results(path)
    assert set(results.figures) == {
        "packing_512",
        "packing_4096",
        "loader_tokens_per_s_512",
        "loader_tokens_per_s_8192",
        "offline_tokens",
    }
    assert results.figures["offline_tokens"].value == 100
    assert 0 < results.figures["packing_512"].value <= 1
    assert set(results.tables) == {"corpus", "packing", "loader", "masking"}
    assert [row[:3] for row in results.tables["corpus"].rows] == [["books", "general", 6], ["all", "", 6]]
    assert [row[0] for row in results.tables["packing"].rows] == ["books", "mail", "all"]
    assert [row[:2] for row in results.tables["loader"].rows[:3]] == [
        [512, "token"],
        [512, "whole_word"],
        [512, "span"],
    ]
    assert [row[0] for row in results.tables["masking"].rows] == ["token", "whole_word", "span"]


def test_the_figure_is_the_longest_wait(record, tmp_path):
    path = tmp_path / "data.json"
    data.main(["merge", str(record)], path)
    figure = read_results(path).figures["gpu_wait_share_small"]
    assert figure.value == pytest.approx((0.25 + 0.125) / 2)
    assert (figure.runs, figure.device, figure.commit) == (2, "a GPU", "abc1234")
    assert "(512 tokens, token)" in figure.note


def test_loader_and_training_stand_side_by_side():
    rows = data.waiting_table(FACTS, SPEEDS, WAITING).rows
    assert rows[0][:5] == [512, "token", 100, 500, 3000.0]
    assert rows[0][5:] == [0.375, pytest.approx(0.1768), pytest.approx((0.25 + 0.125) / 2, abs=1e-4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "is no record"), ('{"loader": []}', "is no record"), ('{"loader": [], "waiting": []}', "was broken off")],
)
def test_a_record_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "waiting.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        data.main(["merge", str(tmp_path / "waiting.json")], tmp_path / "data.json")
    assert not (tmp_path / "data.json").exists()


def test_a_corpus_without_counts_is_refused(tmp_path):
    (tmp_path / "corpus.json").write_text('{"sources": {"books": {}}}', encoding="utf-8")
    with pytest.raises(ValueError, match="not the record of a corpus"):
        corpus_tokens(tmp_path / "corpus.json")


def test_sources_are_added_up_by_rows():
    packing = {
        length: {
            "books": PackingSummary(RowCounts(documents=3, tokens=90, rows=10, room=100), 2.0, 0.9),
            "mail": PackingSummary(RowCounts(documents=7, tokens=150, rows=30, room=300), 4.0, 0.5),
        }
        for length in (512, 4096)
    }
    rows = packing_table(packing).rows
    assert rows[0] == ["books", 3, 2.0, 0.9, 2.0, 0.9]
    assert rows[-1] == ["all", 10, 3.5, 0.6, 3.5, 0.6]
