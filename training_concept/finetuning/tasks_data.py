# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the examples of a task come from: GLUE's repository or a copy of it, or files of one's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from evaluation_concept.tasks import Examples, Task, TaskData, TestSplit, read_examples
from training_concept.recipes import Source
from training_concept.sources import AnyDatasetDict, load_source


def load_task(task: Task, dataset: str, cache_dir: str | None = None, token: str | None = None) -> TaskData:
    """
    Read a task from a dataset with a configuration for each.

    Args:
        task: which.
        dataset: its id on the Hub, or a folder of the same layout: `cola/train-00000-of-00001.parquet`, ...
        cache_dir: of `datasets`.
        token: for private datasets.

    Raises:
        OSError: a dataset or folder that is not there.
        ValueError: rows that are not those of the task, or a split that is missing.
    """
    config = partial(_load_config, dataset, cache_dir=cache_dir, token=token)
    hidden = [test.split for test in task.test_splits if test.config is None]
    splits = config(task.name, ["train", *task.evaluation_splits, *hidden])
    train = read_examples(task, _split(splits, "train", task), "train")
    evaluation = {split: read_examples(task, _split(splits, split, task), split) for split in task.evaluation_splits}
    test = {}
    for wanted in task.test_splits:
        found = config(wanted.config, [wanted.split]) if wanted.config else splits
        test[wanted.file] = read_examples(task, _split(found, wanted.split, task), wanted.split, labelled=False)
    return TaskData(task, train, evaluation, test=test)


def _load_config(
    dataset: str, config: str, splits: list[str], cache_dir: str | None, token: str | None
) -> AnyDatasetDict:
    if not Path(dataset).is_dir():
        return load_source(Source(config, path=dataset, name=config), cache_dir=cache_dir, token=token)
    folder = Path(dataset) / config
    if not folder.is_dir():
        raise FileNotFoundError(f"{dataset} has no folder {config!r}.")
    # `datasets` takes "test_matched" for a part of "test" where nothing but names of files tells splits apart.
    files: dict[str, Any] = {split: sorted(map(str, folder.glob(f"{split}[-.]*"))) for split in splits}
    if lacking := [split for split in splits if not files[split]]:
        raise FileNotFoundError(f"{folder} has no file {lacking[0]}-*.parquet.")
    return load_source(Source(config, data_files=files), cache_dir=cache_dir)


def _split(splits: AnyDatasetDict, name: str, task: Task) -> Dataset:
    if name not in splits:
        raise ValueError(f"{task.name} has no split {name!r}; it has: {', '.join(map(str, splits))}")
    return splits[name]


def load_files(
    files: dict[str, str],
    task: Task | None,
    text_columns: list[str] | None,
    label_column: str,
    cache_dir: str | None = None,
) -> TaskData:
    """
    Read a task from files of one's own.

    Args:
        files: by split (train, validation, test).
        task: whose columns, labels and metric they have; `None` to go by what they hold.
        text_columns: one or two. Defaults to the columns of text besides the label.
        label_column: numbers with a fraction make a regression, anything else classes.
        cache_dir: of `datasets`.

    Raises:
        OSError: a file that is not there.
        ValueError: columns that are missing, or more than can be told apart, and what `read_examples` refuses.
    """
    splits = load_source(Source("files", data_files=dict(files)), cache_dir=cache_dir)
    labelled = [split for split in ("train", "validation") if split in splits]
    with _naming_files(files):
        if task is None:
            task = _infer_task([splits[split] for split in labelled or splits], text_columns, label_column, files)
        # Whatever the task has elsewhere, these are the splits there are.
        test_splits = tuple(TestSplit(Path(files[split]).stem, split) for split in ("test",) if split in files)
        task = replace(
            task, evaluation_splits=("validation",) * ("validation" in files), test_splits=test_splits, folds=0
        )
        examples = {split: read_examples(task, splits[split], split) for split in labelled}
        test = {
            wanted.file: read_examples(task, splits[wanted.split], wanted.split, labelled=False)
            for wanted in test_splits
        }
    evaluation: dict[str, Examples] = {split: examples[split] for split in task.evaluation_splits}
    return TaskData(task, examples.get("train"), evaluation, test=test)


@contextmanager
def _naming_files(files: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{', '.join(files.values())}: {error}") from None


def _infer_task(splits: list[Dataset], text_columns: list[str] | None, label_column: str, files: dict) -> Task:
    rows = splits[0]
    texts = [name for name, kind in rows.features.items() if "string" in str(getattr(kind, "dtype", ""))]
    columns = text_columns or [name for name in texts if name != label_column]
    if not 1 <= len(columns) <= 2:
        raise ValueError(
            f"name one or two columns of text by --text_columns; there are: {', '.join(columns) or 'none'}"
        )
    name = Path(next(iter(files.values()))).stem
    values = [value for split in splits for value in _column(split, label_column) if value is not None]
    if values and all(isinstance(value, float) for value in values):
        return Task(name, tuple(columns), None, "correlation", label_column=label_column)
    labels = sorted(set(values), key=lambda value: (str(type(value)), value))
    if len(labels) < 2:
        raise ValueError(f"the column {label_column!r} has {len(labels)} different labels, and a task needs two")
    return Task(name, tuple(columns), tuple(map(str, labels)), label_column=label_column)


def _column(rows: Dataset, name: str) -> list:
    if name not in rows.column_names:
        raise ValueError(f"there is no column {name!r} (--label_column); there are: {', '.join(rows.column_names)}")
    return rows[name][:]
