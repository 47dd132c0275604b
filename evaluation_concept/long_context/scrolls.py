# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
SCROLLS (arXiv 2201.03533): seven tasks on whole documents, from the zipped JSON lines of `tau/scrolls` on the Hub.

Its rows have `id`, `pid`, `input` and `output`. The query, if there is one, stands in front of the document, behind it
two line breaks. A question with several answers has a row for each, which are merged as its evaluator does. Answers of
the test split are hidden: validation is scored, and what is predicted for the test split goes into a file for the
leaderboard.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from evaluation_concept.long_context.archives import find_archive, read_member
from evaluation_concept.long_context.spans import find_spans
from evaluation_concept.long_context.tasks import (
    CLASSIFICATION,
    EXTRACTIVE,
    GENERATIVE,
    MULTIPLE_CHOICE,
    Example,
    Examples,
    Sources,
    Task,
)

FAMILY, REPOSITORY = "scrolls", "tau/scrolls"
SPLITS = ("train", "validation", "test")
CONTRACT_NLI_CLASSES = ("Not mentioned", "Entailment", "Contradiction")
UNANSWERABLE = "Unanswerable"
HIDDEN_TEST = "the test answers are hidden; validation is scored"

_CHOICE = re.compile(r"\s*\([A-D]\)\s*")


def load(name: str, form: Callable[[Example], Example], sources: Sources) -> Examples:
    """
    The examples of a task by split.

    Args:
        name: of the task in SCROLLS.
        form: completes an example that has the whole input as its text.
        sources: a folder `scrolls` with `<name>.zip` or `<name>/<split>.jsonl`, or the Hub.

    Raises:
        OSError: it is not there.
        ValueError: damaged files or rows of another schema.
    """
    members = {split: f"{name}/{split}.jsonl" for split in SPLITS}
    archive = find_archive(sources, FAMILY, REPOSITORY, name, members.values())
    return {split: [form(row) for row in merge(read_member(archive, path))] for split, path in members.items()}


def merge(rows: Iterable[dict[str, Any]]) -> list[Example]:
    """
    One example for each id, in the order of their first rows, with the outputs of all its rows as answers.

    Raises:
        ValueError: a row without `id`, `input` or `output`.
    """
    merged: dict[str, Example] = {}
    for row in rows:
        if missing := {"id", "input", "output"} - row.keys():
            raise ValueError(f"a row of SCROLLS lacks {', '.join(sorted(missing))}")
        example = merged.setdefault(row["id"], Example(row["id"], row["input"]))
        if row["output"] is not None:
            merged[row["id"]] = replace(example, answers=(*example.answers, row["output"]))
    return list(merged.values())


def whole(example: Example) -> Example:
    """A document that all is asked of."""
    return example


def after_query(example: Example) -> Example:
    """A query, two line breaks, the document."""
    query, _, text = example.text.partition("\n\n")
    return replace(example, query=query.strip(), text=text.strip())


def with_class(example: Example) -> Example:
    """`after_query`; the answer is a class."""
    return replace(after_query(example), label=example.answers[0] if example.answers else None)


def with_spans(example: Example) -> Example:
    """`after_query`; answers may stand in the document."""
    example = after_query(example)
    return replace(example, spans=find_spans(example.text, example.answers))


def with_choices(example: Example) -> Example:
    """
    A question, four choices (A) to (D), two line breaks, the document; the answer is the text of a choice.

    Raises:
        ValueError: there are not four choices, or the answer is none of them.
    """
    end = example.text.find("\n\n", max(example.text.find("(D)"), 0))
    query, *choices = (" ".join(part.split()) for part in _CHOICE.split(example.text[:end]))
    label = " ".join(example.answers[0].split()) if example.answers else None
    if len(choices) != 4 or label not in (None, *choices):
        raise ValueError(f"example {example.id} of QuALITY has no four choices, or another answer than these")
    return replace(example, query=query, text=example.text[end:].strip(), choices=tuple(choices), label=label)


def _task(name: str, kind: str, metric: str, form: Callable[[Example], Example], **facts: Any) -> Task:
    loader = partial(load, name, form)
    return Task(f"scrolls_{name}", FAMILY, kind, metric, loader, scored="validation", note=HIDDEN_TEST, **facts)


TASKS = (
    _task("gov_report", GENERATIVE, "rouge", whole),
    _task("summ_screen_fd", GENERATIVE, "rouge", whole),
    _task("qmsum", GENERATIVE, "rouge", after_query),
    _task("qasper", EXTRACTIVE, "f1", with_spans, no_answer=UNANSWERABLE),
    _task("narrative_qa", EXTRACTIVE, "f1", with_spans),
    _task("quality", MULTIPLE_CHOICE, "exact_match", with_choices),
    _task("contract_nli", CLASSIFICATION, "exact_match", with_class, labels=CONTRACT_NLI_CLASSES),
)
