# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiling ahead: one step of every shape that a run has, whose compiled code stays in a cache on disk."""

import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch._inductor.codecache import cache_dir
from transformers import TrainerCallback

from training_concept.combination import count_turns
from training_concept.trainer import ConceptTrainer


class _Clock(TrainerCallback):
    """When each step was done, in seconds since the epoch."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.times.append(time.time())


def warm_up(trainer: ConceptTrainer) -> dict[str, float]:
    """
    Train one step of each shape in each stage of the curriculum, without a trace in the output folder, and say how
    long it took.

    A run of the same settings on the same kind of machine then finds its code compiled; what is left is to trace the
    model. The weights of `trainer` are not of use afterwards.

    Returns:
        Seconds from the start of the process to the end of the first step (`first_step_seconds`), those of them that
        training took (`first_step_training_seconds`), and until the last step was done (`warm_up_seconds`).
    """
    steps = getattr(trainer.train_dataset, "num_stages", 1) * count_turns(trainer.args)
    trainer.args.max_steps, trainer.args.gradient_accumulation_steps = steps, 1
    clock, begin, start = _Clock(), time.time(), psutil.Process().create_time()
    trainer.add_callback(clock)
    trainer.train()
    seconds = {
        "first_step_seconds": clock.times[0] - start,
        "first_step_training_seconds": clock.times[0] - begin,
        "warm_up_seconds": clock.times[-1] - start,
    }
    if trainer.is_world_process_zero():
        _leave_nothing(Path(trainer.args.output_dir))
        print(
            f"The first step was done {seconds['first_step_seconds']:.1f} s after the start, "
            f"{seconds['first_step_training_seconds']:.1f} s after training began; {steps} in all after "
            f"{seconds['warm_up_seconds']:.1f} s. The compiled code is in {cache_dir()}."
        )
    trainer.accelerator.wait_for_everyone()
    trainer.disconnect()
    return seconds


def _leave_nothing(folder: Path) -> None:
    """Remove the output folder that stock made, unless it holds a run."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
