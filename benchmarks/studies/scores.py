# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of records, in points, and by how much one system is ahead of another on the same examples."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.results import Figure, Table
from benchmarks.studies.records import Predictions, Record
from evaluation_concept.comparison import paired_bootstrap
from evaluation_concept.metrics import score

BASELINES, COSTS = "baselines", "costs"
# Of models, tasks and what comes of a study, in its command.
FOLDERS = "--models MODELS --tasks TASKS --work WORK --output FILE"
MODEL = "model"


@dataclass(frozen=True)
class Who:
    """
    A column of a table.

    Attributes:
        title: as tables call it.
        group: of its records.
        model: nickname; "" in baselines.
        variant: of the settings.
        system: among the predictions of a record: the model, or what stands beside it.
    """

    title: str
    group: str
    model: str = ""
    variant: str = ""
    system: str = MODEL


class Scores:
    """
    All predictions of a study.

    Args:
        records: by cell.
        metrics: by task, keys of `evaluation_concept.metrics.METRICS`.
        study: name of its file in recipes/studies, for the command that figures show.
    """

    def __init__(self, records: Mapping[str, Record], metrics: Mapping[str, str], study: str) -> None:
        self.metrics, self.study = metrics, study
        self._records: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
        for record in sorted(records.values(), key=lambda it: it.get("seed", 0)):
            self._records[record["group"], record["model"], record["variant"], record["task"]].append(record)
        self._unpacked: dict[str, Predictions] = {}

    def record(self, who: Who, task: str) -> Record | None:
        """Of a task, if it was run; that of the first seed where each has its own."""
        return next(iter(self.records(who, [task])), None)

    def records(self, who: Who, tasks: Iterable[str]) -> list[Record]:
        """Of all tasks that were run, seed by seed."""
        return [it for task in tasks for it in self._records.get((who.group, who.model, who.variant, task), [])]

    def predictions(self, who: Who, task: str) -> tuple[np.ndarray, np.ndarray] | None:
        """
        Predictions `[runs, n]` and what is right `[n]`; `None` if it was not run.

        Raises:
            ValueError: seeds that have a record each were scored on other examples.
        """
        packed = [self._unpack(record) for record in self.records(who, [task]) if record["predictions"] is not None]
        found = [each for each in packed if who.system in each.systems]
        if not found:
            return None
        if not all(_same(each.references, found[0].references) for each in found):
            raise ValueError(f"{task}: seeds of {who.title} were not scored on the same examples")
        return np.concatenate([each.systems[who.system] for each in found]), found[0].references

    def _unpack(self, record: Record) -> Predictions:
        if record["cell"] not in self._unpacked:
            self._unpacked[record["cell"]] = Predictions.unpack(record["predictions"])
        return self._unpacked[record["cell"]]

    def points(self, who: Who, task: str) -> list[float]:
        """Scores of all runs; none if it was not run."""
        found = self.predictions(who, task)
        return [score(self.metrics[task], run, found[1]) for run in found[0]] if found else []

    def average(self, who: Who, tasks: Sequence[str]) -> list[float]:
        """Averages over the tasks, run by run; none if a task is missing."""
        by_task = [self.points(who, task) for task in tasks]
        runs = min((len(points) for points in by_task), default=0)
        return [statistics.fmean(points[run] for points in by_task) for run in range(runs)]

    def shared(self, tasks: Iterable[str], everyone: Sequence[Who]) -> list[str]:
        """The tasks that all of them were run on."""
        return [task for task in tasks if all(self.points(who, task) for who in everyone)]

    def ahead(self, task: str, ours: Who, theirs: Who) -> str:
        """
        Points and the 95 % interval of a paired bootstrap; "" if either was not run.

        Raises:
            ValueError: they were scored on other examples.
        """
        sides = self.predictions(ours, task), self.predictions(theirs, task)
        if sides[0] is None or sides[1] is None:
            return ""
        if not _same(sides[0][1], sides[1][1]):
            raise ValueError(f"{task}: {ours.title} and {theirs.title} were not scored on the same examples")
        found = paired_bootstrap(self.metrics[task], sides[0][0], sides[1][0], sides[0][1])
        return f"{found.points:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"

    def figure(self, values: Sequence[float], records: Sequence[Record], note: str, unit: str = "points") -> Figure:
        """A figure of these values that came of these records."""
        facts = {key: ", ".join(sorted({str(it[key]) for it in records})) for key in ("commit", "device")}
        date = max(record["date"] for record in records)
        weights = {digest for it in records for digest in (it.get("weights") or {}).values()}
        pretrained = f"; {len(weights)} pretrained checkpoints" if len(weights) > 1 else ""
        command = f"python -m benchmarks.studies run recipes/studies/{self.study}.yaml {FOLDERS}"
        if all(record["group"] == BASELINES for record in records):
            command = records[0]["command"]
        return Figure.of_runs(values, unit=unit, command=command, date=date, note=f"{note}{pretrained}", **facts)


def _same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return len(ours) == len(theirs) and bool(np.allclose(ours, theirs, atol=1e-4))


def points_cell(points: Sequence[float]) -> str:
    """Mean, spread and number of runs; "" if there are none."""
    if not points:
        return ""
    spread = f" ± {statistics.stdev(points):.1f} ({len(points)})" if len(points) > 1 else ""
    return f"{statistics.fmean(points):.1f}{spread}"


def points_table(name: str, scores: Scores, tasks: Sequence[str], everyone: Sequence[Who], note: str) -> Table:
    """Tasks and their average, a column for each of those who were run on any."""
    present = [who for who in everyone if any(scores.points(who, task) for task in tasks)]
    rows = [
        [f"`{task}`", _number(scores, present, task), *(points_cell(scores.points(who, task)) for who in present)]
        for task in tasks
    ]
    if len(tasks) > 1:
        rows.append(["average", "", *(points_cell(scores.average(who, tasks)) for who in present)])
    return Table(name, ["task", "examples", *(who.title for who in present)], rows, note)


def _number(scores: Scores, everyone: Sequence[Who], task: str) -> Any:
    sizes = [len(found[1]) for found in (scores.predictions(who, task) for who in everyone) if found]
    return sizes[0] if sizes else ""


def differences_table(
    name: str, scores: Scores, tasks: Sequence[str], ours: Who, others: Sequence[Who], note: str
) -> Table:
    """By how many points one is ahead of others, with intervals."""
    present = [who for who in others if any(scores.points(who, task) for task in tasks)]
    rows = [[f"`{task}`", *(scores.ahead(task, ours, who) for who in present)] for task in tasks]
    return Table(name, ["task", *(f"ahead of {who.title}" for who in present)], rows, note)


def cost_results(records: Mapping[str, Record]) -> tuple[dict[str, Figure], list[Table]]:
    """Figures and tables of what was timed, which their records hold."""
    figures, tables = {}, []
    for record in (it for it in records.values() if it["group"] == COSTS):
        facts = {key: record[key] for key in ("command", "commit", "device", "date")}
        for key, found in record["results"]["figures"].items():
            figures[key] = Figure.of_runs(found["values"], unit=found["unit"], note=found["note"], **facts)
        tables += [Table(**table) for table in record["results"]["tables"]]
    return figures, tables
