# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a task on sentences or pairs is: its columns, labels and metric, its examples, and how they are split."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.model_selection import GroupKFold

# What GLUE's test sets have in place of labels.
HIDDEN_LABEL = -1
# Ends one text and begins the next where those of an example are joined.
SEPARATOR = "\x1f"


@dataclass(frozen=True)
class TestSplit:
    """
    A split whose labels nobody here has.

    Attributes:
        file: name of the file of predictions, without its ending.
        split: of the dataset.
        config: configuration of the dataset, if not the task's own.
    """

    __test__ = False  # pytest takes it for a test

    file: str
    split: str
    config: str | None = None


@dataclass(frozen=True)
class Task:
    """
    A task: texts in, a class or a number out.

    Attributes:
        name: as it is called on the command line.
        text_columns: one or two.
        labels: names of the classes, in the order of their numbers; `None` for a regression.
        metric: a key of `evaluation_concept.metrics.METRICS`.
        title: as tables call it.
        label_column: holds numbers of classes, or values.
        evaluation_splits: whose scores are reported.
        selection_split: labelled, and used for nothing but to choose settings. Without one they are chosen inside the
            training split.
        folds: of a task without training examples, this many parts of its evaluation split are scored in turn, each
            by a model that was trained on the others. 0 for tasks with a training split.
        group_column: examples that agree here are never on both sides of a split.
        test_splits: are predicted and written to files.
        writes_names: whether these files hold names of labels, rather than numbers.
        value_range: lowest and highest value of a regression, which these files keep to; `None` if there are none.
    """

    name: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metric: str = "accuracy"
    title: str = ""
    label_column: str = "label"
    evaluation_splits: tuple[str, ...] = ("validation",)
    selection_split: str | None = None
    folds: int = 0
    group_column: str | None = None
    test_splits: tuple[TestSplit, ...] = ()
    writes_names: bool = False
    value_range: tuple[float, float] | None = None

    @property
    def is_regression(self) -> bool:
        return self.labels is None

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Predictions `[n]`, classes or values, from `logits` `[n, outputs]`, of which a regression has one."""
        return logits[:, 0].astype(np.float64) if self.is_regression else logits.argmax(axis=1)


@dataclass(frozen=True, eq=False)
class Examples:
    """
    Examples of a task.

    Attributes:
        texts: for each text column the texts of all n examples.
        labels: int64 or float64 `[n]`; `None` where they are hidden.
        groups: of each example; those of one group stay together.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: np.ndarray | None
    groups: tuple[str, ...] = field(repr=False, default=())

    def __len__(self) -> int:
        return len(self.texts[0])

    def take(self, rows: Sequence[int] | np.ndarray) -> "Examples":
        """The examples in these rows."""
        return Examples(
            tuple(tuple(column[row] for row in rows) for column in self.texts),
            None if self.labels is None else self.labels[np.asarray(rows, dtype=np.int64)],
            tuple(self.groups[row] for row in rows),
        )

    def first(self, number: int | None) -> "Examples":
        """The first `number` examples; all if that is `None`."""
        return self if number is None or number >= len(self) else self.take(range(number))

    def keys(self) -> Iterator[str]:
        """What each example says: letters and digits of all its texts."""
        return (SEPARATOR.join(map(normalise, texts)) for texts in zip(*self.texts, strict=True))

    def digest(self) -> str:
        """A hash of all texts and labels."""
        digest = hashlib.blake2b(digest_size=16)
        for column in self.texts:
            for text in column:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        digest.update(b"" if self.labels is None else self.labels.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class TaskData:
    """
    The examples of a task.

    Attributes:
        task: theirs.
        train: `None` for a task that is scored by cross-validation.
        evaluation: labelled examples by split, those that scores are of.
        selection: labelled examples that settings are chosen on, if there are such.
        test: examples to write predictions for, by the name of the file.
    """

    task: Task
    train: Examples | None
    evaluation: dict[str, Examples]
    selection: Examples | None = None
    test: dict[str, Examples] = field(default_factory=dict)


@dataclass(frozen=True)
class Fold:
    """
    Examples to train on, and those that the trained model is scored on.

    Attributes:
        train: examples.
        evaluation: examples by split.
        rows: by split, the places of these among all examples of the split.
    """

    train: Examples
    evaluation: dict[str, Examples]
    rows: dict[str, np.ndarray]


def normalise(text: str) -> str:
    """Letters and digits of a text, lower case."""
    return re.sub(r"[\W_]+", "", text.lower())


def read_examples(task: Task, rows: Dataset, split: str, labelled: bool = True) -> Examples:
    """
    The examples in the rows of a dataset.

    Args:
        task: theirs.
        rows: with the task's columns.
        split: name of the split, for errors.
        labelled: whether labels are wanted. Without, whatever there is in their place is left alone.

    Raises:
        ValueError: a column that is missing, an empty split, a text that is none, or labels that are missing, hidden,
            of the wrong kind or out of range: naming task, split, column and row.
    """
    where = f"{task.name}, split {split}"
    wanted = [*task.text_columns, *([task.group_column] if task.group_column else [])]
    for column in wanted + [task.label_column] * labelled:
        if column not in rows.column_names:
            raise ValueError(f"{where} has no column {column!r}; it has: {', '.join(rows.column_names)}")
    if not len(rows):
        raise ValueError(f"{where} holds no examples")
    texts = tuple(_read_texts(rows[column], f"{where}, column {column!r}") for column in task.text_columns)
    labels = None
    if labelled:
        labels = _read_labels(task, list(rows[task.label_column]), f"{where}, column {task.label_column!r}")
    groups = rows[task.group_column] if task.group_column else map(SEPARATOR.join, zip(*texts, strict=True))
    return Examples(texts, labels, tuple(map(str, groups)))


def _read_texts(values: Sequence[Any], where: str) -> tuple[str, ...]:
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{where}: row {row} holds {value!r}, which is no text")
    return tuple(values)


def _read_labels(task: Task, values: Sequence[Any], where: str) -> np.ndarray:
    missing = [row for row, value in enumerate(values) if _is_missing(task, value)]
    if missing:
        raise ValueError(f"{where}: row {missing[0]} has no label ({values[missing[0]]!r})")
    return _read_values(values, where) if task.is_regression else _read_classes(task, values, where)


def _is_missing(task: Task, value: Any) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)
    may_be_hidden = task.labels is not None and str(HIDDEN_LABEL) not in task.labels
    return value is None or is_nan or (value == HIDDEN_LABEL and may_be_hidden)


def _read_values(values: Sequence[Any], where: str) -> np.ndarray:
    for row, value in enumerate(values):
        if isinstance(value, str | bool | list | dict):
            raise ValueError(f"{where}: row {row} holds {value!r}; a regression needs numbers")
    return np.asarray(values, dtype=np.float64)


def _read_classes(task: Task, values: Sequence[Any], where: str) -> np.ndarray:
    assert task.labels is not None
    numbers: dict[Any, int] = {name: number for number, name in enumerate(task.labels)}
    if all(re.fullmatch(r"-?\d+", name) for name in task.labels):
        numbers |= {int(name): number for number, name in enumerate(task.labels)}
    else:
        numbers |= {number: number for number in range(len(task.labels))}
    for row, value in enumerate(values):
        if isinstance(value, list | dict) or value not in numbers:
            raise ValueError(f"{where}: row {row} holds the label {value!r}; known: {', '.join(task.labels)}")
    return np.asarray([numbers[value] for value in values], dtype=np.int64)


def without_duplicates(train: Examples, scored: Sequence[Examples]) -> Examples:
    """`train` without what stands, but for spaces, case and punctuation, in `scored` too."""
    known = {key for examples in scored for key in examples.keys()}  # noqa: SIM118 (not a mapping)
    return train.take([row for row, key in enumerate(train.keys()) if key not in known])


def split_by_group(examples: Examples, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    Rows to train on and rows to score, `number` times, so that every row is scored once.

    Raises:
        ValueError: fewer groups than parts.
    """
    # NumPy would give every group the width of the longest, which may be a whole document.
    numbers = {group: place for place, group in enumerate(sorted(set(examples.groups)))}
    if len(numbers) < number:
        raise ValueError(f"{number} folds need as many groups of examples, and there are {len(numbers)}")
    groups = [numbers[group] for group in examples.groups]
    return list(GroupKFold(number).split(groups, groups=groups))


def make_folds(data: TaskData) -> list[Fold]:
    """One fold of the splits as they are, or, for a task without training split, those of its cross-validation."""
    if data.train is not None:
        rows = {split: np.arange(len(examples)) for split, examples in data.evaluation.items()}
        return [Fold(data.train, data.evaluation, rows)]
    ((split, examples),) = data.evaluation.items()
    return [
        Fold(examples.take(train), {split: examples.take(scored)}, {split: scored})
        for train, scored in split_by_group(examples, data.task.folds)
    ]


def pool(folds: Sequence[Fold], predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put `predictions` (by fold and split `[n_fold]`) where their examples stand: by split `[n]`."""
    pooled = {}
    for split in folds[0].rows:
        rows = np.concatenate([fold.rows[split] for fold in folds])
        values = np.concatenate([predicted[split] for predicted in predictions])
        pooled[split] = values[np.argsort(rows)]
    return pooled
