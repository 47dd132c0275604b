# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Sections that only cards of released checkpoints have: training data of a head, spread, speed, concepts, compute, how
to make it again, and what was not run.

    python -m benchmarks.release_cards model_cards/concept-encoder-mini*            # write them
    python -m benchmarks.release_cards model_cards/concept-encoder-mini* --check    # a card that differs is an error

Every number comes from a file: results of the run in the checkpoint's folder, its recipe, and what
`python -m benchmarks.release_figures` measured. The words are those of model_cards/released.md.
"""

import argparse
import itertools
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from benchmarks import released
from benchmarks.release_figures import (
    ANALYSIS,
    ANALYSIS_FIGURE,
    BATCH_TOKENS,
    CONTROL,
    DRAWN,
    JOULES_PER_KWH,
    LENGTHS,
    architecture_of,
    find_recipe,
    is_language_model,
    key_of,
    training_command,
    training_seconds,
)
from benchmarks.released import address
from benchmarks.results import RESULTS, ROOT, Figure, read_results
from evaluation_concept.analysis_report import HEADLINE
from evaluation_concept.errors import exit_code
from training_concept.finetuning.package_tasks import PACKAGE_TASKS
from training_concept.publishing.card import TEMPLATES, save_card
from training_concept.publishing.contents import CARD

BEGIN, END = "<!-- release -->", "<!-- /release -->"
# What fine-tuned models do not share with the language model (docs/publishing.md).
OWN = "o_proj|^head|^lm_head"
# Assumed: kg of CO2 for a kWh.
GRID = 0.4
PROSE = re.compile(r"[A-Z\d]|`[^`]")
NO_TEXTS = ("bag_of_words", "unigram")


NOT_STATED = "not stated"
# Of texts whose licence asks for more than attribution: in words, and by what is found in the licence.
RESTRICTED = {
    "not free, wholly or in part, are": "(non-free)",
    "under the GPL, some by choice, are": "GPL-",
    "terms are not stated for": NOT_STATED,
}


@dataclass(frozen=True)
class Data:
    """
    Texts that a head was trained on.

    Attributes:
        title: what they are.
        hub: dataset on the Hub that holds the same texts.
        licence: of these.
    """

    title: str
    hub: str
    licence: str


# By the name of a task, which recipes of heads give.
DATA = {
    "vitaminc": Data(
        "VitaminC (claims about sentences of Wikipedia), as BIG-bench has it", "tals/vitaminc", "CC BY-SA 3.0"
    ),
    "sst2": Data(
        "Rotten Tomatoes (sentences of film reviews), without what SST-2's development set holds",
        "cornell-movie-review-data/rotten_tomatoes",
        NOT_STATED,
    ),
    "hotpotqa_support": Data(
        "HotpotQA (questions and sentences of Wikipedia that answer them)", "hotpotqa/hotpot_qa", "CC BY-SA 4.0"
    ),
}
NOT_RUN = (
    "GLUE, SCROLLS and LongBench; a BERT or ModernBERT pretrained on this text for as long, on the same tasks.",
    "A second seed.",
    "Other languages than English, and whether answers differ with the people that a text is about.",
    "Its speed on a GPU; the Hub itself (`docs/publishing.md`: uploads were tested on a server that speaks its HTTP).",
    "A meter: no energy was measured.",
)


def renewed(folder: Path, figures: Mapping[str, Figure]) -> ModelCard:
    """The card of a released checkpoint with its sections, and the datasets of its metadata, up to date."""
    card = ModelCard.load(folder / CARD)
    card.data.datasets = [DATA[task].hub for task in tasks_of(folder)] or None
    card.text = with_sections(card.text, sections(folder, figures))
    return card


def with_sections(text: str, wanted: str) -> str:
    """The text of a card with these sections in place of older ones, before what `benchmarks.released` wrote."""
    text = re.sub(rf"\n*{BEGIN}.*?{END}\n*", "\n\n", text, flags=re.DOTALL)
    before, mark, after = text.partition(released.BEGIN)
    return f"{before.rstrip()}\n\n{wanted}\n" + (f"\n{mark}{after}" if mark else "")


def sections(folder: Path, figures: Mapping[str, Figure]) -> str:
    """
    The sections of a released checkpoint, between their marks.

    Args:
        folder: of the checkpoint.
        figures: of benchmarks/results/hub.json.

    Raises:
        ValueError, OSError: for what was not measured.
    """
    recipe = read_recipe(folder)
    card = ModelCard.from_template(
        ModelCardData(),
        template_path=str(TEMPLATES / "released.md"),
        base=None if is_language_model(folder) else base_of(folder).as_posix(),
        licence=licence(folder),
        trained_weights=recipe.get("trained_weights"),
        columns=text_columns(folder),
        labels=labels(folder),
        spread=spread(folder, figures),
        commands=commands(folder, recipe),
        not_run=not_run(folder),
        **training_data(folder),
        **speed(folder, figures),
        **analysis(folder),
        **compute(folder, figures),
    )
    return f"{BEGIN}\n{wrapped(card.text.strip())}\n{END}"


def wrapped(text: str) -> str:
    """The same with paragraphs of prose wrapped; tables, lists, code and headings as they are."""
    return "\n\n".join(
        "\n".join(released.wrapped_lines(part)) if PROSE.match(part) else part for part in text.split("\n\n")
    )


def base_of(folder: Path) -> Path:
    """The folder that a head was fine-tuned from."""
    return Path(read_recipe(folder)["model_name_or_path"])


def read_recipe(folder: Path) -> dict[str, Any]:
    """The settings that a checkpoint was trained with."""
    return yaml.safe_load((ROOT / find_recipe(folder)).read_text(encoding="utf-8"))


def licence(folder: Path) -> str:
    """What the licence of a checkpoint is of, and which texts that its weights were trained on are not free."""
    by_text = licences(folder if is_language_model(folder) else ROOT / base_of(folder))
    kinds = {kind: [name for name, text in by_text.items() if mark in text] for kind, mark in RESTRICTED.items()}
    named = "; ".join(f"{kind} {_listed(names)}" for kind, names in kinds.items() if names)
    whose = ": " if is_language_model(folder) else ". Of those of the base, "
    unstated = [DATA[task].title.partition(" (")[0] for task in tasks_of(folder) if DATA[task].licence == NOT_STATED]
    more = f" Nothing is stated of {' and '.join(unstated)}, which this head was trained on." if unstated else ""
    return (
        f"The licence, {read_recipe(folder)['license']}, is of the weights and the code. It says nothing about the "
        f"texts that the weights were trained on, which have licences of their own{whose}{named}.{more}"
    )


def licences(folder: Path) -> dict[str, str]:
    """Licences of the texts that a language model was pretrained on, by text, as the recipe of the data has them."""
    recipe = yaml.safe_load((ROOT / read_recipe(folder)["data_recipe"]).read_text(encoding="utf-8"))
    return {name: recipe["sources"][name]["license"] for name in read(folder, "data.json")["train"]}


def _listed(names: Sequence[str]) -> str:
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}" if most else last


def tasks_of(folder: Path) -> list[str]:
    """Tasks that a head was trained for, of those that `DATA` has; a language model has none."""
    text = (ROOT / find_recipe(folder)).read_text(encoding="utf-8")
    return [] if is_language_model(folder) else [task for task in DATA if re.search(rf"\b{task}\b", text)]


def text_columns(folder: Path) -> tuple[str, ...]:
    """What the texts of a classifier are, one or two."""
    if "Classification" not in architecture_of(folder):
        return ()
    (name,) = read(folder, "results.json")["tasks"]
    return PACKAGE_TASKS[name].task.text_columns


def labels(folder: Path) -> list[str]:
    """Classes of a classifier, in the order of their numbers."""
    names = read(folder, "config.json").get("id2label", {})
    return [names[number] for number in sorted(names, key=int)] if text_columns(folder) else []


def training_data(folder: Path) -> dict[str, Any]:
    """Texts of a head, with how many examples where they are counted."""
    tasks = tasks_of(folder)
    rows = [{"title": DATA[task].title, "licence": DATA[task].licence, "number": ""} for task in tasks]
    if (folder / "results.json").is_file():
        for task, row in zip(tasks, rows, strict=True):
            row["number"] = f"{read(folder, 'results.json')['tasks'][task]['trained_on'][0]:,}"
        return {"data": rows, "unit": "examples"}
    if rows:
        found = read(folder, "train_results.json")
        pairs = found["train_samples_per_second"] * found["train_runtime"] / found["epoch"]
        own = {"title": "neighbouring sentences of the text of pretraining", "number": "", "licence": "see the base"}
        total = {"title": "all", "number": f"{pairs:,.0f}", "licence": ""}
        rows = [own, *rows, total]
    return {"data": rows, "unit": "pairs"}


def spread(folder: Path, figures: Mapping[str, Figure]) -> str:
    """What is known of how far figures could be off, and what the model is not ahead of."""
    if (folder / "results.json").is_file():
        return spread_of_scores(read(folder, "results.json"))
    if not is_language_model(folder):
        found = read(folder, "retrieval.json")
        mine, lexical = (found[name]["mrr_at_10"] for name in ("this model", "BM25"))
        behind = f" BM25 ranks better (mrr_at_10 {lexical:.3f} to {mine:.3f})." if lexical > mine else ""
        return (
            f"One training, so that there is no spread over seeds; nor was an interval over queries recorded.{behind}"
        )
    losses = losses_by_text(folder)
    least, most = min(losses, key=lambda name: losses[name]), max(losses, key=lambda name: losses[name])
    return (
        f"One training, so that there is no spread over seeds. Over the {len(losses)} texts the loss is "
        f"{statistics.fmean(losses.values()):.3f} ± {statistics.stdev(losses.values()):.3f} nats (mean and standard "
        f"deviation, each text alike), from {losses[least]:.3f} (`{least}`) to {losses[most]:.3f} (`{most}`). "
        + spread_of_masks(folder, figures)
    )


def spread_of_masks(folder: Path, figures: Mapping[str, Figure]) -> str:
    """What differs on the same text if other tokens are masked."""
    drawn = {name: find(figures, f"masks_{name}", folder) for name in DRAWN}
    loss, accuracy, unigram, words = (f"{it.value:.3f} ± {it.spread or 0:.3f}" for it in drawn.values())
    it = drawn["loss"]
    return (
        f"On speeches, rows of {LENGTHS[0]} tokens, {it.runs} draws of the masked tokens gave a loss of {loss} nats "
        f"and an accuracy of {accuracy}; a bag of words that was fitted to other speeches had a loss of {words}, a "
        f"unigram one of {unigram} (`{it.command}`, {it.date}, commit {it.commit})."
    )


def spread_of_scores(results: Mapping[str, Any]) -> str:
    """The same of a classifier that was scored on one split of one task."""
    (task,) = results["tasks"].values()
    (split,) = task["splits"].values()
    ahead = split["ahead_of_bag_of_words"]
    verdict = "it is ahead of the bag of words" if ahead["low"] > 0 else "it is not shown to beat the bag of words"
    return (
        f"One training (seed {results['seeds'][0]}): there is no spread over seeds. The interval above is over "
        f"the examples that were scored, of a bootstrap in which both systems have the same ones: {verdict} "
        f"({ahead['low']:+.1f} to {ahead['high']:+.1f} points)."
    )


def losses_by_text(folder: Path) -> dict[str, float]:
    """Losses of a language model on the texts that it was scored on."""
    found = {re.fullmatch(r"eval_(\w+)_loss", key): value for key, value in read(folder, "eval_results.json").items()}
    return {match[1]: value for match, value in found.items() if match and match[1] not in NO_TEXTS}


def speed(folder: Path, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Rows of the table of speed, and where and how it was measured."""
    rows = []
    for length in LENGTHS:
        names = (f"{name}_{length}" for name in ("tokens_per_s", "tokens_x_modernbert"))
        rate, times = (find(figures, name, folder) for name in names)
        spreads = (f"{rate.spread or 0:,.0f}", f"{times.spread or 0:.2f}")
        rows.append([f"{length:,}", f"{rate.value:,.0f}", spreads[0], f"{times.value:.2f}", spreads[1]])
    return {
        "speed": rows,
        "speed_device": rate.device,
        "speed_runs": rate.runs,
        "speed_command": rate.command,
        "speed_date": rate.date,
        "speed_commit": rate.commit,
        "batch_tokens": f"{BATCH_TOKENS:,}",
        "control": CONTROL,
        "what_is_timed": "encoder and head" if "Classification" in architecture_of(folder) else "encoder",
    }


def analysis(folder: Path) -> dict[str, Any]:
    """The figure of the analysis, rows of its numbers, and where they are from."""
    content = read(folder, ANALYSIS)
    model, random = content["this model"], content["random weights"]
    rows = [
        [name.replace("_", " "), *(_cell(numbers.get(name)) for numbers in (model, random))]
        for name in HEADLINE
        if name in model
    ]
    about = f"{content['rows']:,} rows of up to {content['tokens_in_a_row']:,} tokens of State of the Union addresses"
    if is_language_model(folder):
        caption = "Loss over the share of concepts that the decoder does not see"
        note = f"{about}, which nothing was trained on; losses in nats a masked token, the rest in fractions."
    else:
        caption = "Singular values of the concepts of a row, largest first, beside random weights"
        note = (
            f"{about}, which nothing was trained on. What concepts of the base carry, and what its loss owes to them, "
            "is on its card; that part of the analysis needs a model that predicts masked tokens."
        )
    return {
        "figure": f"![{caption}]({ANALYSIS_FIGURE})",
        "analysis": rows,
        "analysis_note": note,
        "analysis_command": content["command"],
        "analysis_date": content["date"],
        "analysis_commit": content["commit"],
    }


def compute(folder: Path, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """What training took, and at most how much energy."""
    seconds, energy = (find(figures, name, folder) for name in ("train_seconds", "train_kwh"))
    rows = [["GPU", f"1 x {seconds.device}"]]
    if (trainings := training_seconds(folder)[1]) > 1:
        rows.append(["trainings, those of the sweep included", str(trainings)])
    rows += [
        ["seconds of training" + (", at most" if trainings > 1 else ""), f"{seconds.value:,.0f}"],
        ["energy, at most", f"{energy.value:.3f} kWh"],
        ["CO2, at most", f"{1000 * GRID * energy.value:.0f} g"],
    ]
    left_out = ["the rest of the machine, evaluation and baselines, runs before this one"]
    if not is_language_model(folder):
        base = find(figures, "train_kwh", base_of(folder))
        left_out.append(f"the training of the base ({base.value:.3f} kWh)")
    return {
        "compute": rows,
        "watts": f"{energy.value * JOULES_PER_KWH / seconds.value:.0f}",
        "grid": GRID,
        "not_counted": ", ".join(left_out),
    }


def commands(folder: Path, recipe: Mapping[str, Any]) -> list[str]:
    """What makes a checkpoint again, from the root of a clone: what its recipe says, its release and its card."""
    path = find_recipe(folder)
    found = recipe_commands((ROOT / path).read_text(encoding="utf-8"))
    if not any(path.as_posix() in command for command in found):
        found.append(training_command(folder))
    base = recipe.get("model_name_or_path")
    shared = f"--base {base}" if base else f"--own '{OWN}'"
    name = address(folder)
    draws = [f"python -m benchmarks.release_figures masks {name}"] if is_language_model(folder) else []
    return [
        *found,
        f"python -m training_concept.release {recipe['output_dir']} {name} {shared}",
        f"python -m benchmarks.released {name} --package_dir PACKAGES --write_cards",
        f"python -m benchmarks.release_figures speed {name}",
        *draws,
        f"python -m benchmarks.release_figures analysis {name}",
        f"python -m benchmarks.release_figures training {name} --device GPU",
        f"python -m benchmarks.release_cards {name}",
    ]


def recipe_commands(text: str) -> list[str]:
    """Lines of the commands in the comment at the head of a recipe, which are indented there."""
    head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return [line.removeprefix("#   ") for line in head if line.startswith("#   ")]


def not_run(folder: Path) -> list[str]:
    """What a reader could expect, and was not done."""
    lines = list(NOT_RUN)
    if is_language_model(folder):
        lines.append("The longer training that the recipe first asked for (`docs/log.md`).")
    else:
        lines.append("Training all weights, and longer texts than the recipe has.")
    return lines


def find(figures: Mapping[str, Figure], name: str, folder: Path) -> Figure:
    """
    A figure of a checkpoint.

    Raises:
        ValueError: it was not measured.
    """
    if (key := key_of(name, folder)) not in figures:
        raise ValueError(f"There is no figure {key}: measure it by python -m benchmarks.release_figures.")
    return figures[key]


def read(folder: Path, name: str) -> Any:
    """Content of a JSON file of a checkpoint."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str], path: Path = RESULTS / "hub.json") -> None:
    """
    Write the sections of cards, or check them.

    Raises:
        ValueError, OSError: for what was not measured, and for a card that is out of date.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.release_cards",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="released checkpoints")
    parser.add_argument("--check", action="store_true", help="change nothing; a card that differs is an error")
    options = parser.parse_args(arguments)
    figures = read_results(path).figures
    cards = {folder / CARD: renewed(folder, figures) for folder in options.folders}
    stale = {path: card for path, card in cards.items() if str(card) != path.read_text(encoding="utf-8")}
    if stale and options.check:
        raise ValueError(f"Out of date: {', '.join(map(str, stale))}.")
    for path, card in stale.items():
        save_card(card, path.parent)
        print(f"{path} was written")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
