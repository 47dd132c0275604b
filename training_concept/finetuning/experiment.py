# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A task from its examples to the predictions of all systems: seeds, folds, the choice of settings, baselines."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation_concept.baselines_text import BASELINES
from evaluation_concept.metrics import score
from evaluation_concept.tasks import Examples, Fold, Task, TaskData, make_folds, pool, split_by_group
from training_concept.finetuning.arguments import ExperimentArguments
from training_concept.finetuning.cell import TEST_PREFIX, Cell, CellResult, FineTuner
from training_concept.finetuning.data import drawn_rows

logger = logging.getLogger(__name__)

MODEL, RANDOM_INIT = "model", "random_init"
# Folder of the cell of a checkpoint that is scored as it is, beside those of trainings.
AS_IT_IS = "as_it_is"
# One fold of so many is what a single held-out part is.
HELD_OUT_PART = 10


@dataclass(frozen=True)
class Trial:
    """Settings of a sweep and the mean score, in points, on the examples that they were chosen by."""

    settings: Mapping[str, Any]
    score: float


@dataclass
class Outcome:
    """
    What came of a task.

    Attributes:
        task: it.
        predictions: by system and split, `[runs, n]`.
        references: by split, `[n]`.
        digests: by split, what tells its examples from others.
        test: by file, predictions `[n]` of the first run.
        trials: by fold, what was tried; empty without a sweep.
        chosen: by fold, the settings in place of the arguments'.
        chosen_by: in words, what settings were chosen on.
        facts: of every training of the model.
        trained_on: number of training examples, by fold; empty if nothing was trained.
    """

    task: Task
    predictions: dict[str, dict[str, np.ndarray]]
    references: dict[str, np.ndarray]
    digests: dict[str, str] = field(default_factory=dict)
    test: dict[str, np.ndarray] = field(default_factory=dict)
    trials: list[list[Trial]] = field(default_factory=list)
    chosen: list[dict[str, Any]] = field(default_factory=list)
    chosen_by: str = ""
    facts: list[dict[str, float]] = field(default_factory=list)
    trained_on: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """
    What to do with a task.

    Attributes:
        folder: of all its cells.
        train: whether to fine-tune, rather than score the checkpoint as it is.
        predict: whether to predict the test splits.
        started_from: checkpoint in place of the one that the arguments name.
        keep: folder for the model of the first seed, if there is one model and not one for each fold.
    """

    folder: Path
    train: bool = True
    predict: bool = False
    started_from: str | None = None
    keep: Path | None = None


def run_task(tuner: FineTuner, data: TaskData, plan: Plan) -> Outcome:
    """Fine-tune on a task with every seed, or score the checkpoint as it is, and score the baselines."""
    task, options = data.task, tuner.options
    seeds = options.seeds or [tuner.training_args.seed]
    references = {split: examples.labels for split, examples in data.evaluation.items()}
    outcome = Outcome(task, {}, {split: labels for split, labels in references.items() if labels is not None})
    outcome.digests = {split: examples.digest() for split, examples in data.evaluation.items()}
    test = data.test if plan.predict else {}
    if not plan.train:
        result = tuner.run(task, Cell(plan.folder / AS_IT_IS, None, {**data.evaluation, **_named(test)}, seeds[0]))
        outcome.predictions[MODEL] = {split: task.decide(result.logits[split])[None] for split in data.evaluation}
        outcome.test = _test_predictions(task, result, test)
        return outcome
    folds = _folds(data, options)
    outcome.trained_on = [len(fold.train) for fold in folds]
    _choose(tuner, data, folds, plan, outcome)
    # A new model is one with fresh weights itself, and without scores there is nothing to stand beside.
    is_pretrained = tuner.model_args.model_name_or_path or plan.started_from
    systems = [MODEL, *([RANDOM_INIT] if options.random_init_baseline and is_pretrained and references else [])]
    for system in systems:
        runs = [_run_seed(tuner, task, folds, plan, outcome, system, seed, test) for seed in seeds]
        outcome.predictions[system] = _stack(runs)
        test = {}
    if options.baselines and references:
        outcome.predictions |= baseline_predictions(task, folds)
    tuner.forget()
    return outcome


def _folds(data: TaskData, options: ExperimentArguments) -> list[Fold]:
    """Those of `make_folds`, of a cross-validation with so many examples to train on as are wanted."""
    return [
        replace(fold, train=fold.train.take(drawn_rows(len(fold.train), options.max_train_samples)))
        for fold in make_folds(data)
    ]


def baseline_predictions(task: Task, folds: Sequence[Fold]) -> dict[str, dict[str, np.ndarray]]:
    """Predictions of the trivial predictors, by name and split `[1, n]`."""
    predictions = {}
    for name, baseline in BASELINES.items():
        logger.info("%s: %s", task.name, name)
        predictions[name] = _stack([pool(folds, [baseline(task, fold.train, fold.evaluation) for fold in folds])])
    return predictions


def _run_seed(
    tuner: FineTuner,
    task: Task,
    folds: Sequence[Fold],
    plan: Plan,
    outcome: Outcome,
    system: str,
    seed: int,
    test: Mapping[str, Examples],
) -> dict[str, np.ndarray]:
    """Predictions by split `[n]` of one seed; of the first, those for the test splits too."""
    is_first = system == MODEL and not outcome.facts
    predicted = []
    for number, fold in enumerate(folds):
        cell = Cell(
            plan.folder / system / f"seed-{seed}" / (f"fold-{number}" if len(folds) > 1 else ""),
            fold.train,
            {**fold.evaluation, **(_named(test) if is_first else {})},
            seed,
            outcome.chosen[number],
            fresh=system == RANDOM_INIT,
            started_from=plan.started_from,
            keep=plan.keep if is_first and len(folds) == 1 else None,
        )
        logger.info("%s: %s, seed %d, fold %d of %d", task.name, system, seed, number + 1, len(folds))
        result = tuner.run(task, cell)
        predicted.append({split: task.decide(result.logits[split]) for split in fold.evaluation})
        if is_first:
            outcome.test = _test_predictions(task, result, test)
        if system == MODEL:
            outcome.facts.append(result.facts)
    return pool(folds, predicted)


def _choose(tuner: FineTuner, data: TaskData, folds: Sequence[Fold], plan: Plan, outcome: Outcome) -> None:
    """Fill in the settings of each fold, from the sweep if there is one."""
    options = tuner.options
    if len(options.settings) == 1:
        outcome.chosen = [dict(options.settings[0]) for _ in folds]
        return
    for number, fold in enumerate(folds):
        parts = _selection_parts(data, fold, options)
        folder = plan.folder / "sweep" / (f"fold-{number}" if len(folds) > 1 else "")
        trials = [
            Trial(settings, _trial_score(tuner, data.task, parts, folder, settings, plan))
            for settings in options.settings
        ]
        outcome.trials.append(trials)
        outcome.chosen.append(dict(max(trials, key=lambda trial: trial.score).settings))
    outcome.chosen_by = describe_selection(data, options)


def describe_selection(data: TaskData, options: ExperimentArguments) -> str:
    """What settings are chosen on, in words."""
    if data.selection is not None:
        return f"the {data.task.selection_split} split, which no score is of"
    if options.sweep_folds == 1:
        return "a held-out tenth of the training examples"
    return f"cross-validation in {options.sweep_folds} folds inside the training examples"


def check_sweep(data: TaskData, options: ExperimentArguments) -> None:
    """
    Raises:
        ValueError: there are fewer examples to train on than settings are to be chosen by.
    """
    if len(options.settings) == 1 or data.selection is not None:
        return
    number = HELD_OUT_PART if options.sweep_folds == 1 else options.sweep_folds
    found = min(len(set(fold.train.groups)) for fold in _folds(data, options))
    if found < number:
        raise ValueError(
            f"{data.task.name}: --sweep chooses by {describe_selection(data, options)}, of which {number} have to "
            f"differ, and {found} do."
        )


def _selection_parts(data: TaskData, fold: Fold, options: ExperimentArguments) -> list[tuple[Examples, Examples]]:
    """Pairs of examples to train on and to score where settings are chosen."""
    if data.selection is not None:
        return [(fold.train, data.selection)]
    number = options.sweep_folds
    rows = split_by_group(fold.train, HELD_OUT_PART)[:1] if number == 1 else split_by_group(fold.train, number)
    return [(fold.train.take(train), fold.train.take(scored)) for train, scored in rows]


def _trial_score(
    tuner: FineTuner,
    task: Task,
    parts: Sequence[tuple[Examples, Examples]],
    folder: Path,
    settings: Mapping[str, Any],
    plan: Plan,
) -> float:
    seed = (tuner.options.seeds or [tuner.training_args.seed])[0]
    label = ",".join(f"{name}={value:g}" for name, value in settings.items())
    scores = []
    for number, (train, scored) in enumerate(parts):
        cell_folder = folder / label / (f"part-{number}" if len(parts) > 1 else "")
        cell = Cell(cell_folder, train, {"selection": scored}, seed, settings, started_from=plan.started_from)
        logger.info("%s: %s", task.name, label)
        assert scored.labels is not None
        scores.append(score(task.metric, task.decide(tuner.run(task, cell).logits["selection"]), scored.labels))
    return float(np.mean(scores))


def _named(test: Mapping[str, Examples]) -> dict[str, Examples]:
    return {f"{TEST_PREFIX}{file}": examples for file, examples in test.items()}


def _test_predictions(task: Task, result: CellResult, test: Mapping[str, Examples]) -> dict[str, np.ndarray]:
    return {file: task.decide(result.logits[f"{TEST_PREFIX}{file}"]) for file in test}


def _stack(runs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {split: np.stack([run[split] for run in runs]) for split in runs[0]}
