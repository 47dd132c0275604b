# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws what objectives and losses on concepts cost, and what they give."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from benchmarks.studies.concepts import BASELINE, MOST_COST, UNTRAINED, Measure, Row, find_rows, order_of, rank_of
from benchmarks.studies.records import Record

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PANELS: dict[str, Measure] = {"entropy rank share": rank_of, "order probe": order_of}
COLOURS = ("tab:blue", "tab:orange")


def plot_concepts(records: Mapping[str, Record], path: Path) -> None:
    """
    Draw rank and order probe of all variants over what they cost, with deviations over seeds, into a PNG file.

    Raises:
        ValueError: if no variant has been run with the seeds of its baseline.
    """
    rows = [row for row in find_rows(records) if not row.part and row.costs and row.variant != UNTRAINED]
    if all(row.variant == BASELINE for row in rows):
        raise ValueError("there is no variant to draw beside its baseline: run the study and collect first.")
    figure, panels = plt.subplots(1, len(PANELS), figsize=(6 * len(PANELS), 5))
    for axes, (label, measure) in zip(panels, PANELS.items(), strict=True):
        _draw_panel(axes, rows, measure)
        axes.set_ylabel(label)
    panels[0].legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_panel(axes: Axes, rows: Sequence[Row], measure: Measure) -> None:
    for model, colour in zip(dict.fromkeys(row.model for row in rows), COLOURS, strict=False):
        own = [row for row in rows if row.model == model]
        mean, spread = ([each(row.costs) for row in own] for each in (statistics.fmean, _deviation))
        height, deviation = ([each(row.values(measure)) for row in own] for each in (statistics.fmean, _deviation))
        axes.errorbar(mean, height, deviation, spread, fmt="o", color=colour, markersize=4, label=model)
        for row, cost, gain in zip(own, mean, height, strict=True):
            axes.annotate(row.label, (cost, gain), xytext=(4, 4), textcoords="offset points", fontsize="x-small")
    axes.margins(x=0.15)
    axes.axvline(MOST_COST, color="grey", linestyle=":")
    axes.set_xlabel("masked-LM loss less that of MLM alone (nats)")
    axes.grid(True, alpha=0.2)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
