# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The nine tasks of GLUE (arXiv 1804.07461), as `nyu-mll/glue` holds them, and the files its server takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation_concept.files import draft
from evaluation_concept.tasks import Task, TestSplit

GLUE_DATASET = "nyu-mll/glue"
ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")
SENTENCES = ("sentence1", "sentence2")
MATCHED, MISMATCHED = "validation_matched", "validation_mismatched"
# What the paper and many after it start from a model that was fine-tuned on MNLI.
STARTED_FROM_MNLI = ("rte", "mrpc", "stsb")


def _test(title: str) -> tuple[TestSplit, ...]:
    return (TestSplit(title, "test"),)


_TASKS = (
    Task("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews", title="CoLA", test_splits=_test("CoLA")),
    Task("sst2", ("sentence",), ("negative", "positive"), title="SST-2", test_splits=_test("SST-2")),
    Task(
        "mrpc",
        SENTENCES,
        ("not_equivalent", "equivalent"),
        "accuracy_f1",
        title="MRPC",
        test_splits=_test("MRPC"),
    ),
    Task(
        "stsb",
        SENTENCES,
        None,
        "correlation",
        title="STS-B",
        test_splits=_test("STS-B"),
        value_range=(0.0, 5.0),
    ),
    Task(
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        "accuracy_f1",
        title="QQP",
        test_splits=_test("QQP"),
    ),
    Task(
        "mnli",
        ("premise", "hypothesis"),
        INFERENCE,
        title="MNLI",
        evaluation_splits=(MATCHED, MISMATCHED),
        test_splits=(
            TestSplit("MNLI-m", "test_matched"),
            TestSplit("MNLI-mm", "test_mismatched"),
            # The diagnostic set is answered by the model of MNLI.
            TestSplit("AX", "test", config="ax"),
        ),
        writes_names=True,
    ),
    Task("qnli", ("question", "sentence"), ENTAILMENT, title="QNLI", test_splits=_test("QNLI"), writes_names=True),
    Task("rte", SENTENCES, ENTAILMENT, title="RTE", test_splits=_test("RTE"), writes_names=True),
    Task("wnli", SENTENCES, ("not_entailment", "entailment"), title="WNLI", test_splits=_test("WNLI")),
)
GLUE_TASKS = {task.name: task for task in _TASKS}


def write_submission(folder: Path, task: Task, file: str, predictions: Sequence[float] | np.ndarray) -> Path:
    """
    Write predictions as GLUE's server takes them: tab-separated, with a header, numbered from 0.

    Args:
        folder: of all files, to be zipped and sent.
        task: whose predictions they are.
        file: name of the file without its ending, such as "MNLI-mm".
        predictions: numbers of classes, or ratings, which are clipped to their range.

    Returns:
        The path of the file.
    """
    lines = [f"{index}\t{_cell(task, value)}" for index, value in enumerate(predictions)]
    path = folder / f"{file}.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    with draft(path) as draft_path:
        draft_path.write_text("\n".join(["index\tprediction", *lines]) + "\n", encoding="utf-8")
    return path


def _cell(task: Task, value: float) -> str:
    if task.labels is None:
        return f"{np.clip(value, *task.value_range):.3f}" if task.value_range else f"{value:.6g}"
    return task.labels[int(value)] if task.writes_names else str(int(value))
