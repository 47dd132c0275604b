# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What two runs of fine-tuning can do to each other: in one folder, side by side, compared, in two processes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from huggingface_hub.utils import WeakFileLock
from safetensors.torch import load_file

import run_long_context
from evaluation_concept.tasks import Examples, Task, TaskData
from tests.training import tiny_long
from tests.training.tiny_glue import arguments, count_trainings, run, tiny_bert, write_checkpoint, write_glue
from training_concept.finetuning.arguments import ClassifierArguments, ExperimentArguments, FineTuningArguments
from training_concept.finetuning.cell import CellResult, FineTuner
from training_concept.finetuning.claim import GLUE, claimed
from training_concept.finetuning.experiment import Plan, run_task
from training_concept.finetuning.results import _mean_facts, distinguished
from training_concept.finetuning.trainer import FineTuningTrainer

ROOT = Path(__file__).parents[2]
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "no", "--main_process_port", "0"]
FOLDERS = ("cells", "submission", "predictions")
QUICK: dict[str, Any] = {"task_name": ["sst2"], "baselines": False, "max_steps": 1}


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"), ["sst2"])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bert"), tiny_bert())


@pytest.fixture(scope="module")
def finished(bert: Path, glue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "out"
    run(bert, output, dataset_name=glue, seeds=[1], **QUICK)
    return output


def test_two_runs_at_once_are_not_mixed(tmp_path):
    args = FineTuningArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
    with claimed(args, GLUE, FOLDERS) as folder:
        assert folder.is_dir()
        with pytest.raises(ValueError, match="Another run is at work in"), claimed(args, GLUE, FOLDERS):
            pass
    with claimed(args, GLUE, FOLDERS):
        (folder / "cells").mkdir()


def test_nothing_is_removed_before_every_process_has_looked(tmp_path, monkeypatch):
    """Else one that is slower finds a folder of nobody's."""
    (tmp_path / "cells").mkdir()
    (tmp_path / "model.safetensors").touch()
    args = FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, overwrite_output_dir=True)
    seen = []
    monkeypatch.setattr(PartialState, "wait_for_everyone", lambda self: seen.append((tmp_path / "cells").exists()))
    with claimed(args, GLUE, FOLDERS):
        assert seen == [True, False]


def test_a_lock_outlives_no_run(tmp_path):
    args = FineTuningArguments(output_dir=str(tmp_path / "out"), use_cpu=True)
    with pytest.raises(RuntimeError), claimed(args, GLUE, FOLDERS):
        raise RuntimeError
    with WeakFileLock(tmp_path / "out" / ".lock", timeout=1):
        pass


def test_scores_of_a_checkpoint_do_not_replace_those_of_its_training(finished, glue):
    before = (finished / "results.json").read_bytes()
    with pytest.raises(ValueError, match="holds the results of a training, which would be lost"):
        run(finished, finished, dataset_name=glue, do_train=None, **QUICK)
    assert (finished / "results.json").read_bytes() == before


def test_results_that_cannot_be_read_are_named(finished, bert, glue, tmp_path):
    output = shutil.copytree(finished, tmp_path / "out")
    (output / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"out/results\.json cannot be read .*remove it, and it is written again"):
        run(bert, output, dataset_name=glue, seeds=[1], **QUICK)


def test_the_scripts_keep_out_of_each_others_folders(finished, bert, tmp_path):
    settings = {"task_name": ["scrolls_quality"], "data_dir": tmp_path}
    with pytest.raises(ValueError, match=r"holds results of the other script, not of run_long_context\.py"):
        run_long_context.main(tiny_long.arguments(bert, finished, **settings))


def test_the_model_in_the_folder_is_that_of_the_scores(finished, bert, glue, tmp_path, monkeypatch):
    """A run of another seed in the same folder leaves its own; the first one's is trained again when it is wanted."""
    output = shutil.copytree(finished, tmp_path / "out")
    first = load_file(output / "model.safetensors")["classifier.weight"]
    trained = count_trainings(monkeypatch)
    run(bert, output, dataset_name=glue, seeds=[2], **QUICK)
    assert not torch.equal(load_file(output / "model.safetensors")["classifier.weight"], first)
    run(bert, output, dataset_name=glue, seeds=[1], **QUICK)
    assert torch.equal(load_file(output / "model.safetensors")["classifier.weight"], first)
    run(bert, output, dataset_name=glue, seeds=[1, 3], **QUICK)
    assert [Path(folder).name for folder in trained] == ["seed-2", "seed-1", "seed-3"]
    run(bert, output, dataset_name=glue, seeds=[3, 1], **QUICK)
    assert trained[3].endswith("seed-3")  # whose model was not kept


def test_what_is_to_be_predicted_may_be_asked_for_later(bert, glue, tmp_path, monkeypatch):
    """And no longer, without a training; by the model that was kept, and as it would have been at once."""
    settings = QUICK | {"dataset_name": glue, "seeds": [1, 2]}
    run(bert, tmp_path / "at_once", do_predict=True, **settings)
    trained = count_trainings(monkeypatch)
    results = [run(bert, tmp_path / "at_once", **settings), run(bert, tmp_path / "later", **settings)]
    assert len(trained) == 2
    results += [run(bert, tmp_path / "later", do_predict=True, **settings) for _ in range(2)]
    assert all(found["tasks"]["sst2"]["splits"] == results[0]["tasks"]["sst2"]["splits"] for found in results)
    answers = [(tmp_path / name / "submission" / "SST-2.tsv").read_text() for name in ("at_once", "later")]
    assert answers[0] == answers[1]
    assert len(trained) == 2


def test_what_is_to_be_predicted_is_not_by_another_model(bert, glue, tmp_path):
    settings = QUICK | {"dataset_name": glue}
    run(bert, tmp_path / "out", seeds=[1], **settings)
    run(bert, tmp_path / "out", seeds=[2], **settings)
    with pytest.raises(ValueError, match=r"seed-1 holds another run .*test:SST-2"):
        run(bert, tmp_path / "out", seeds=[1], do_predict=True, **settings)


@pytest.mark.parametrize(
    "changes", [{"dtype": "bfloat16"}, {"neftune_noise_alpha": 5}, {"dataloader_drop_last": True}]
)
def test_what_is_seldom_set_makes_another_run_too(finished, bert, glue, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        run(bert, finished, dataset_name=glue, seeds=[1], **QUICK | changes)


def test_answers_of_before_that_changed_places_are_not_read(bert, glue, tmp_path):
    settings = {"dataset_name": glue, "train_sampling_strategy": "group_by_length", **QUICK}
    run(bert, tmp_path / "out", **settings)
    record = tmp_path / "out/cells/sst2/model/seed-42/run.json"
    content = json.loads(record.read_text())
    del content["description"]["training"]["scored_in_order"]
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"training.scored_in_order is None there and True here"):
        run(bert, tmp_path / "out", **settings)


def test_runs_are_compared_on_the_same_texts_only(finished, bert, glue, tmp_path, monkeypatch):
    """Which is found out before anything is trained."""
    trained = count_trainings(monkeypatch)
    other = shutil.copytree(finished, tmp_path / "other")
    results = json.loads((other / "results.json").read_text())
    results["tasks"]["sst2"]["splits"]["validation"]["digest"] = "of other texts with the same labels"
    (other / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="the validation split is not the one that is scored here"):
        run(bert, tmp_path / "out", dataset_name=glue, compare_with=[other], **QUICK)
    assert not trained


def test_runs_of_one_name_are_told_apart():
    assert distinguished(["a/bert", "b/bert/", "a/mini"]) == {
        "a/bert": Path("a/bert"),
        "b/bert/": Path("b/bert"),
        "mini": Path("a/mini"),
    }


def test_facts_are_means_over_those_who_have_them():
    assert _mean_facts([{"steps": 2.0}, {"steps": 2.0, "train_seconds": 3.0}]) == {"steps": 2, "train_seconds": 3}


def test_a_training_that_is_stopped_is_not_scored(bert, glue, tmp_path, monkeypatch):
    step = FineTuningTrainer.training_step

    def stops(self: FineTuningTrainer, *args: Any, **kwargs: Any) -> Any:
        self.control.should_training_stop = self.state.global_step == 1
        return step(self, *args, **kwargs)

    monkeypatch.setattr(FineTuningTrainer, "training_step", stops)
    with pytest.raises(InterruptedError, match="was stopped at step 2 of 4: started again, it goes on"):
        run(bert, tmp_path / "out", dataset_name=glue, **QUICK | {"max_steps": 4})
    assert not (tmp_path / "out/cells/sst2/model/seed-42/cell.json").exists()


class _Recorder(FineTuner):
    """Trains nothing; remembers on how many examples it would have."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.trained_on: list[int] = []

    def run(self, task: Task, cell: Any) -> CellResult:
        self.trained_on.append(len(cell.train))
        return CellResult({name: np.zeros((len(some), 2)) for name, some in cell.predicted.items()}, {})


def test_a_cross_validation_trains_on_as_few_examples_as_wanted(tmp_path):
    texts = tuple(f"text {number}" for number in range(20))
    examples = Examples((texts,), np.arange(20) % 2, texts)
    data = TaskData(Task("own", ("text",), ("a", "b"), folds=4), None, {"validation": examples})
    options = ExperimentArguments(max_train_samples=6, random_init_baseline=False, baselines=False)
    model = ClassifierArguments(model_name_or_path="x")
    tuner = _Recorder(model, options, FineTuningArguments(output_dir=str(tmp_path), use_cpu=True), None)
    assert run_task(tuner, data, Plan(tmp_path)).trained_on == tuner.trained_on == [6] * 4


def test_only_the_last_length_is_uploaded(tmp_path, bert, monkeypatch):
    uploaded = {}
    train = FineTuningTrainer.train

    def recorded(self: FineTuningTrainer, *args: Any, **kwargs: Any) -> Any:
        uploaded[Path(self.args.output_dir).name] = self.args.push_to_hub
        return train(self, *args, **kwargs)

    monkeypatch.setattr(FineTuningTrainer, "train", recorded)
    data = tiny_long.write_scrolls(tmp_path / "data", ("contract_nli",))
    lengths = {"length_curriculum": [32, 48], "max_seq_length": 64, "baselines": False, "max_steps": 1}
    settings = {"task_name": ["scrolls_contract_nli"], "data_dir": data, "push_to_hub": True, **lengths}
    run_long_context.main(tiny_long.arguments(bert, tmp_path / "out", **settings))
    assert uploaded == {"length-32": False, "length-48": False, "length-64": True}


@pytest.mark.slow
def test_two_processes_leave_what_one_does(tmp_path, bert, glue):
    dropout = "hidden_dropout_prob=0,attention_probs_dropout_prob=0"
    settings = QUICK | {"optim": "sgd", "config_overrides": dropout, "dataset_name": glue, "do_predict": True}
    one = run(bert, tmp_path / "one", **settings, per_device_train_batch_size=4)
    flags = arguments(bert, tmp_path / "two", **settings, per_device_train_batch_size=2, ddp_backend="gloo")
    ddp = ["--config_file", str(ROOT / "recipes/accelerate/ddp.yaml"), "--num_processes", "2"]
    for _ in range(2):  # the second time all is read
        done = subprocess.run([*LAUNCHER, *ddp, "run_glue.py", *flags], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("| SST-2 | accuracy | 10 |") == 1
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    assert two["tasks"]["sst2"]["splits"] == one["tasks"]["sst2"]["splits"]
    answers = [(tmp_path / name / "submission" / "SST-2.tsv").read_text() for name in ("one", "two")]
    assert answers[0] == answers[1]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])
