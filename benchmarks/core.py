# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The core figures, in `results/core.json`: what the `small` preset costs at lengths up to 64K, and what `nano` reaches.

    python -m benchmarks.core                                     # cost, minutes on a CPU
    python -m benchmarks.core --from-run outputs/nano --bottleneck-run outputs/nano_bottleneck

The second form takes the quality of a finished `make pretrain`, and of the same recipe as a bottleneck (README.md),
and wall-clock times measured by hand: `--pretrain-minutes` of `make pretrain`, `--test-minutes` of `make test`.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.flops import MASKED, dense_flops, encoder_flops, masked_lm_flops, presets_table
from benchmarks.memory import Memory, measure
from benchmarks.results import RESULTS, Figure, Table, merge_results
from configuration_concept import ConceptEncoderConfig
from training_concept.report import ROWS

COMMAND = "python -m benchmarks.core"
PRESET = "small"
# Lengths in tokens, and how often memory is measured at each.
MEMORY_RUNS = {4096: 1, 16384: 3, 65536: 1}
GB = 1e9

COST_COLUMNS = [
    "tokens",
    "encoder, GFLOPs",
    "masked LM, hybrid",
    "masked LM, bottleneck",
    "dense encoder (computed)",
    "dense / encoder",
    "peak memory, GB",
    "of the pass",
]
COST_NOTE = (
    f"One forward pass of {PRESET} on one document. GFLOPs are counted; the masked language models have "
    f"{MASKED:.0%} of the tokens masked. The dense encoder has the same widths and number of layers, and its column "
    "is computed from the formula. Memory is the resident memory of a process that runs the encoder in float32 on the "
    "CPU: all of it, with Python and weights, and what the pass took."
)

# Key of the figure: key in all_results.json, unit, note.
RUN_FIGURES = {
    "heldout_loss_nano": (
        "eval_loss",
        "nats",
        "masked tokens of held-out speeches; required: 1.2 below unigram",
    ),
    "unigram_loss_nano": ("eval_unigram_loss", "nats", "the same tokens, guessed from their frequency in training"),
    "bag_of_words_loss_nano": ("eval_bag_of_words_loss", "nats", "the same tokens, guessed from the words around"),
    "heldout_accuracy_nano": ("eval_accuracy", "fraction", "share of the same tokens that the first guess gets right"),
}


def main(arguments: Sequence[str], path: Path = RESULTS / "core.json") -> None:
    """
    Measure, and merge what was measured into the results file `path`.

    Raises:
        FileNotFoundError, ValueError: see `read_run`.
    """
    options = _parse(arguments)
    if options.from_run is None:
        config, memory = ConceptEncoderConfig.from_preset(PRESET), measure_memory()
        tables = [cost_table(config, memory), presets_table()]
        merge_results(path, flops_figure(config) | memory_figure(memory), tables)
    else:
        metrics, day = read_run(options.from_run)
        bottleneck, _ = read_run(options.bottleneck_run)
        figures = run_figures(metrics, day)
        figures |= wall_clock("pretrain", "make pretrain", options.pretrain_minutes)
        figures |= wall_clock("test", "make test", options.test_minutes)
        merge_results(path, figures, [demo_table(metrics, bottleneck)])


def flops_figure(config: ConceptEncoderConfig) -> dict[str, Figure]:
    """How many times the operations of 16K tokens 64K tokens take."""
    ratio = encoder_flops(config, 65536) / encoder_flops(config, 16384)
    note = "operations of a forward pass of small at 64K tokens over those at 16K; required: at most 4.2"
    device = "none: counted on the meta device"
    return {"flops_64k_over_16k": Figure.of_runs([ratio], unit="ratio", command=COMMAND, device=device, note=note)}


def measure_memory() -> dict[int, list[Memory]]:
    """Memory of the forward pass by length in tokens, one measurement per run."""
    return {tokens: [measure(PRESET, tokens) for _ in range(runs)] for tokens, runs in MEMORY_RUNS.items()}


def memory_figure(memory: dict[int, list[Memory]]) -> dict[str, Figure]:
    """Peak memory at 16K tokens."""
    peaks = [run.peak / GB for run in memory[16384]]
    note = (
        "peak resident memory of the whole process, Python and weights included, in a forward pass of small on 16K "
        "tokens, float32; required: below 4"
    )
    return {"peak_gb_forward_small_16k": Figure.of_runs(peaks, unit="GB", command=COMMAND, note=note)}


def cost_table(config: ConceptEncoderConfig, memory: dict[int, list[Memory]]) -> Table:
    """Operations and memory at each length of `memory`, of both families and of a dense encoder."""
    bottleneck = type(config)(**config.to_dict() | {"decoder_tokens": "none"})
    rows: list[list[Any]] = []
    for tokens, runs in memory.items():
        encoder, dense = encoder_flops(config, tokens), dense_flops(config, tokens)
        counts = [encoder, masked_lm_flops(config, tokens), masked_lm_flops(bottleneck, tokens), dense]
        highest = max(runs, key=lambda run: run.peak)
        sizes = [round(part / GB, 2) for part in (highest.peak, highest.forward)]
        rows.append([tokens, *(round(count / 1e9) for count in counts), round(dense / encoder, 1), *sizes])
    return Table("cost", COST_COLUMNS, rows, COST_NOTE)


def read_run(folder: Path) -> tuple[dict[str, float], str]:
    """
    Metrics of the run of run_mlm.py in `folder`, and the day of its end.

    Raises:
        FileNotFoundError: if the folder has no results.
        ValueError: if the run was not trained and evaluated beside its baselines.
    """
    path = folder / "all_results.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    needed = {f"{prefix}{name}" for prefix in ROWS.values() for name in ("loss", "accuracy")} | {"train_runtime"}
    if missing := needed - metrics.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: train and evaluate in one run.")
    return metrics, date.fromtimestamp(path.stat().st_mtime).isoformat()


def run_figures(metrics: dict[str, float], day: str) -> dict[str, Figure]:
    """Quality and time of a run, from its `metrics`."""
    figures = {
        name: Figure.of_runs([metrics[key]], unit=unit, command="make pretrain", date=day, note=note)
        for name, (key, unit, note) in RUN_FIGURES.items()
    }
    note = "training of nano with its evaluations, by the trainer's clock; without start and report"
    minutes = Figure.of_runs(
        [metrics["train_runtime"] / 60], unit="minutes", command="make pretrain", date=day, note=note
    )
    return figures | {"pretrain_minutes": minutes}


def demo_table(metrics: dict[str, float], bottleneck: dict[str, float]) -> Table:
    """Loss, accuracy and perplexity of a run of each family, and of the baselines that both have."""
    sources = {"nano": (metrics, "eval_"), "nano, bottleneck": (bottleneck, "eval_")}
    sources |= {name: (metrics, ROWS[name]) for name in ("bag of words", "unigram")}
    rows: list[list[Any]] = []
    for name, (scores, prefix) in sources.items():
        loss, accuracy = (scores[f"{prefix}{key}"] for key in ("loss", "accuracy"))
        rows.append([name, round(loss, 3), round(accuracy, 3), round(math.exp(loss), 1)])
    return Table("demo", ["masked tokens of held-out speeches", "loss, nats", "accuracy", "perplexity"], rows)


def wall_clock(name: str, command: str, minutes: float | None) -> dict[str, Figure]:
    """The figure `<name>_minutes` of a time measured by hand; none for `None`."""
    if minutes is None:
        return {}
    note = "wall clock of the whole command, its environment already installed"
    return {f"{name}_minutes": Figure.of_runs([minutes], unit="minutes", command=command, note=note)}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure the core figures.")
    parser.add_argument("--from-run", type=Path, help="output folder of a finished run; only its figures are added")
    parser.add_argument("--bottleneck-run", type=Path, help="the same of the bottleneck family, to stand beside it")
    parser.add_argument("--pretrain-minutes", type=float, help="wall clock of make pretrain")
    parser.add_argument("--test-minutes", type=float, help="wall clock of make test")
    options = parser.parse_args(arguments)
    if (options.from_run is None) != (options.bottleneck_run is None):
        parser.error("--from-run and --bottleneck-run go together")
    if options.from_run is None and (options.pretrain_minutes or options.test_minutes):
        parser.error("--pretrain-minutes and --test-minutes go with --from-run")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
