# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What comes of the study of tasks on sentences and pairs, for benchmarks/results/glue.json."""

import statistics
from collections.abc import Mapping

from benchmarks.results import Figure, Table
from benchmarks.studies.records import Record
from benchmarks.studies.scores import (
    BASELINES,
    Scores,
    Who,
    cost_results,
    differences_table,
    points_cell,
    points_table,
)
from training_concept.finetuning.package_tasks import PACKAGE_TASKS

MAIN, READOUTS = "main", "readouts"
OURS = Who("ours", MAIN, "ours")
BERT, MODERNBERT = Who("BERT-shaped", MAIN, "bert_shaped"), Who("ModernBERT-shaped", MAIN, "modernbert_shaped")
RANDOM = Who("random encoder", MAIN, "random_encoder")
RELEASED = Who("concept-encoder-mini", "released", "released")
WORDS, MAJORITY = Who("bag of words", BASELINES, system="bag_of_words"), Who("majority", BASELINES, system="majority")
AVERAGED = {
    "average_ours": OURS,
    "average_bert_shaped": BERT,
    "average_modernbert_shaped": MODERNBERT,
    "average_bag_of_words": WORDS,
}
TARGETS = {"average_ours": "; required: at or above the BERT-shaped control"}
SINGLE = {"agreement": "subject_verb_agreement", "swap_detection": "adjacent_swaps"}
METRICS = {name: entry.task.metric for name, entry in PACKAGE_TASKS.items()}
NOT_GLUE = "tasks in packages, which are not GLUE"


def summarise(records: Mapping[str, Record]) -> tuple[dict[str, Figure], list[Table]]:
    """Figures and tables of all records."""
    scores = Scores(records, METRICS, "glue")
    tasks = [name for name in PACKAGE_TASKS if scores.points(OURS, name)]
    figures, tables = cost_results(records)
    if tasks:
        figures |= _averages(scores, tasks) | _singles(scores, tasks)
        tables += [_tasks_table(scores, tasks), _differences(scores, tasks), _settings(scores, tasks)]
    if released := [name for name in PACKAGE_TASKS if scores.points(RELEASED, name)]:
        note = "Points; mean ± standard deviation (seeds), each at the better of two learning rates."
        tables.append(points_table("released", scores, released, [RELEASED, WORDS, MAJORITY], note))
    if variants := _variants(records):
        tables.append(_readouts(scores, variants))
    return figures, tables


def _averages(scores: Scores, tasks: list[str]) -> dict[str, Figure]:
    """Over the tasks that all have, and how often a bag of words is better."""
    present = {key: who for key, who in AVERAGED.items() if any(scores.points(who, task) for task in tasks)}
    shared = scores.shared(tasks, list(present.values()))
    found = {}
    for key, who in present.items():
        if values := scores.average(who, shared):
            note = f"average of {len(shared)} {NOT_GLUE}: {', '.join(shared)}; {who.title}{TARGETS.get(key, '')}"
            found[key] = scores.figure(values, scores.records(who, shared), note)
    compared = scores.shared(tasks, [OURS, WORDS])
    if compared:
        below = [task for task in compared if _mean(scores, OURS, task) < _mean(scores, WORDS, task)]
        note = f"tasks of {len(compared)} on which ours is below a bag of words ({', '.join(below)}); required: 0"
        records = scores.records(OURS, compared)
        found["scores_below_bag_of_words"] = scores.figure([len(below)], records, note, "tasks")
    return found


def _singles(scores: Scores, tasks: list[str]) -> dict[str, Figure]:
    found = {}
    for key, task in SINGLE.items():
        if task in tasks:
            note = f"accuracy of ours on {task}, where words without their order tell nothing; required: 95"
            found[key] = scores.figure(scores.points(OURS, task), scores.records(OURS, [task]), note)
    return found


def _mean(scores: Scores, who: Who, task: str) -> float:
    return statistics.fmean(scores.points(who, task))


def _tasks_table(scores: Scores, tasks: list[str]) -> Table:
    left_out = {task: record.get("left_out", 0) for task in tasks if (record := scores.record(WORDS, task))}
    dropped = ", ".join(f"{number} of `{task}`" for task, number in left_out.items() if number)
    note = (
        f"Points; mean ± standard deviation (seeds). These are {NOT_GLUE}. Not scored, since they share 13 words in a "
        f"row with what was pretrained on: {dropped or 'none'}."
    )
    return points_table("tasks", scores, tasks, [OURS, BERT, MODERNBERT, RANDOM, WORDS, MAJORITY], note)


def _differences(scores: Scores, tasks: list[str]) -> Table:
    note = "Points by which ours is ahead; 95 % intervals of a paired bootstrap over the scored examples."
    return differences_table("differences", scores, tasks, OURS, [BERT, MODERNBERT, RANDOM, WORDS], note)


def _settings(scores: Scores, tasks: list[str]) -> Table:
    """What was trained on, and which learning rates were chosen."""
    models = [who for who in (OURS, BERT, MODERNBERT, RANDOM) if scores.records(who, tasks)]
    rows = [
        [f"`{task}`", _trained_on(scores, task), *(_chosen(scores.record(who, task)) for who in models)]
        for task in tasks
    ]
    note = "Settings that were chosen on examples whose score is not reported; of folds, each its own."
    return Table("settings", ["task", "trained on", *(who.title for who in models)], rows, note)


def _trained_on(scores: Scores, task: str) -> str:
    record = scores.record(OURS, task)
    numbers = record["results"]["trained_on"] if record else []
    return f"{round(statistics.fmean(numbers)):,}" if numbers else ""


def _chosen(record: Record | None) -> str:
    chosen = record["results"]["chosen"] if record else []
    values = [", ".join(f"{value:g}" for value in settings.values()) for settings in chosen]
    return " / ".join(dict.fromkeys(values)) or ("as given" if record else "")


def _variants(records: Mapping[str, Record]) -> dict[str, list[str]]:
    """Tasks by variant of the study of read-outs."""
    found: dict[str, list[str]] = {}
    for record in records.values():
        if record["group"] == READOUTS:
            found.setdefault(f"{record['model']}/{record['variant']}", []).append(record["task"])
    return found


def _readouts(scores: Scores, variants: Mapping[str, list[str]]) -> Table:
    tasks = [name for name in PACKAGE_TASKS if any(name in some for some in variants.values())]
    rows = []
    for label in variants:
        model, _, variant = label.partition("/")
        who = Who(variant, READOUTS, model, variant)
        cells = [points_cell(scores.points(who, task)) for task in tasks]
        rows.append([model, variant.replace("_", " "), *cells, points_cell(scores.average(who, tasks))])
    note = "Points; mean ± standard deviation (seeds). All with the same settings, none of them chosen for a read-out."
    return Table("readouts", ["model", "read-out", *(f"`{task}`" for task in tasks), "average"], rows, note)
