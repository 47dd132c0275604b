# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What is kept of a cell: a JSON object with its results and, packed, its predictions; many of them as JSON lines."""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import current_commit, describe_device, write_archive
from benchmarks.studies.cells import Cell

Record = dict[str, Any]
# Decimals of predicted values, and digits of numbers in the archive.
DECIMALS = 4
REFERENCES = "references"
REQUIRED = ("cell", "group", "model", "variant", "task", "device", "date")


@dataclass(frozen=True, eq=False)
class Predictions:
    """
    Of a task.

    Attributes:
        references: what is right, `[n]`.
        systems: by name `[runs, n]`.
    """

    references: np.ndarray
    systems: Mapping[str, np.ndarray]

    @classmethod
    def of_answers(cls, right: Mapping[str, Any], systems: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Predictions":
        """
        Of answers by the identity of what was asked, those of a system run by run: numbers for them, which take less
        room.

        Whoever was scored on the same gets the same `references`, whatever was predicted, and in whatever order.
        """
        names = sorted(right)
        answers = {run[name] for runs in systems.values() for run in runs for name in names}
        references = [right[name] for name in names]
        numbers = {
            answer: number for number, answer in enumerate([*sorted({*references}), *sorted(answers - {*references})])
        }
        return cls(
            np.array([numbers[answer] for answer in references]),
            {
                system: np.array([[numbers[run[name]] for name in names] for run in runs])
                for system, runs in systems.items()
            },
        )

    def pack(self) -> str:
        """As text."""
        content = {REFERENCES: self.references, **self.systems}
        rounded = {name: _plain(values) for name, values in content.items()}
        return base64.b64encode(zlib.compress(json.dumps(rounded).encode(), 9)).decode()

    @classmethod
    def unpack(cls, text: str) -> "Predictions":
        """Of `pack`."""
        content = json.loads(zlib.decompress(base64.b64decode(text)))
        arrays = {name: np.asarray(values) for name, values in content.items()}
        return cls(arrays.pop(REFERENCES), arrays)


def _plain(values: np.ndarray) -> list:
    return (np.round(values, DECIMALS) if values.dtype.kind == "f" else values).tolist()


def make_record(cell: Cell, results: Any, predictions: Predictions | None, **facts: Any) -> Record:
    """A record of a cell that has just been run on this machine."""
    return {
        "cell": cell.name,
        "group": cell.group,
        "model": cell.model,
        "variant": cell.variant,
        "task": cell.task,
        **({} if cell.seed is None else {"seed": cell.seed}),
        **({} if cell.weight is None else {"weight": cell.weight}),
        "command": cell.command,
        **origin(),
        "results": results,
        "predictions": predictions.pack() if predictions else None,
        **facts,
    }


def origin() -> dict[str, str]:
    """Of which code, where and when something is measured."""
    return {"commit": current_commit(), "device": device_name(), "date": date.today().isoformat()}


def device_name() -> str:
    """The GPU and the version of torch, or the processor."""
    if not torch.cuda.is_available():
        return describe_device()
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__.split('+')[0]}"


def read_records(paths: Iterable[Path]) -> dict[str, Record]:
    """
    Records by cell; of two of a cell the later one counts.

    Raises:
        OSError: a file that is not there.
        ValueError: a line that is no record.
    """
    records = {}
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            record = _parse(path, number, line)
            records[record["cell"]] = record
    return records


def write_records(path: Path, records: Mapping[str, Record]) -> None:
    """Write records as JSON lines, sorted by cell, as a whole or not at all."""
    write_archive((records[name] for name in sorted(records)), path)


def _parse(path: Path, number: int, line: str) -> Record:
    try:
        record = json.loads(line)
        if missing := [key for key in REQUIRED if key not in record]:
            raise ValueError(f"it lacks {missing[0]}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, line {number} is no record of a cell: {error}") from error
    return record
