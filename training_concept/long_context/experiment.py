# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A task from its examples to the predictions of all systems: lengths, folds, seeds, first 512 tokens, baselines."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from evaluation_concept.long_context.baselines import FIRST_TOKENS, bag_of_words, first_tokens, majority
from evaluation_concept.long_context.metrics import score
from evaluation_concept.long_context.splitting import folds
from evaluation_concept.long_context.tasks import ALL, Example, Examples, Generator, Prediction, Task
from training_concept.finetuning.cell import Cell
from training_concept.finetuning.data import drawn_rows
from training_concept.long_context.forms import DocumentExamples, decide, document_task, make_rows, to_train_on
from training_concept.long_context.tuner import DocumentTuner

logger = logging.getLogger(__name__)

MODEL, FIRST, BAG_OF_WORDS, MAJORITY = "model", f"first_{FIRST_TOKENS}", "bag_of_words", "majority"
RANDOM = "random_weights"
BAG_OF_FIRST_WORDS = f"{BAG_OF_WORDS}_{FIRST}"
GENERATOR = "generator"
SCORED, HIDDEN = "scored", "test"


@dataclass(frozen=True)
class Part:
    """A fold, or the splits as they are: examples to train on and to score."""

    train: list[Example]
    scored: list[Example]


@dataclass(frozen=True)
class Stage:
    """
    A length that is trained at.

    Attributes:
        length: most tokens of an example.
        tuner: cuts to it.
        parts: examples of that length, of every stage in the same order.
    """

    length: int
    tuner: DocumentTuner
    parts: Sequence[Part]


@dataclass
class Outcome:
    """
    What came of a task.

    Attributes:
        task: it.
        scored: examples that predictions are for.
        predictions: by system one list for each run.
        facts: of the model's last trainings, one for each run and fold.
        trained_on: number of training examples of each fold.
        hidden: by identity, predictions of the first run for examples whose answers nobody here has.
        by_length: points of each run at the lengths that were trained at before the last one, if wanted.
    """

    task: Task
    scored: list[Example]
    predictions: dict[str, list[list[Prediction]]] = field(default_factory=dict)
    facts: list[dict[str, float]] = field(default_factory=list)
    trained_on: list[int] = field(default_factory=list)
    hidden: dict[str, str] = field(default_factory=dict)
    by_length: dict[int, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """
    What to do with a task.

    Attributes:
        labels: classes of a classification.
        folder: of all its cells.
        seeds: of the trainings.
        train: whether to fine-tune, rather than score the checkpoint as it is.
        hidden: examples to predict without scoring.
        keep: folder for the model of the first seed, if there are no folds; `None` to throw it away.
        score_every_length: whether to score behind every stage; tasks with folds are scored at the last one only.
    """

    labels: Sequence[str]
    folder: Path
    seeds: Sequence[int]
    train: bool = True
    hidden: Sequence[Example] = ()
    keep: Path | None = None
    score_every_length: bool = False


def split_parts(task: Task, examples: Examples, most_train: int | None, most_scored: int | None) -> list[Part]:
    """
    The folds of a cross-validated task, or its splits; of each at most so many examples, those to train on drawn at
    random, of those to score the first ones.

    Raises:
        ValueError: a split without examples, or too few for the folds.
    """
    if not task.folds:
        for split in ("train", task.scored):
            if not examples.get(split):
                raise ValueError(f"{task.name} has no examples in its split {split!r}.")
        return [Part(_draw(examples["train"], most_train), list(examples[task.scored])[:most_scored])]
    whole = list(examples[ALL])
    return [
        Part(_draw([whole[row] for row in train], most_train), [whole[row] for row in scored][:most_scored])
        for train, scored in folds(task, whole)
    ]


def _draw(examples: Sequence[Example], number: int | None) -> list[Example]:
    return [examples[row] for row in drawn_rows(len(examples), number)]


def run_model(task: Task, stages: Sequence[Stage], plan: Plan, system: str, outcome: Outcome) -> None:
    """Fine-tune with every seed on every fold, through all lengths; predictions and facts go to `outcome`."""
    rows = [_rows(task, stage, plan) for stage in stages]
    for seed in plan.seeds:
        predicted: list[Prediction] = []
        for number in range(len(stages[0].parts)):
            logger.info("%s: %s, seed %d, fold %d of %d", task.name, system, seed, number + 1, len(stages[0].parts))
            folder = plan.folder / system / f"seed-{seed}" / (f"fold-{number}" if task.folds else "")
            is_first = system == MODEL and not outcome.facts
            predicted += _run_fold(
                task, stages, [each[number] for each in rows], plan, folder, seed, is_first, outcome
            )
        outcome.predictions.setdefault(system, []).append(predicted)
    for stage in stages:
        stage.tuner.forget()


def _rows(task: Task, stage: Stage, plan: Plan) -> list[tuple[DocumentExamples | None, DocumentExamples]]:
    """Rows to train on and to score, by fold: made once, so that they are tokenised once."""
    return [
        (
            make_rows(task, plan.labels, to_train_on(task, part.train)) if plan.train else None,
            make_rows(task, plan.labels, part.scored),
        )
        for part in stage.parts
    ]


def _run_fold(
    task: Task,
    stages: Sequence[Stage],
    rows: Sequence[tuple[DocumentExamples | None, DocumentExamples]],
    plan: Plan,
    folder: Path,
    seed: int,
    is_first: bool,
    outcome: Outcome,
) -> list[Prediction]:
    asked, started_from = document_task(task, plan.labels), None
    is_scored = plan.score_every_length and not task.folds
    for stage, (train, scored) in list(zip(stages, rows, strict=True))[:-1]:
        cell_folder = folder / f"length-{stage.length}"
        kept, wanted = cell_folder / "model", {SCORED: scored} if is_scored else {}
        cell = Cell(cell_folder, train, wanted, seed, started_from=started_from, keep=kept, uploaded=False)
        result = stage.tuner.run(asked, cell)
        started_from = str(kept)
        if is_scored:
            found = _decide(task, plan, stage, scored, result.logits[SCORED])
            points = next(iter(score(task, found, scored.examples).values()))
            outcome.by_length.setdefault(stage.length, []).append(points)
    last, (train, scored) = stages[-1], rows[-1]
    predicted = {SCORED: scored}
    if is_first and plan.hidden:
        predicted[HIDDEN] = make_rows(task, plan.labels, plan.hidden)
    cell_folder = folder / f"length-{last.length}" if len(stages) > 1 else folder
    keep = plan.keep if is_first and not task.folds and plan.train else None
    result = last.tuner.run(asked, Cell(cell_folder, train, predicted, seed, started_from=started_from, keep=keep))
    outputs = {name: _decide(task, plan, last, predicted[name], result.logits[name]) for name in predicted}
    if HIDDEN in outputs:
        answers = (task.text_of(*pair) for pair in zip(plan.hidden, outputs[HIDDEN], strict=True))
        outcome.hidden = dict(zip((example.id for example in plan.hidden), answers, strict=True))
    if folder.is_relative_to(plan.folder / MODEL):
        outcome.facts.append(result.facts)
    return outputs[SCORED]


def _decide(task: Task, plan: Plan, stage: Stage, rows: DocumentExamples, outputs: np.ndarray) -> list[Prediction]:
    return decide(task, plan.labels, rows.examples, outputs, stage.tuner.tokenizer, stage.length)


def run_baselines(
    task: Task, parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[list[Prediction]]]:
    """Predictions of what needs no encoder: the most frequent answer, words of whole documents and of their start."""
    found: dict[str, list[Prediction]] = {}
    for part in parts:
        starts = [first_tokens(examples, tokenizer) for examples in (part.train, part.scored)]
        answers = {
            MAJORITY: majority(task, part.train, part.scored),
            BAG_OF_WORDS: bag_of_words(task, part.train, part.scored),
            BAG_OF_FIRST_WORDS: bag_of_words(task, *starts),
        }
        for name, predicted in answers.items():
            if predicted is not None:
                found.setdefault(name, []).extend(predicted)
    return {name: [predicted] for name, predicted in found.items()}


def run_generator(task: Task, generator: Generator, examples: Sequence[Example], hidden: Sequence[Example]) -> Outcome:
    """Predictions of what writes answers."""
    outcome = Outcome(task, list(examples), {GENERATOR: [list(generator(examples))]})
    if hidden:
        outcome.hidden = dict(zip((example.id for example in hidden), generator(hidden), strict=True))
    return outcome
