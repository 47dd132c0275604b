# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the examples of a task come from: GLUE's repository or a copy of it, or files of one's own."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from evaluation_concept.tasks import Examples, Task, TaskData, TestSplit, read_examples, without_duplicates
from training_concept.recipes import Source
from training_concept.sources import AnyDatasetDict, load_source

logger = logging.getLogger(__name__)

FRACTION = r"[-+]?\d*\.\d+"


def load_task(
    task: Task, dataset: str, cache_dir: str | None = None, token: str | None = None, predicts: bool = True
) -> TaskData:
    """
    Read a task from a dataset with a configuration for each.

    Args:
        task: which.
        dataset: its id on the Hub, or a folder of the same layout: `cola/train-00000-of-00001.parquet`, ...
        cache_dir: of `datasets`.
        token: for private datasets.
        predicts: whether the test splits, which copies often lack, are wanted.

    Raises:
        OSError: a dataset or folder that is not there.
        ValueError: rows that are not those of the task, or a split that is missing.
    """
    config = partial(_load_config, dataset, cache_dir=cache_dir, token=token)
    test_splits = task.test_splits if predicts else ()
    hidden = [test.split for test in test_splits if test.config is None]
    splits = config(task.name, ["train", *task.evaluation_splits, *hidden])
    train = read_examples(task, _split(splits, "train", task), "train")
    evaluation = {split: read_examples(task, _split(splits, split, task), split) for split in task.evaluation_splits}
    test = {}
    for wanted in test_splits:
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
    classes: tuple[str, ...] | None = None,
) -> TaskData:
    """
    Read a task from files of one's own.

    Training examples that are scored, too, stay; how many is logged, and which classes are scored and not trained on.

    Args:
        files: by split (train, validation, test).
        task: whose labels and metric they have; `None` to go by what they hold.
        text_columns: one or two. Defaults to those of `task`, else to the columns of text besides the label.
        label_column: numbers with a fraction make a regression, anything else classes.
        cache_dir: of `datasets`.
        classes: those of the checkpoint that is scored as it is, in place of those that the files hold; none of a
            regression.

    Raises:
        OSError: a file that is not there.
        ValueError: columns that are missing, or more than can be told apart, classes to score none of which is
            trained on, and what `read_examples` refuses.
    """
    splits = load_source(Source("files", data_files=dict(files)), cache_dir=cache_dir)
    labelled = [split for split in ("train", "validation") if split in splits]
    with _naming_files(files):
        if task is None:
            task = _infer_task(splits, labelled, text_columns, label_column, files, classes)
        elif text_columns and len(text_columns) != len(task.text_columns):
            raise ValueError(f"{task.name} has {len(task.text_columns)} columns of text (--text_columns)")
        else:
            columns = tuple(text_columns or task.text_columns)
            title = f"{task.title} (own files)"
            task = replace(task, text_columns=columns, label_column=label_column, title=title)
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
        if len(examples) > 1:
            _check_classes(task, examples["train"], examples["validation"])
    evaluation: dict[str, Examples] = {split: examples[split] for split in task.evaluation_splits}
    train = examples.get("train")
    if train and (scored := len(train) - len(without_duplicates(train, list(evaluation.values())))):
        logger.warning("%s: %d of %d training examples are scored, too.", task.name, scored, len(train))
    return TaskData(task, train, evaluation, test=test)


@contextmanager
def _naming_files(files: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{', '.join(files.values())}: {error}") from None


def _infer_task(
    splits: Mapping[str, Dataset],
    labelled: list[str],
    text_columns: list[str] | None,
    label_column: str,
    files: dict,
    classes: tuple[str, ...] | None,
) -> Task:
    features = splits[labelled[0] if labelled else "test"].features
    texts = [name for name, kind in features.items() if "string" in str(getattr(kind, "dtype", ""))]
    columns = text_columns or [name for name in texts if name != label_column]
    if not 1 <= len(columns) <= 2:
        raise ValueError(
            f"name one or two columns of text by --text_columns; there are: {', '.join(columns) or 'none'}"
        )
    values = [value for split in labelled for value in _column(splits[split], label_column) if value is not None]
    labels = _infer_labels(values, label_column, classes)
    name, metric = Path(next(iter(files.values()))).stem, "accuracy" if labels else "correlation"
    return Task(name, tuple(columns), labels, metric, label_column=label_column, writes_names=True)


def _infer_labels(values: list, label_column: str, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of the classes, `None` of a regression, by `values`, and where `classes` cover these, by them."""
    if classes is not None and (not classes or set(map(str, values)) <= set(classes)):
        return classes or None
    if not values:
        raise ValueError("no file has labels, and neither --train_file nor the checkpoint says what they are")
    if strange := [value for value in values if not isinstance(value, str | int | float)]:
        raise ValueError(f"the column {label_column!r} holds {strange[0]!r:.60}, which is no name and no number")
    if {type(value) for value in values} in ({float}, {float, int}):
        return None
    if all(isinstance(value, str) and re.fullmatch(FRACTION, value) for value in values):
        raise ValueError(f"the column {label_column!r} holds numbers as text, such as {values[0]!r}: write numbers")
    labels = sorted(set(values), key=lambda value: (str(type(value)), value))
    names = tuple(dict.fromkeys(map(str, labels)))
    if len(names) < 2:
        raise ValueError(f"the column {label_column!r} has {len(names)} different labels, and a task needs two")
    return names


def _check_classes(task: Task, train: Examples, scored: Examples) -> None:
    """
    Warn of classes that are scored and never trained on, which another spelling makes.

    Raises:
        ValueError: no class is both scored and trained on.
    """
    if task.labels is None or train.labels is None or scored.labels is None:
        return
    trained_on, wanted = (sorted(set(labels.tolist())) for labels in (train.labels, scored.labels))
    unknown = [number for number in wanted if number not in trained_on]
    ours, theirs = (", ".join(task.labels[number] for number in numbers) for numbers in (trained_on, unknown))
    if len(unknown) == len(wanted):
        raise ValueError(f"the labels to train on ({ours:.200}) are none of those to score ({theirs:.200})")
    if unknown:
        number = int(np.isin(scored.labels, unknown).sum())
        message = "%s: %d of %d scored examples have labels that no training example has: %s."
        logger.warning(message, task.name, number, len(scored), f"{theirs:.200}")


def _column(rows: Dataset, name: str) -> list:
    if name not in rows.column_names:
        raise ValueError(f"there is no column {name!r} (--label_column); there are: {', '.join(rows.column_names)}")
    return rows[name][:]
