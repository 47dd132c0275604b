# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Folds of a cross-validation, and validation examples taken from those to train on."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from evaluation_concept.long_context.tasks import Example, Examples, Task

VALIDATION_SHARE = 0.05
# The same folds for every model and seed of training: what differs between scores is not the split.
FOLD_SEED = 0


def with_validation(splits: Examples, share: float = VALIDATION_SHARE) -> Examples:
    """The examples with a share of the training groups as validation, by a hash of their names alone."""
    validation = [example for example in splits["train"] if _fraction(example.group or example.id) < share]
    held = {example.id for example in validation}
    train = [example for example in splits["train"] if example.id not in held]
    return {**splits, "train": train, "validation": validation}


def folds(task: Task, examples: Sequence[Example]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Indices to train on and to score, for each fold; no group is on both sides, and folds have about the same classes.

    Raises:
        ValueError: there are fewer groups than folds.
    """
    groups = [example.group or example.id for example in examples]
    if len(set(groups)) < task.folds:
        raise ValueError(f"{task.name}: {len(set(groups))} groups of examples are too few for {task.folds} folds.")
    classes = [example.label or "" for example in examples]
    splitter = StratifiedGroupKFold(task.folds, shuffle=True, random_state=FOLD_SEED)
    yield from splitter.split(classes, classes, groups)


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(name.encode(), digest_size=6, key=b"long_context").digest()
    return int.from_bytes(digest, "big") / 2**48
