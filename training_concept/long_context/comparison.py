# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Configurations and models side by side: score against seconds a document and memory, as JSON, Markdown and PNG."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation_concept.files import draft, write_json
from training_concept.long_context.experiment import FIRST, MODEL
from training_concept.long_context.results import SECONDS, points

NAME = "comparison"
MEMORY = "predict_memory_gib"
AXES = {SECONDS: "seconds a document", MEMORY: "most memory of prediction, GiB"}
PANEL_INCHES, DPI = (4.2, 3.4), 150


def compare_runs(contents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """
    What to compare, by task and run: score, score on the first tokens, cost.

    Args:
        contents: by name, what results.json of a run holds.

    Raises:
        ValueError: no task that all have, or runs that scored other examples.
    """
    shared = set.intersection(*(set(content["tasks"]) for content in contents.values()))
    if not shared:
        raise ValueError(f"{', '.join(contents)} have no task in common to compare.")
    first = next(iter(contents.values()))
    compared = {}
    for name in (name for name in first["tasks"] if name in shared):
        rows = {run: content["tasks"][name] for run, content in contents.items()}
        if len({row["examples"] for row in rows.values()}) > 1:
            raise ValueError(f"{name}: these runs scored different numbers of examples.")
        compared[name] = {run: _row(row, contents[run]["max_seq_length"]) for run, row in rows.items()}
    return {"metrics": {name: first["tasks"][name]["metric"] for name in compared}, "tasks": compared}


def _row(task: Mapping[str, Any], max_seq_length: int) -> dict[str, Any]:
    systems = task["systems"]
    return {
        "score": systems.get(MODEL),
        "first_tokens": systems.get(FIRST),
        "max_seq_length": max_seq_length,
        **{name: task["facts"].get(name) for name in AXES},
    }


def comparison_table(compared: Mapping[str, Any]) -> str:
    """Markdown, a row for each task and run."""
    columns = ["task", "run", "tokens", "score", "first 512 tokens", *AXES.values()]
    lines = [f"| {' | '.join(columns)} |", f"|---|---|{'---:|' * (len(columns) - 2)}"]
    for name, runs in compared["tasks"].items():
        for run, row in runs.items():
            costs = ["" if row[axis] is None else f"{row[axis]:.4g}" for axis in AXES]
            cells = [
                name,
                run,
                f"{row['max_seq_length']:,}",
                points(row["score"]),
                points(row["first_tokens"]),
                *costs,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_comparison(folder: Path, compared: Mapping[str, Any]) -> str:
    """Write comparison.json, .md and .png to `folder`; returns the table."""
    write_json(folder / f"{NAME}.json", dict(compared))
    table = comparison_table(compared)
    with draft(folder / f"{NAME}.md") as path:
        path.write_text(table + "\n", encoding="utf-8")
    with draft(folder / f"{NAME}.png") as path, mpl.rc_context({"font.size": 9}):
        draw(compared).savefig(path, dpi=DPI, format="png")
    return table


def draw(compared: Mapping[str, Any]) -> Figure:
    """Score against each cost that was measured: a row of panels for each task."""
    tasks = compared["tasks"]
    axes = [axis for axis in AXES if any(row[axis] is not None for runs in tasks.values() for row in runs.values())]
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * max(len(axes), 1), height * len(tasks)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tasks), max(len(axes), 1), squeeze=False)
    for row, (name, runs) in zip(panels, tasks.items(), strict=True):
        for panel, axis in zip(row, axes, strict=False):
            _draw_panel(panel, runs, axis)
            panel.set(xlabel=AXES[axis], ylabel=compared["metrics"][name], title=name)
    return figure


def _draw_panel(panel: Any, runs: Mapping[str, Mapping[str, Any]], axis: str) -> None:
    panel.set_xscale("log")
    for run, row in runs.items():
        if row[axis] is None or row["score"] is None:
            continue
        spread = row["score"]["spread"] or math.nan
        panel.errorbar(row[axis], row["score"]["mean"], yerr=spread, fmt="o", capsize=3)
        panel.annotate(run, (row[axis], row["score"]["mean"]), xytext=(4, 4), textcoords="offset points", fontsize=7)
