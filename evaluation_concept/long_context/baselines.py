# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What stands beside every score: the most frequent answer, and a bag of words on whole documents and on their start.

Selections and spans have no bag of words; the most frequent answer there is a candidate of the same number, or none.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from evaluation_concept import baselines_text
from evaluation_concept import tasks as text_tasks
from evaluation_concept.cutting import cut_texts
from evaluation_concept.long_context.tasks import (
    CLASSIFICATION,
    EXTRACTIVE,
    MULTIPLE_CHOICE,
    SELECTION,
    Example,
    Prediction,
    Task,
)

FIRST_TOKENS = 512


def majority(task: Task, train: Sequence[Example], scored: Sequence[Example]) -> list[Prediction]:
    """
    The answer that is right most often in `train`: a class, the number of a choice, or the numbers of as many
    candidates as are right on average.
    """
    return MAJORITIES[task.kind](task, train, scored)


def bag_of_words(task: Task, train: Sequence[Example], scored: Sequence[Example]) -> list[Prediction] | None:
    """
    Answers by logistic regression on TF-IDF of the words of text and query, see
    `evaluation_concept.baselines_text.bag_of_words_baseline`; `None` for tasks that it is not for.
    """
    labels = sorted({example.label for example in train if example.label is not None})
    if task.kind != CLASSIFICATION:
        return None
    text_task = text_tasks.Task(task.name, ("text", "query"), tuple(labels))
    columns = _as_columns(train, labels), _as_columns(scored, labels)
    predicted = baselines_text.bag_of_words_baseline(text_task, columns[0], {"scored": columns[1]})["scored"]
    return [labels[number] for number in predicted]


def first_tokens(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, number: int = FIRST_TOKENS
) -> list[Example]:
    """Examples whose text, and query where that is long, end behind `number` tokens; for what reads words only."""
    return [
        replace(example, text=_cut(example.text, tokenizer, number), query=_cut(example.query, tokenizer, number))
        for example in examples
    ]


def _cut(text: str, tokenizer: PreTrainedTokenizerBase, number: int) -> str:
    text = cut_texts([text], tokenizer, number + 1)[0]
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    offsets = tokenizer(text, **options)["offset_mapping"]
    return text[: offsets[number - 1][1]] if len(offsets) > number else text


def _as_columns(examples: Sequence[Example], labels: Sequence[str]) -> text_tasks.Examples:
    texts = tuple(example.text for example in examples), tuple(example.query for example in examples)
    numbers = np.array([labels.index(example.label) if example.label in labels else 0 for example in examples])
    columns = texts if any(texts[1]) else texts[:1]
    return text_tasks.Examples(columns, numbers, tuple(example.group or example.id for example in examples))


def _majority_class(task: Task, train: Sequence[Example], scored: Sequence[Example]) -> list[Prediction]:
    ((label, _),) = Counter(example.label for example in train if example.label is not None).most_common(1)
    return [label] * len(scored)


def _majority_choice(task: Task, train: Sequence[Example], scored: Sequence[Example]) -> list[Prediction]:
    numbers = Counter(example.choices.index(example.label) for example in train if example.label is not None)
    ((number, _),) = numbers.most_common(1)
    return [example.choices[min(number, len(example.choices) - 1)] for example in scored]


def _majority_candidates(task: Task, train: Sequence[Example], scored: Sequence[Example]) -> list[Prediction]:
    numbers = Counter(number for example in train for number in example.selected)
    wanted = round(numbers.total() / len(train))
    frequent = [number for number, _ in numbers.most_common()]
    return [
        tuple(sorted([number for number in frequent if number < len(example.candidates)][:wanted]))
        for example in scored
    ]


def _no_answer(task: Task, train: Sequence[Example], scored: Sequence[Example]) -> list[Prediction]:
    return [task.no_answer] * len(scored)


Majority = Callable[[Task, Sequence[Example], Sequence[Example]], list[Prediction]]
MAJORITIES: Mapping[str, Majority] = {
    CLASSIFICATION: _majority_class,
    MULTIPLE_CHOICE: _majority_choice,
    SELECTION: _majority_candidates,
    EXTRACTIVE: _no_answer,
}
