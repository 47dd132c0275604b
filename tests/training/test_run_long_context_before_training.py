# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What `run_long_context.py` settles before it trains: the split to score, what is missing, baselines, the folder."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import run_long_context
from evaluation_concept.errors import exit_code
from evaluation_concept.long_context import metrics
from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.splitting import folds
from evaluation_concept.long_context.tasks import ALL, HELD_OUT, Example, Sources, to_tune_on
from tests.training.tiny_glue import count_trainings, write_checkpoint
from tests.training.tiny_long import arguments, longbench_row, write_longbench, write_scrolls, write_speeches
from training_concept.finetuning.trainer import FineTuningTrainer
from training_concept.long_context.corpus import PackageCorpus
from training_concept.long_context.experiment import Part

ROOT = Path(__file__).parents[2]
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "no", "--main_process_port", "0"]
CONTRACTS, QUALITY = "scrolls_contract_nli", "scrolls_quality"
FEW = {"generated_sizes": [8, 3, 4]}
LISTOPS = {"model_name_or_path": None, "preset": "nano", "tokenizer_name": "task", "max_seq_length": 128}
LISTOPS |= {"config_overrides": "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,local_attention=16", **FEW}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scrolls(tmp_path_factory.mktemp("benchmarks"), ("contract_nli", "quality"), rows=12)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of all trainings."""
    return count_trainings(monkeypatch)


def run(model: Path | str, output: Path, **changes: Any) -> dict[str, Any]:
    return run_long_context.main(arguments(model, output, **{"first_tokens_ablation": False} | changes))


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


class WithoutTest(dict):
    """Examples of which those that are reported cannot be read."""

    def __getitem__(self, split: str) -> Sequence[Example]:
        assert split != "test"
        return super().__getitem__(split)


# The split that is scored


def test_validation_is_scored_without_a_look_at_the_test_split(tmp_path, monkeypatch):
    task = TASKS["lra_listops"]
    load = task.load
    monkeypatch.setitem(TASKS, task.name, replace(task, load=lambda sources: WithoutTest(load(sources))))
    results = run("", tmp_path / "out", task_name=[task.name], scored_split="validation", **LISTOPS)
    found = results["tasks"][task.name]
    assert (found["split"], found["scored_on"], found["examples"]) == ("validation", "validation", 3)
    assert {"model", "majority", "bag_of_words"} <= set(found["systems"])
    assert results["scored_split"] == "validation"
    kept = json.loads((tmp_path / "out" / "predictions" / f"{task.name}.json").read_text())
    assert set(kept["references"][0]) == {f"validation-{number}" for number in range(3)}
    table = (tmp_path / "out" / "results.md").read_text()
    assert "| lra_listops | accuracy | validation | 3 |" in table
    assert "scored to choose settings by" in table


def test_by_default_it_is_said_that_the_test_split_is_scored(tmp_path):
    results = run("", tmp_path / "out", task_name=["lra_listops"], **LISTOPS)["tasks"]["lra_listops"]
    assert (results["split"], results["scored_on"], results["examples"]) == ("test", "test", 4)
    assert "| lra_listops | accuracy | test | 4 |" in (tmp_path / "out" / "results.md").read_text()


def test_cross_validated_tasks_are_scored_inside_the_training_part_of_each_fold(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setitem(TASKS, "sotu_eras", replace(TASKS["sotu_eras"], folds=2))
    packages = write_speeches(tmp_path / "packages")
    seen: list[Sequence[Part]] = []
    run_model = run_long_context.run_model

    def recorded(task: Any, stages: Any, *args: Any) -> None:
        seen.extend(stage.parts for stage in stages)
        run_model(task, stages, *args)

    monkeypatch.setattr(run_long_context, "run_model", recorded)
    settings = {"task_name": ["sotu_eras"], "package_dir": packages, "max_steps": 1, "length_curriculum": [32]}
    settings |= {"curriculum_examples": [6, 8]}
    results = run(checkpoint, tmp_path / "out", scored_split="validation", **settings)
    whole = list(TASKS["sotu_eras"].load(Sources(corpus=PackageCorpus(packages)))[ALL])
    reported = [{whole[row].group for row in scored} for _, scored in folds(TASKS["sotu_eras"], whole)]
    assert len(seen) == 2
    for parts in seen:
        for part, test_groups in zip(parts, reported, strict=True):
            trained, scored = ({example.group for example in some} for some in (part.train, part.scored))
            assert scored
            assert trained
            assert not scored & trained
            assert not (scored | trained) & test_groups
    assert [part.scored for part in seen[0]] == [part.scored for part in seen[1]]
    task = results["tasks"]["sotu_eras"]
    assert (task["split"], task["scored_on"]) == ("validation", HELD_OUT)
    kept = json.loads((tmp_path / "out" / "predictions" / "sotu_eras.json").read_text())
    assert all(len(answers) == task["examples"] for runs in kept.values() for answers in runs)
    assert "| held out of train, in folds |" in (tmp_path / "out" / "results.md").read_text()


def test_where_validation_is_what_is_reported_documents_are_held_out_of_training(tmp_path, checkpoint, benchmarks):
    results = run(checkpoint, tmp_path / "out", task_name=[CONTRACTS], data_dir=benchmarks, scored_split="validation")
    task = results["tasks"][CONTRACTS]
    assert (task["split"], task["scored_on"]) == ("validation", HELD_OUT)
    kept = json.loads((tmp_path / "out" / "predictions" / f"{CONTRACTS}.json").read_text())
    assert all(name.startswith("train") for name in kept["references"][0])
    assert task["trained_on"] == [12 - task["examples"]]
    assert "validation is scored" not in task["note"]


def test_questions_on_one_text_stay_together_when_some_are_held_out():
    examples = {"train": [Example(str(row), f"text {row // 4}", label="negative") for row in range(48)]}
    task, found = to_tune_on(TASKS["lra_text"], examples | {"test": [Example("t", "text", label="negative")]})
    assert task.scored == HELD_OUT
    assert set(found) == {"train", HELD_OUT}
    texts = [{example.text for example in found[split]} for split in ("train", HELD_OUT)]
    assert not texts[0] & texts[1]
    assert len(found["train"]) + len(found[HELD_OUT]) == 48
    with pytest.raises(ValueError, match="no examples besides those that are reported"):
        to_tune_on(TASKS["longbench_qmsum"], {ALL: examples["train"]})


def test_no_file_for_a_leaderboard_is_written_to_choose_settings_by(tmp_path, checkpoint, monkeypatch):
    name = "longbench_passage_count"
    monkeypatch.setitem(TASKS, name, replace(TASKS[name], folds=2))
    data = write_longbench(
        tmp_path, "passage_count", [longbench_row(row, answers=[str(row % 2)]) for row in range(12)]
    )
    run(checkpoint, tmp_path / "out", task_name=[name], data_dir=data, max_steps=1, scored_split="validation")
    assert not (tmp_path / "out" / "submission").exists()


# What is missing


def test_a_task_without_data_is_named_and_the_others_run(tmp_path, trained, capsys):
    flags = arguments("", tmp_path / "out", task_name=["lra_retrieval", "lra_listops"], **LISTOPS)
    assert exit_code(run_long_context.main, flags) == 2
    assert "Not run: lra_retrieval: lra_retrieval reads files of" in capsys.readouterr().err.strip().splitlines()[-1]
    results = results_of(tmp_path / "out")
    assert set(results["tasks"]) == {"lra_listops"}
    assert "give --data_dir" in results["not_run"]["lra_retrieval"]
    assert len(trained) == 1
    assert "Not run: lra_retrieval: " in (tmp_path / "out" / "results.md").read_text()


def test_if_nothing_can_be_run_it_is_an_error_before_anything_is_written(tmp_path, checkpoint, trained):
    with pytest.raises(FileNotFoundError, match=r"There is neither nowhere/scrolls/contract_nli\.zip nor"):
        run(checkpoint, tmp_path / "out", task_name=[CONTRACTS, QUALITY], data_dir="nowhere")
    assert not (tmp_path / "out" / "results.json").exists()
    assert not trained


def test_a_missing_package_is_noticed_before_training(tmp_path, checkpoint, trained, monkeypatch, capsys):
    chinese, english = "longbench_multifieldqa_zh", "longbench_multifieldqa_en"
    for name in (chinese, english):
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], folds=2))
        rows = [longbench_row(row) for row in range(6)]
        data = write_longbench(tmp_path / "data", name.removeprefix("longbench_"), rows)
    monkeypatch.setitem(sys.modules, "jieba", None)
    settings = {"data_dir": data, "max_steps": 1, "baselines": False}
    with pytest.raises(ImportError, match="pip install jieba"):
        run(checkpoint, tmp_path / "one", task_name=[chinese], **settings)
    assert not trained
    flags = arguments(checkpoint, tmp_path / "two", task_name=[chinese, english], **settings)
    assert exit_code(run_long_context.main, flags) == 2
    assert "pip install jieba" in capsys.readouterr().err
    results = results_of(tmp_path / "two")
    assert set(results["tasks"]) == {english}
    assert set(results["not_run"]) == {chinese}
    assert len(trained) == 2


def test_every_optional_package_of_a_metric_is_known():
    """By what it does without them: a metric that needs one says which."""
    assert {package for metric in metrics.METRICS.values() for package in metric.packages} == set(metrics.MODULES)
    assert metrics.METRICS["longbench_rouge_chinese"].packages == ("rouge", "jieba")


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ({"task_name": [QUALITY]}, {}, f"have none of these tasks to compare: {CONTRACTS}"),
        ({"max_eval_samples": 3}, {}, f"scored 3 examples of {CONTRACTS}, not 12"),
        ({}, {"scored_split": "validation"}, f"scored the test split of {CONTRACTS}, this run scores validation"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_before_training(
    tmp_path, checkpoint, benchmarks, trained, theirs, ours, message
):
    settings = {"task_name": [CONTRACTS], "data_dir": benchmarks, "max_steps": 1, "baselines": False}
    run(checkpoint, tmp_path / "other", **settings | theirs)
    trained.clear()
    with pytest.raises(ValueError, match=message):
        run(checkpoint, tmp_path / "out", compare_with=[tmp_path / "other"], **settings | ours)
    assert not trained


@pytest.mark.slow
def test_two_processes_agree_on_what_is_missing(tmp_path):
    flags = arguments("", tmp_path / "out", task_name=["lra_retrieval", "lra_listops"], ddp_backend="gloo", **LISTOPS)
    ddp = ["--config_file", str(ROOT / "recipes/accelerate/ddp.yaml"), "--num_processes", "2"]
    done = subprocess.run([*LAUNCHER, *ddp, "run_long_context.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.count("error: Not run: lra_retrieval: ") == 2
    results = results_of(tmp_path / "out")
    assert {"model", "bag_of_words", "majority"} <= set(results["tasks"]["lra_listops"]["systems"])


# Baselines


def test_baselines_are_made_before_training_and_once(tmp_path, checkpoint, benchmarks, monkeypatch):
    made = []
    run_baselines = run_long_context.run_baselines

    def counted(*args: Any) -> Any:
        made.append(args[0].name)
        return run_baselines(*args)

    def breaks(*args: Any, **kwargs: Any) -> Any:
        assert made
        raise KeyboardInterrupt

    monkeypatch.setattr(run_long_context, "run_baselines", counted)
    settings = {"task_name": [CONTRACTS], "data_dir": benchmarks}
    with monkeypatch.context() as patch:
        patch.setattr(FineTuningTrainer, "training_step", breaks)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, tmp_path / "out", **settings)
    assert (tmp_path / "out" / "cells" / CONTRACTS / "baselines.json").is_file()
    again = run(checkpoint, tmp_path / "out", **settings)["tasks"][CONTRACTS]
    assert made == [CONTRACTS]
    whole = run(checkpoint, tmp_path / "whole", **settings)["tasks"][CONTRACTS]
    assert again["systems"] == whole["systems"]
    assert {"majority", "bag_of_words", "bag_of_words_first_512"} <= set(again["systems"])


def test_baselines_of_other_examples_are_made_again(tmp_path, checkpoint, benchmarks):
    settings = {"task_name": [CONTRACTS], "data_dir": benchmarks, "max_steps": 1}
    path = Path("cells") / CONTRACTS / "baselines.json"
    run(checkpoint, tmp_path / "all", **settings)
    run(checkpoint, tmp_path / "few", max_eval_samples=3, **settings)
    (tmp_path / "few" / path).write_text((tmp_path / "all" / path).read_text())
    task = run(checkpoint, tmp_path / "few", max_eval_samples=3, **settings)["tasks"][CONTRACTS]
    assert task["examples"] == 3
    assert json.loads((tmp_path / "few" / path).read_text()) != json.loads((tmp_path / "all" / path).read_text())


def test_other_processes_than_the_main_one_make_no_baselines(tmp_path, monkeypatch):
    monkeypatch.setattr(run_long_context.Run, "is_main", False)
    monkeypatch.setattr(run_long_context, "run_baselines", lambda *args: pytest.fail("made"))
    results = run("", tmp_path / "out", task_name=["lra_listops"], **LISTOPS)
    assert set(results["tasks"]["lra_listops"]["systems"]) == {"model"}


# The folder


def test_other_tasks_join_those_of_an_earlier_run(tmp_path, checkpoint, benchmarks):
    settings = {"data_dir": benchmarks, "max_steps": 1, "seeds": [1, 2]}
    first = run(checkpoint, tmp_path / "out", task_name=[CONTRACTS], **settings)
    run(checkpoint, tmp_path / "out", task_name=[QUALITY], **settings)
    results = results_of(tmp_path / "out")
    assert set(results["tasks"]) == {CONTRACTS, QUALITY}
    assert results["tasks"][CONTRACTS] == json.loads(json.dumps(first["tasks"][CONTRACTS]))
    table = (tmp_path / "out" / "results.md").read_text()
    assert f"| {CONTRACTS} |" in table
    assert f"| {QUALITY} |" in table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_length": 48}, "max_seq_length 64, not 48"),
        ({"seeds": [3]}, r"seeds \[42\], not \[3\]"),
        ({"scored_split": "validation"}, "scored_split test, not validation"),
        ({"config_overrides": "concept_ratio=8"}, "config_overrides None, not concept_ratio=8"),
    ],
)
def test_results_of_another_run_are_not_mixed_with(tmp_path, checkpoint, benchmarks, trained, changes, message):
    settings = {"data_dir": benchmarks, "max_steps": 1, "baselines": False}
    run(checkpoint, tmp_path / "out", task_name=[CONTRACTS], **settings)
    before = (tmp_path / "out" / "results.json").read_text()
    trained.clear()
    with pytest.raises(ValueError, match=message):
        run(checkpoint, tmp_path / "out", task_name=[QUALITY], **settings | changes)
    assert not trained
    assert (tmp_path / "out" / "results.json").read_text() == before
    run(checkpoint, tmp_path / "out", task_name=[QUALITY], overwrite_output_dir=True, **settings | changes)
    assert set(results_of(tmp_path / "out")["tasks"]) == {QUALITY}


def test_seeds_can_be_added_to_the_same_tasks(tmp_path, checkpoint, benchmarks, trained):
    settings = {"task_name": [CONTRACTS], "data_dir": benchmarks, "max_steps": 1, "baselines": False}
    run(checkpoint, tmp_path / "out", seeds=[1], **settings)
    results = run(checkpoint, tmp_path / "out", seeds=[1, 2], **settings)
    assert results["tasks"][CONTRACTS]["systems"]["model"]["runs"] == 2
    assert len(trained) == 2
