# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
From tasks on long documents to what a model is fine-tuned on, and back from its outputs to predictions.

Classes and choices are for a classifier of documents; a choice is a document whose query holds the choice, and the one
that scores highest is taken (as BERT does on SWAG, but with a loss for each). Selections and answers that stand in the
document are for a classifier of tokens, see `positions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from evaluation_concept import tasks as text_tasks
from evaluation_concept.long_context.tasks import (
    CLASSIFICATION,
    EXTRACTIVE,
    MULTIPLE_CHOICE,
    SELECTION,
    Example,
    Prediction,
    Task,
)
from training_concept.finetuning.data import cut_rows

WRONG, RIGHT = "wrong", "right"
# Kinds for a classifier of documents, and for one of tokens.
DOCUMENT_KINDS, TOKEN_KINDS = (CLASSIFICATION, MULTIPLE_CHOICE), (SELECTION, EXTRACTIVE)


@dataclass(frozen=True, eq=False)
class DocumentExamples(text_tasks.Examples):
    """
    Rows of query and document, or of documents alone.

    Attributes:
        examples: they are made of.
    """

    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, eq=False)
class PositionExamples(DocumentExamples):
    """Rows of which tokens are classified."""

    def digest(self) -> str:
        """A hash of texts, and of the places in them that are right."""
        places = tuple(repr((each.candidates, each.selected, each.spans, each.answers)) for each in self.examples)
        return text_tasks.Examples((*self.texts, places), None).digest()


def document_task(task: Task, labels: Sequence[str]) -> text_tasks.Task:
    """The task as a model is fine-tuned on it; `labels` are the classes of a classification."""
    names = tuple(labels) if task.kind == CLASSIFICATION else (WRONG, RIGHT)
    return text_tasks.Task(task.name, ("query", "text"), names)


def to_train_on(task: Task, examples: Sequence[Example]) -> list[Example]:
    """
    The examples that have what a model learns from.

    Raises:
        ValueError: there is none.
    """
    found = [example for example in examples if _is_learnable(task, example)]
    if not found:
        raise ValueError(f"{task.name}: none of {len(examples)} training examples has an answer to learn.")
    return found


def _is_learnable(task: Task, example: Example) -> bool:
    if task.kind in DOCUMENT_KINDS:
        return example.label is not None
    if task.kind == SELECTION:
        return bool(example.selected)
    return bool(example.spans) or (bool(task.no_answer) and task.no_answer in example.answers)


def make_rows(task: Task, labels: Sequence[str], examples: Sequence[Example]) -> DocumentExamples:
    """
    Examples as rows to tokenise; a multiple choice has one for each choice.

    Args:
        task: theirs.
        labels: classes of a classification.
        examples: at least one.
    """
    kept = tuple(examples)
    if task.kind in TOKEN_KINDS:
        return PositionExamples(_columns([(each.query, each.text) for each in kept]), None, examples=kept)
    if task.kind == CLASSIFICATION:
        known = all(each.label is not None for each in kept)
        numbers = np.array([labels.index(str(each.label)) for each in kept]) if known else None
        return DocumentExamples(_columns([(each.query, each.text) for each in kept]), numbers, examples=kept)
    pairs = [(f"{each.query} {choice}", each.text) for each in kept for choice in each.choices]
    right = [each.label == choice for each in kept for choice in each.choices]
    known = all(each.label is not None for each in kept)
    return DocumentExamples(_columns(pairs), np.array(right, dtype=np.int64) if known else None, examples=kept)


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    queries, texts = zip(*pairs, strict=True)
    return (queries, texts) if any(queries) else (texts,)


def decide(
    task: Task,
    labels: Sequence[str],
    examples: Sequence[Example],
    outputs: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> list[Prediction]:
    """
    Predictions from what a model gives for the rows of `examples`.

    Args:
        task: theirs.
        labels: classes of a classification.
        examples: n.
        outputs: `[rows, classes]` for classes and choices; for a selection the logits of candidates `[n, most]`, for
            answers in the document first token, last token and margin over no answer `[n, 3]`.
        tokenizer: of the rows.
        max_length: that they were cut to.
    """
    if task.kind == CLASSIFICATION:
        return [labels[number] for number in outputs.argmax(axis=1)]
    if task.kind == MULTIPLE_CHOICE:
        return _choose(examples, outputs[:, 1] - outputs[:, 0])
    if task.kind == SELECTION:
        return [_select(task, example, row) for example, row in zip(examples, outputs, strict=True)]
    return [
        _extract(task, example, row, tokenizer, max_length) for example, row in zip(examples, outputs, strict=True)
    ]


def _choose(examples: Sequence[Example], scores: np.ndarray) -> list[Prediction]:
    ends = np.cumsum([len(example.choices) for example in examples])
    parts = np.split(scores, ends[:-1])
    return [example.choices[int(part.argmax())] for example, part in zip(examples, parts, strict=True)]


def _select(task: Task, example: Example, logits: np.ndarray) -> Prediction:
    logits = logits[: len(example.candidates)]
    if np.isneginf(logits).all():
        # All are cut off: to name one would be right by chance.
        return ()
    if task.single:
        return (int(logits.argmax()),)
    return tuple(int(number) for number in np.flatnonzero(logits > 0))


def _extract(
    task: Task, example: Example, row: np.ndarray, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Prediction:
    first, last, margin = row
    if task.no_answer and margin < 0:
        return task.no_answer
    texts = (example.query, example.text) if example.query else (example.text,)
    cut = [column[0] for column in cut_rows([[text] for text in texts], tokenizer, max_length)]
    offsets = tokenizer(*cut, truncation=True, max_length=max_length, return_offsets_mapping=True)["offset_mapping"]
    return example.text[offsets[int(first)][0] : offsets[int(last)][1]].strip()
