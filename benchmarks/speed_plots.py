# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the tables of the speed benchmark: tokens a second over the length of documents."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import matplotlib

from benchmarks.results import Table

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

PANELS = {"train_fixed": "training", "encode_fixed": "encoding"}


def plot_rates(tables: Mapping[str, Table], path: Path) -> None:
    """
    Draw training and encoding side by side, both axes logarithmic, into the PNG file `path`.

    Raises:
        ValueError: if there is neither table.
    """
    drawn = [name for name in PANELS if name in tables]
    if not drawn:
        raise ValueError(f"there is no table {' or '.join(PANELS)} to draw: measure and merge first.")
    figure, panels = plt.subplots(
        1, len(drawn), figsize=(6 * len(drawn), 4.5), sharey=True, squeeze=False, layout="constrained"
    )
    lines = {name: _lines(tables[name]) for name in drawn}
    models = sorted({model for name in drawn for model in lines[name]})
    colours = dict(zip(models, plt.get_cmap("tab20").colors * len(models), strict=False))
    for axes, name in zip(panels[0], drawn, strict=True):
        _draw_panel(axes, lines[name], colours)
        axes.set_title(PANELS[name])
    panels[0][0].set_ylabel("tokens/s")
    entries = [Line2D([], [], color=colours[model], marker="o", markersize=3, label=model) for model in models]
    figure.legend(handles=entries, fontsize="small", loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _lines(table: Table) -> dict[str, list[tuple[int, float]]]:
    """Points of each model; those of steps of another size than most are a line of their own."""
    columns = ("model", "tokens a step", "tokens of a document", "tokens/s")
    rows = list(zip(*(table.column(name) for name in columns), strict=True))
    ((usual, _),) = Counter(step for _, step, _, _ in rows).most_common(1)
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for model, step, length, rate in rows:
        lines[model if step == usual else f"{model}, {step:,} tokens a step"].append((length, rate))
    return lines


def _draw_panel(
    axes: Axes, lines: Mapping[str, list[tuple[int, float]]], colours: Mapping[str, tuple[float, float, float]]
) -> None:
    for model, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, color=colours[model])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens of a document")
    axes.grid(True, which="both", alpha=0.2)
