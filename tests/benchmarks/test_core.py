# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The core figures: what is measured is reported under its key, and a run's folder is read as run_mlm.py left it."""

import json
from pathlib import Path

import pytest

from benchmarks import core
from benchmarks.flops import presets_table
from benchmarks.memory import Memory, measure
from benchmarks.results import Figure, merge_results, read_results
from configuration_concept import ConceptEncoderConfig

METRICS = {
    "eval_loss": 4.5,
    "eval_unigram_loss": 6.5,
    "eval_bag_of_words_loss": 6.0,
    "eval_accuracy": 0.25,
    "eval_unigram_accuracy": 0.05,
    "eval_bag_of_words_accuracy": 0.06,
    "train_runtime": 300.0,
}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / "all_results.json").write_text(json.dumps(METRICS), encoding="utf-8")
    return folder


def from_run(folder: Path) -> list[str]:
    return ["--from-run", str(folder), "--bottleneck-run", str(folder)]


def test_the_cost_of_small_is_reported_beside_what_is_there(tmp_path, monkeypatch):
    path = tmp_path / "core.json"
    merge_results(path, {"test_minutes": Figure.of_runs([2.0], unit="minutes", command="make test")})
    peaks = {4096: [1.0e9], 16384: [1.5e9, 2.5e9], 65536: [3.0e9]}
    monkeypatch.setattr(core, "MEMORY_RUNS", {tokens: len(runs) for tokens, runs in peaks.items()})
    left = {tokens: list(runs) for tokens, runs in peaks.items()}
    monkeypatch.setattr(core, "measure", lambda preset, tokens: Memory(left[tokens].pop(0), loaded=500_000_000))
    core.main([], path)

    results = read_results(path)
    assert set(results.figures) == {"test_minutes", "flops_64k_over_16k", "peak_gb_forward_small_16k"}
    assert 2 < results.figures["flops_64k_over_16k"].value <= 4.2
    peak = results.figures["peak_gb_forward_small_16k"]
    assert (peak.value, peak.runs) == (2.0, 2)
    assert set(results.tables) == {"cost", "presets"}
    assert [row[0] for row in results.tables["cost"].rows] == [4096, 16384, 65536]
    _, encoder, hybrid, bottleneck, dense, ratio, peak_gb, forward_gb = results.tables["cost"].rows[1]
    assert encoder < bottleneck < hybrid < dense
    assert ratio == pytest.approx(dense / encoder, abs=0.06)
    assert (peak_gb, forward_gb) == (2.5, 2.0)
    assert "small" in [row[0] for row in results.tables["presets"].rows]


def test_a_forward_pass_takes_memory_on_top_of_the_model():
    memory = measure("nano", 4096)
    assert memory.loaded > 4 * presets_table().rows[0][3]
    states = 4 * 4096 * ConceptEncoderConfig.from_preset("nano").hidden_size
    assert memory.forward > states


def test_a_run_gives_its_losses_and_times(tmp_path, run_folder):
    path = tmp_path / "core.json"
    core.main(from_run(run_folder), path)
    values = {key: figure.value for key, figure in read_results(path).figures.items()}
    assert values == {
        "heldout_loss_nano": 4.5,
        "unigram_loss_nano": 6.5,
        "bag_of_words_loss_nano": 6.0,
        "heldout_accuracy_nano": 0.25,
        "pretrain_minutes": 5.0,
    }
    assert read_results(path).tables["demo"].rows == [
        ["nano", 4.5, 0.25, 90.0],
        ["nano, bottleneck", 4.5, 0.25, 90.0],
        ["bag of words", 6.0, 0.06, 403.4],
        ["unigram", 6.5, 0.05, 665.1],
    ]


def test_times_measured_by_hand_take_precedence(tmp_path, run_folder):
    path = tmp_path / "core.json"
    core.main(
        [
            "--from-run",
            str(run_folder),
            "--bottleneck-run",
            str(run_folder),
            "--pretrain-minutes",
            "6.5",
            "--test-minutes",
            "3",
        ],
        path,
    )
    figures = read_results(path).figures
    assert (figures["pretrain_minutes"].value, figures["pretrain_minutes"].command) == (6.5, "make pretrain")
    assert (figures["test_minutes"].value, figures["test_minutes"].command) == (3.0, "make test")


def test_a_run_without_evaluation_is_refused_and_nothing_is_written(tmp_path, run_folder):
    path = tmp_path / "core.json"
    (run_folder / "all_results.json").write_text('{"train_runtime": 1.0}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks eval_accuracy, .*eval_loss, .*eval_unigram_loss"):
        core.main(from_run(run_folder), path)
    assert not path.exists()


def test_times_by_hand_without_a_run_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        core.main(["--test-minutes", "3"], tmp_path / "core.json")
    assert "go with --from-run" in capsys.readouterr().err


def test_a_hybrid_run_alone_is_refused(tmp_path, run_folder, capsys):
    with pytest.raises(SystemExit):
        core.main(["--from-run", str(run_folder)], tmp_path / "core.json")
    assert "go together" in capsys.readouterr().err
