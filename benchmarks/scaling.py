# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Training on several devices of one host (DistributedDataParallel), with the same batch for each; and beside it what is
to be sent at every step, an all-reduce of as many numbers as there are gradients.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from benchmarks.cells import Cell, Setting, allow_cudnn, prepare, training_step
from benchmarks.contenders import CONTENDERS
from benchmarks.results import ROOT
from benchmarks.timing import time_steps
from benchmarks.workload import make_documents
from evaluation_concept.files import write_json

# How gradients are sent: as they are, or rounded on the way.
GRADIENTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure_scaling(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """
    For every number of processes: seconds of a step by repeat, tokens of a step of all of them together, and where
    there are several, seconds of the all-reduce alone.
    """
    names = ("contender", "length", "attention", "compile", "tokens", "dtype", "steps", "repeats", "gradients")
    case = {name: getattr(options, name) for name in names}
    for processes in options.processes:
        yield case | {"processes": processes} | run_processes(case, processes)


def run_processes(case: dict[str, Any], processes: int) -> dict[str, Any]:
    """
    Train with `processes` of them, under torchrun.

    Raises:
        subprocess.CalledProcessError: if one of them fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "entry.json"
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        worker = ["-m", "benchmarks.scaling", json.dumps(case), str(output)]
        subprocess.run([sys.executable, "-m", *launcher, *worker], cwd=ROOT, check=True)
        return json.loads(output.read_text(encoding="utf-8"))


def train_here(case: dict[str, Any]) -> dict[str, Any]:
    """The part of one process. All of them get the same result."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    allow_cudnn(False)
    setting = Setting(device, getattr(torch, case["dtype"]), case["tokens"], 0, case["repeats"])
    documents = make_documents(case["length"], case["tokens"], False, setting.batches, device)
    cell = Cell(case["contender"], "train", case["length"], False, case["attention"], case["compile"])
    torch.manual_seed(0)
    with ExitStack() as stack:
        model, batches = prepare(cell, CONTENDERS[case["contender"]], setting, documents)
        if world > 1:
            stack.callback(distributed.destroy_process_group)
            model = _replicate(model, device, case["gradients"])
        # All processes must take the same number of steps, so that does not depend on how long one takes.
        step = training_step(model, batches, setting)
        timing = time_steps(step, device, 0, setting.repeats, warm_up=5, steps=case["steps"])
        sending = time_sending(model, device, case) if world > 1 else []
        # Before the processes part, see `SavingTrainer.disconnect`.
        del model, step
    tokens = world * sum(documents[0].lengths)
    return {
        "tokens": tokens,
        "seconds": timing.seconds,
        "peak_bytes": timing.peak_bytes,
        "all_reduce_seconds": sending,
    }


def time_sending(model: nn.Module, device: torch.device, case: dict[str, Any]) -> list[float]:
    """Seconds by repeat of an all-reduce of as many numbers as `model` has gradients, when nothing else runs."""
    numbers = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    gradients = torch.zeros(numbers, device=device, dtype=GRADIENTS[case["gradients"]])

    def send() -> None:
        distributed.all_reduce(gradients)

    return time_steps(send, device, 0, case["repeats"], warm_up=2, steps=case["steps"]).seconds


def _replicate(model: nn.Module, device: torch.device, gradients: str) -> nn.Module:
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(minutes=5))
    ids = [device.index] if device.type == "cuda" else None
    replica = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    if gradients == "bfloat16":
        replica.register_comm_hook(None, bf16_compress_hook)
    return replica


if __name__ == "__main__":
    result = train_here(json.loads(sys.argv[1]))
    if os.environ["RANK"] == "0":
        write_json(Path(sys.argv[2]), result)
