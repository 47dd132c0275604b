# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From the examples of a task to rows of token ids and their batches."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from evaluation_concept.tasks import Examples, Task

logger = logging.getLogger(__name__)

TENSOR_CORES = 8


def drawn_rows(rows: int, number: int | None) -> np.ndarray:
    """`number` of so many rows, drawn at random, the same every time, ascending; all if that is `None` or more."""
    if number is None or number >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, number, replace=False))


def tokenize(
    examples: Examples,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    order: Sequence[str] = (),
    num_proc: int | None = None,
) -> Dataset:
    """
    Token ids of examples; of a pair, the longer text is cut first. How many were cut is logged.

    Args:
        examples: n of them.
        task: theirs.
        tokenizer: the model's.
        max_length: most tokens of an example, special ones included.
        order: names of the labels as the model numbers them, if that is not as the task does.
        num_proc: processes.

    Returns:
        n rows of what the tokenizer gives, and `labels` (int64, or float32 of a regression) if the examples have any.

    Raises:
        ValueError: special tokens leave no room for text.
    """
    if max_length <= (special := tokenizer.num_special_tokens_to_add(pair=len(examples.texts) > 1)):
        raise ValueError(f"--max_seq_length {max_length} leaves no room for text: {special} tokens are special ones.")

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        texts = [batch[f"text_{number}"] for number in range(len(examples.texts))]
        rows = tokenizer(*texts, truncation=True, max_length=max_length)
        # One that is full may have been exactly so long.
        return {**rows, "is_full": [len(ids) == max_length for ids in rows["input_ids"]]}

    columns: dict[str, Any] = {f"text_{number}": column for number, column in enumerate(examples.texts)}
    rows = Dataset.from_dict(columns).map(encode, batched=True, remove_columns=list(columns), num_proc=num_proc)
    if full := int(np.sum(rows.with_format("numpy")["is_full"][:])):
        message = "%s: %d of %d examples fill or exceed the %d tokens of --max_seq_length, and the rest is not read."
        logger.warning(message, task.name, full, len(rows), max_length)
    rows = rows.remove_columns("is_full")
    if examples.labels is None:
        return rows
    return rows.add_column("labels", _model_labels(examples.labels, task, order).tolist())


def _model_labels(labels: np.ndarray, task: Task, order: Sequence[str]) -> np.ndarray:
    if task.labels is None:
        return labels.astype(np.float32)
    return np.asarray([list(order or task.labels).index(name) for name in task.labels])[labels]


def task_labels(labels: np.ndarray, task: Task, order: Sequence[str]) -> np.ndarray:
    """`labels` `[n]` of a model that numbers them as `order` does, in the task's numbers; values as they are."""
    return labels if task.labels is None else np.asarray([task.labels.index(name) for name in order])[labels]


def task_logits(logits: np.ndarray, task: Task, order: Sequence[str]) -> np.ndarray:
    """`logits` `[n, outputs]` of a model that numbers the labels as `order` does, in the task's order, float32."""
    logits = np.asarray(logits, dtype=np.float32).reshape(len(logits), -1)
    return logits if task.labels is None else logits[:, [list(order).index(name) for name in task.labels]]


def collator(tokenizer: PreTrainedTokenizerBase, max_length: int, pad_to_max_length: bool) -> DataCollatorWithPadding:
    """Pads batches to their longest row, or all to `max_length`."""
    if pad_to_max_length:
        return DataCollatorWithPadding(tokenizer, padding="max_length", max_length=max_length)
    # A model may have no positions beyond `max_length`.
    multiple = TENSOR_CORES if max_length % TENSOR_CORES == 0 else None
    return DataCollatorWithPadding(tokenizer, padding="longest", pad_to_multiple_of=multiple)
