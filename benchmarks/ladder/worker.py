# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.ladder.worker TASK`: one run in a process of its own, on the device that it sees."""

import fcntl
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ladder.corpus import load_corpus
from benchmarks.ladder.settings import Settings
from benchmarks.ladder.training import LeftOutError, perform
from benchmarks.timing import current_device
from evaluation_concept.files import write_json

# What a process ends with if there was no time left for its run.
LEFT_OUT = 75
# The record of its run in the folder of a model that is kept.
PRETRAINING_FILE = "pretraining.json"


@dataclass(frozen=True)
class Task:
    """
    What a worker is told.

    Attributes:
        settings: of its run.
        data: folder of the corpus.
        output: folder that gets the record.
        lock: file that processes which share a device hold in turns.
        deadline: seconds since the epoch after which no run starts; `None` is never.
        workers: processes that make batches.
        compile_ahead: whether to compile before it is the run's turn.
        commit: of the code.
        save: gets the trained models, each with its record in a folder named after its run; `None` keeps none.
    """

    settings: Settings
    data: str
    output: str
    lock: str
    deadline: float | None
    workers: int
    compile_ahead: bool
    commit: str
    save: str | None = None

    @property
    def path(self) -> Path:
        """The record."""
        return Path(self.output) / f"{self.settings.name}.json"

    @property
    def model_folder(self) -> Path | None:
        """What the trained model is kept in."""
        return None if self.save is None else Path(self.save) / self.settings.name

    def to_json(self) -> str:
        """For the command line of a worker."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Of `to_json`."""
        content = json.loads(text)
        return cls(**content | {"settings": Settings.from_json(content["settings"])})


@contextmanager
def take_turn(lock: Path, deadline: float | None) -> Iterator[None]:
    """
    Have the device for oneself.

    Raises:
        LeftOutError: it is too late to start.
    """
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if deadline is not None and time.time() > deadline:
            raise LeftOutError("the budget is spent")
        yield


def main(arguments: Sequence[str]) -> int:
    """Do the run of a task and write its record. Returns the exit status."""
    task = Task.from_json(arguments[0])
    try:
        record = perform(
            task.settings,
            lambda: load_corpus(task.data),
            current_device(),
            task.workers,
            take_turn(Path(task.lock), task.deadline),
            task.compile_ahead,
            task.model_folder,
        )
    except LeftOutError:
        return LEFT_OUT
    record |= {"commit": task.commit}
    write_json(task.path, record)
    if task.model_folder and task.model_folder.is_dir():
        write_json(task.model_folder / PRETRAINING_FILE, record)
    print(summary_line(record), flush=True)
    return 0


def summary_line(record: dict[str, Any]) -> str:
    """A run in one line."""
    if "error" in record:
        return f"{record['run']}: {record['error']}"
    scores = record["evaluation"]["validation"]
    return (
        f"{record['run']}: loss {scores['loss']:.4f} (unigram {scores['unigram']:.3f}), "
        f"{record['tokens'] / 1e6:.1f}M tokens in {record['seconds']:.1f} s, "
        f"{record['tokens_per_second']:,.0f} tok/s, compiled in {record['compile_seconds']:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
