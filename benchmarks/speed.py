# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The figures of speed, in `results/speed.json`: training and encoding beside the library's encoders, at equal tokens.

    python -m benchmarks.speed gpu --attentions varlen --compile regions --output gpu.json    # minutes on a GPU
    python -m benchmarks.speed gpu --lengths 512 --modes train --output ways.json             # all ways to run a model
    python -m benchmarks.speed cpu --output cpu.json                                          # on a laptop
    python -m benchmarks.speed first_step --output first.json                # compiles from nothing, in a new process
    python -m benchmarks.speed ddp --processes 1 2 --output ddp.json
    python -m benchmarks.speed merge gpu.json ways.json first.json ddp.json
    python -m benchmarks.speed plot

A run may be cut into several by contenders, lengths, modes and layouts; each times the reference anew, and ratios are
only made of numbers of one run.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.cells import COMPILES, Cell, Measurement, Setting, describe, measure_cell
from benchmarks.contenders import CONTENDERS, CPU_REFERENCE, MODES, REFERENCE, Contender
from benchmarks.first_step import measure_first_steps
from benchmarks.results import RESULTS, ROOT, current_commit, describe_device, read_results
from benchmarks.scaling import GRADIENTS, measure_scaling
from benchmarks.speed_figures import merge_records
from benchmarks.timing import current_device, measure_ceilings
from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from training_concept.throughput import device_peak_flops

COMMAND = "python -m benchmarks.speed"
LENGTHS = (512, 1024, 8192, 65536)
LAYOUTS = {"fixed": False, "variable": True}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
PLOT = ROOT / "docs" / "speed.png"
GB = 1e9


def main(arguments: Sequence[str], path: Path = RESULTS / "speed.json") -> None:
    """
    Measure into the file that `--output` names, or merge such files into the results file `path`.

    Raises:
        OSError, ValueError: what is named on the command line is missing or cannot be read.
    """
    carry_out(_parse(arguments), COMMAND, arguments, path)


def carry_out(options: argparse.Namespace, command: str, arguments: Sequence[str], path: Path) -> None:
    """Do what `options` say, which `arguments` of `command` were read to; records are told how they came about."""
    options.command = f"{command} {' '.join(without_path(arguments))}"
    options.run(options, path)


def measure_cells(
    options: argparse.Namespace, path: Path, contenders: Mapping[str, Contender] = CONTENDERS
) -> dict[str, Any]:
    """Time all cells asked for and write them to `options.output`, one after the other. Returns the record."""
    begin, device, dtype = time.monotonic(), current_device(), DTYPES[options.dtype]
    setting = Setting(device, dtype, options.tokens, options.seconds, options.repeats, options.max_seconds)
    record = facts(options, device)
    record |= {"ceilings": asdict(measure_ceilings(device, dtype)), "cells": [], "skipped": []}
    print(f"{record['device']}: {_ceilings_line(record['ceilings'])}", flush=True)
    for cell in make_cells(options, contenders):
        passed = time.monotonic() - begin
        if options.budget and passed > options.budget:
            record["skipped"].append(str(cell))
            continue
        for measurement in measure_cell(cell, contenders, setting):
            record["cells"].append(describe(measurement))
            print(f"{time.monotonic() - begin:5.0f} s  {_line(cell, measurement)}", flush=True)
            write_json(options.output, record)
    write_json(options.output, record)
    return record


def make_cells(options: argparse.Namespace, contenders: Mapping[str, Contender]) -> Iterator[Cell]:
    """
    All cells asked for, those of one length next to each other, the reference first.

    Raises:
        ValueError: for a contender that there is not.
    """
    names = [options.reference, *(name for name in options.contenders if name != options.reference)]
    if unknown := [name for name in names if name not in contenders]:
        raise ValueError(f"there is no contender {unknown[0]!r}; choose among {', '.join(contenders)}.")
    for layout, mode, length, name in itertools.product(options.layouts, options.modes, options.lengths, names):
        contender = contenders[name]
        wanted = [it for it in contender.attentions if it in (options.attentions or contender.attentions)]
        ways = itertools.product(wanted or contender.attentions[:1], options.compile or contender.compiles)
        for attention, compiled in ways:
            yield Cell(name, mode, length, LAYOUTS[layout], attention, compiled)


def facts(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What a record says of how it came about."""
    return {
        "commit": current_commit(),
        "date": date.today().isoformat(),
        "device": describe_device(device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "device_type": device.type,
        "peak_flops": device_peak_flops(device),
        "command": options.command,
        "reference": options.reference,
        "dtype": options.dtype,
        "tokens": options.tokens,
    }


def measure_first(options: argparse.Namespace, path: Path) -> None:
    """Time first training steps, each in a process of its own, and write them to `options.output`."""
    record = facts(options, current_device()) | {"first_steps": []}
    for entry in measure_first_steps(options):
        record["first_steps"].append(entry)
        print(entry, flush=True)
        write_json(options.output, record)


def measure_ddp(options: argparse.Namespace, path: Path) -> None:
    """Time training on several GPUs and write it to `options.output`."""
    record = facts(options, current_device()) | {"ddp": []}
    for entry in measure_scaling(options):
        record["ddp"].append(entry)
        print(entry, flush=True)
        write_json(options.output, record)


def merge(options: argparse.Namespace, path: Path) -> None:
    """Put figures and tables of measured records into the results file `path`."""
    merge_records(options.records, path)


def draw(options: argparse.Namespace, path: Path) -> None:
    """Draw tokens a second over the length from the results file `path`."""
    from benchmarks.speed_plots import plot_rates

    plot_rates(read_results(path).tables, options.output)


def _line(cell: Cell, measured: Measurement) -> str:
    if measured.error:
        return f"{cell}: {measured.error}"
    rates = sorted(measured.tokens_per_second)
    memory = "" if measured.peak_bytes is None else f", {measured.peak_bytes / GB:.1f} GB"
    rate = rates[len(rates) // 2]
    milliseconds = 1000 * measured.tokens / rate
    return f"{cell}: {rate:,.0f} tok/s, {milliseconds:.1f} ms{memory}, first step {measured.first_step_s:.0f} s"


def _ceilings_line(ceilings: Mapping[str, list[float]]) -> str:
    matmul, copy = max(ceilings["matmul_flops"]) / 1e12, max(ceilings["copy_bytes"]) / 1e12
    return f"matrix product {matmul:.3g} TFLOP/s, copy {copy:.3g} TB/s"


def without_path(arguments: Sequence[str]) -> list[str]:
    """Arguments, with a word for where to write, which says nothing about the measurement."""
    kept = list(arguments)
    if "--output" in kept:
        kept[kept.index("--output") + 1] = "FILE"
    return kept


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure the figures of speed.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    gpu = commands.add_parser("gpu", help="training and encoding, on a machine with a GPU")
    add_shared_options(gpu)
    _add_cells(gpu, [REFERENCE, "base", "small"], LENGTHS)
    gpu.set_defaults(run=measure_cells)

    cpu = commands.add_parser("cpu", help="the same for small models on a laptop")
    add_shared_options(cpu)
    _add_cells(cpu, ["mini", "bert_256x6"], (512, 2048, 8192))
    cpu.set_defaults(run=measure_cells, reference=CPU_REFERENCE, tokens=8192, dtype="float32", repeats=3)
    cpu.set_defaults(attentions=["sdpa", "own"], compile=["none"])

    first = commands.add_parser("first_step", help="time to the first compiled training step")
    add_shared_options(first)
    first.add_argument("--contenders", nargs="+", default=["base"], help="models (default: base)")
    first.add_argument("--length", type=int, default=1024, help="tokens of a document (default: %(default)s)")
    first.add_argument("--attention", default="varlen", help="(default: %(default)s)")
    first.add_argument("--compile", default="regions", choices=COMPILES, help="(default: %(default)s)")
    first.add_argument("--cache", type=Path, help="empty folder to leave what is compiled in (default: nowhere)")
    first.set_defaults(run=measure_first, repeats=1)

    ddp = commands.add_parser("ddp", help="training on several GPUs, with a batch for each")
    add_shared_options(ddp)
    ddp.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="GPUs, one run for each number")
    ddp.add_argument("--steps", type=int, default=20, help="of a repeat (default: %(default)s)")
    ddp.add_argument("--contender", default="base", help="model (default: %(default)s)")
    ddp.add_argument("--length", type=int, default=1024, help="tokens of a document (default: %(default)s)")
    ddp.add_argument("--attention", default="varlen", help="(default: %(default)s)")
    ddp.add_argument("--compile", default="regions", choices=COMPILES, help="(default: %(default)s)")
    ddp.add_argument(
        "--gradients", default="float32", choices=GRADIENTS, help="as they are sent (default: %(default)s)"
    )
    ddp.set_defaults(run=measure_ddp)

    plot = commands.add_parser("plot", help="draw the tables of the results file")
    plot.add_argument("--output", type=Path, default=PLOT, help="PNG file (default: %(default)s)")
    plot.set_defaults(run=draw)

    merging = commands.add_parser("merge", help="take over what the other commands wrote")
    merging.add_argument("records", type=Path, nargs="+", help="those JSON files")
    merging.set_defaults(run=merge)
    return parser.parse_args(arguments)


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """What every command that measures can be told."""
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write the measurements to")
    parser.add_argument("--tokens", type=int, default=65536, help="in a batch (default: %(default)s)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a repeat, about (default: %(default)s)")
    parser.add_argument("--reference", default=REFERENCE, help="timed in every run (default: %(default)s)")


def _add_cells(parser: argparse.ArgumentParser, names: list[str], lengths: Sequence[int]) -> None:
    parser.add_argument("--contenders", nargs="+", default=names, help="models beside the reference")
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths, help="tokens of a document, at most")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="(default: both)")
    parser.add_argument("--layouts", nargs="+", choices=tuple(LAYOUTS), default=["fixed"], help="(default: fixed)")
    parser.add_argument("--attentions", nargs="+", help="ways to attend: varlen, sdpa, flex_attention (default: all)")
    parser.add_argument("--compile", nargs="+", choices=COMPILES, help="(default: all of a model)")
    parser.add_argument("--max-seconds", type=float, default=180, help="of a cell (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=0, help="seconds after which no cell begins; 0 is no limit")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
