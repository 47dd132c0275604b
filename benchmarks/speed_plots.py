# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the tables of the speed benchmark: tokens a second over the length of documents."""

from collections import defaultdict
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
    models = sorted({model for name in drawn for model in tables[name].column("model")})
    colours = dict(zip(models, plt.get_cmap("tab10").colors * len(models), strict=False))
    for axes, name in zip(panels[0], drawn, strict=True):
        _draw_panel(axes, tables[name], colours)
        axes.set_title(PANELS[name])
    panels[0][0].set_ylabel("tokens/s")
    entries = [Line2D([], [], color=colours[model], marker="o", markersize=3, label=model) for model in models]
    figure.legend(handles=entries, fontsize="small", loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_panel(axes: Axes, table: Table, colours: Mapping[str, tuple[float, float, float]]) -> None:
    columns = (table.column(name) for name in ("model", "tokens of a document", "tokens/s"))
    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for model, length, rate in zip(*columns, strict=True):
        lines[model][length] = max(rate, lines[model].get(length, rate))
    for model, points in lines.items():
        axes.plot(*zip(*sorted(points.items()), strict=True), marker="o", markersize=3, color=colours[model])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens of a document")
    axes.grid(True, which="both", alpha=0.2)
