# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A process that runs cells one after the other, so that starting Python and its libraries is paid for once."""

import gc
import importlib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ladder.worker import PRETRAINING_FILE
from benchmarks.studies.cells import CELLS, MODELS, TASKS, Cell
from benchmarks.studies.records import REFERENCES, Predictions, Record, make_record, write_records
from evaluation_concept.errors import FinishedRunError
from evaluation_concept.files import weights_digest

# What goes on of the ladder's record of a model's pretraining.
PRETRAINING_FACTS = ("run", "seconds", "tokens", "commit", "date")
# The scripts' own, which no study compares by.
LOCAL = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no"}


@dataclass(frozen=True)
class Places:
    """
    Where things are on this machine.

    Attributes:
        models, tasks: folders of pretrained models and of kept tasks.
        work: gets folders of cells, records and logs.
        commit: of the code, where there is no git to ask.
    """

    models: Path
    tasks: Path
    work: Path
    commit: str | None = None

    def named(self) -> dict[str, Path]:
        """By the names that studies have for them."""
        return {MODELS: self.models, TASKS: self.tasks, CELLS: self.work / "cells"}

    @property
    def record_folder(self) -> Path:
        """The folder of all records."""
        return self.work / "records"

    def record(self, cell: Cell) -> Path:
        """The file of the record of a cell."""
        return self.record_folder / f"{cell.name}.jsonl"

    def log(self, cell: Cell) -> Path:
        """The file of what a cell prints."""
        return self.work / "logs" / f"{cell.name}.log"


def work(connection: Connection, places: Places) -> None:
    """Run the cells that come, until `None` does; answer each with `None`. One that fails ends the process."""
    # A spawned process would spawn its own, too: workers of a loader that import everything anew at every epoch.
    multiprocessing.set_start_method(None, force=True)
    while (cell := connection.recv()) is not None:
        with _output_to(places.log(cell)):
            try:
                perform(cell, places)
            except BaseException:
                # What a failed kernel leaves behind would make others fail, too.
                traceback.print_exc()
                raise SystemExit(1) from None
        connection.send(None)


def perform(cell: Cell, places: Places) -> Record:
    """
    Run a cell in this process and write its record, which is returned.

    Raises:
        Exception: what the script does.
    """
    begun, named = time.perf_counter(), places.named()
    script = importlib.import_module(cell.script)
    try:
        results = script.main([*cell.flags(named), *_defaults(cell)])
    except FinishedRunError:
        results = {}
    models = {name: places.models / name for name in cell.needs_models}
    facts = {
        "seconds": time.perf_counter() - begun,
        "weights": {name: weights_digest(folder) for name, folder in models.items()},
        "pretraining": {name: _pretraining(folder) for name, folder in models.items()},
        **({"commit": places.commit} if places.commit else {}),
        **({"calibration": dict(cell.calibration)} if cell.calibration else {}),
    }
    folder = named[CELLS] / cell.name
    own = results["tasks"][cell.task] if cell.task else results
    record = make_record(cell, own, read_predictions(folder, cell.task) if cell.task else None, **facts)
    write_records(places.record(cell), {cell.name: record})
    gc.collect()
    # Compiled code of a model that is gone counts towards what the compiler keeps of a function.
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return record


def read_predictions(folder: Path, task: str) -> Predictions:
    """
    What a run of `run_glue.py` or `run_long_context.py` predicted for the one split that it scored.

    Raises:
        OSError: there are none.
    """
    arrays = folder / "predictions" / f"{task}.npz"
    if arrays.is_file():
        return _of_arrays(arrays)
    content = json.loads(arrays.with_suffix(".json").read_text(encoding="utf-8"))
    ((right,)) = content.pop(REFERENCES)
    return Predictions.of_answers(right, content)


def _of_arrays(path: Path) -> Predictions:
    with np.load(path, allow_pickle=False) as arrays:
        by_name = {tuple(name.split("/", 1)): arrays[name] for name in arrays.files}
    (split,) = {split for system, split in by_name if system == REFERENCES}
    systems = {system: values for (system, of), values in by_name.items() if of == split and system != REFERENCES}
    return Predictions(by_name[REFERENCES, split], systems)


def _defaults(cell: Cell) -> list[str]:
    return [text for name, value in LOCAL.items() if name not in cell.arguments for text in (f"--{name}", str(value))]


def _pretraining(folder: Path) -> Mapping[str, Any] | None:
    path = folder / PRETRAINING_FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return known and {name: known.get(name) for name in PRETRAINING_FACTS}


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """What this process and its libraries print goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as log:
        kept = [os.dup(stream) for stream in (1, 2)]
        try:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            yield
        finally:
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
