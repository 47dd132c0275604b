# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The core figures, in `results/core.json`: what the `small` preset costs at lengths up to 64K, and what `nano` reaches.

    python -m benchmarks.core                                     # cost, minutes on a CPU
    python -m benchmarks.core --from-run outputs/nano             # quality, from a finished `make pretrain`

The second form takes wall-clock times measured by hand: `--pretrain-minutes`, of `make pretrain`, and
`--test-minutes`, of `make test`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.flops import encoder_flops, flops_table, presets_table
from benchmarks.memory import Memory, measure
from benchmarks.results import RESULTS, Figure, Table, merge_results
from configuration_concept import ConceptEncoderConfig

COMMAND = "python -m benchmarks.core"
PRESET = "small"
# Lengths in tokens, and how often memory is measured at each.
MEMORY_RUNS = {4096: 3, 16384: 3, 65536: 1}
GB = 1e9

# Key of the figure: key in all_results.json, unit, note.
RUN_FIGURES = {
    "heldout_loss_nano": ("eval_loss", "nats", "masked tokens of held-out speeches; required: below the unigram loss"),
    "unigram_loss_nano": ("eval_unigram_loss", "nats", "the same tokens, guessed from their frequency in training"),
    "bag_of_words_loss_nano": ("eval_bag_of_words_loss", "nats", "the same tokens, guessed from the words around"),
    "heldout_accuracy_nano": ("eval_accuracy", "fraction", "share of the same tokens that the first guess gets right"),
}


def main(arguments: Sequence[str], path: Path = RESULTS / "core.json") -> None:
    """
    Measure, and merge what was measured into the results file `path`.

    Raises:
        FileNotFoundError: if the folder of `--from-run` has no results.
        ValueError: if its run was not evaluated.
    """
    options = _parse(arguments)
    if options.from_run is None:
        flops, memory = flops_figure(ConceptEncoderConfig.from_preset(PRESET)), measure_memory()
        tables = [flops_table(ConceptEncoderConfig.from_preset(PRESET), list(MEMORY_RUNS)), memory_table(memory)]
        merge_results(path, flops | memory_figure(memory), [*tables, presets_table()])
    else:
        figures = run_figures(options.from_run)
        figures |= wall_clock("pretrain", "make pretrain", options.pretrain_minutes)
        figures |= wall_clock("test", "make test", options.test_minutes)
        merge_results(path, figures)


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


def memory_table(memory: dict[int, list[Memory]]) -> Table:
    """The highest peak of the runs at each length."""
    highest = {tokens: max(runs, key=lambda run: run.peak) for tokens, runs in memory.items()}
    rows: list[list[Any]] = [
        [tokens, len(memory[tokens]), *(round(part / GB, 2) for part in (run.peak, run.loaded, run.forward))]
        for tokens, run in highest.items()
    ]
    note = (
        f"Resident memory in GB (10^9 bytes) of a process that runs the {PRESET} encoder once on one document, float32 "
        "on the CPU; the highest of the runs. Before the pass means Python, libraries and weights."
    )
    return Table("memory", ["tokens", "runs", "peak", "before the pass", "of the pass"], rows, note)


def run_figures(folder: Path) -> dict[str, Figure]:
    """
    Figures of the run of run_mlm.py in `folder`.

    Raises:
        FileNotFoundError: if the folder has no results.
        ValueError: if the run was not trained and evaluated beside its baselines.
    """
    path = folder / "all_results.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    day = date.fromtimestamp(path.stat().st_mtime).isoformat()
    needed = {key for key, _, _ in RUN_FIGURES.values()} | {"train_runtime"}
    if missing := needed - metrics.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: train and evaluate in one run.")
    figures = {
        name: Figure.of_runs([metrics[key]], unit=unit, command="make pretrain", date=day, note=note)
        for name, (key, unit, note) in RUN_FIGURES.items()
    }
    note = "training of nano with its evaluations, by the trainer's clock; without start and report"
    minutes = Figure.of_runs(
        [metrics["train_runtime"] / 60], unit="minutes", command="make pretrain", date=day, note=note
    )
    return figures | {"pretrain_minutes": minutes}


def wall_clock(name: str, command: str, minutes: float | None) -> dict[str, Figure]:
    """The figure `<name>_minutes` of a time measured by hand; none for `None`."""
    if minutes is None:
        return {}
    note = "wall clock of the whole command, its environment already installed"
    return {f"{name}_minutes": Figure.of_runs([minutes], unit="minutes", command=command, note=note)}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure the core figures.")
    parser.add_argument("--from-run", type=Path, help="output folder of a finished run; only its figures are added")
    parser.add_argument("--pretrain-minutes", type=float, help="wall clock of make pretrain")
    parser.add_argument("--test-minutes", type=float, help="wall clock of make test")
    options = parser.parse_args(arguments)
    if options.from_run is None and (options.pretrain_minutes or options.test_minutes):
        parser.error("--pretrain-minutes and --test-minutes go with --from-run")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
