# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws training loss against time (or tokens) for each contest, and loss against size where it has several sizes."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ladder.report import Contest, Standing

matplotlib.use("Agg")

from matplotlib import pyplot as plt

# Points that are averaged, of the `CURVE_POINTS` of a run.
SMOOTHING = 7
MOST_LINES = 12
# One part in so many of a run is its beginning.
BEGINNING = 8
# Kinds that come in several sizes, and how their lines are drawn.
SIZES_OF = {"preset": "-", "former preset": "-.", "bert": "--", "modernbert": ":"}
FEWEST_SIZES = 3


def plot_contest(contest: Contest, group: Sequence[Standing], path: Path) -> None:
    """Draw the curves of the best variants' first seeds into the PNG file `path`, controls dashed."""
    figure, axes = plt.subplots(figsize=(8, 5))
    axes.set_prop_cycle(color=plt.get_cmap("tab20").colors[::2] + plt.get_cmap("tab20").colors[1::2])
    by_tokens = group[0].outcomes[0].settings.clock == "tokens"
    highest = 0.0
    for standing in group[:MOST_LINES]:
        seconds, tokens, losses = np.array(standing.outcomes[0].record["curve"]).T
        across = tokens / 1e6 if by_tokens else seconds
        line = "--" if standing.variant.family == "control" else "-"
        axes.plot(_smooth(across), _smooth(losses), line, label=f"{standing.label} {standing.loss:.3f}")
        highest = max(highest, losses[len(losses) // BEGINNING :].max())
    # Where all fall alike, before that, there is nothing to see.
    axes.set_ylim(top=highest)
    axes.set_xlabel("million tokens" if by_tokens else "seconds of training")
    axes.set_ylabel("training loss, nats per masked token")
    axes.set_title(f"documents of {contest[0]} tokens, {contest[1]}; legend: validation loss")
    axes.grid(True, alpha=0.2)
    _save(figure, axes, path)


def plot_sizes(contest: Contest, group: Sequence[Standing], path: Path) -> bool:
    """
    Draw validation loss against parameters of the body into the PNG file `path`, a line for each kind in `SIZES_OF`.

    Returns whether there was a kind of at least `FEWEST_SIZES` sizes; without one nothing is drawn.
    """
    lines = {kind: _sizes(kind, group) for kind in SIZES_OF}
    lines = {kind: points for kind, points in lines.items() if len(points) >= FEWEST_SIZES}
    if not lines:
        return False
    figure, axes = plt.subplots(figsize=(8, 5))
    for kind, points in lines.items():
        sizes, losses, spreads = np.array(points).T
        axes.errorbar(sizes, losses, yerr=spreads, marker="o", capsize=3, linestyle=SIZES_OF[kind], label=kind)
    axes.set_xscale("log")
    axes.set_xlabel("million parameters without those of single words")
    axes.set_ylabel("validation loss, nats per masked token")
    axes.set_title(f"documents of {contest[0]} tokens, {contest[1]}")
    axes.grid(True, which="both", alpha=0.2)
    _save(figure, axes, path)
    return True


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    # Names of variants may be wider than the axes.
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.12))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def _sizes(kind: str, group: Sequence[Standing]) -> list[tuple[float, float, float]]:
    """Millions of parameters, loss and its deviation over seeds of the variants of a kind that are its sizes."""
    found = [it for it in group if it.variant.kind == kind and ":" not in it.variant.name and not it.recipe]
    points = ((it.body / 1e6, it.loss, it.spread or 0.0) for it in found)
    return sorted(points)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running means."""
    size = min(SMOOTHING, len(values))
    return np.convolve(values, np.full(size, 1 / size), mode="valid")
