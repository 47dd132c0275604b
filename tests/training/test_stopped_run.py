# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A run that is told to stop (SIGTERM, as by `timeout` or a scheduler) saves a checkpoint and goes on from it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.training.tiny_run import arguments, logged, train

ROOT = Path(__file__).parents[2]
STEPS, STOPPED = 7, 3
SETTINGS = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 100, "enable_jit_checkpoint": True}

# Stock waits for some seconds after the signal, in which the tiny run would end.
STOPPED_RUN = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import transformers
from transformers.trainer_jit_checkpoint import CheckpointManager

CheckpointManager._sigterm_handler = lambda self, *args: self._enable_checkpoint()

class Stop(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == {STOPPED}:
            os.kill(os.getpid(), signal.SIGTERM)

transformers.trainer.DEFAULT_CALLBACKS.append(Stop)
import run_mlm
print(run_mlm.main(sys.argv[1:]))
"""


def test_a_run_that_is_told_to_stop_saves_and_goes_on(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tmp_path, output_dir=str(whole), **SETTINGS)
    command = [sys.executable, "-c", STOPPED_RUN, *arguments(tmp_path, output_dir=str(parts), **SETTINGS)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert process.returncode == 0, process.stderr
    assert process.stdout.strip().splitlines()[-1] == "{}"
    assert f"of {STEPS}. Started again, the run goes on from there." in process.stderr
    assert [path.name for path in parts.glob("checkpoint-*")] == [f"checkpoint-{STOPPED}"]
    assert not json.loads((parts / "run.json").read_text())["finished"]
    assert not (parts / "model.safetensors").exists()
    assert not (parts / "eval_results.json").exists()

    train(tmp_path, output_dir=str(parts), **SETTINGS)

    assert logged(parts) == logged(whole)
    assert sorted(logged(parts)) == list(range(1, STEPS + 1))
    weights, others = (load_file(folder / "model.safetensors") for folder in (parts, whole))
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert json.loads((parts / "run.json").read_text())["finished"]


def test_a_run_that_ends_by_itself_gives_the_signal_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(tmp_path, **SETTINGS | {"max_steps": 1})
    assert signal.getsignal(signal.SIGTERM) is before
