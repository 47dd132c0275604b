# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Draw docs/architecture.png: `python docs/draw_architecture.py`."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

TOKEN, MASKED, CONCEPT, QUERY, BOX, INK = "#9ecae1", "#ffffff", "#fdae6b", "#a1d99b", "#f2f2f2", "#333333"
Point = tuple[float, float]
WORDS = ["We", "must", "[MASK]", "for", "peace", "and", "[MASK]", "for", "our", "[MASK]", "and", "land"]


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str, size: int = 8) -> None:
    """A rounded box around `text`, its lower left corner at `(x, y)`."""
    style = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.08")
    style.set(facecolor=color, edgecolor=INK, linewidth=0.8)
    axes.add_patch(style)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK)


def arrow(axes: Axes, start: Point, end: Point, text: str = "", side: str = "left") -> None:
    """An arrow, with `text` beside its middle."""
    axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.1})
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    shift = -0.12 if side == "left" else 0.12
    axes.text(x + shift, y, text, ha="right" if side == "left" else "left", va="center", fontsize=8, color=INK)


def main() -> None:
    """Draw from the bottom up: tokens, local layers, concepts and core, decoder, predictions."""
    figure, axes = plt.subplots(figsize=(10, 6.2))
    for place, word in enumerate(WORDS):
        masked = word == "[MASK]"
        box(axes, place, 0, 0.86, 0.5, word, MASKED if masked else TOKEN, 7)
        if masked:
            box(axes, place, 4.9, 0.86, 0.5, "query", QUERY, 7)
            arrow(axes, (place + 0.43, 5.45), (place + 0.43, 5.95))
            axes.text(place + 0.43, 6.0, "word?", ha="center", va="bottom", fontsize=8, color=INK)
    axes.text(12.2, 0.25, "N tokens\n(masked ones dropped)", va="center", fontsize=8.5)
    arrow(axes, (5.93, 0.55), (5.93, 0.95))
    box(axes, 0, 1.0, 11.86, 0.5, "token layers: local attention in a window, linear in N", BOX)
    axes.text(12.2, 1.25, "stem", va="center", fontsize=8.5)
    arrow(axes, (4.9, 1.55), (4.9, 2.4), "read: concepts attend to all tokens, C·N")
    arrow(axes, (6.9, 2.4), (6.9, 1.55), "write back: tokens attend to concepts", "right")
    for place in range(3):
        box(axes, 4 * place + 1.2, 2.5, 1.46, 0.5, f"concept {place + 1}", CONCEPT, 8)
    axes.text(12.2, 2.75, "C concepts, each anchored\non a span of the text", va="center", fontsize=8.5)
    arrow(axes, (5.93, 3.05), (5.93, 3.35))
    box(axes, 0, 3.4, 11.86, 0.5, "concept layers: self-attention and gated MLP on C vectors", BOX)
    axes.text(12.2, 3.65, "core, in stages", va="center", fontsize=8.5)
    arrow(axes, (5.93, 3.95), (5.93, 4.8), "decoder: queries attend to concepts")
    axes.text(12.2, 5.15, "only at the wanted\npositions", va="center", fontsize=8.5)
    axes.plot([11.95, 12.05, 12.05, 11.95], [1.05, 1.05, 4.6, 4.6], color="#aaaaaa", lw=0.8)
    axes.annotate("", xy=(10.6, 5.1), xytext=(11.95, 4.6), arrowprops={"arrowstyle": "-|>", "color": "#aaaaaa"})
    axes.text(11.9, 4.35, "hybrid: and to nearby tokens", ha="right", fontsize=8, color="#777777")
    axes.set_xlim(-0.2, 15.2)
    axes.set_ylim(-0.2, 6.5)
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("architecture.png"), dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
