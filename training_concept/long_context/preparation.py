# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What `run_long_context.py` does before it trains: it reads all tasks, and finds out which of them cannot be run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase

from evaluation_concept.long_context.kept import load_documents
from evaluation_concept.long_context.metrics import check_scorable
from evaluation_concept.long_context.tasks import (
    ALL,
    CLASSIFICATION,
    GENERATIVE,
    VALIDATION,
    Example,
    Examples,
    Generator,
    Sources,
    Task,
    held_out_of_folds,
    label_names,
    to_tune_on,
)
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.long_context.arguments import LongContextArguments
from training_concept.long_context.experiment import Part, Plan, Stage, split_parts
from training_concept.long_context.results import check_comparable, check_continues
from training_concept.long_context.setup import task_tokenizer
from training_concept.long_context.stages import load_stages, make_stages
from training_concept.publishing.card import base_name

CELLS_FOLDER, MODELS_FOLDER = "cells", "models"


@dataclass
class Run:
    """
    What all tasks of a run share.

    Attributes:
        baselines: their predictions by task, on the main process; once for all configurations that are compared.
        loaded: tokenizer and examples of one task, which its check and all configurations read once.
        missing: why tasks cannot be run, by name.
    """

    model_args: ClassifierArguments
    options: LongContextArguments
    training_args: FineTuningArguments
    sources: Sources
    folder: Path
    baselines: dict[str, dict] = field(default_factory=dict)
    loaded: dict[str, tuple[PreTrainedTokenizerBase, list[Examples]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.training_args.process_index == 0


def try_out_all(
    variants: Sequence[Run], tasks: Sequence[Task], generator: Generator | None, others: Mapping[str, Mapping]
) -> None:
    """
    Find out before anything is trained what is missing: on the main process, for all.

    Raises:
        ValueError, OSError, ImportError: no task can be run, or what is there already does not go with the run.
    """
    run, raised = variants[0], None
    told: list[Any] = [{}, ""]
    if run.is_main:
        try:
            told[0] = _find_missing(variants, tasks, generator, others)
        except (ValueError, OSError, ImportError) as error:
            raised, told[1] = error, str(error)
    broadcast_object_list(told)
    if raised or told[1]:
        raise raised or ValueError(told[1])
    run.missing.update(told[0])


def _find_missing(
    variants: Sequence[Run], tasks: Sequence[Task], generator: Generator | None, others: Mapping[str, Mapping]
) -> dict[str, str]:
    """Why tasks cannot be run, by name."""
    run, errors, examples = variants[0], {}, {}
    asked = [task for task in tasks if task.kind != GENERATIVE or generator is not None]
    # The first task last: what was loaded of it waits for its training.
    for task in reversed(asked):
        try:
            examples[task.name] = _try_out(run, task)
        except (ValueError, OSError, ImportError) as error:
            errors[task.name] = error
    missing = {task.name: errors[task.name] for task in asked if task.name in errors}
    if missing and not examples:
        raise next(iter(missing.values()))
    check_comparable(others, examples, run.options.scored_split)
    for variant in () if run.training_args.overwrite_output_dir else variants:
        check_continues(variant.folder, run_facts(variant), examples)
    return {name: " ".join(str(error).split()).rstrip(".") for name, error in missing.items()}


def _try_out(run: Run, task: Task) -> int:
    """How many examples are scored of a task of which all is there."""
    if task.kind == GENERATIVE:
        task, scored, _ = to_write(run, task)
    else:
        task, stages, examples = load_task(run, task)
        make_plan(run, task, examples)
        scored = [example for part in stages[-1].parts for example in part.scored]
    check_scorable(task, scored)
    return len(scored)


def run_facts(run: Run) -> dict[str, Any]:
    """About a run, for results.json."""
    base = run.model_args.model_name_or_path
    return {
        "model": base_name(base) if base else run.model_args.preset or run.model_args.model_type,
        "config_overrides": run.model_args.config_overrides,
        "max_seq_length": run.options.max_seq_length,
        "length_curriculum": run.options.length_curriculum or [],
        "seeds": run.options.seeds or [run.training_args.seed],
        "trained": run.training_args.do_train,
        "scored_split": run.options.scored_split,
    }


def to_write(run: Run, task: Task) -> tuple[Task, list[Example], list[Example]]:
    """A task whose answers are written, examples to score, and those whose answers are hidden."""
    examples = load_documents(task, run.sources)
    if run.options.scored_split == VALIDATION:
        task, examples = to_tune_on(task, examples)
    return task, list(examples[task.scored])[: run.options.max_eval_samples], hidden_examples(run, task, examples)


def load_task(run: Run, task: Task) -> tuple[Task, list[Stage], Examples]:
    """A task as it is to be scored, its stages, and its examples at the last length."""
    if task.name not in run.loaded:
        run.loaded.clear()
        tokenizer = task_tokenizer(task, run.sources, run.model_args, run.options)
        run.loaded[task.name] = tokenizer, load_stages(task, replace(run.sources, tokenizer=tokenizer), run.options)
    tokenizer, loaded = run.loaded[task.name]
    if is_tuning := run.options.scored_split == VALIDATION:
        tasks, loaded = map(list, zip(*(to_tune_on(task, examples) for examples in loaded), strict=True))
        task = tasks[-1]
    stages = make_stages(task, loaded, run.model_args, run.options, run.training_args, tokenizer)
    if is_tuning and task.folds:
        # Whole folds, so that what is held out of them is the same whatever is drawn at a length.
        held = held_out_of_folds(task, [part.train for part in split_parts(task, loaded[-1], None, None)])
        stages = [_scored_inside(stage, held, run.options.max_eval_samples) for stage in stages]
    return task, stages, loaded[-1]


def _scored_inside(stage: Stage, held: Sequence[Sequence[Example]], most: int | None) -> Stage:
    """A stage that trains on the rest of each fold and is scored on the first examples of what is held out of it."""
    parts = []
    for number, (part, examples) in enumerate(zip(stage.parts, held, strict=True)):
        names = {example.id for example in examples}
        # A document that is held out of several folds has several predictions.
        scored = [replace(example, id=f"fold-{number}/{example.id}") for example in examples[:most]]
        parts.append(Part([example for example in part.train if example.id not in names], scored))
    return replace(stage, parts=parts)


def make_plan(run: Run, task: Task, examples: Examples) -> Plan:
    """How a task is trained and scored."""
    return Plan(
        label_names(task, examples) if task.kind == CLASSIFICATION else (),
        run.folder / CELLS_FOLDER / task.name,
        (run.options.seeds or [run.training_args.seed])[: None if run.training_args.do_train else 1],
        train=run.training_args.do_train,
        hidden=hidden_examples(run, task, examples),
        keep=run.folder / MODELS_FOLDER / task.name,
        score_every_length=run.options.score_every_length,
    )


def hidden_examples(run: Run, task: Task, examples: Examples) -> list:
    """What predictions are wanted for besides the scored examples: a test split whose answers are hidden."""
    return list(examples.get("test", ())) if run.training_args.do_predict and task.scored not in ("test", ALL) else []
