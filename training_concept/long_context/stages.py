# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The lengths that a task is trained at, one after the other: their examples, batches and tuners."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from evaluation_concept.long_context.kept import load_documents
from evaluation_concept.long_context.tasks import Examples, Sources, Task
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.long_context.arguments import LongContextArguments
from training_concept.long_context.experiment import Stage, split_parts
from training_concept.long_context.setup import make_tuner


def load_stages(task: Task, sources: Sources, options: LongContextArguments) -> list[Examples]:
    """
    The examples of a task for each length of `options`, generated ones made at it, in the numbers asked for.

    Raises:
        ValueError, OSError: as loading the task does.
    """
    if not task.generated:
        return [load_documents(task, sources)] * len(options.lengths)
    wanted: list = options.curriculum_examples or [None] * len(options.lengths)
    found = []
    for length, number in zip(options.lengths, wanted, strict=True):
        sizes = _sizes(sources, number, is_scored=length == options.lengths[-1] or options.score_every_length)
        found.append(load_documents(task, replace(sources, length=length, sizes=sizes)))
    return found


def _sizes(sources: Sources, number: int | None, is_scored: bool) -> tuple[int, int, int] | None:
    if number is None or sources.sizes is None:
        return sources.sizes
    # What is not scored needs no more than to be there.
    return (number, *sources.sizes[1:]) if is_scored else (number, 1, 1)


def make_stages(
    task: Task,
    examples: Sequence[Examples],
    model_args: ClassifierArguments,
    options: LongContextArguments,
    training_args: FineTuningArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Stage]:
    """
    The stages of a training.

    Args:
        examples: for each length, from `load_stages`.
        tokenizer: of all texts.

    Raises:
        ValueError: too few examples, or a model with fewer positions than a length.
    """
    numbers: list = options.curriculum_examples or [options.max_train_samples] * len(options.lengths)
    stages = []
    for length, some, number in zip(options.lengths, examples, numbers, strict=True):
        parts = split_parts(task, some, number, options.max_eval_samples)
        stages.append(make_stage(task, length, parts, model_args, options, training_args, tokenizer))
    return stages


def make_stage(
    task: Task,
    length: int,
    parts: list,
    model_args: ClassifierArguments,
    options: LongContextArguments,
    training_args: FineTuningArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> Stage:
    """A stage of `parts` at a length, with the batches and learning rate that `options` give it."""
    args = _at_length(training_args, options, length)
    return Stage(length, make_tuner(task, model_args, options, args, tokenizer, length), parts)


def cut_stage(
    task: Task,
    stage: Stage,
    tokens: int,
    model_args: ClassifierArguments,
    options: LongContextArguments,
    training_args: FineTuningArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> Stage:
    """A stage with the same examples in the same batches, of which no more than the first `tokens` are read."""
    args = _at_length(training_args, options, stage.length)
    length = min(stage.length, tokens)
    return replace(stage, tuner=make_tuner(task, model_args, options, args, tokenizer, length))


def _at_length(args: FineTuningArguments, options: LongContextArguments, length: int) -> FineTuningArguments:
    """The settings of training at a length, which may have its learning rate and batches."""
    args = copy.copy(args)
    if options.curriculum_learning_rates:
        args.learning_rate = options.curriculum_learning_rates[options.lengths.index(length)]
    if options.batch_tokens:
        rows = max(options.batch_tokens // length, 1)
        args.per_device_train_batch_size = args.per_device_eval_batch_size = rows
    return args
