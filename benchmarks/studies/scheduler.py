# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Hands the cells of a study to processes that share a machine, until all are done or the time is over."""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from accelerate.utils import patch_environment

from benchmarks.ladder.scheduler import stoppable, visible_gpu
from benchmarks.studies.cells import Cell
from benchmarks.studies.records import Record, read_records, write_records
from benchmarks.studies.worker import Places, work

POLL_SECONDS = 1.0
LAST_LINES = 3
PATIENCE_SECONDS = 10.0
# Probes take many small products: 64 threads waited for one another for minutes, and held the cores of other runs.
MOST_THREADS = 8
GPU_VARIABLE, THREADS_VARIABLE = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


@dataclass
class Slot:
    """A process, the GPU that it sees, and what it is at."""

    process: BaseProcess
    connection: Connection
    gpu: int
    cell: Cell | None = None
    begun: float = 0.0


@dataclass
class Study:
    """
    The state of a study that is being run.

    Attributes:
        waiting: cells that are not begun, in their order.
        places: on this machine.
        output: file that all records go to, as soon as there is another one.
        done: names of finished cells.
        kept: records that the output had before, of this machine or others; not those of cells that were begun anew.
        failed: names of failed ones.
        slots: processes.
    """

    waiting: list[Cell]
    places: Places
    output: Path
    done: set[str]
    kept: dict[str, Record] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    slots: list[Slot] = field(default_factory=list)

    def next_cell(self) -> Cell | None:
        """The first cell that all is there for; those that lack something for good are dropped."""
        coming = {cell.name for cell in self.waiting} | {slot.cell.name for slot in self.slots if slot.cell}
        for cell in list(self.waiting):
            models = [name for name in cell.needs_models if not (self.places.models / name).is_dir()]
            lost = [*models, *(name for name in cell.needs if name not in self.done | coming)]
            if lost:
                self.waiting.remove(cell)
                print(f"{cell.name}: left out, there is no {lost[0]}", flush=True)
            elif cell.needs <= self.done:
                self.waiting.remove(cell)
                return cell
        return None

    def settle(self, slot: Slot) -> None:
        """Take note of a cell that has ended."""
        assert slot.cell
        seconds = time.monotonic() - slot.begun
        if self.places.record(slot.cell).is_file():
            self.done.add(slot.cell.name)
            print(f"{slot.cell.name}: done in {seconds:.0f} s", flush=True)
        else:
            self.failed.add(slot.cell.name)
            print(
                f"{slot.cell.name}: failed after {seconds:.0f} s: {_last_lines(self.places.log(slot.cell))}",
                flush=True,
            )
        self.gather()
        slot.cell = None

    def gather(self) -> None:
        """Write all records of this machine to the output, beside what it held."""
        here = read_records(sorted(self.places.record_folder.glob("*.jsonl")))
        write_records(self.output, self.kept | here)


def run_study(
    cells: Sequence[Cell],
    places: Places,
    output: Path,
    *,
    gpus: int = 1,
    side_by_side: int = 1,
    budget: float = 0.0,
    known: Mapping[str, Record] | None = None,
) -> set[str]:
    """
    Run the cells that are not done yet. No process is left, however this ends.

    Args:
        cells: of the study, in the order in which they are begun.
        places: on this machine.
        output: file that gets all records; those that it has already stay.
        gpus: how many there are; without a GPU, groups of processes.
        side_by_side: processes that share each of them.
        budget: seconds after which what runs is ended; its finished trainings stay. 0 is no limit.
        known: records of other machines, whose cells are not run again.

    Returns:
        Names of cells that failed.

    Raises:
        ValueError: more GPUs than this process is allowed, or an output that holds something else.
        SystemExit: on SIGTERM.
    """
    for gpu in range(gpus):
        visible_gpu(gpu)
    places.record_folder.mkdir(parents=True, exist_ok=True)
    done = {cell.name for cell in cells if _is_done(cell, places, known or {})}
    kept = read_records([output] if output.is_file() else [])
    study = Study([cell for cell in cells if cell.name not in done], places, output, done, kept)
    study.gather()
    print(f"{len(study.waiting)} cells to do, {len(done)} are done", flush=True)
    deadline = time.monotonic() + budget if budget else float("inf")
    try:
        with stoppable():
            while _step(study, gpus, side_by_side):
                if time.monotonic() > deadline:
                    left = ", ".join(slot.cell.name for slot in study.slots if slot.cell)
                    print(f"The time is over; not finished: {left}; not begun: {len(study.waiting)}", flush=True)
                    break
    finally:
        for slot in study.slots:
            _end(slot)
    return study.failed


def _step(study: Study, gpus: int, side_by_side: int) -> bool:
    """Fill free slots and wait a moment. Returns whether anything is at work."""
    study.slots = [slot for slot in study.slots if slot.process.is_alive() or slot.cell]
    for slot in study.slots:
        if slot.cell is None and (cell := study.next_cell()):
            _hand_over(study, slot, cell)
    while len(study.slots) < gpus * side_by_side and (cell := study.next_cell()):
        taken = Counter(slot.gpu for slot in study.slots)
        gpu = min(range(gpus), key=lambda gpu: taken[gpu])
        study.slots.append(_start(study.places, gpu, _threads(gpus * side_by_side)))
        _hand_over(study, study.slots[-1], cell)
    busy = {slot.connection: slot for slot in study.slots if slot.cell}
    for ready in wait(list(busy), timeout=POLL_SECONDS) if busy else []:
        slot = busy[ready]  # type: ignore[index]
        try:
            slot.connection.recv()
        except EOFError:
            slot.process.join()
        study.settle(slot)
    return bool(busy)


def _threads(processes: int) -> str:
    """Of each of so many processes: what was asked for, else its share of the cores, up to `MOST_THREADS`."""
    share = max((os.cpu_count() or 1) // processes, 1)
    return os.environ.get(THREADS_VARIABLE) or str(min(share, MOST_THREADS))


def _start(places: Places, gpu: int, threads: str) -> Slot:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there, places))
    # Set before it starts: libraries that it imports may look for GPUs and cores, and what they see stays.
    with patch_environment(**{GPU_VARIABLE: visible_gpu(gpu), THREADS_VARIABLE: threads}):
        process.start()
    # Only the process has its end then, and its death is the end of the connection.
    there.close()
    return Slot(process, here, gpu)


def _end(slot: Slot) -> None:
    """Let a process go that has nothing to do, else end it."""
    if slot.cell is None and slot.process.is_alive():
        slot.connection.send(None)
        slot.process.join(PATIENCE_SECONDS)
    slot.process.kill()
    slot.process.join()


def _hand_over(study: Study, slot: Slot, cell: Cell) -> None:
    # What is there is of other settings.
    study.places.record(cell).unlink(missing_ok=True)
    study.kept.pop(cell.name, None)
    slot.cell, slot.begun = cell, time.monotonic()
    slot.connection.send(cell)


def _is_done(cell: Cell, places: Places, known: Mapping[str, Record]) -> bool:
    path = places.record(cell)
    records = [read_records([path])[cell.name]] if path.is_file() else []
    records += [known[cell.name]] if cell.name in known else []
    return any(record["command"] == cell.command for record in records)


def _last_lines(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return " / ".join(lines[-LAST_LINES:])
