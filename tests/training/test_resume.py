# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A run that was interrupted ends as if it had not been; the number of processes changes nothing."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import IterableDataset
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from evaluation_concept.errors import FinishedRunError
from tests.training.tiny_run import arguments, logged, record_batches, train, write_text
from training_concept.sources import SourceError

ROOT = Path(__file__).parents[2]
# 6 steps make an epoch: interrupted in the second one, two steps behind a checkpoint.
STEPS, CHECKPOINTED, INTERRUPTED = 11, 8, 10
INTERRUPTIBLE = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 4}
# 26 rows: the last 2 of an epoch do not fill a batch of 6, and a wrapped one would differ between process counts.
SHARED = INTERRUPTIBLE | {"per_device_train_batch_size": 6, "dataloader_drop_last": True}

KILLED_RUN = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import transformers

class Kill(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == {INTERRUPTED}:
            os.kill(os.getpid(), signal.SIGKILL)

transformers.trainer.DEFAULT_CALLBACKS.append(Kill)
import run_mlm
run_mlm.main(sys.argv[1:])
"""


class Interrupt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, step: int = INTERRUPTED, **changes) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("transformers.trainer.DEFAULT_CALLBACKS", [*DEFAULT_CALLBACKS, Interrupt(step)])
        with pytest.raises(KeyboardInterrupt):
            train(folder, **INTERRUPTIBLE | changes)


def assert_same_end(folder: Path, other: Path) -> None:
    assert logged(folder / "out") == logged(other / "out")
    assert sorted(logged(folder / "out")) == list(range(1, STEPS + 1))
    weights, others = (load_file(path / "out" / "model.safetensors") for path in (folder, other))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(folder, **INTERRUPTIBLE)
    return folder


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, uninterrupted):
    command = [sys.executable, "-c", KILLED_RUN, *arguments(tmp_path, **INTERRUPTIBLE)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300).returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "model.safetensors").exists()

    train(tmp_path, **INTERRUPTIBLE)

    assert_same_end(tmp_path, uninterrupted)


def test_a_run_with_muon_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = INTERRUPTIBLE | {"muon": True, "do_eval": False}
    train(tmp_path, output_dir=str(whole / "out"), **settings)
    interrupted(tmp_path, monkeypatch, output_dir=str(parts / "out"), **settings)

    train(tmp_path, output_dir=str(parts / "out"), **settings)

    assert_same_end(parts, whole)


def test_a_run_resumes_at_its_last_checkpoint_with_other_workers(tmp_path, uninterrupted, monkeypatch):
    interrupted(tmp_path, monkeypatch, dataloader_num_workers=2, dataloader_prefetch_factor=3)
    batches = record_batches(monkeypatch)

    train(tmp_path, **INTERRUPTIBLE)

    assert len(batches) == STEPS - CHECKPOINTED
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.parametrize("regions", [False, True])
def test_a_compiled_run_goes_on_bit_for_bit(tmp_path, monkeypatch, regions):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    compiled = {"torch_compile_backend": "eager", "torch_compile_regions": regions, "do_eval": False}
    settings = INTERRUPTIBLE | compiled | {"model": "bert"}
    train(tmp_path, output_dir=str(whole / "out"), **settings)
    interrupted(tmp_path, monkeypatch, output_dir=str(parts / "out"), **settings)

    train(tmp_path, output_dir=str(parts / "out"), **settings)

    assert_same_end(parts, whole)


def mixture_recipe(folder: Path, streaming: bool) -> str:
    """A recipe of two sources in several files each, of which the smaller one counts more."""
    sources: dict[str, dict] = {}
    for number, (name, weight) in enumerate({"large": 1, "small": 2}.items()):
        files = folder / "texts" / name
        files.mkdir(parents=True, exist_ok=True)
        for shard in range(3):
            write_text(files / f"train-{shard}.txt", lines=6 - 3 * number, seed=10 * number + shard)
        sources[name] = {"path": str(files), "weight": weight}
    recipe = {"sources": sources, "streaming": streaming, "validation_split_percentage": 20}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return str(folder / "recipe.yaml")


# Each makes a few passes in its 11 steps.
DATA = {
    "packed rows": {"packing": "documents", "max_documents_per_row": 4},
    "mixture": {"packing": "documents", "mixture": False},
    "curriculum": {
        "packing": "documents", "mixture": False,
        "mlm_probability_schedule": [0.5, 0.3], "document_length_schedule": [16, 32, 64],
    },
    "rows by length": {
        "packing": None, "line_by_line": True, "max_seq_length": 96,
        "per_device_train_batch_size": 3, "train_sampling_strategy": "group_by_length",
    },
    "stream": {"streaming": True},
    "stream of lines": {"streaming": True, "packing": None, "line_by_line": True, "max_seq_length": 96},
    "stream of packed rows": {"streaming": True, "packing": "documents", "max_documents_per_row": 4},
    "stream of a mixture": {"mixture": True, "shuffle_buffer_size": 7},
}  # fmt: skip


def data_settings(folder: Path, name: str) -> dict[str, Any]:
    settings = dict(DATA[name])
    if (streaming := settings.pop("mixture", None)) is not None:
        settings |= {"data_recipe": mixture_recipe(folder, streaming), "train_file": None, "validation_file": None}
    return INTERRUPTIBLE | {"do_eval": False} | settings


@pytest.mark.parametrize(
    ("name", "workers"), [*((name, 0) for name in DATA), ("curriculum", 2), ("stream of a mixture", 2)]
)
def test_any_data_goes_on_bit_for_bit(tmp_path, monkeypatch, name, workers):
    settings = data_settings(tmp_path, name)
    if "stream" in name:  # their order follows from the number of workers
        settings["dataloader_num_workers"] = workers
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tmp_path, output_dir=str(whole / "out"), **settings)
    settings |= {"dataloader_num_workers": workers, "output_dir": str(parts / "out")}
    interrupted(tmp_path, monkeypatch, **settings)

    train(tmp_path, **settings)

    assert_same_end(parts, whole)


def test_a_run_whose_source_broke_off_goes_on_when_it_is_back(tmp_path, monkeypatch):
    settings = data_settings(tmp_path, "stream of a mixture")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    working, read, alive = IterableDataset.iter, [], math.inf

    def counted(self: IterableDataset, *args: Any, **kwargs: Any) -> Iterator[dict[str, list]]:
        for batch in working(self, *args, **kwargs):
            read.append(batch)
            if len(read) > alive:
                raise ConnectionError("the line is dead")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(IterableDataset, "iter", counted)
        train(tmp_path, output_dir=str(whole / "out"), **settings)
    alive = 0.8 * len(read)
    read.clear()
    settings["output_dir"] = str(parts / "out")
    with monkeypatch.context() as patch:
        patch.setattr("training_concept.sources.time.sleep", lambda seconds: None)
        patch.setattr(IterableDataset, "iter", counted)
        with pytest.raises(SourceError, match=r"source (large|small) broke off after \d+ documents: the line is dead"):
            train(tmp_path, **settings)
    assert (parts / "out" / "checkpoint-4").is_dir()

    train(tmp_path, **settings)

    assert_same_end(parts, whole)


def test_going_on_warns_of_nothing_but_missing_weights(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    interrupted(tmp_path, monkeypatch)
    weights = tmp_path / "out" / f"checkpoint-{CHECKPOINTED}" / "model.safetensors"
    caplog.clear()
    train(tmp_path, **INTERRUPTIBLE)
    assert "missing keys" not in caplog.text

    save_file({"model.norm.weight": load_file(weights)["model.norm.weight"]}, weights, metadata={"format": "pt"})
    train(tmp_path, **INTERRUPTIBLE, resume_from_checkpoint=str(weights.parent), output_dir=str(tmp_path / "other"))
    assert "missing keys" in caplog.text
    assert "lm_head.weight" not in caplog.text


def test_a_checkpoint_cut_short_is_passed_over(tmp_path, uninterrupted, monkeypatch):
    interrupted(tmp_path, monkeypatch)
    last = tmp_path / "out" / f"checkpoint-{CHECKPOINTED}"
    (last / "trainer_state.json").unlink()
    os.truncate(last / "model.safetensors", 1000)

    train(tmp_path, **INTERRUPTIBLE)

    assert_same_end(tmp_path, uninterrupted)


def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch)
    damaged = tmp_path / "out" / f"checkpoint-{CHECKPOINTED}" / "model.safetensors"
    os.truncate(damaged, 1000)
    before = sorted(path for path in tmp_path.rglob("*"))

    with pytest.raises(ValueError, match=f"{damaged} is damaged or cut short"):
        train(tmp_path, **INTERRUPTIBLE)

    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_named_checkpoint_is_gone_on_from(tmp_path, uninterrupted, monkeypatch):
    interrupted(tmp_path, monkeypatch)

    train(tmp_path, **INTERRUPTIBLE, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))

    assert_same_end(tmp_path, uninterrupted)


def test_a_named_checkpoint_has_to_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no complete checkpoint \(--resume_from_checkpoint\)"):
        train(tmp_path, resume_from_checkpoint="nowhere")
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_left_alone_and_can_be_repeated(tmp_path):
    train(tmp_path, save_strategy="steps", save_steps=2)
    contents = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    with pytest.raises(FinishedRunError, match="--overwrite_output_dir repeats it"):
        train(tmp_path, save_strategy="steps", save_steps=2)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == contents

    train(tmp_path, save_strategy="no", overwrite_output_dir=True, do_eval=False)
    weights = tmp_path / "out" / "model.safetensors"
    assert weights.read_bytes() == contents[weights]
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    assert not list((tmp_path / "out").glob("eval_results.json"))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 7}, "seed is 42 there and 7 here"),
        ({"max_seq_length": 32}, "data.max_seq_length is 64 there and 32 here"),
        (
            {"config_overrides": "hidden_size=64,num_attention_heads=2"},
            "configuration.hidden_size is 32 there and 64 here",
        ),
        ({"learning_rate": 0.5}, "training.learning_rate is 0.001 there and 0.5 here"),
        ({"max_steps": 12}, "training.max_steps is 11 there and 12 here"),
        ({"max_steps": None, "num_train_epochs": 4}, "training.num_train_epochs is None there and 4.0 here"),
        ({"gradient_accumulation_steps": 2}, "training.rows_per_step is 5 there and 10 here"),
        ({"lr_scheduler_type": "cosine"}, "training.lr_scheduler_type is 'linear' there and 'cosine' here"),
        ({"objectives": "mlm:1,nested:1"}, "training.objectives is 'mlm:1' there and 'mlm:1,nested:1' here"),
        ({"muon": True}, "training.muon is False there and True here"),
        ({"dtype": "bfloat16"}, "training.dtype is 'float32' there and 'bfloat16' here"),
    ],
)
def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path, uninterrupted, change, difference):
    output = uninterrupted / "out"
    contents = {path: path.stat().st_mtime_ns for path in output.rglob("*")}

    with pytest.raises(ValueError, match=f"{output} holds another run .*{difference}"):
        train(uninterrupted, **INTERRUPTIBLE | change)

    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == contents


def test_accumulated_batches_are_those_of_the_same_run(tmp_path):
    train(tmp_path, per_device_train_batch_size=4)
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    with pytest.raises(FinishedRunError):
        train(tmp_path, **halves)
    with pytest.raises(ValueError, match=r"training\.rows_per_batch is None there and 2 here"):
        train(tmp_path, **halves, objectives="contrastive:1")


def test_a_run_that_does_not_say_how_it_was_trained_is_still_known(tmp_path):
    train(tmp_path)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    del record["description"]["training"]
    (tmp_path / "out" / "run.json").write_text(json.dumps(record))
    with pytest.raises(FinishedRunError):
        train(tmp_path)


def test_an_evaluation_alone_goes_to_the_folder_of_its_model_and_to_no_other_runs(tmp_path):
    train(tmp_path)
    mine, other = tmp_path / "out", tmp_path / "other"
    train(tmp_path, output_dir=str(other), seed=7)
    results = {path.name: path.read_bytes() for path in other.glob("*_results.json")}
    alone = {"model_name_or_path": str(mine), "do_train": None, "preset": None, "config_overrides": None}
    alone["train_tokenizer_vocab_size"] = None

    with pytest.raises(ValueError, match=f"{other} holds results of another run"):
        train(tmp_path, **alone, output_dir=str(other))

    assert {path.name: path.read_bytes() for path in other.glob("*_results.json")} == results
    (mine / "eval_results.json").unlink()
    train(tmp_path, **alone)
    assert (mine / "eval_results.json").is_file()


def test_a_recipe_is_what_it_says_and_its_files_what_they_hold(tmp_path):
    recipe = Path(mixture_recipe(tmp_path, streaming=False))
    given = {"data_recipe": str(recipe), "train_file": None, "validation_file": None, "packing": "documents"}
    train(tmp_path, **given)
    moved = recipe.rename(tmp_path / "moved.yaml")
    (tmp_path / "texts").rename(tmp_path / "elsewhere")
    content = moved.read_text().replace("/texts/", "/elsewhere/")
    moved.write_text(content)
    with pytest.raises(FinishedRunError):
        train(tmp_path, **given | {"data_recipe": str(moved)})

    moved.write_text(content.replace('"weight": 2', '"weight": 3'))
    with pytest.raises(ValueError, match=r"data\.sources\.small\.weight is 2 there and 3 here"):
        train(tmp_path, **given | {"data_recipe": str(moved)})
    moved.write_text(content)
    write_text(tmp_path / "elsewhere" / "small" / "train-3.txt", lines=1)
    with pytest.raises(ValueError, match=r"holds another run .*data\.sources\.small\.path is"):
        train(tmp_path, **given | {"data_recipe": str(moved)})


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_folder_of_a_stranger_is_refused_and_left_alone(tmp_path, overwrite):
    (tmp_path / "out" / "runs").mkdir(parents=True)
    precious = tmp_path / "out" / "runs" / "thesis.tex"
    precious.write_text("precious")

    with pytest.raises(ValueError, match="is not empty and holds no run of this script"):
        train(tmp_path, overwrite_output_dir=overwrite)

    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [precious]


def test_checkpoints_carry_their_code(uninterrupted):
    files = {path.name for path in (uninterrupted / "out" / f"checkpoint-{CHECKPOINTED}").iterdir()}
    assert {"configuration_concept.py", "modeling_concept.py", "attention.py", "tokenizer.json"} <= files


def launch(folder: Path, *script: str, **settings: Any) -> subprocess.CompletedProcess:
    """Start two processes that share the batches of `SHARED` between them."""
    config = ROOT / "recipes" / "accelerate" / "ddp.yaml"
    launcher = f"{sys.executable} -m accelerate.commands.launch --config_file {config} --num_processes 2"
    launcher += " --mixed_precision no --main_process_port 0"
    shares = {"per_device_train_batch_size": 3, "ddp_backend": "gloo", "ddp_find_unused_parameters": False}
    command = [*launcher.split(), *script, *arguments(folder, **SHARED | settings | shares)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def assert_close_to_one_process(folder: Path, single: Path) -> None:
    assert logged(folder / "out") == pytest.approx(logged(single / "out"), abs=1e-4)
    assert logged(folder / "out", "grad_norm") == pytest.approx(logged(single / "out", "grad_norm"), abs=1e-4)
    assert logged(folder / "out", "eval_loss") == pytest.approx(logged(single / "out", "eval_loss"), abs=1e-4)


def test_two_processes_train_as_one_does(tmp_path_factory):
    pair, single = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("single")
    train(single, **SHARED)

    finished = launch(pair, "run_mlm.py")

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Load it with") == 1
    assert_close_to_one_process(pair, single)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curriculum", "stream of lines", "stream of a mixture"])
def test_two_processes_share_any_data(tmp_path_factory, name):
    pair, single = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("single")
    settings = SHARED | data_settings(single, name) | {"do_eval": True}
    train(single, **settings | SHARED)

    finished = launch(pair, "run_mlm.py", **settings)

    assert finished.returncode == 0, finished.stderr
    assert_close_to_one_process(pair, single)


@pytest.mark.slow
@pytest.mark.skipif(Version(torch.__version__) < Version("2.13"), reason="torch loads no tensors to `cpu:0` before")
def test_two_processes_resume_in_mid_epoch_as_one_does(tmp_path_factory):
    pair, single = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("single")
    train(single, **SHARED)
    script = pair / "killed_run.py"
    script.write_text(KILLED_RUN)
    assert launch(pair, str(script)).returncode != 0
    assert (pair / "out" / f"checkpoint-{CHECKPOINTED}").is_dir()

    finished = launch(pair, "run_mlm.py")

    assert finished.returncode == 0, finished.stderr
    assert_close_to_one_process(pair, single)
