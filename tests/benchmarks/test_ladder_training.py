# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of the ladder: the same again, alike for all models, recorded whatever comes, and done once."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.ladder import __main__ as ladder
from benchmarks.ladder import scheduler
from benchmarks.ladder.batches import IGNORED
from benchmarks.ladder.corpus import Corpus, load_corpus
from benchmarks.ladder.evaluate import HeldOut, token_losses
from benchmarks.ladder.settings import Settings
from benchmarks.ladder.training import LeftOutError, Run, perform
from benchmarks.ladder.variants import size_of
from benchmarks.ladder.worker import LEFT_OUT, Task, take_turn
from benchmarks.ladder.worker import main as work
from benchmarks.results import ROOT
from tests.benchmarks.ladder_corpus import (
    BERT,
    HYBRID,
    LENGTH,
    MODERNBERT,
    PERCEIVER,
    TOY,
    VOCABULARY,
    select,
    write_export,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_export(tmp_path_factory.mktemp("export"))
    return select(folder, folder / "selected")


@pytest.fixture(scope="module")
def corpus(data: Path) -> Corpus:
    return load_corpus(data)


def settings(variant: str = HYBRID, **fields: Any) -> Settings:
    toy = {"length": LENGTH, "clock": "tokens", "budget": 2000, "batch_tokens": 8 * LENGTH, "learning_rate": 5e-3}
    return Settings(variant=variant, **toy | {"dtype": "float32", "compiled": "none"} | fields)


def trained(corpus: Corpus, how: Settings, warm_up: int = 1) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after a run, and its losses."""
    run = Run(how, corpus, CPU, workers=0)
    model = run.build()
    if warm_up:
        run.warm_up(model, warm_up)
    progress = run.train(model)
    return model.state_dict(), torch.stack(progress.losses).tolist()


@pytest.mark.parametrize("name", [HYBRID, BERT])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_for_tokens_gives_the_same_again_bit_by_bit(name, optimizer, corpus):
    # Nor does it matter how it was warmed up.
    how = settings(name, optimizer=optimizer)
    (weights, losses), (again, others) = trained(corpus, how), trained(corpus, how, warm_up=0)
    assert losses == others
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_another_seed_gives_another_run(corpus):
    assert trained(corpus, settings(seed=0))[1] != trained(corpus, settings(seed=1))[1]


def test_all_models_see_the_same_batches(corpus):
    streams = []
    for name in (HYBRID, MODERNBERT, PERCEIVER):
        run = Run(settings(name, seed=3), corpus, CPU, workers=0)
        streams.append([next(run.batches) for _ in range(30)])
    for ours, control, learned in zip(*streams, strict=True):
        assert ours.num_tokens == control.num_tokens == learned.num_tokens
        for name in ("input_ids", "labels"):
            assert torch.equal(ours.inputs[name], learned.inputs[name])
        ends = [it.inputs["document_lengths"].cumsum(dim=1) for it in (ours, learned)]
        documents = [it[it <= ours.num_tokens].unique().tolist() for it in ends]
        assert documents[0][-1] == ours.num_tokens
        assert documents[0] == documents[1]
        assert torch.equal(ours.inputs["input_ids"], control.inputs["input_ids"])
        targets = ours.inputs["labels"][ours.inputs["labels"] != IGNORED]
        assert torch.equal(control.inputs["targets"][: len(targets)], targets)


@pytest.mark.parametrize("name", TOY)
def test_losses_of_tokens_are_those_of_training(name, corpus):
    run = Run(settings(name), corpus, CPU, workers=0)
    model, batch = run.build(), next(run.batches)
    with torch.no_grad():
        inputs = batch.to(CPU)
        losses = token_losses(model, run.contender, inputs)
        mean = losses.sum() / (inputs["labels"] != IGNORED).sum() if "labels" in inputs else None
        mean = losses.sum() / (inputs["targets"] != IGNORED).sum() if mean is None else mean
        torch.testing.assert_close(mean, model(**inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [HYBRID, BERT, PERCEIVER])
def test_documents_of_a_batch_do_not_see_each_other(name, corpus):
    run = Run(settings(name), corpus, CPU, workers=0)
    model, inputs = run.build(), next(run.batches).to(CPU)
    with torch.no_grad():
        before = token_losses(model, run.contender, inputs)
        first = int(inputs["document_lengths"][0, 0] if "document_lengths" in inputs else inputs["cu_seqlens"][1])
        # Another word in the first document, where nothing is masked.
        place = int(torch.nonzero(inputs["input_ids"][0, 1 : first - 1] != 4)[0]) + 1
        inputs["input_ids"][0, place] += 1
        after = token_losses(model, run.contender, inputs)
    masked = (inputs["masked_positions"][0] if "masked_positions" in inputs else inputs["masked"]) < first
    assert torch.equal(before[~masked], after[~masked])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", [HYBRID, BERT])
def test_a_small_run_beats_guessing_by_frequency(name, corpus):
    how = settings(name, budget=20_000, learning_rate=1e-2, final=True)
    record = perform(how, lambda: corpus, CPU, workers=0)
    assert "error" not in record
    for split in ("validation", "test"):
        scores = record["evaluation"][split]
        assert scores["loss"] < scores["unigram"] - 0.05
        assert sorted(scores["by_source"]) == ["books", "mail"]
        parts = [*scores["by_source"].values()], [*scores["by_position"].values()]
        for part in parts:
            assert sum(it["tokens"] for it in part) == scores["tokens"]
            total = sum(it["tokens"] * it["loss"] for it in part)
            assert total / scores["tokens"] == pytest.approx(scores["loss"])
        assert 0 < scores["nats_per_byte"] < scores["loss"]
    assert record["curve"][-1][1] == record["tokens"] >= 20_000
    assert record["parameters"]["body"] < record["parameters"]["total"]
    json.dumps(record)


def test_held_out_masks_are_the_same_for_all_runs(corpus):
    split = ("validation", LENGTH)
    batches = [[it for it, _ in HeldOut(corpus, *split, rows, 0.3, VOCABULARY).batches()] for rows in (2, 5)]
    targets = [[it for batch in them for it in batch.targets[batch.masked >= 0].tolist()] for them in batches]
    assert targets[0] == targets[1]


def test_a_corpus_without_the_split_is_refused(corpus):
    empty = Corpus(corpus.tokenizer, corpus.train, {"validation": {}, "test": {}}, corpus.counts, corpus.widths)
    with pytest.raises(ValueError, match="no test documents"):
        HeldOut(empty, "test", LENGTH, 2, 0.3, VOCABULARY)


def test_a_run_for_seconds_ends_on_time(corpus, monkeypatch):
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.25
        return now

    run = Run(settings(clock="seconds", budget=10), corpus, CPU, workers=0)
    model = run.build()
    monkeypatch.setattr("benchmarks.ladder.progress.time.perf_counter", clock)
    progress = run.train(model)
    assert 10 <= progress.seconds < 12
    assert progress.curve()[-1].tokens == progress.tokens


@pytest.mark.parametrize(
    ("variant", "fields", "words"),
    [
        ("hybrid:hidden_size=33", {}, "hidden_size=33"),
        ("hybrid:no_such_field=1", {}, "no_such_field"),
        ("perceiver_v1", {"length": 1024, "batch_tokens": 1024}, "512 learned positions"),
        (HYBRID, {"batch_tokens": 2**20}, "lower batch_tokens"),
    ],
)
def test_what_goes_wrong_is_recorded(variant, fields, words, corpus):
    record = perform(settings(variant, **fields), lambda: corpus, CPU, workers=0)
    assert words in record["error"]
    assert record["settings"]["variant"] == variant
    assert {"run", "device", "date", "versions"} <= set(record)


def test_a_run_whose_turn_comes_too_late_leaves_nothing(data, tmp_path):
    task = Task(settings(), str(data), str(tmp_path), str(tmp_path / "lock"), time.time() - 1, 0, False, "abc1234")
    assert work([task.to_json()]) == LEFT_OUT
    assert not task.path.exists()
    with pytest.raises(LeftOutError), take_turn(tmp_path / "lock", 0.0):
        pass


def arguments(data: Path, output: Path, *variants: str, tokens: str = "300") -> list[str]:
    shared = ["--data", str(data), "--output", str(output), "--lengths", str(LENGTH), "--workers", "0"]
    toy = ["--batch_tokens", "128", "--dtype", "float32", "--compiled", "none", "--tokens", tokens]
    return ["run", *shared, *toy, "--commit", "abc1234", "--variants", *variants]


def test_runs_are_done_once_and_a_failure_ends_nothing(data, tmp_path, monkeypatch, capfd):
    # Where there are GPUs there is no `datasets`.
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "datasets.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "missing"))
    saved = tmp_path / "models"
    ladder.main([*arguments(data, tmp_path, "hybrid:hidden_size=33", BERT), "--save", str(saved)])
    records = {it["settings"]["variant"]: it for it in map(json.loads, map(Path.read_text, tmp_path.glob("*.json")))}
    assert "hidden_size=33" in records["hybrid:hidden_size=33"]["error"]
    assert records[BERT]["evaluation"]["validation"]["loss"] > 0
    assert [(it / "model.safetensors").is_file() for it in saved.iterdir()] == [True]
    assert [it.name for it in saved.iterdir()] == [records[BERT]["run"]]
    assert json.loads((saved / records[BERT]["run"] / "pretraining.json").read_text()) == records[BERT]
    assert records[BERT]["commit"] == "abc1234"
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    ladder.main(arguments(data, tmp_path, "hybrid:hidden_size=33", BERT))
    assert "0 runs to do, 2 are done" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == times


def test_a_process_that_dies_is_recorded_and_may_be_tried_again(data, tmp_path, monkeypatch, capfd):
    dying = tmp_path / "dying.sh"
    dying.write_text("#!/bin/sh\necho out of memory >&2\nexit 9\n", encoding="utf-8")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    ladder.main(arguments(data, tmp_path / "runs", BERT))
    (path,) = (tmp_path / "runs").glob("*.json")
    assert json.loads(path.read_text())["error"] == "the process ended with 9: out of memory"
    ladder.main([*arguments(data, tmp_path / "runs", BERT), "--retry"])
    assert "1 runs to do, 0 are done" in capfd.readouterr().out


@pytest.mark.parametrize("name", [HYBRID, BERT, MODERNBERT])
def test_a_trained_model_is_saved_for_auto_classes(name, corpus, tmp_path):
    run = Run(settings(name), corpus, CPU, workers=0)
    model, batch = run.build(), next(run.batches)
    run.train(model)
    run.save(model.train(), tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == len(corpus.tokenizer)
    length = int(batch.inputs["input_ids"].shape[1])
    text = batch.inputs["input_ids"][:, : min(length, 16)]
    whole = run.contender.pretrained(model, 512).eval()
    whole.set_attn_implementation("eager")
    loaded.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(text).logits, whole(text).logits)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True, num_labels=3)
    with torch.no_grad():
        assert classifier(text).logits.shape == (len(text), 3)


def test_a_spent_budget_starts_nothing(data, tmp_path, monkeypatch):
    plan = scheduler.Plan(data, tmp_path, budget=1e-9)
    monkeypatch.setattr(scheduler, "_start", lambda *them: pytest.fail("a run was started"))
    scheduler.run_all([settings()], plan)


def test_a_run_that_is_stopped_leaves_no_process(data, tmp_path, monkeypatch):
    started: list[subprocess.Popen] = []

    def start(task, slot, plan):
        code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)"
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        return started[-1], task

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(scheduler, "_start", start)
    with pytest.raises(SystemExit, match="143"):
        scheduler.run_all([settings()], scheduler.Plan(data, tmp_path))
    assert [process.poll() for process in started] == [-signal.SIGKILL]
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_is_compiled_on_a_gpu_whose_time_is_measured_unless_it_is_asked_for(data, tmp_path, monkeypatch):
    plans: list[scheduler.Plan] = []
    monkeypatch.setattr(ladder, "run_all", lambda runs, plan: plans.append(plan))
    arguments = ["run", "--data", str(data), "--output", str(tmp_path), "--variants", "bert"]
    for more in ([], ["--ahead", "compile"]):
        ladder.main([*arguments, *more])
    assert [plan.ahead for plan in plans] == ["data", "compile"]
    assert scheduler.Plan(data, tmp_path).ahead == "data"


def test_runs_for_equal_time_do_not_share_a_gpu(data, tmp_path):
    plan = scheduler.Plan(data, tmp_path, side_by_side=2)
    with pytest.raises(ValueError, match="equal tokens"):
        scheduler.run_all([settings(clock="seconds")], plan)


@pytest.mark.parametrize(("visible", "gpus"), [(None, "01"), ("3,5,7", "35")])
def test_every_gpu_gets_runs(data, tmp_path, monkeypatch, visible, gpus):
    class Process:
        def __init__(self, command: list[str], env: dict[str, str], **options: Any) -> None:
            task = Task.from_json(command[-1])
            started.append((env["CUDA_VISIBLE_DEVICES"], task.lock, task.settings.seed))
            task.path.write_text("{}", encoding="utf-8")

        def poll(self) -> int:
            return 0

    started: list[tuple[str, str, int]] = []
    monkeypatch.setattr(scheduler.subprocess, "Popen", Process)
    plan = scheduler.Plan(data, tmp_path, gpus=2, side_by_side=2, ahead="none")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    scheduler.run_all([settings(seed=seed) for seed in range(4)], plan)
    assert [gpu for gpu, _, _ in started] == [gpus[0]] * 2 + [gpus[1]] * 2
    assert len({lock for _, lock, _ in started}) == 4
    assert [seed for _, _, seed in started] == [0, 1, 2, 3]


def test_gpus_that_the_process_may_not_see_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(ValueError, match="allows 1 GPUs; lower --gpus"):
        scheduler.run_all([settings()], scheduler.Plan(data, tmp_path / "runs", gpus=2))
    assert not (tmp_path / "runs").exists()


def test_a_file_lists_runs_of_several_kinds(data, tmp_path):
    path = tmp_path / "runs.yaml"
    path.write_text("- {variant: hybrid, length: 64}\n- {variant: bert, learning_rate: 5.0e-4, seed: 2}\n")
    given = ["run", "--data", str(data), "--output", str(tmp_path), "--runs", str(path), "--seconds", "30", "--final"]
    first, second = ladder.make_runs(ladder._parse(given))
    assert (first.variant, first.length, first.learning_rate, first.seed) == ("hybrid", 64, 2e-3, 0)
    assert (second.variant, second.length, second.learning_rate, second.seed) == ("bert", 512, 5e-4, 2)
    assert (first.budget, first.final) == (second.budget, second.final) == (30.0, True)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "ladder").glob("*.yaml")), ids=lambda path: path.stem)
def test_lists_of_runs_name_runs_that_can_be_built(data, tmp_path, path):
    given = ["run", "--data", str(data), "--output", str(tmp_path), "--runs", str(path)]
    runs = ladder.make_runs(ladder._parse(given))
    assert len({run.name for run in runs}) == len(runs)
    assert all(size_of(run.variant, run.length, 320).body > 1e6 for run in runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variant: hybrid", "is no list of mappings"),
        ("- {length: 64}", "is no list of mappings"),
        ("- {variant: hybrid, lenght: 64}", "no setting lenght"),
        ("- {variant: hybird}", "no variant 'hybird'"),
    ],
)
def test_a_file_of_runs_that_makes_no_sense_is_refused(data, tmp_path, text, message):
    (tmp_path / "runs.yaml").write_text(text)
    given = ["run", "--data", str(data), "--output", str(tmp_path), "--runs", str(tmp_path / "runs.yaml")]
    with pytest.raises(ValueError, match=message):
        ladder.make_runs(ladder._parse(given))


def test_the_command_line_makes_the_grid(data, tmp_path):
    options = ladder._parse(
        [
            *arguments(data, tmp_path, "hybrid", "bert"),
            *("--seeds", "0", "1", "--learning_rates", "1e-3", "2e-3"),
            *("--optimizer", "adamw", "--beta2", "0.95"),
        ]
    )
    runs = ladder.make_runs(options)
    assert [(it.seed, it.variant, it.learning_rate) for it in runs[:3]] == [
        (0, "hybrid", 1e-3),
        (0, "hybrid", 2e-3),
        (0, "bert", 1e-3),
    ]
    assert len(runs) == 8
    assert {(it.optimizer, it.beta2, it.clock, it.budget) for it in runs} == {("adamw", 0.95, "tokens", 300.0)}
