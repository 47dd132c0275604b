# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The ladder: which design wins at equal time, against controls in the same harness and recipe.

    python -m training_concept.export RECIPE --tokenizer_name TOKENIZER --output_dir PARTS
    python -m benchmarks.ladder prepare PARTS --recipe RECIPE --output DATA    # a selection, to be copied to the GPU
    python -m benchmarks.ladder variants --length 512
    python -m benchmarks.ladder run --data DATA --output RUNS --variants hybrid bert --lengths 512 --seconds 80 \\
        --learning_rates 1e-3 2e-3 4e-3 --seeds 0 --budget 500
    python -m benchmarks.ladder report RUNS --output REPORT
    python -m benchmarks.ladder merge RUNS

On the machine with GPUs `run` needs torch, transformers, numpy and matplotlib, no `datasets`. Runs whose record lies
in `--output` are not done again, so a contest may be spread over several calls.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ladder.corpus import select_corpus
from benchmarks.ladder.plots import plot_contest, plot_sizes
from benchmarks.ladder.report import archive_runs, merge, read_runs, report, standings
from benchmarks.ladder.scheduler import AHEAD, Plan, run_all
from benchmarks.ladder.settings import DTYPES, OPTIMIZERS, SCHEDULES, Settings
from benchmarks.ladder.training import padded_vocabulary
from benchmarks.ladder.variants import VARIANTS, find_variant, variants_table
from benchmarks.results import RESULTS, current_commit
from benchmarks.tables import to_markdown
from evaluation_concept.errors import exit_code

VOCABULARY = 32768
# Options of the recipe, which all runs of a call have; whoever leaves one out has the default of `Settings`.
RECIPE: Mapping[str, Mapping[str, Any]] = {
    "batch_tokens": {"type": int, "help": "tokens of a step"},
    "optimizer": {"choices": OPTIMIZERS, "help": "who steps"},
    "weight_decay": {"type": float, "help": "of matrices"},
    "beta2": {"type": float, "help": "of AdamW"},
    "clip": {"type": float, "help": "greatest norm of the gradient"},
    "schedule": {"choices": tuple(SCHEDULES), "help": "of the learning rate"},
    "warm_up": {"type": float, "help": "share of the budget"},
    "decay": {"type": float, "help": "share of the budget"},
    "masked_share": {"type": float, "help": "of the tokens of a row"},
    "dtype": {"choices": DTYPES, "help": "of matrix products"},
    "compiled": {
        "choices": ("regions", "regions+graphs", "none"),
        "help": "block by block, replayed as CUDA graphs, or not at all",
    },
    "corpus": {"help": "name of the texts, where there are several"},
}


def main(arguments: Sequence[str], path: Path = RESULTS / "ladder.json") -> None:
    """
    Do what the command line says; `merge` writes to the results file `path`.

    Raises:
        OSError, ValueError: what is named on the command line is missing or makes no sense.
    """
    options = _parse(arguments)
    options.command(options, path)


def list_variants(options: argparse.Namespace, path: Path) -> None:
    """Print the table of variants."""
    names = options.names or list(VARIANTS)
    print(to_markdown(variants_table(names, options.length, padded_vocabulary(options.vocabulary))))


def prepare(options: argparse.Namespace, path: Path) -> None:
    """Select from an export and say what it holds."""
    from training_concept.recipes import read_recipe

    weights = read_recipe(options.recipe).weights
    if weights is None:
        raise ValueError(f"the sources of {options.recipe} have no weights")
    index = select_corpus(
        options.export,
        weights,
        options.output,
        train_tokens=options.train_tokens,
        held_out_tokens=options.held_out_tokens,
        part_mb=options.part_mb,
    )
    for part in index["parts"]:
        print(f"{part['file']}: {part['tokens']:,} tokens, {part['bytes'] / 1e6:.1f} MB")


def run(options: argparse.Namespace, path: Path) -> None:
    """Do the runs of a contest."""
    plan = Plan(
        data=options.data,
        output=options.output,
        gpus=options.gpus,
        side_by_side=options.side_by_side,
        ahead=options.ahead,
        budget=options.budget,
        workers=options.workers,
        cache=options.cache,
        retry=options.retry,
        commit=options.commit or current_commit(),
        save=options.save,
    )
    run_all(make_runs(options), plan)


def make_runs(options: argparse.Namespace) -> list[Settings]:
    """
    All runs that are asked for: those of a file in its order, else a grid, the first seed first.

    Raises:
        OSError: no such file.
        ValueError: a variant or setting that there is not, or settings that make no sense.
    """
    clock, budget = ("seconds", options.seconds) if options.tokens is None else ("tokens", options.tokens)
    recipe = {name: getattr(options, name) for name in RECIPE if getattr(options, name) is not None}
    shared = {"clock": clock, "budget": budget, "final": options.final, **recipe}
    if options.runs is not None:
        return [_settings(shared | run) for run in _read_runs(options.runs)]
    axes = {
        "seed": options.seeds,
        "length": options.lengths,
        "variant": options.variants,
        "learning_rate": options.learning_rates,
    }
    return [_settings(shared | dict(zip(axes, point, strict=True))) for point in itertools.product(*axes.values())]


def _read_runs(path: Path) -> list[dict[str, Any]]:
    runs = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(runs, list) or not all(isinstance(run, dict) and "variant" in run for run in runs):
        raise ValueError(f"{path} is no list of mappings that each name a `variant`.")
    return runs


def _settings(values: Mapping[str, Any]) -> Settings:
    if unknown := sorted(values.keys() - {item.name for item in fields(Settings)}):
        raise ValueError(f"runs have no setting {', '.join(unknown)}.")
    return Settings(**{**values, "variant": find_variant(values["variant"]).name})


def write_report(options: argparse.Namespace, path: Path) -> None:
    """Write the report and its pictures."""
    finished, failed = read_runs(options.folders)
    options.output.mkdir(parents=True, exist_ok=True)
    text = report(finished, failed)
    (options.output / "report.md").write_text(text, encoding="utf-8")
    for contest, group in standings(finished).items():
        plot_contest(contest, group, options.output / f"{contest[0]}_{contest[1]}.png")
        plot_sizes(contest, group, options.output / f"{contest[0]}_{contest[1]}_sizes.png")
    print(text)


def merge_runs(options: argparse.Namespace, path: Path) -> None:
    """Add the runs to those that are archived beside the results file, and put figures and tables of all into it."""
    archive = path.with_name(f"{path.stem}_runs.jsonl")
    finished, _ = read_runs([*([archive] if archive.exists() else []), *options.folders])
    archive_runs(finished, archive)
    # Numbers have fewer digits there; figures are those that the archive alone gives.
    finished, _ = read_runs([archive])
    for key, figure in merge(finished, path).items():
        print(f"{key}: {figure.value:.4g} ({figure.note})")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description="Which design wins?")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("variants", help="list variants with their sizes")
    listing.add_argument("names", nargs="*", help="NAME or NAME:FIELD=VALUE,... (default: all of the table)")
    listing.add_argument("--length", type=int, default=512, help="tokens of a document (default: %(default)s)")
    listing.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens (default: %(default)s)")
    listing.set_defaults(command=list_variants)
    _add_prepare(commands.add_parser("prepare", help="select texts from an export"))
    _add_run(commands.add_parser("run", help="train and evaluate"))
    reporting = commands.add_parser("report", help="tables and pictures of what was run")
    reporting.add_argument("folders", type=Path, nargs="+", help="folders of records, or archives")
    reporting.add_argument("--output", type=Path, required=True, help="folder that gets report.md and PNG files")
    reporting.set_defaults(command=write_report)
    merging = commands.add_parser("merge", help="take the figures over into the results file")
    merging.add_argument("folders", type=Path, nargs="*", help="folders of records (default: those merged before)")
    merging.set_defaults(command=merge_runs)
    return parser.parse_args(arguments)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("export", type=Path, help="folder that training_concept.export wrote")
    parser.add_argument("--recipe", type=Path, required=True, help="its recipe, for the shares of the sources")
    parser.add_argument("--output", type=Path, required=True, help="folder that gets the selection")
    parser.add_argument("--train_tokens", type=float, default=60e6, help="in all (default: %(default)s)")
    parser.add_argument("--held_out_tokens", type=float, default=60e3, help="of a source (default: %(default)s)")
    parser.add_argument("--part_mb", type=float, default=30, help="most megabytes of a file (default: %(default)s)")
    parser.set_defaults(command=prepare)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder that gets a JSON file for each run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--variants", nargs="+", help="NAME or NAME:FIELD=VALUE,...")
    what.add_argument("--runs", type=Path, help="YAML list of runs, each `{variant: ..., length: ..., seed: ...}`")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512], help="of documents (default: 512)")
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[2e-3], help="(default: 2e-3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default: 0)")
    clock = parser.add_mutually_exclusive_group()
    clock.add_argument("--seconds", type=float, default=80.0, help="of training, each (default: %(default)s)")
    clock.add_argument("--tokens", type=float, help="of training, each, in place of seconds")
    parser.add_argument("--final", action="store_true", help="report on the test split, too: once, for finalists")
    parser.add_argument("--gpus", type=int, default=1, help="to use (default: %(default)s)")
    parser.add_argument("--side_by_side", type=int, default=1, help="runs that share a GPU, for equal tokens only")
    parser.add_argument("--ahead", choices=AHEAD, default="data", help="what the next run does beside the present")
    parser.add_argument("--budget", type=float, default=0, help="seconds after which no run starts; 0 is no limit")
    parser.add_argument("--workers", type=int, default=4, help="processes that make batches (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder of compiled code, kept between calls")
    parser.add_argument("--retry", action="store_true", help="do runs again that failed")
    parser.add_argument("--commit", help="of the code, where there is no git")
    parser.add_argument("--save", type=Path, help="folder that gets the trained models, for Auto classes to load")
    defaults = {item.name: item.default for item in fields(Settings) if item.default is not MISSING}
    for name, option in RECIPE.items():
        text = f"{option['help']} (default: {defaults[name]})"
        parser.add_argument(f"--{name}", **{**option, "help": text})
    parser.set_defaults(command=run)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
