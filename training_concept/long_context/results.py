# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run over long documents leaves: scores with their spread, predictions, files for leaderboards, a table."""

import csv
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation_concept.files import draft, write_json
from evaluation_concept.long_context import longbench, metrics, scrolls
from evaluation_concept.long_context.baselines import FIRST_TOKENS
from evaluation_concept.long_context.tasks import SELECTION, Example, Task
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
)

TABLE_FILE = "results.md"
PREDICTIONS_FOLDER, SUBMISSION_FOLDER = "predictions", "submission"
SCROLLS_FILE = "scrolls_predictions.csv"
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


def task_results(outcome: Outcome) -> dict[str, Any]:
    """The results of a task as JSON values: of each system the scores of all runs, and what the model cost."""
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


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """
    Write the predictions of a task with what is right, and those for examples with hidden answers as its leaderboard
    takes them.
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
    if task.family == longbench.FAMILY:
        system = MODEL if MODEL in outcome.predictions else GENERATOR
        _write_longbench(folder / SUBMISSION_FOLDER / longbench.FAMILY, outcome, system)


def right_answer(task: Task, example: Example) -> str:
    """What is right, or one of several such answers; "" if nobody here has it."""
    if task.kind == SELECTION:
        return task.text_of(example, example.selected)
    return example.label or next(iter(example.answers), "")


def _gather_scrolls(folder: Path) -> None:
    """One file of all tasks so far, with the columns that the evaluator of SCROLLS reads."""
    rows = [
        (path.stem, identity, answer)
        for path in sorted((folder / scrolls.FAMILY).glob("*.json"))
        for identity, answer in json.loads(path.read_text(encoding="utf-8")).items()
    ]
    with draft(folder / SCROLLS_FILE) as path, path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("Task", "ID", "Prediction"), *rows])


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
    table = results_table(content)
    with draft(folder / TABLE_FILE) as path:
        path.write_text(table + "\n", encoding="utf-8")
    return table


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


def results_table(content: Mapping[str, Any]) -> str:
    """Markdown table of tasks and systems in points, and what was not run, from what results.json holds."""
    tasks = content["tasks"]
    present = {system for task in tasks.values() for system in task["systems"]}
    systems = [system for system in COLUMNS if system in present]
    columns = ["task", "metric", "examples", *(COLUMNS[system] for system in systems), "seconds a document"]
    lines = [f"| {' | '.join(columns)} |", f"|---|---|{'---:|' * (len(columns) - 2)}"]
    for name, task in tasks.items():
        cells = [name, task["metric"], f"{task['examples']:,}"]
        cells += [points(task["systems"].get(system)) for system in systems]
        cells += [f"{task['facts'][SECONDS]:.4g}" if SECONDS in task["facts"] else ""]
        lines.append(f"| {' | '.join(cells)} |")
    notes = {task["note"] for task in tasks.values() if task["note"]}
    lines += ["", *(f"Note: {note}." for note in sorted(notes))] if notes else []
    lines += ["", *(f"Not run: {name}: {why}." for name, why in content["not_run"].items())] * bool(content["not_run"])
    return "\n".join(lines)


def points(summarised: Mapping[str, Any] | None) -> str:
    """A score in points with its spread and number of runs; "" if there is none."""
    if summarised is None:
        return ""
    if summarised["spread"] is None:
        return f"{summarised['mean']:.1f}"
    return f"{summarised['mean']:.1f} ± {summarised['spread']:.1f} ({summarised['runs']})"
