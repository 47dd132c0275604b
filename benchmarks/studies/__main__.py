# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Studies: many runs of the scripts of this repository on one GPU or several, and what comes of them.

    python -m benchmarks.studies keep sst2 boolq rfc_groups --package_dir PACKAGES --corpus CORPUS --output TASKS
    python -m benchmarks.studies cells recipes/studies/glue.yaml
    python -m benchmarks.studies run recipes/studies/glue.yaml --models MODELS --tasks TASKS --work WORK \\
        --output glue.jsonl --gpus 4 --side_by_side 4 --budget 520              # on the machine with the GPUs
    python -m benchmarks.studies baselines sst2 boolq --tasks TASKS --output baselines.jsonl
    python -m benchmarks.studies collect glue glue.jsonl baselines.jsonl

`run` does what is left of a study: cells whose records are in WORK, or in `--known` files, are done. `collect` adds
records to those archived in benchmarks/results/NAME_runs.jsonl, and writes figures and tables of all.

Studies that pretrain (concepts) read texts instead of tasks, and settle numbers of steps and weights by the records of
their groups `pace` and `sweep`, which come first:

    python -m benchmarks.studies keep_text imdb books --corpus CORPUS --tokenizer_name TOKENIZER --tasks TASKS \\
        --output TEXT
    python -m benchmarks.studies run recipes/studies/concepts.yaml --only pace --tasks TEXT --work WORK \\
        --output concepts.jsonl                                                 # alone on the GPU
    python -m benchmarks.studies run recipes/studies/concepts.yaml --only sweep ... --side_by_side 4
    python -m benchmarks.studies run recipes/studies/concepts.yaml --only main ... --side_by_side 4
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.results import RESULTS, ROOT, Figure, Table, merge_results
from benchmarks.studies import concepts, glue, long_context
from benchmarks.studies.cells import read_study
from benchmarks.studies.records import Record, device_name, read_records, write_records
from benchmarks.studies.scheduler import run_study
from benchmarks.studies.settling import holds_here, settle
from benchmarks.studies.worker import Places
from evaluation_concept.errors import exit_code
from evaluation_concept.files import locked
from evaluation_concept.long_context.tasks import VALIDATION

Summary = Callable[[Mapping[str, Record]], tuple[dict[str, Figure], list[Table]]]
SUMMARIES: dict[str, Summary] = {
    "concepts": concepts.summarise,
    "glue": glue.summarise,
    "long_context": long_context.summarise,
}


def main(arguments: Sequence[str], results: Path = RESULTS) -> None:
    """
    Do what the command line says; `collect` writes to the folder `results`.

    Raises:
        OSError, ValueError: what is named on the command line is missing or makes no sense.
        ChildProcessError: some cells failed.
    """
    options = _parse(arguments)
    options.command(options, results)


def keep(options: argparse.Namespace, results: Path) -> None:
    """Read tasks from packages into files that travel."""
    from benchmarks.studies.keep import keep_tasks

    keep_tasks(options.names, options.package_dir, options.output, options.corpus, options.most_characters)


def keep_texts(options: argparse.Namespace, results: Path) -> None:
    """Take text to pretrain on from a corpus, and texts to measure concepts on."""
    from benchmarks.studies.text import Selection, keep_text

    sizes = options.most_tokens, options.most_held_out
    about = keep_text(
        Selection(options.corpus, options.sources, options.tokenizer_name, options.tasks, *sizes), options.output
    )
    for name, counts in about.items():
        print(name, ", ".join(f"{number:,} {kind}" for kind, number in counts.items()))


def list_cells(options: argparse.Namespace, results: Path) -> None:
    """Print the commands of a study."""
    for cell in read_study(options.study, options.only):
        print(f"{cell.name}\n    {cell.command}")


def run(options: argparse.Namespace, results: Path) -> None:
    """
    Run what is left of a study.

    Raises:
        ValueError: another run is at work in the folder.
        ChildProcessError: cells failed.
    """
    with locked(options.work, "--work"):
        _run(options)


def _run(options: argparse.Namespace) -> None:
    places = Places(options.models.resolve(), options.tasks.resolve(), options.work.resolve(), options.commit)
    known = {name: it for name, it in read_records(options.known).items() if holds_here(it, device_name())}
    here = read_records(sorted(places.record_folder.glob("*.jsonl")))
    cells, missing = settle(
        read_study(options.study, options.only),
        read_study(options.study),
        known | here,
        device_name(),
        concepts.choose_weight,
    )
    for name, reason in missing.items():
        print(f"{name}: left out, {reason}", flush=True)
    failed = run_study(
        cells,
        places,
        options.output,
        gpus=options.gpus,
        side_by_side=options.side_by_side,
        budget=options.budget,
        known=known,
    )
    if failed:
        raise ChildProcessError(f"{len(failed)} cells failed; {places.work / 'logs'} says why")


def baselines(options: argparse.Namespace, results: Path) -> None:
    """Score what needs no GPU."""
    from benchmarks.studies.baselines import document_baselines, text_baselines

    if options.tasks:
        found = text_baselines(options.names, options.tasks)
    elif options.package_dir and options.tokenizer_name:
        found = document_baselines(options.names, options.package_dir, options.tokenizer_name)
    else:
        raise ValueError("baselines wants --tasks, or for documents --package_dir and --tokenizer_name")
    records = {}
    for record in found:
        records[record["cell"]] = record
        write_records(options.output, records)
        print(record["cell"], flush=True)


def collect(options: argparse.Namespace, results: Path) -> None:
    """
    Archive records, and put figures and tables of all into the results file.

    Raises:
        ValueError: a cell was scored on validation, which is there to choose settings by.
    """
    archive = results / f"{options.name}_runs.jsonl"
    records = read_records([*([archive] if archive.is_file() else []), *options.files])
    if tuned := [name for name, it in records.items() if (it["results"] or {}).get("split") == VALIDATION]:
        raise ValueError(f"{tuned[0]} was scored on validation (--scored_split): that is no result")
    figures, tables = SUMMARIES[options.name](records)
    write_records(archive, records)
    merge_results(results / f"{options.name}.json", figures, tables)
    for key, figure in figures.items():
        print(f"{key}: {figure.value:.4g} ({figure.note})")


def draw(options: argparse.Namespace, results: Path) -> None:
    """Draw what the archived records of the study of concepts give."""
    from benchmarks.studies.plots import plot_concepts

    plot_concepts(read_records([results / "concepts_runs.jsonl"]), options.output)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description="Many runs of fine-tuning.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_keep(commands.add_parser("keep", help="read tasks from packages into files that travel"))
    _add_keep_text(commands.add_parser("keep_text", help="take texts from a corpus into files that travel"))
    listing = commands.add_parser("cells", help="print the commands of a study")
    running = commands.add_parser("run", help="run what is left of a study")
    for each in (listing, running):
        each.add_argument("study", type=Path, help="YAML file")
        each.add_argument("--only", nargs="+", default=[], metavar="GROUP", help="groups of it; all by default")
    listing.set_defaults(command=list_cells)
    _add_run(running)
    scoring = commands.add_parser("baselines", help="score what needs no GPU")
    scoring.add_argument("names", nargs="+", metavar="TASK", help="tasks")
    scoring.add_argument("--tasks", type=Path, help="folder that `keep` wrote, for tasks on sentences and pairs")
    scoring.add_argument("--package_dir", type=Path, help="folder of packages, for documents")
    scoring.add_argument("--tokenizer_name", help="for documents: says where their first 512 tokens end")
    scoring.add_argument("--output", type=Path, required=True, help="file that gets the records")
    scoring.set_defaults(command=baselines)
    collecting = commands.add_parser("collect", help="archive records, write figures and tables")
    collecting.add_argument("name", choices=sorted(SUMMARIES), help="of the results file")
    collecting.add_argument("files", type=Path, nargs="*", help="records (default: those archived before)")
    collecting.set_defaults(command=collect)
    drawing = commands.add_parser("draw", help="draw the archived study of concepts")
    drawing.add_argument("--output", type=Path, default=ROOT / "docs" / "concepts.png", help="PNG file")
    drawing.set_defaults(command=draw)
    return parser.parse_args(arguments)


def _add_keep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="TASK", help="tasks in packages, of both scripts")
    parser.add_argument("--package_dir", type=Path, help="folder of fetched packages; generated tasks need none")
    parser.add_argument("--output", type=Path, required=True, help="folder that gets a file for each task")
    parser.add_argument("--corpus", type=Path, help="built corpus; scored examples that overlap with it are left out")
    parser.add_argument("--most_characters", type=int, help="where documents to classify are cut")
    parser.set_defaults(command=keep)


def _add_keep_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="sources of the corpus")
    parser.add_argument("--corpus", type=Path, required=True, help="built corpus")
    parser.add_argument("--tokenizer_name", type=Path, required=True, help="folder; counts tokens, and is copied")
    parser.add_argument("--tasks", type=Path, required=True, help="folder that `keep` wrote mrpc to, for pairs")
    parser.add_argument("--output", type=Path, required=True, help="folder that gets the files")
    parser.add_argument("--most_tokens", type=int, default=20_000_000, help="to train on (default: %(default)s)")
    parser.add_argument("--most_held_out", type=int, default=700_000, help="in each other file (default: %(default)s)")
    parser.set_defaults(command=keep_texts)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of pretrained models, by nickname")
    parser.add_argument("--tasks", type=Path, required=True, help="folder that `keep` or `keep_text` wrote")
    parser.add_argument("--work", type=Path, required=True, help="folder of runs, records and logs")
    parser.add_argument("--output", type=Path, required=True, help="file that gets all records beside those it has")
    parser.add_argument("--gpus", type=int, default=1, help="to use (default: %(default)s)")
    parser.add_argument("--side_by_side", type=int, default=1, help="processes on each (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=0, help="seconds after which all is ended; 0 is no limit")
    known = "records whose cells are not run again, unless they timed another device"
    parser.add_argument("--known", type=Path, nargs="+", default=[], help=known)
    parser.add_argument("--commit", help="of the code, where there is no git")
    parser.set_defaults(command=run)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
