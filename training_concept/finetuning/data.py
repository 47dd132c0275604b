# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From the examples of a task to rows of token ids and their batches."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from evaluation_concept.cutting import cut_texts
from evaluation_concept.tasks import Examples, Task

logger = logging.getLogger(__name__)

TENSOR_CORES = 8


def drawn_rows(rows: int, number: int | None) -> np.ndarray:
    """`number` of so many rows, drawn at random, the same every time, ascending; all if that is `None` or more."""
    if number is None or number >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, number, replace=False))


def text_rows(columns: Sequence[Sequence[str]]) -> Dataset:
    """Texts as columns `text_0` and `text_1`, with offsets of 64 bits: those of a column of strings end at 2 GiB."""
    return Dataset(pa.table({f"text_{n}": pa.array(column, pa.large_string()) for n, column in enumerate(columns)}))


def cut_rows(columns: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[str]]:
    """
    Texts or pairs of texts without most of what is dropped of them anyway: tokens of the rows remain as they were.

    Args:
        columns: one or two, of n texts each.
        tokenizer: theirs.
        max_length: tokens of a row, special ones included, to which the longer text of a pair is then cut first.
    """
    cut = [cut_texts(column, tokenizer, max_length + 1) for column in columns]
    if len(cut) == 1:
        return cut
    rows = zip(zip(*columns, strict=True), zip(*cut, strict=True), strict=True)
    pairs = [_cut_pair(texts, starts, tokenizer, max_length) for texts, starts in rows]
    return [list(column) for column in zip(*pairs, strict=True)]


def _cut_pair(
    texts: Sequence[str], starts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Sequence[str]:
    """
    Starts of a pair, of which the same one is longer as of the texts.

    Of two that are too long that one gets a token more where their number is odd; else it makes no difference.
    """
    is_cut = any(len(start) < len(text) for text, start in zip(texts, starts, strict=True))
    if not is_cut or any(_count(start, tokenizer) <= max_length for start in sorted(starts, key=len)):
        return starts
    first, second = (_count(text, tokenizer) for text in texts)
    longer, found = int(first <= second), list(starts)
    found[longer] = cut_texts([texts[longer]], tokenizer, _count(starts[1 - longer], tokenizer) + 1)[0]
    # The last word of a start, which is not a whole one, may have more tokens than all of its text.
    is_so = (_count(found[0], tokenizer) > _count(found[1], tokenizer)) == (first > second)
    return found if is_so else texts


def _count(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


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
        texts = cut_rows([batch[name] for name in names], tokenizer, max_length)
        rows = tokenizer(*texts, truncation=True, max_length=max_length)
        # One that is full may have been exactly so long.
        return {**rows, "is_full": [len(ids) == max_length for ids in rows["input_ids"]]}

    rows = text_rows(examples.texts)
    names = rows.column_names
    rows = rows.map(encode, batched=True, remove_columns=names, num_proc=num_proc)
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
