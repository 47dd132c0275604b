# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The switches of the architecture, in `results/architecture.json`: what each value does and costs, and the toy figures.

    python -m benchmarks.architecture             # the table of switches, a minute
    python -m benchmarks.architecture --counting  # also the counting toy, minutes on a CPU
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.counting import KINDS, counting_accuracy
from benchmarks.flops import count_parameters, masked_lm_flops
from benchmarks.results import RESULTS, Figure, Table, merge_results
from configuration_concept import ConceptEncoderConfig

COMMAND = "python -m benchmarks.architecture"
PRESET = "small"
LENGTHS = (512, 8192)
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Switch:
    """
    One value of one configuration field.

    Attributes:
        field: its name.
        value: its value.
        what: what it does, in a few words.
        source: the paper, if there is one.
        beside: other fields that it needs.
    """

    field: str
    value: Any
    what: str
    source: str = ""
    beside: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def overrides(self) -> dict[str, Any]:
        return {self.field: self.value} | self.beside


FIXED = {"position_embedding": "learned", "concept_init": "learned", "max_position_embeddings": 8192}
SWITCHES = (
    Switch("token_mixer", "local", "sliding windows of self-attention", "Longformer, 2004.05150"),
    Switch("token_mixer", "shifted", "blocks of self-attention, shifted in every other layer", "Swin, 2103.14030"),
    Switch("token_mixer", "conv", "depthwise convolution", "QANet, 1804.09541"),
    Switch("token_mixer", "none", "tokens never see each other", "Perceiver IO, 2107.14795"),
    Switch("num_token_layers", 4, "token layers before the first read"),
    Switch("num_interleaved_token_layers", 0, "no token layers at the end of a stage"),
    Switch("num_funnel_stages", 2, "concepts read a stream of a quarter of the length", "Funnel, 2006.03236"),
    Switch("token_hidden_size", 128, "thin tokens, fat concepts", "the plan, 3.3"),
    Switch("embedding_size", 512, "no factorised embedding", "ALBERT, 1909.11942"),
    Switch("position_embedding", "rope", "rotary positions, any length", "RoFormer, 2104.09864"),
    Switch(
        "position_embedding",
        "learned",
        "a vector for each position, up to a length",
        "",
        {"max_position_embeddings": 8192},
    ),
    Switch("concept_init", "anchored", "a concept for each span of tokens, from their mean"),
    Switch("concept_init", "learned", "a table of 128 vectors for any text", "Perceiver IO, 2107.14795"),
    Switch("concept_positions", "rope", "rotary places in reads, concept layers and decoder", "the plan, 3.2 C"),
    Switch("concept_positions", "cope", "concept layers count places by content", "CoPE, 2405.18719"),
    Switch("concept_positions", "sinusoidal", "a sinusoid of the place is added", "the plan, 3.2 A"),
    Switch("concept_positions", "learned", "a vector for each number is added"),
    Switch("concept_positions", "none", "concepts do not know where they are"),
    Switch("concept_ratio", 16, "fewer concepts: 16 tokens for each"),
    Switch("num_global_concepts", 0, "no concepts without a span"),
    Switch("nested_dropout", 0.5, "one checkpoint for several numbers of concepts", "1402.0915"),
    Switch("read_every", 2, "a read before every second concept layer"),
    Switch("read_attention", "softmax", "concepts read by attention"),
    Switch("read_attention", "slot", "concepts compete for tokens", "slot attention, 2006.15055"),
    Switch("share_reads", True, "all reads have the same weights", "Perceiver, 2103.03206", {"read_every": 2}),
    Switch("write_back", False, "tokens do not read concepts", "against BiXT, 2402.12138"),
    Switch("num_iterations", 2, "the core runs twice", "recurrent depth, 2502.05171"),
    Switch("qk_norm", False, "queries and keys are not normalised", "against ViT-22B, 2302.05442"),
    Switch("num_decoder_layers", 1, "a single layer in the decoder"),
    Switch("num_decoder_mixing_layers", 2, "decoded positions see their neighbours"),
    Switch("decoder_query", "position", "a query is its position"),
    Switch("decoder_query", "token+position", "a query holds the word at its position", "the plan, 3.1"),
    Switch("decoder_reads", "perceiver", "queries read concepts by attention", "Perceiver IO, 2107.14795"),
    Switch("decoder_reads", "weighted", "each position mixes concepts as it has learned to", "the plan", FIXED),
    Switch("decoder_tokens", "window", "queries see token states nearby (hybrid family)"),
    Switch("decoder_tokens", "none", "queries see concepts only (bottleneck family)"),
    Switch("masked_tokens", "drop", "the encoder does not see masked places", "MAE, 2111.06377"),
    Switch("masked_tokens", "mask", "the encoder sees the mask token", "BERT, 1810.04805"),
)


def main(arguments: Sequence[str], path: Path = RESULTS / "architecture.json") -> None:
    """Measure, and merge what was measured into the results file `path`."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure the switches of the architecture.")
    parser.add_argument("--counting", action="store_true", help="train the counting toy too, minutes on a CPU")
    options = parser.parse_args(arguments)
    merge_results(path, {}, [switches_table()])
    if options.counting:
        figures, table = counting()
        merge_results(path, figures, [table])


def switches_table() -> Table:
    """What each value does, and what the `small` preset costs with it."""
    columns = ["field", "value", "what it does", "source", "parameters, M"]
    columns += [f"MFLOPs a token at {length:,}" for length in LENGTHS]
    rows = []
    for switch in SWITCHES:
        config = ConceptEncoderConfig.from_preset(PRESET, **switch.overrides)
        costs = [round(masked_lm_flops(config, length) / length / 1e6, 1) for length in LENGTHS]
        size = round(count_parameters(config) / 1e6, 1)
        rows.append([f"`{switch.field}`", f"`{switch.value}`", switch.what, switch.source, size, *costs])
    note = (
        f"Masked language model of the {PRESET} preset with this one field changed (and what it needs), 30 % of the "
        "tokens masked and dropped; a forward pass, counted. Rows that name the preset's own value cost the same."
    )
    return Table("switches", columns, rows, note)


def counting() -> tuple[dict[str, Figure], Table]:
    """Accuracy of the counting toy with contextual and with absolute positions."""
    runs = {name: [counting_accuracy(name == "cope", seed) for seed in SEEDS] for name in ("cope", "absolute")}
    command = f"{COMMAND} --counting"
    note = "share of rows in which the k-th last sign among noise is found, at the trained length; chance is 0.125"
    figures = {
        f"{name}_counting_accuracy": Figure.of_runs(
            [trained for trained, _ in results], unit="fraction", command=command, note=note
        )
        for name, results in runs.items()
    }
    rows: list[list[Any]] = [["chance", round(1 / KINDS, 3), round(1 / KINDS, 3)]]
    for name, results in runs.items():
        rows.append([name, *(round(sum(column) / len(SEEDS), 3) for column in zip(*results, strict=True))])
    return figures, Table("counting", ["positions", "at the trained length", "at twice the length"], rows, note)


if __name__ == "__main__":
    main(sys.argv[1:])
