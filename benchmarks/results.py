# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Results files: figures and tables as JSON, each figure with what it takes to measure it again."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from evaluation_concept.files import draft, write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# Of numbers in an archive.
DIGITS = 6


@dataclass(frozen=True)
class Figure:
    """
    One measured number.

    Attributes:
        value: mean over the runs.
        spread: their standard deviation; `None` for a single run.
        runs: how many there were.
        unit: of value and spread.
        command: what measured it, to be typed in the root of the repository.
        commit: of the code that was measured.
        device: it was measured on.
        date: of the measurement, ISO 8601.
        note: what the number means, and what is required of it.
    """

    value: float
    spread: float | None
    runs: int
    unit: str
    command: str
    commit: str
    device: str
    date: str
    note: str = ""

    @classmethod
    def of_runs(cls, values: Sequence[float], **facts: Any) -> "Figure":
        """Summarise one value per run; `commit`, `device` and `date` default to here and now."""
        here = {"commit": current_commit(), "device": describe_device(), "date": date.today().isoformat()}
        spread = statistics.stdev(values) if len(values) > 1 else None
        # `mean` is exact, where `fmean` may end below a bound that is just met.
        return cls(value=statistics.mean(values), spread=spread, runs=len(values), **here | facts)


@dataclass(frozen=True)
class Table:
    """A table: a name that is unique in its file, column titles, rows of numbers and words, and a note below."""

    name: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""

    def column(self, title: str) -> list[Any]:
        """The cells of a column."""
        place = self.columns.index(title)
        return [row[place] for row in self.rows]


@dataclass(frozen=True)
class Results:
    """What a results file holds, figures and tables by name."""

    figures: dict[str, Figure]
    tables: dict[str, Table]


def brief(value: float, digits: int) -> str:
    """So many digits, and all of them before the point."""
    rounded = f"{value:.{digits}g}"
    return rounded if abs(float(rounded)) < 10**digits else f"{value:,.0f}"


def read_results(path: Path) -> Results:
    """
    Read a results file; one that is not there holds nothing.

    Raises:
        ValueError: if the file is no JSON, or lacks a part of a figure or table.
    """
    if not path.is_file():
        return Results({}, {})
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        figures = {key: Figure(**figure) for key, figure in content["figures"].items()}
        tables = [Table(**table) for table in content["tables"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no results file: {error!r}.") from error
    return Results(figures, {table.name: table for table in tables})


def merge_results(path: Path, figures: dict[str, Figure], tables: Sequence[Table] = ()) -> None:
    """Put figures and tables into a results file, in place of those of the same name. All is written, or nothing."""
    old = read_results(path)
    write_results(path, old.figures | figures, list((old.tables | {table.name: table for table in tables}).values()))


def write_results(path: Path, figures: Mapping[str, Figure], tables: Sequence[Table]) -> None:
    """Make these figures and tables all that a results file holds, so that none outlives what it was made of."""
    content = {
        "figures": {key: asdict(figure) for key, figure in figures.items()},
        "tables": [asdict(table) for table in tables],
    }
    write_json(path, content)


def current_commit() -> str:
    """Short hash of the commit that is checked out, "unknown" outside a git repository."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe_device(device: torch.device | None = None) -> str:
    """
    The GPU, if `device` is one, the processor and its cores and the version of torch, such as "NVIDIA H200, AMD EPYC,
    2 cores, torch 2.13.0".
    """
    graphics = f"{torch.cuda.get_device_name(device)}, " if device is not None and device.type == "cuda" else ""
    return f"{graphics}{_processor()}, {os.cpu_count()} cores, torch {torch.__version__.split('+')[0]}"


def _processor() -> str:
    # Where Linux tells the model, `platform` only knows the architecture.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def write_archive(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write `records` to `path` as JSON lines, with numbers of `DIGITS` digits, as a whole or not at all."""
    lines = [json.dumps(_rounded(dict(record)), sort_keys=True, separators=(",", ":")) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path) as draft_path:
        draft_path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _rounded(content: Any) -> Any:
    """All numbers in `content` to `DIGITS` digits."""
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return float(f"{content:.{DIGITS}g}") if isinstance(content, float) else content
