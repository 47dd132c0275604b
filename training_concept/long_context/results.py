# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run over long documents leaves: scores with their spread, predictions, files for leaderboards, a table."""

import csv
import hashlib
import json
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evaluation_concept.files import draft, write_json
from evaluation_concept.long_context import longbench, metrics, scrolls
from evaluation_concept.long_context.baselines import FIRST_TOKENS
from evaluation_concept.long_context.tasks import ALL, SELECTION, TEST, Example, Prediction, Task
from training_concept.finetuning.claim import RESULTS_FILE
from training_concept.finetuning.results import REFERENCES, summary
from training_concept.long_context.experiment import (
    BAG_OF_FIRST_WORDS,
    BAG_OF_WORDS,
    FIRST,
    GENERATOR,
    MAJORITY,
    MODEL,
    RANDOM,
    Outcome,
    Part,
)

TABLE_FILE, BASELINES_FILE = "results.md", "baselines.json"
PREDICTIONS_FOLDER, SUBMISSION_FOLDER = "predictions", "submission"
# The evaluator of SCROLLS refuses a file that lacks one of its tasks, which must not look like one that it takes.
SCROLLS_FILE, PARTIAL_SCROLLS_FILE = "scrolls_predictions.csv", "scrolls_predictions.partial.csv"
# What tasks in one results.json share; runs of before there was a choice scored what is reported.
SHARED = ("model", "config_overrides", "max_seq_length", "length_curriculum", "seeds", "trained", "scored_split")
DEFAULTS = {"scored_split": TEST}
COLUMNS = {
    MODEL: "this model",
    GENERATOR: "generator",
    FIRST: f"first {FIRST_TOKENS} tokens",
    RANDOM: "random weights",
    BAG_OF_WORDS: "bag of words",
    BAG_OF_FIRST_WORDS: f"bag of words, first {FIRST_TOKENS}",
    MAJORITY: "most frequent",
}
SECONDS = "seconds_per_document"

# Of each system one list for each run.
Predictions = dict[str, list[list[Prediction]]]


def task_results(outcome: Outcome, scored_split: str = TEST) -> dict[str, Any]:
    """
    The results of a task as JSON values: of each system the scores of all runs, and what the model cost.

    Args:
        outcome: of the task.
        scored_split: `TEST` if the scores are what is reported of it, "validation" if settings are chosen by them.
    """
    task = outcome.task
    systems: dict[str, dict[str, Any]] = {}
    for system, runs in outcome.predictions.items():
        values = [metrics.score(task, run, outcome.scored) for run in runs]
        scores = [next(iter(each.values())) for each in values]
        means = {name: statistics.fmean(each[name] for each in values) for name in values[0]}
        systems[system] = summary(scores) | {"scores": scores, "values": means}
    results: dict[str, Any] = {
        "family": task.family,
        "kind": task.kind,
        "metric": next(iter(next(iter(systems.values()))["values"])),
        "note": task.note,
        "split": scored_split,
        "scored_on": task.scored,
        "examples": len(outcome.scored),
        "folds": task.folds,
        "trained_on": outcome.trained_on,
        "systems": systems,
        "facts": _mean_facts(outcome),
    }
    if outcome.by_length:
        lengths = outcome.by_length.items()
        results["by_length"] = {str(length): summary(scores) | {"scores": scores} for length, scores in lengths}
    if FIRST in systems:
        results["gain_over_first_tokens"] = systems[MODEL]["mean"] - systems[FIRST]["mean"]
    return results


def _mean_facts(outcome: Outcome) -> dict[str, float]:
    shared = set.intersection(*(set(facts) for facts in outcome.facts)) if outcome.facts else set()
    return {name: statistics.fmean(facts[name] for facts in outcome.facts) for name in sorted(shared)}


def write_outcome(folder: Path, outcome: Outcome, scored_split: str = TEST) -> None:
    """
    Write the predictions of a task with what is right, and those for examples with hidden answers as its leaderboard
    takes them, which settings are not chosen by.
    """
    task = outcome.task
    answers = {
        system: [
            {each.id: task.text_of(each, guess) for each, guess in zip(outcome.scored, run, strict=True)}
            for run in runs
        ]
        for system, runs in outcome.predictions.items()
    }
    answers[REFERENCES] = [{each.id: right_answer(task, each) for each in outcome.scored}]
    write_json(folder / PREDICTIONS_FOLDER / f"{task.name}.json", answers)
    if outcome.hidden and task.family == scrolls.FAMILY:
        name = task.name.removeprefix("scrolls_")
        write_json(folder / SUBMISSION_FOLDER / scrolls.FAMILY / f"{name}.json", outcome.hidden)
        _gather_scrolls(folder / SUBMISSION_FOLDER)
    if task.family == longbench.FAMILY and scored_split == TEST:
        system = MODEL if MODEL in outcome.predictions else GENERATOR
        _write_longbench(folder / SUBMISSION_FOLDER / longbench.FAMILY, outcome, system)


def right_answer(task: Task, example: Example) -> str:
    """What is right, or one of several such answers; "" if nobody here has it."""
    if task.kind == SELECTION:
        return task.text_of(example, example.selected)
    return example.label or next(iter(example.answers), "")


def _gather_scrolls(folder: Path) -> None:
    """One file of all tasks so far, as the evaluator of SCROLLS reads it; its name says whether any is missing."""
    rows = [
        (path.stem, identity, answer)
        for path in sorted((folder / scrolls.FAMILY).glob("*.json"))
        for identity, answer in json.loads(path.read_text(encoding="utf-8")).items()
    ]
    name, other = SCROLLS_FILE, PARTIAL_SCROLLS_FILE
    if _missing_of_scrolls(folder):
        name, other = other, name
    with draft(folder / name) as path, path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("Task", "ID", "Prediction"), *rows])
    (folder / other).unlink(missing_ok=True)


def _missing_of_scrolls(folder: Path) -> list[str]:
    names = [task.name.removeprefix("scrolls_") for task in scrolls.TASKS]
    return [name for name in names if not (folder / scrolls.FAMILY / f"{name}.json").is_file()]


def _write_longbench(folder: Path, outcome: Outcome, system: str) -> None:
    """The first run's answers as the evaluator of LongBench reads them."""
    lines = [
        {
            "_id": example.id,
            "pred": outcome.task.text_of(example, guess),
            "answers": list(example.answers),
            "all_classes": list(example.choices) if outcome.task.metric == "longbench_class" else None,
        }
        for example, guess in zip(outcome.scored, outcome.predictions[system][0], strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with draft(folder / f"{outcome.task.name.removeprefix('longbench_')}.jsonl") as path:
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def write_run(folder: Path, content: Mapping[str, Any]) -> str:
    """Write results.json and results.md; returns the table in the latter."""
    write_json(folder / RESULTS_FILE, dict(content))
    table = results_table(content) + _submission_note(folder / SUBMISSION_FOLDER)
    with draft(folder / TABLE_FILE) as path:
        path.write_text(table + "\n", encoding="utf-8")
    return table


def _submission_note(folder: Path) -> str:
    if not (folder / PARTIAL_SCROLLS_FILE).is_file():
        return ""
    missing = ", ".join(_missing_of_scrolls(folder))
    return (
        f"\n\nNote: {SUBMISSION_FOLDER}/{PARTIAL_SCROLLS_FILE} lacks {missing}: the evaluator of SCROLLS takes a file "
        "of all seven tasks only."
    )


def read_results(folder: Path) -> dict[str, Any]:
    """
    What `write_run` wrote to results.json in `folder`.

    Raises:
        ValueError: there is none, or it is of another script.
    """
    path = folder / RESULTS_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "max_seq_length" not in content:
        raise ValueError(f"{folder} holds no results of run_long_context.py to compare with.")
    return content


def earlier_results(folder: Path) -> dict[str, Any]:
    """What an earlier run left in results.json in `folder`, nothing if there was none."""
    return read_results(folder) if (folder / RESULTS_FILE).is_file() else {}


def check_continues(folder: Path, facts: Mapping[str, Any], running: Collection[str]) -> None:
    """
    Refuse to put results into `folder` beside others that are not of the same model, lengths, seeds and split.

    Args:
        folder: of the run, maybe with results of an earlier one.
        facts: about the run, as results.json holds them.
        running: the tasks whose results are written; if no other is there, seeds may have been added.

    Raises:
        ValueError: naming what differs.
    """
    earlier = earlier_results(folder)
    if not earlier.get("tasks"):
        return
    others = set(earlier["tasks"]) - set(running)
    theirs = {name: earlier.get(name, DEFAULTS.get(name, facts[name])) for name in SHARED}
    compared = [name for name in SHARED if others or name != "seeds"]
    if differing := [f"{name} {theirs[name]}, not {facts[name]}" for name in compared if theirs[name] != facts[name]]:
        raise ValueError(
            f"{folder} holds results of another run ({'; '.join(differing)}). Choose another --output_dir, or "
            "--overwrite_output_dir."
        )


def beside_earlier(folder: Path, facts: Mapping[str, Any], running: Collection[str]) -> dict[str, Any]:
    """What results.json holds when tasks begin to run: the facts, and what is there of other tasks."""
    earlier = earlier_results(folder)
    kept = {
        part: {name: value for name, value in earlier.get(part, {}).items() if name not in running}
        for part in ("tasks", "not_run")
    }
    return {**facts, **kept}


def check_comparable(others: Mapping[str, Mapping[str, Any]], examples: Mapping[str, int], scored_split: str) -> None:
    """
    Args:
        others: by name, what results.json of a finished run holds.
        examples: how many this run scores, by task.
        scored_split: what it scores of them.

    Raises:
        ValueError: the runs have no task in common, or scored other splits or numbers of examples of one.
    """
    shared = set(examples).intersection(*(content["tasks"] for content in others.values()))
    if others and not shared:
        raise ValueError(f"{', '.join(others)} have none of these tasks to compare: {', '.join(examples)}.")
    for other, content in others.items():
        for name in sorted(shared):
            theirs = content["tasks"][name]
            if (split := theirs.get("split", TEST)) != scored_split:
                raise ValueError(f"{other} scored the {split} split of {name}, this run scores {scored_split}.")
            if theirs["examples"] != examples[name]:
                raise ValueError(f"{other} scored {theirs['examples']} examples of {name}, not {examples[name]}.")


def kept_baselines(path: Path, made_from: str, make: Callable[[], Predictions]) -> Predictions:
    """
    The predictions of the baselines in the file `path`; made, and written there, if it has none that were made from
    the same.

    Args:
        path: of a JSON file.
        made_from: see `baselines_digest`.
        make: takes minutes for many documents.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    if content.get("made_from") != made_from:
        write_json(path, {"made_from": made_from, "predictions": make()})
        content = json.loads(path.read_text(encoding="utf-8"))
    return {
        system: [[guess if isinstance(guess, str) else tuple(guess) for guess in run] for run in runs]
        for system, runs in content["predictions"].items()
    }


def baselines_digest(task: Task, parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all that the baselines of a task are made from; the tokenizer says where documents are cut."""
    digest = hashlib.blake2b(f"{task.name} {_splits_by(tokenizer)}".encode(), digest_size=16)
    for part in parts:
        for examples in (part.train, part.scored):
            digest.update(f"{len(examples)}\0".encode())
            for example in examples:
                digest.update(repr(example).encode())
    return digest.hexdigest()


def _splits_by(tokenizer: PreTrainedTokenizerBase) -> str:
    """What decides where the tokens of a text end, without how the last call padded and truncated."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return f"{type(tokenizer).__name__} {sorted(tokenizer.get_vocab().items())}"
    return json.dumps(json.loads(backend.to_str()) | {"truncation": None, "padding": None})


def results_table(content: Mapping[str, Any]) -> str:
    """Markdown table of tasks and systems in points, and what was not run, from what results.json holds."""
    tasks = content["tasks"]
    present = {system for task in tasks.values() for system in task["systems"]}
    systems = [system for system in COLUMNS if system in present]
    columns = ["task", "metric", "scored on", "examples", *map(COLUMNS.__getitem__, systems), "seconds a document"]
    lines = [f"| {' | '.join(columns)} |", f"|---|---|---|{'---:|' * (len(columns) - 3)}"]
    for name, task in tasks.items():
        cells = [name, task["metric"], _scored_on(task), f"{task['examples']:,}"]
        cells += [points(task["systems"].get(system)) for system in systems]
        cells += [f"{task['facts'][SECONDS]:.4g}" if SECONDS in task["facts"] else ""]
        lines.append(f"| {' | '.join(cells)} |")
    notes = {task["note"] for task in tasks.values() if task["note"]}
    lines += ["", *(f"Note: {note}." for note in sorted(notes))] if notes else []
    lines += ["", *(f"Not run: {name}: {why}." for name, why in content["not_run"].items())] * bool(content["not_run"])
    return "\n".join(lines)


def _scored_on(task: Mapping[str, Any]) -> str:
    """The split, of a cross-validation its folds; runs of before there was a choice do not say."""
    split = task.get("scored_on", "")
    return "test folds" if split == ALL else f"{split}, in folds" if split and task["folds"] else split


def points(summarised: Mapping[str, Any] | None) -> str:
    """A score in points with its spread and number of runs; "" if there is none."""
    if summarised is None:
        return ""
    if summarised["spread"] is None:
        return f"{summarised['mean']:.1f}"
    return f"{summarised['mean']:.1f} ± {summarised['spread']:.1f} ({summarised['runs']})"
