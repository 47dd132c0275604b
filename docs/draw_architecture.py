# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Draw docs/architecture.png and docs/data_flow.png: `python docs/draw_architecture.py` from the repository's root."""

from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoder

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


def flow(preset: str, length: int = 512, masked: int = 154) -> list[tuple[str, str, str]]:
    """Steps of the masked language model of a preset on B rows of `length` tokens: what happens, shape, color."""
    config = ConceptEncoderConfig.from_preset(preset)
    with torch.device("meta"):
        ids = torch.zeros(1, length, dtype=torch.long)
        given = {} if config.masked_tokens == "mask" else {"masked_positions": ids[:, :masked]}
        outputs = ConceptEncoder(config)(ids, **given, output_token_states=True)
    tokens, concepts = outputs.token_states.shape[1], outputs.last_hidden_state.shape[1]
    local = config.num_interleaved_token_layers if config.token_mixer != "none" else 0
    stages = f", {config.num_stages} stages" if config.num_stages > 1 else ""
    stage = ["read", f"{config.read_every} x concept layer", *(["write back"] if config.write_back else [])]
    stage += [f"{local} x token layer"] if local else []
    stem = [("stem: local attention", f"[B, {tokens}, {config.token_hidden_size}]", TOKEN)]
    decoded = f"[B, {masked}, {config.hidden_size}]"
    nearby = " and nearby tokens" if config.decoder_tokens == "window" else ""
    return [
        ("tokens", f"[B, {length}]", TOKEN),
        (f"embed, {config.position_embedding} positions", f"[B, {tokens}, {config.token_hidden_size}]", TOKEN),
        *(stem if config.token_mixer != "none" else []),
        (f"concepts: {config.concept_init}", f"[B, {concepts}, {config.hidden_size}]", CONCEPT),
        (f"core{stages}:\n{', '.join(stage)}", f"[B, {concepts}, {config.hidden_size}]", CONCEPT),
        (
            f"decode: {config.decoder_query} queries\nread concepts{nearby}",
            decoded,
            QUERY,
        ),
        ("head, tied", f"[B, {masked}, {config.embedding_size}]", QUERY),
        ("logits", f"[B, {masked}, {config.vocab_size}]", MASKED),
    ]


def draw_flows(presets: tuple[str, ...] = ("small", "perceiver_v1")) -> None:
    """Draw the steps of presets side by side, with the shapes that leave them."""
    figure, all_axes = plt.subplots(1, len(presets), figsize=(12, 6))
    for axes, preset in zip(all_axes, presets, strict=True):
        steps = flow(preset)
        axes.set_title(f"{preset}, 512 tokens, 154 of them masked", fontsize=10, color=INK)
        for row, (text, shape, color) in enumerate(steps):
            height = 9 - 1.1 * row
            box(axes, 0, height, 6.6, 0.7, text, color, 7)
            axes.text(6.8, height + 0.35, shape, va="center", fontsize=9, family="monospace", color=INK)
            if row:
                arrow(axes, (3.3, height + 1.08), (3.3, height + 0.74))
        axes.set_xlim(-0.2, 9.6)
        axes.set_ylim(0.9, 10)
        axes.axis("off")
    figure.savefig(Path(__file__).with_name("data_flow.png"), dpi=130, bbox_inches="tight")


def main() -> None:
    """Draw both."""
    draw_path()
    draw_flows()


def draw_path() -> None:
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
    axes.text(12.2, 3.65, "core", va="center", fontsize=8.5)
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
