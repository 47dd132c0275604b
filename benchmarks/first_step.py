# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Time from the start of a command to the end of its first compiled training step, nothing compiled before."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import ROOT

# Folders in which compilers keep what they made before.
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME", "CUDA_CACHE_PATH")


def measure_first_steps(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """
    For every contender and repeat: the seconds until its first step was done, and of these the step's own.

    Raises:
        ValueError: if the folder to keep what is compiled in (`options.cache`) holds something.
    """
    if options.cache and options.cache.is_dir() and any(options.cache.iterdir()):
        raise ValueError(f"{options.cache} is not empty: a first step finds nothing compiled (--cache).")
    for contender in options.contenders:
        case = {name: getattr(options, name) for name in ("length", "attention", "compile", "tokens", "dtype")}
        case["contender"] = contender
        for _ in range(options.repeats):
            yield case | measure_in_fresh_process(case, options.cache)


def measure_in_fresh_process(case: dict[str, Any], cache: Path | None = None) -> dict[str, float]:
    """
    `seconds` from the start of a process with empty caches until its first training step was done, and `step_s`.

    What it compiles is left in `cache`, if that is given, for processes whose environment names it.

    Raises:
        subprocess.CalledProcessError: if the process fails.
    """
    with nullcontext(cache) if cache else tempfile.TemporaryDirectory() as folder:
        fresh = {name: os.path.join(folder, name) for name in CACHES}
        command = [sys.executable, "-m", "benchmarks.first_step", json.dumps(case | {"started": time.time()})]
        child = subprocess.run(
            command, cwd=ROOT, env=os.environ | fresh, stdout=subprocess.PIPE, check=True, text=True
        )
    return json.loads(child.stdout.splitlines()[-1])


def run_here(case: dict[str, Any]) -> dict[str, float]:
    """The first training step of `case` in this process, which was started at `started`."""
    # What these import is part of the time that is measured.
    from benchmarks.cells import Cell, Setting, allow_cudnn, prepare, training_step
    from benchmarks.contenders import CONTENDERS
    from benchmarks.timing import current_device, synchronise
    from benchmarks.workload import make_documents

    device, contender = current_device(), CONTENDERS[case["contender"]]
    allow_cudnn(False)
    setting = Setting(device, getattr(torch, case["dtype"]), case["tokens"], 0, 1)
    documents = make_documents(case["length"], case["tokens"], False, 1, device)
    cell = Cell(case["contender"], "train", case["length"], False, case["attention"], case["compile"])
    step = training_step(*prepare(cell, contender, setting, documents), setting)
    begin = time.time()
    step()
    synchronise(device)
    end = time.time()
    return {"seconds": end - case["started"], "step_s": end - begin}


if __name__ == "__main__":
    print(json.dumps(run_here(json.loads(sys.argv[1]))))
