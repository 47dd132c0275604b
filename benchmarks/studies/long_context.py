# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What comes of the study of long documents, for benchmarks/results/long_context.json."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.results import Figure, Table, brief
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
from evaluation_concept.long_context.registry import TASKS
from training_concept.long_context.experiment import BAG_OF_FIRST_WORDS, BAG_OF_WORDS, FIRST, MAJORITY

DOCUMENTS, LISTOPS, NEEDLE = "documents", "listops", "needle"
OURS, OURS_FIRST = Who("ours", DOCUMENTS, "ours"), Who("ours, first 512", DOCUMENTS, "ours", system=FIRST)
MODERNBERT = Who("ModernBERT-shaped", DOCUMENTS, "modernbert_shaped")
MODERNBERT_FIRST = Who("ModernBERT-shaped, first 512", DOCUMENTS, "modernbert_shaped", system=FIRST)
WORDS = Who("bag of words", BASELINES, system=BAG_OF_WORDS)
FIRST_WORDS = Who("bag of words, first 512", BASELINES, system=BAG_OF_FIRST_WORDS)
FREQUENT = Who("most frequent", BASELINES, system=MAJORITY)
ERAS, GENRES, LIST_OPERATIONS = "sotu_eras", "brown_genres", "lra_listops"
REAL = (ERAS, GENRES, "qasper_yesno", "rfc_groups", "rfc_pairs")
# The variant of the model `small`, and what is required.
LISTOPS_FIGURES = {"listops_scratch": ("scratch", 39.4), "listops_self_pretrained": ("self_pretrained", 50.0)}
NEEDLES = ("ruler_needle", "ruler_multi_key")
NEEDLE_TARGETS = {4096: 0.99, 16_384: 0.99, 65_536: 0.95}
# Those that are right or wrong; nothing else is in the study.
METRICS = {name: "accuracy" for name, task in TASKS.items() if task.metric in ("accuracy", "selection_exact")}


def summarise(records: Mapping[str, Record]) -> tuple[dict[str, Figure], list[Table]]:
    """Figures and tables of all records."""
    scores = Scores(records, METRICS, "long_context")
    figures, tables = cost_results(records)
    tasks = [name for name in REAL if scores.points(OURS, name)]
    if tasks:
        figures |= _documents(scores, tasks)
        tables += _document_tables(scores, tasks)
    figures |= _listops(scores) | _needles(scores)
    for group, make in ((LISTOPS, _listops_table), (NEEDLE, _needle_table)):
        if some := [record for record in records.values() if record["group"] == group]:
            tables.append(make(scores, some))
    return figures, tables


def _documents(scores: Scores, tasks: Sequence[str]) -> dict[str, Figure]:
    found = {}
    named = (("sotu_eras", OURS, ERAS), ("sotu_bag_of_words", WORDS, ERAS), ("brown_genres", OURS, GENRES))
    required = {"sotu_eras": "above a bag of words on whole texts", "brown_genres": "above 52.6"}
    for key, who, task in named:
        if values := scores.points(who, task):
            note = f"accuracy of {who.title} on {task}, by cross-validation"
            note += f"; required: {required[key]}" if key in required else ""
            found[key] = scores.figure(values, scores.records(who, [task]), note)
    whole, first = (scores.points(who, ERAS) for who in (OURS, OURS_FIRST))
    if whole and first:
        gains = [ours - theirs for ours, theirs in zip(whole, first, strict=True)]
        note = "State of the Union eras: ours on whole speeches less ours on their first 512 tokens; required: 10"
        found["sotu_gain_over_first_512"] = scores.figure(gains, scores.records(OURS, [ERAS]), note)
    if compared := scores.shared(tasks, [OURS, WORDS]):
        below = [task for task in compared if _mean(scores, OURS, task) < _mean(scores, WORDS, task)]
        note = f"tasks of {len(compared)} on which ours is below a bag of words ({', '.join(below)}); required: 0"
        records = scores.records(OURS, compared)
        found["tasks_below_bag_of_words"] = scores.figure([len(below)], records, note, "tasks")
    return found


def _mean(scores: Scores, who: Who, task: str) -> float:
    return statistics.fmean(scores.points(who, task))


def _document_tables(scores: Scores, tasks: Sequence[str]) -> list[Table]:
    everyone = [OURS, OURS_FIRST, MODERNBERT, MODERNBERT_FIRST, WORDS, FIRST_WORDS, FREQUENT]
    note = "Points; mean ± standard deviation (seeds). Eras, genres and papers are cross-validated."
    tables = [points_table("documents", scores, tasks, everyone, note)]
    note = "Points by which ours is ahead; 95 % intervals of a paired bootstrap over the scored documents."
    others = [MODERNBERT, WORDS, OURS_FIRST]
    tables.append(differences_table("document_differences", scores, tasks, OURS, others, note))
    rows = [
        [f"`{task}`", who.title, *_cost(scores.record(who, task))]
        for task in tasks
        for who in (OURS, MODERNBERT)
        if scores.record(who, task)
    ]
    columns = ["task", "model", "tokens at most", "seconds of training", "seconds a document", "GiB of training"]
    note = "Means of a training; trainings share the GPU where there are several, so seconds are no comparison."
    return [*tables, Table("document_costs", columns, rows, note)]


def _cost(record: Record | None) -> list[Any]:
    facts = record["results"]["facts"] if record else {}
    names = ("train_seconds", "seconds_per_document", "peak_memory_gib")
    length = _flag(record, "max_seq_length") if record else ""
    return [length, *(brief(facts[name], 3) if name in facts else "" for name in names)]


def _flag(record: Record, name: str) -> str:
    words = record["command"].split()
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else ""


def _listops(scores: Scores) -> dict[str, Figure]:
    found = {}
    for key, (variant, required) in LISTOPS_FIGURES.items():
        who = Who("ours", LISTOPS, "small", variant)
        if values := scores.points(who, LIST_OPERATIONS):
            note = (
                f"accuracy on 2,000 test expressions of ListOps, {variant.replace('_', '-')}; required: {required:g}"
            )
            found[key] = scores.figure(values, scores.records(who, [LIST_OPERATIONS]), note)
    return found


def _listops_table(scores: Scores, records: Sequence[Record]) -> Table:
    rows = []
    for who, task in _rows(LISTOPS, records):
        if points := scores.points(who, task):
            names = (name.replace("_", "-") for name in (who.model, who.variant))
            record = scores.record(who, task)
            steps = record["results"]["facts"].get("steps", 0) if record else 0
            rows.append([*names, points_cell(points), int(steps), *_cost(record)[1:]])
    costs = ["steps", "seconds of training", "seconds an expression", "GiB of training"]
    return Table(LISTOPS, ["model", "start", "accuracy", *costs], rows, "Points; mean ± standard deviation (seeds).")


def _rows(group: str, records: Iterable[Record]) -> list[tuple[Who, str]]:
    """Each model, variant and task of a group once, whatever its seeds."""
    return list(dict.fromkeys((Who("", group, it["model"], it["variant"]), it["task"]) for it in records))


def _needle_points(scores: Scores, who: Who, task: str) -> dict[int, list[float]]:
    """Scores of all runs by length of the documents."""
    found: dict[int, list[float]] = defaultdict(list)
    for record in scores.records(who, [task]):
        for length, shorter in record["results"].get("by_length", {}).items():
            found[int(length)] += shorter["scores"]
    last = scores.record(who, task)
    return found | ({int(_flag(last, "max_seq_length")): scores.points(who, task)} if last else {})


def _needles(scores: Scores) -> dict[str, Figure]:
    """The worse of both tasks at each length."""
    who = Who("ours", NEEDLE, "ours")
    records = scores.records(who, NEEDLES)
    by_task = {task: _needle_points(scores, who, task) for task in NEEDLES}
    found = {}
    for length, required in NEEDLE_TARGETS.items():
        points = {task: lengths[length] for task, lengths in by_task.items() if length in lengths}
        if len(points) == len(NEEDLES):
            worse = min(points, key=lambda task: statistics.fmean(points[task]))
            means = " and ".join(f"{task} {statistics.fmean(some) / 100:.3f}" for task, some in points.items())
            note = f"share of documents of {length} tokens answered right, the worse of {means}; required: {required}"
            values = [value / 100 for value in points[worse]]
            found[f"needle_{length // 1024}k"] = scores.figure(values, records, note, "fraction")
    return found


def _needle_table(scores: Scores, records: Sequence[Record]) -> Table:
    """A row for each model and task, a column for each length."""
    by_row = {(who, task): _needle_points(scores, who, task) for who, task in _rows(NEEDLE, records)}
    lengths = sorted({length for points in by_row.values() for length in points})
    rows = []
    for (who, task), points in by_row.items():
        name = " ".join(filter(None, (who.model, who.variant))).replace("_", "-")
        rows.append([name, f"`{task}`", *(points_cell(points.get(length, [])) for length in lengths)])
    note = "Points; mean ± standard deviation (seeds). One training goes through all lengths and is scored at each."
    return Table(NEEDLE, ["model", "task", *(_label(length) for length in lengths)], rows, note)


def _label(length: int) -> str:
    return f"{length // 1024}K" if length >= 1024 else str(length)
