# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws training loss against time (or tokens), one picture for each contest."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.ladder.report import Contest, Standing

matplotlib.use("Agg")

from matplotlib import pyplot as plt

# Points that are averaged, of the `CURVE_POINTS` of a run.
SMOOTHING = 7
MOST_LINES = 12


def plot_contest(contest: Contest, group: Sequence[Standing], path: Path) -> None:
    """Draw the curves of the best variants' first seeds into the PNG file `path`, controls dashed."""
    figure, axes = plt.subplots(figsize=(8, 5))
    by_tokens = group[0].outcomes[0].settings.clock == "tokens"
    for standing in group[:MOST_LINES]:
        seconds, tokens, losses = np.array(standing.outcomes[0].record["curve"]).T
        across = tokens / 1e6 if by_tokens else seconds
        line = "--" if standing.variant.family == "control" else "-"
        axes.plot(_smooth(across), _smooth(losses), line, label=f"{standing.label} {standing.loss:.3f}")
    axes.set_xlabel("million tokens" if by_tokens else "seconds of training")
    axes.set_ylabel("training loss, nats per masked token")
    axes.set_title(f"documents of {contest[0]} tokens, {contest[1]}; legend: validation loss")
    axes.grid(True, alpha=0.2)
    axes.legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running means."""
    size = min(SMOOTHING, len(values))
    return np.convolve(values, np.full(size, 1 / size), mode="valid")
