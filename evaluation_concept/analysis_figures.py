# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of an analysis, drawn from its results alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation_concept.files import draft

Results = Mapping[str, Any]
DPI = 110
# Labels hold tokens of any text: none of them is a formula.
STYLE = {"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
LABELS = {"model": "this model", "random": "random weights"}
# Enrichments beyond these, as powers of 2, have the same colour.
STRONGEST = 2.0


def draw_figures(results: Results, folder: Path) -> dict[str, list[Path]]:
    """
    Draw what the results hold figures for.

    Args:
        results: of `analysis.analyse`.
        folder: PNG files are put there.

    Returns:
        By part of the analysis the files that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Path]] = {}
    with mpl.rc_context(STYLE):
        for (part, name), draw in DRAWINGS.items():
            if part in results:
                path = folder / f"{name}.png"
                _save(draw(results[part]), path)
                drawn.setdefault(part, []).append(path)
    return drawn


def _save(figure: Figure, path: Path) -> None:
    with draft(path) as draft_path:
        figure.savefig(draft_path, dpi=DPI, format="png")


def draw_spectrum(geometry: Results) -> Figure:
    """Normalised singular values of centred concepts, largest first, of the model and a random one."""
    figure, axes = _figure(6, 3.2, xlabel="direction", ylabel="share of the singular values")
    for name, values in geometry["spectrum"].items():
        axes.plot(range(1, len(values) + 1), values, label=LABELS[name])
    # A single concept has no direction to differ in.
    number = max(int(np.ceil(min(geometry["model"]["num_concepts"] - 1, geometry["model"]["width"]))), 1)
    axes.plot([1, number], [1 / number] * 2, linestyle=":", color="grey", label="all directions alike")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")  # the stock one writes powers as formulas
    axes.set_ylim(bottom=1e-5)
    axes.legend()
    return figure


def draw_correlations(geometry: Results) -> Figure:
    """Correlations of the centred concepts of the first document."""
    figure, axes = _figure(4.4, 3.8, xlabel="concept", ylabel="concept")
    image = axes.imshow(geometry["correlations"], cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(image, label="correlation")
    return figure


def draw_ablation(ablation: Results) -> Figure:
    """Loss over the share of concepts removed, beside what is known without any."""
    figure, axes = _figure(6, 3.4, xlabel="share of concepts removed", ylabel="loss (nats per masked token)")
    points = [(0.0, ablation["full"]), *ablation["without_share"], (1.0, ablation["without_concepts"])]
    axes.plot(*zip(*points, strict=True), "o-", markersize=4, label="this model")
    lines = {"unigram of the text": "unigram", "tokens alone": "tokens_alone"}
    for (label, key), style in zip(lines.items(), ("--", ":"), strict=True):
        axes.axhline(ablation[key], color="grey", linestyle=style, label=label)
    axes.legend()
    return figure


def draw_token_recovery(recovery: Results) -> Figure:
    """Area under the ROC curve of the token probes, of the model and a random one."""
    return _bars({name: {who: it["auc"] for who, it in probe.items()} for name, probe in recovery.items()}, "AUC")


def draw_order_recovery(recovery: Results) -> Figure:
    """Accuracy of the order probes, of the model and a random one."""
    kinds = {"given both": "paired_accuracy", "one by one": "single_accuracy"}
    return _bars({label: {who: it[key] for who, it in recovery.items()} for label, key in kinds.items()}, "accuracy")


def _bars(groups: Mapping[str, Mapping[str, float]], ylabel: str) -> Figure:
    figure, axes = _figure(4.4, 3, ylabel=ylabel, ylim=(0, 1.02))
    for number, who in enumerate(LABELS):
        heights = [group[who] for group in groups.values()]
        bars = axes.bar(np.arange(len(groups)) + 0.38 * number, heights, width=0.36, label=LABELS[who])
        axes.bar_label(bars, fmt="%.3f", fontsize=8)
    axes.set_xticks(np.arange(len(groups)) + 0.19, list(groups))
    axes.axhline(0.5, color="grey", linestyle=":", label="chance")
    axes.legend(loc="lower right")
    return figure


def draw_preferences(reading: Results) -> Figure:
    """What readers prefer: for each way to sort tokens, shares of their weights over shares of the text."""
    kinds = reading["preferences"]
    rows = max(len(it["readers"]) for it in kinds.values())
    widths = [len(it["names"]) for it in kinds.values()]
    figure = Figure(figsize=(3 + 0.55 * sum(widths), 2 + 0.22 * rows), layout="constrained")
    grid = figure.subplots(1, len(kinds), squeeze=False, width_ratios=widths)
    for axes, (title, it) in zip(grid[0], kinds.items(), strict=True):
        ratios = np.log2(np.maximum(it["enrichment"], 2**-STRONGEST))
        image = axes.imshow(ratios, cmap="RdBu_r", vmin=-STRONGEST, vmax=STRONGEST, aspect="auto")
        axes.set_title(f"{title} ({it['bits']:.3f} bits)", fontsize=9)
        axes.set_xticks(range(len(it["names"])), it["names"], rotation=90)
        axes.set_yticks(range(len(it["readers"])), it["readers"], fontsize=7)
    figure.colorbar(image, label="log2 of share read over share in text")
    return figure


def draw_example(reading: Results) -> Figure:
    """Which tokens each concept of one text reads."""
    example = reading["example"]
    size = (2 + 0.2 * len(example["tokens"]), 1.6 + 0.18 * len(example["concepts"]))
    figure, axes = _figure(*size, ylabel="concept")
    image = axes.imshow(example["weights"], cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(example["tokens"])), map(printable, example["tokens"]), rotation=90, fontsize=7)
    axes.set_yticks(range(len(example["concepts"])), example["concepts"], fontsize=7)
    figure.colorbar(image, label="share of the concept's reading")
    return figure


def printable(token: str) -> str:
    """A token as one visible line."""
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in token)


DRAWINGS: dict[tuple[str, str], Callable[[Results], Figure]] = {
    ("geometry", "spectrum"): draw_spectrum,
    ("geometry", "correlations"): draw_correlations,
    ("ablation", "ablation"): draw_ablation,
    ("token_recovery", "token_recovery"): draw_token_recovery,
    ("order_recovery", "order_recovery"): draw_order_recovery,
    ("reading", "preferences"): draw_preferences,
    ("reading", "reading"): draw_example,
}


def _figure(width: float, height: float, **options: Any) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot(**options)
