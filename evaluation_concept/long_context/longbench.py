# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
LongBench (arXiv 2308.14508): 21 tasks in English, Chinese and code, from the zipped JSON lines of `THUDM/LongBench`.

Its rows have `input`, `context`, `answers`, `length`, `dataset`, `language`, `all_classes` and `_id`. There is a test
split alone, made to prompt language models with. Heads of an encoder have to be trained: here by cross-validation over
these very examples, which no column of zero-shot scores can be compared with.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from evaluation_concept.long_context.archives import find_archive, read_member
from evaluation_concept.long_context.spans import find_spans
from evaluation_concept.long_context.tasks import (
    ALL,
    CLASSIFICATION,
    EXTRACTIVE,
    GENERATIVE,
    SELECTION,
    Example,
    Examples,
    Sources,
    Task,
)

FAMILY, REPOSITORY = "longbench", "THUDM/LongBench"
COLUMNS = ("_id", "input", "context", "answers", "all_classes")
FOLDS = 5
NOTE = "heads trained by cross-validation over LongBench's own examples: not comparable with zero-shot scores of LLMs"

_PARAGRAPH = re.compile(r"^(?:Paragraph |段落)\d+(?=[:：])", re.MULTILINE)  # noqa: RUF001


def load(name: str, form: Callable[[Example], Example], sources: Sources) -> Examples:
    """
    The examples of a task, all in one split.

    Args:
        name: of the task in LongBench.
        form: completes an example that has context, input, answers and classes (as choices).
        sources: a folder `longbench` with `data.zip` or `data/<name>.jsonl`, or the Hub.

    Raises:
        OSError: it is not there.
        ValueError: damaged files, rows of another schema or none.
    """
    member = f"data/{name}.jsonl"
    archive = find_archive(sources, FAMILY, REPOSITORY, "data", [member])
    examples = [form(_example(name, row)) for row in read_member(archive, member)]
    if not examples:
        raise ValueError(f"{archive} holds no rows of {member}.")
    return {ALL: examples}


def _example(name: str, row: dict[str, Any]) -> Example:
    if missing := set(COLUMNS) - row.keys():
        raise ValueError(f"a row of LongBench's {name} lacks {', '.join(sorted(missing))}")
    classes = tuple(row["all_classes"] or ())
    return Example(row["_id"], row["context"], row["input"], choices=classes, answers=tuple(row["answers"]))


def as_it_is(example: Example) -> Example:
    """Nothing to complete."""
    return example


def with_class(example: Example) -> Example:
    """The answer is a class."""
    return replace(example, label=example.answers[0])


def with_spans(example: Example) -> Example:
    """Answers may stand in the context."""
    return replace(example, spans=find_spans(example.text, example.answers))


def with_paragraphs(example: Example) -> Example:
    """
    The context is a row of numbered paragraphs, the answer the name of the one that the input sums up.

    Raises:
        ValueError: there is no such paragraph.
    """
    found = list(_PARAGRAPH.finditer(example.text))
    names = tuple(match[0] for match in found)
    if example.answers[0] not in names:
        raise ValueError(f"example {example.id} of LongBench has no paragraph {example.answers[0]!r}")
    places = tuple(match.start() for match in found)
    return replace(example, choices=names, candidates=places, selected=(names.index(example.answers[0]),))


def _task(name: str, kind: str, metric: str, form: Callable[[Example], Example] = as_it_is, **facts: Any) -> Task:
    loader = partial(load, name, form)
    return Task(f"longbench_{name}", FAMILY, kind, metric, loader, folds=FOLDS, scored=ALL, note=NOTE, **facts)


ENGLISH_QUESTIONS = ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique")
ENGLISH_SUMMARIES = ("gov_report", "qmsum", "multi_news")
CHINESE_SUMMARIES = ("dureader", "vcsum")
CODE = ("lcc", "repobench-p")
CLASSES = ("trec", "lsht")
RETRIEVAL = ("passage_retrieval_en", "passage_retrieval_zh")

TASKS = (
    *(_task(name, EXTRACTIVE, "f1", with_spans) for name in ENGLISH_QUESTIONS),
    _task("triviaqa", EXTRACTIVE, "longbench_f1_first_line", with_spans),
    _task("multifieldqa_zh", EXTRACTIVE, "longbench_f1_chinese", with_spans),
    *(_task(name, GENERATIVE, "longbench_rouge") for name in ENGLISH_SUMMARIES),
    *(_task(name, GENERATIVE, "longbench_rouge_chinese") for name in CHINESE_SUMMARIES),
    _task("samsum", GENERATIVE, "longbench_rouge_first_line"),
    *(_task(name, CLASSIFICATION, "longbench_class", with_class) for name in CLASSES),
    *(_task(name, SELECTION, "longbench_retrieval", with_paragraphs, single=True) for name in RETRIEVAL),
    _task("passage_count", CLASSIFICATION, "longbench_count", with_class),
    *(_task(name, GENERATIVE, "longbench_code") for name in CODE),
)
