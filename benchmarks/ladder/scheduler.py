# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Starts the runs of a contest: a process for each, one after the other on every GPU, until the budget is spent."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.ladder.settings import Settings
from benchmarks.ladder.training import describe_run
from benchmarks.ladder.worker import LEFT_OUT, Task
from benchmarks.results import ROOT
from benchmarks.timing import current_device
from evaluation_concept.files import write_json

# What of the next run is done beside the present one. Compiling warms up on the GPU whose time is measured.
AHEAD = ("none", "data", "compile")
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Plan:
    """
    How runs are started.

    Attributes:
        data: folder of the corpus.
        output: folder of records; a run whose record is there is done.
        gpus: how many there are.
        side_by_side: runs that share a GPU.
        ahead: one of `AHEAD`.
        budget: seconds after which no run starts; 0 is no limit.
        workers: processes of each run that make batches.
        cache: folder of compiled code; `None` leaves it to PyTorch.
        retry: whether to do runs again that failed.
        commit: of the code.
        save: folder that gets the trained models; `None` keeps none.
    """

    data: Path
    output: Path
    gpus: int = 1
    side_by_side: int = 1
    ahead: str = "data"
    budget: float = 0.0
    workers: int = 4
    cache: Path | None = None
    retry: bool = False
    commit: str = "unknown"
    save: Path | None = None


@dataclass
class Slot:
    """
    A GPU, or a share of one.

    Attributes:
        number: of the slot.
        gpu: its index.
        active: processes on it and their tasks, the one whose turn it is first.
    """

    number: int
    gpu: int
    active: list[tuple[subprocess.Popen, Task]] = field(default_factory=list)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise `SystemExit` in the main thread, so that what runs inside ends the processes it started."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_all(runs: Sequence[Settings], plan: Plan) -> None:
    """
    Do all runs that are not done, in this order. No process is left, however this ends.

    Raises:
        ValueError: runs for equal time that would share a GPU, or more GPUs than this process sees.
        SystemExit: on SIGTERM.
    """
    if plan.side_by_side > 1 and any(it.clock == "seconds" for it in runs):
        raise ValueError("side_by_side above 1 is for equal tokens (--tokens): runs that share a GPU share its time")
    for gpu in range(plan.gpus):
        visible_gpu(gpu)
    plan.output.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + plan.budget if plan.budget else None
    slots = [Slot(number, number // plan.side_by_side) for number in range(plan.gpus * plan.side_by_side)]
    tasks = [_task(settings, plan, deadline) for settings in runs]
    waiting = deque(task for task in tasks if not _is_done(task, plan.retry))
    print(f"{len(waiting)} runs to do, {len(tasks) - len(waiting)} are done", flush=True)
    try:
        with stoppable():
            _keep_busy(slots, waiting, plan, deadline)
    finally:
        for process, _ in (active for slot in slots for active in slot.active):
            process.kill()
            process.wait()


def _keep_busy(slots: Sequence[Slot], waiting: deque[Task], plan: Plan, deadline: float | None) -> None:
    """Start what waits wherever there is room, until all is done."""
    while waiting or any(slot.active for slot in slots):
        if deadline is not None and time.time() > deadline:
            waiting.clear()
        for slot in slots:
            slot.active = [(process, task) for process, task in slot.active if not _has_ended(process, task)]
            if waiting and len(slot.active) <= (plan.ahead != "none"):
                slot.active.append(_start(waiting.popleft(), slot, plan))
        time.sleep(POLL_SECONDS)


def _task(settings: Settings, plan: Plan, deadline: float | None) -> Task:
    return Task(
        settings=settings,
        data=str(plan.data.resolve()),
        output=str(plan.output.resolve()),
        lock="",
        deadline=deadline,
        workers=plan.workers,
        compile_ahead=plan.ahead == "compile",
        commit=plan.commit,
        save=None if plan.save is None else str(plan.save.resolve()),
    )


def _is_done(task: Task, retry: bool) -> bool:
    return task.path.is_file() and not (retry and '"error"' in task.path.read_text(encoding="utf-8"))


def visible_gpu(index: int) -> str:
    """
    What CUDA_VISIBLE_DEVICES must be for a process that is to see only the GPU `index` of those that this one sees.

    Raises:
        ValueError: if this process is not allowed so many.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return str(index)
    names = [name.strip() for name in allowed.split(",") if name.strip()]
    if index >= len(names):
        raise ValueError(f"CUDA_VISIBLE_DEVICES={allowed} allows {len(names)} GPUs; lower --gpus.")
    return names[index]


def _log(task: Task) -> Path:
    return task.path.with_suffix(".log")


def _start(task: Task, slot: Slot, plan: Plan) -> tuple[subprocess.Popen, Task]:
    task = replace(task, lock=str(plan.output.resolve() / f".slot-{slot.number}"))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible_gpu(slot.gpu)}
    # Compiling must leave cores to whoever is training.
    threads = max((os.cpu_count() or 1) // (2 * plan.gpus * plan.side_by_side), 1)
    environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))
    if plan.cache is not None:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(plan.cache.resolve())
    command = [sys.executable, "-u", "-m", "benchmarks.ladder.worker", task.to_json()]
    with _log(task).open("w", encoding="utf-8") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log), task


def _has_ended(process: subprocess.Popen, task: Task) -> bool:
    """Whether a process has; one that left no record has failed, and gets one."""
    if (code := process.poll()) is None:
        return False
    if code == LEFT_OUT:
        print(f"{task.settings.name}: left out, the budget is spent", flush=True)
    elif not task.path.is_file():
        lines = _log(task).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        error = f"the process ended with {code}: {' '.join(lines[-1:])[:500]}"
        record = describe_run(task.settings, current_device())
        write_json(task.path, record | {"error": error, "commit": task.commit})
        print(f"{task.settings.name}: {error}", flush=True)
    return True
