# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run over tasks leaves: predictions, scores with their spread, comparisons, and a table of all."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation_concept.comparison import Difference, paired_bootstrap
from evaluation_concept.files import draft, write_json
from evaluation_concept.metrics import METRICS, measure, score
from evaluation_concept.tasks import Examples
from training_concept.finetuning.cell import write_arrays
from training_concept.finetuning.claim import RESULTS_FILE
from training_concept.finetuning.experiment import MODEL, RANDOM_INIT, Outcome

TABLE_FILE, PREDICTIONS_FOLDER = "results.md", "predictions"
BAG_OF_WORDS = "bag_of_words"
REFERENCES = "references"
COLUMNS = {MODEL: "this model", RANDOM_INIT: "random encoder", BAG_OF_WORDS: "bag of words", "majority": "majority"}


def task_results(outcome: Outcome) -> dict[str, Any]:
    """The results of a task as JSON values: by split and system the scores of all runs, and how they came about."""
    task = outcome.task
    splits: dict[str, Any] = {}
    for split, references in outcome.references.items():
        systems = {
            system: _system_results(task.metric, predictions[split], references)
            for system, predictions in outcome.predictions.items()
        }
        splits[split] = {"examples": len(references), "digest": outcome.digests.get(split), "systems": systems}
        if BAG_OF_WORDS in outcome.predictions:
            ours, theirs = (outcome.predictions[system][split] for system in (MODEL, BAG_OF_WORDS))
            difference = paired_bootstrap(task.metric, ours, theirs, references)
            splits[split]["ahead_of_bag_of_words"] = asdict(difference)
    return {
        "title": task.title or task.name,
        "metric": list(METRICS[task.metric]),
        "splits": splits,
        "trained_on": outcome.trained_on,
        "chosen": outcome.chosen,
        "chosen_by": outcome.chosen_by,
        "sweep": [[asdict(trial) for trial in trials] for trials in outcome.trials],
        "facts": _mean_facts(outcome.facts),
    }


def _system_results(metric: str, predictions: np.ndarray, references: np.ndarray) -> dict[str, Any]:
    scores = [score(metric, run, references) for run in predictions]
    values = [measure(metric, run, references) for run in predictions]
    summaries = {name: summary([run[name] for run in values]) for name in values[0]}
    return summary(scores) | {"scores": scores, "values": summaries}


def summary(scores: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, spread (standard deviation, `None` of a single run) and number of runs."""
    spread = statistics.stdev(scores) if len(scores) > 1 else None
    return {"mean": statistics.fmean(scores), "spread": spread, "runs": len(scores)}


def _mean_facts(facts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for fact in facts for name in fact)
    return {name: statistics.fmean(fact[name] for fact in facts if name in fact) for name in names}


def averages(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """
    The average over tasks of each system that all tasks have, a task of two splits counting once.

    With the same number of runs everywhere the spread is that of the runs' averages.
    """
    systems = [{system for split in task["splits"].values() for system in split["systems"]} for task in tasks.values()]
    found = {}
    for system in sorted(set.intersection(*systems)):
        by_task = [
            np.mean([split["systems"][system]["scores"] for split in task["splits"].values()], axis=0)
            for task in tasks.values()
        ]
        runs = min(len(scores) for scores in by_task)
        found[system] = summary([float(np.mean([scores[run] for scores in by_task])) for run in range(runs)])
    return found


def write_run(
    folder: Path, facts: Mapping[str, Any], outcomes: Mapping[str, Outcome], results: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """
    Write results.json, results.md and the predictions behind them.

    Args:
        folder: of the run.
        facts: about the run, for results.json.
        outcomes: by task.
        results: by task, as `task_results` gives them.

    Returns:
        What results.json holds, and the table.
    """
    for name, outcome in outcomes.items():
        write_arrays(predictions_file(folder, name), _arrays(outcome))
    content = {**facts, "tasks": dict(results), "average": averages(results)}
    write_json(folder / RESULTS_FILE, content)
    table = results_table(content)
    with draft(folder / TABLE_FILE) as path:
        path.write_text(table + "\n", encoding="utf-8")
    return content, table


def predictions_file(folder: Path, task: str) -> Path:
    """Where a run keeps the predictions of a task."""
    return folder / PREDICTIONS_FOLDER / f"{task}.npz"


def _arrays(outcome: Outcome) -> dict[str, np.ndarray]:
    arrays = {f"{REFERENCES}/{split}": values for split, values in outcome.references.items()}
    for system, splits in outcome.predictions.items():
        arrays |= {f"{system}/{split}": values for split, values in splits.items()}
    return arrays


def compare(outcomes: Mapping[str, Outcome], other: Path) -> dict[str, dict[str, dict[str, float]]]:
    """
    By how much the model is ahead of that of another run, by task and split, for the tasks that both have and that
    `check_comparable` has passed.
    """
    compared: dict[str, dict[str, dict[str, float]]] = {}
    for name in (name for name in outcomes if predictions_file(other, name).is_file()):
        outcome, theirs, compared[name] = outcomes[name], _read_arrays(other, name), {}
        for split, references in outcome.references.items():
            pair = outcome.predictions[MODEL][split], theirs[f"{MODEL}/{split}"]
            compared[name][split] = asdict(paired_bootstrap(outcome.task.metric, *pair, references))
    return compared


def check_comparable(tasks: Mapping[str, Mapping[str, Examples]], other: Path) -> None:
    """
    Args:
        tasks: their scored examples, by split.
        other: folder of another run.

    Raises:
        ValueError: it has no results, no task in common, or scored other examples.
    """
    if not (other / RESULTS_FILE).is_file():
        raise ValueError(f"{other} holds no {RESULTS_FILE} to compare with (--compare_with).")
    if not (shared := [name for name in tasks if predictions_file(other, name).is_file()]):
        raise ValueError(f"{other} has none of these tasks: {', '.join(tasks)}.")
    known = json.loads((other / RESULTS_FILE).read_text(encoding="utf-8"))["tasks"]
    for name in shared:
        theirs = _read_arrays(other, name)
        for split, examples in tasks[name].items():
            # Runs of before do not say which texts they scored.
            digest = known.get(name, {}).get("splits", {}).get(split, {}).get("digest") or examples.digest()
            has_labels = np.array_equal(theirs.get(f"{REFERENCES}/{split}"), examples.labels)
            if not has_labels or digest != examples.digest():
                raise ValueError(f"{other}, {name}: the {split} split is not the one that is scored here.")


def distinguished(folders: Sequence[str]) -> dict[str, Path]:
    """Folders by their names, those of the same name by the paths that were given."""
    names = [Path(folder).resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else str(folder): Path(folder)
        for name, folder in zip(names, folders, strict=True)
    }


def _read_arrays(folder: Path, task: str) -> dict[str, np.ndarray]:
    with np.load(predictions_file(folder, task), allow_pickle=False) as arrays:
        return dict(arrays)


def results_table(content: Mapping[str, Any]) -> str:
    """Markdown table of tasks and systems in points, with spreads and differences, from what results.json holds."""
    present = {
        system for task in content["tasks"].values() for s in task["splits"].values() for system in s["systems"]
    }
    systems = [system for system in COLUMNS if system in present]
    comparisons = content.get("comparisons", {})
    ahead = ["ahead of bag of words"] if BAG_OF_WORDS in present else []
    columns = ["task", "metric", "examples", *(COLUMNS[system] for system in systems), *ahead]
    columns += [f"ahead of {name}" for name in comparisons]
    lines = [f"| {' | '.join(columns)} |", f"|---|---|{'---:|' * (len(columns) - 2)}"]
    for name, task in content["tasks"].items():
        for split, scored in task["splits"].items():
            title = task["title"] if len(task["splits"]) == 1 else f"{task['title']}, {split}"
            cells = [title, ", ".join(task["metric"]), f"{scored['examples']:,}"]
            cells += [_points(scored["systems"].get(system)) for system in systems]
            cells += [_ahead(scored.get("ahead_of_bag_of_words")) for _ in ahead]
            cells += [_ahead(found.get(name, {}).get(split)) for found in comparisons.values()]
            lines.append(f"| {' | '.join(cells)} |")
    if len(content["tasks"]) > 1:
        cells = ["average of tasks", "", "", *(_points(content["average"].get(system)) for system in systems)]
        lines.append(f"| {' | '.join(cells + [''] * (len(columns) - len(cells)))} |")
    return "\n".join(lines)


def _points(summarised: Mapping[str, Any] | None) -> str:
    if summarised is None:
        return ""
    if summarised["spread"] is None:
        return f"{summarised['mean']:.1f}"
    return f"{summarised['mean']:.1f} ± {summarised['spread']:.1f} ({summarised['runs']})"


def _ahead(difference: Mapping[str, float] | Difference | None) -> str:
    if difference is None:
        return ""
    values = difference if isinstance(difference, Mapping) else asdict(difference)
    return f"{values['points']:+.1f} [{values['low']:+.1f}, {values['high']:+.1f}]"
