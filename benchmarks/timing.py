# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Times steps and kernels on a device, how much of its memory they take, and what the device can do at most."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

Step = Callable[[], Any]

# Edge of the square matrices and size of the copied buffer by which a device's ceilings are measured.
MATRIX_EDGE = {"cuda": 8192, "cpu": 1024}
COPIED_BYTES = {"cuda": 2**32, "cpu": 2**27}
MOST_STEPS = 200


@dataclass(frozen=True)
class Timing:
    """
    What steps take.

    Attributes:
        seconds: of one step, by repeat.
        steps: in every repeat.
        first: seconds of the very first step, compilation included.
        peak_bytes: most device memory in use during the repeats; `None` on a CPU.
    """

    seconds: list[float]
    steps: int
    first: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Ceilings:
    """
    The most that a device does, measured; one entry by repeat.

    Attributes:
        matmul_flops: operations a second of a square matrix product.
        copy_bytes: bytes a second that a copy on the device reads and writes.
    """

    matmul_flops: list[float]
    copy_bytes: list[float]


def current_device() -> torch.device:
    """The accelerator of this process, the CPU if there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def synchronise(device: torch.device) -> None:
    """Wait for what is queued on `device`."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def time_steps(
    step: Step, device: torch.device, seconds: float, repeats: int, warm_up: int = 3, steps: int | None = None
) -> Timing:
    """
    Time `repeats` times `steps` steps, or as many as fill about `seconds`, after `warm_up` steps. The first of these
    compiles.

    On a GPU by its own clock (CUDA events), which the host does not wait for inside a repeat.
    """
    first = _wall_clock(step, device)
    for _ in range(warm_up - 1):
        step()
    steps = steps or min(max(math.ceil(seconds / max(_wall_clock(step, device), 1e-6)), 1), MOST_STEPS)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    measured = [_one_repeat(step, device, steps) / steps for _ in range(repeats)]
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Timing(measured, steps, first, peak)


def measure_ceilings(device: torch.device, dtype: torch.dtype, repeats: int = 5, seconds: float = 0.1) -> Ceilings:
    """Speed of a large matrix product in `dtype` and of a large copy on `device`."""
    edge, size = MATRIX_EDGE[device.type], COPIED_BYTES[device.type]
    matrices = [torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(3)]
    matmul = time_steps(lambda: torch.mm(matrices[0], matrices[1], out=matrices[2]), device, seconds, repeats)
    buffers = [torch.zeros(size, device=device, dtype=torch.uint8) for _ in range(2)]
    copy = time_steps(lambda: buffers[0].copy_(buffers[1]), device, seconds, repeats)
    return Ceilings([2 * edge**3 / it for it in matmul.seconds], [2 * size / it for it in copy.seconds])


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """
    Break off what runs inside after `seconds`; 0 never does. Only for the main thread, on systems with SIGALRM.

    Raises:
        TimeoutError: when the time is over.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds:g} seconds")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _wall_clock(step: Step, device: torch.device) -> float:
    synchronise(device)
    begin = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - begin


def _one_repeat(step: Step, device: torch.device, steps: int) -> float:
    """Seconds that `steps` steps take together."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        return time.perf_counter() - begin
    begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin_event.record()
    for _ in range(steps):
        step()
    end_event.record()
    torch.cuda.synchronize(device)
    return begin_event.elapsed_time(end_event) / 1000
