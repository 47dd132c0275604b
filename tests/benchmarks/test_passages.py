# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs of a sentence and those that follow it, and of what tasks say answers another text."""

import json

import numpy as np
from datasets import Dataset

from benchmarks import passages
from evaluation_concept.tasks import Examples, TaskData
from training_concept.finetuning.kept import write_kept_task
from training_concept.finetuning.package_tasks import PACKAGE_TASKS

TEXT = "One two three four five. Short one! Six  seven\neight nine ten? A b c d e. F g h i j. K l m n o."


def test_a_query_is_followed_by_its_passage():
    (pair,) = passages.make_pairs(TEXT)
    assert pair == {
        "query": "One two three four five.",
        "passage": "Six seven eight nine ten? A b c d e. F g h i j.",
    }
    assert len(list(passages.make_pairs(" ".join([TEXT] * 8)))) == 10


def test_splits_have_files_and_no_more_pairs_than_wanted(tmp_path):
    for name, mark in (("train", "seen"), ("test", "held")):
        rows = "".join(json.dumps({"text": f"{mark} {TEXT} " * 3 + str(row)}) + "\n" for row in range(30))
        (tmp_path / f"{name}.jsonl").write_text(rows)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"sources:\n  own:\n    data_files: {{train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl}}\n"
    )
    found = []
    for folder in ("one", "two"):
        sizes = ["--train", "20", "--test", "5"]
        passages.main(["--recipe", str(recipe), "--output", str(tmp_path / folder), *sizes])
        found.append([(tmp_path / folder / f"{name}.jsonl").read_text() for name in ("train", "test")])
    assert found[0] == found[1]
    train, test = (text.splitlines() for text in found[0])
    assert (len(train), len(test)) == (20, 5)
    assert "held" not in found[0][0]
    assert "seen" not in found[0][1]


def test_sources_give_pairs_by_weight():
    documents = {name: Dataset.from_dict({"text": [f"{name} {TEXT}"] * 50}) for name in ("some", "more", "few")}
    documents["few"] = documents["few"].select(range(2))
    pairs = passages.draw_pairs(documents, {"some": 1, "more": 3, "few": 4, "absent": 9}, 64, seed=0)
    counts = [sum(pair["query"].startswith(name) for pair in pairs) for name in documents]
    assert counts == [8, 24, 2]
    assert len(passages.draw_pairs(documents, None, 64, seed=0)) == 64


def keep_task(folder, name: str) -> None:
    """A file of a task in which each split has an example of every class, whose texts say what they are."""
    task = PACKAGE_TASKS[name].task
    assert task.labels

    def examples(split: str) -> Examples:
        texts = tuple(tuple(f"{split} {column} {label}" for label in task.labels) for column in task.text_columns)
        return Examples(texts, np.arange(len(task.labels)), tuple(task.labels))

    splits = {split: examples(split) for split in task.evaluation_splits}
    write_kept_task(folder, TaskData(task, examples("train"), splits, examples("selection")))


def test_what_answers_a_query_is_its_passage(tmp_path):
    for name in passages.ANSWERED:
        keep_task(tmp_path, name)
    for split in ("train", "test"):
        assert passages.answered_pairs(tmp_path, split) == [
            {"query": f"{split} claim supports", "passage": f"{split} evidence supports"},
            {"query": f"{split} question support", "passage": f"{split} sentence support"},
        ]
