# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run needs before it trains: where data is, tokenizers, configurations that fit them, tuners."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evaluation_concept.files import draft
from evaluation_concept.long_context.kept import load_documents
from evaluation_concept.long_context.tasks import ALL, Example, Sources, Task
from evaluation_concept.long_context.vocabularies import VOCABULARIES
from training_concept.build import build_config
from training_concept.finetuning.arguments import ClassifierArguments, ExperimentArguments, FineTuningArguments
from training_concept.finetuning.model import classifier_config, tokenizer_for
from training_concept.long_context.arguments import LongContextArguments
from training_concept.long_context.corpus import PackageCorpus
from training_concept.long_context.forms import TOKEN_KINDS, document_task
from training_concept.long_context.frozen import FrozenTuner
from training_concept.long_context.tuner import DocumentTuner, PositionTuner

logger = logging.getLogger(__name__)

TEXTS_FILE, TOKENIZER_FOLDER = "texts.jsonl", "tokenizer"
# In place of the name of a tokenizer.
OWN_TOKENIZER = "task"


def make_sources(options: LongContextArguments, model_args: ClassifierArguments) -> Sources:
    """Where the tasks find their examples."""
    sizes = options.generated_sizes
    return Sources(
        data_dir=Path(options.data_dir) if options.data_dir else None,
        corpus=PackageCorpus(Path(options.package_dir)) if options.package_dir else None,
        length=options.max_seq_length,
        sizes=(sizes[0], sizes[1], sizes[2]) if sizes else None,
        seed=options.generator_seed,
        haystack=Path(options.haystack) if options.haystack else None,
        kept_dir=Path(options.task_dir) if options.task_dir else None,
        cache_dir=Path(options.generated_dir) if options.generated_dir else None,
        token=model_args.token,
    )


def task_tokenizer(
    task: Task, sources: Sources, model_args: ClassifierArguments, options: LongContextArguments
) -> PreTrainedTokenizerBase:
    """
    The tokenizer that the arguments name, `task` for the task's own vocabulary.

    Raises:
        ValueError: a task without one of its own, or one to be trained on texts that are generated for a tokenizer.
    """
    if model_args.tokenizer_name == OWN_TOKENIZER:
        if not task.tokenizer:
            raise ValueError(f"{task.name} has no tokenizer of its own (--tokenizer_name {OWN_TOKENIZER}): name one.")
        return VOCABULARIES[task.tokenizer]()
    if model_args.train_tokenizer_vocab_size and task.generated:
        raise ValueError(f"{task.name} is generated for a tokenizer: name one by --tokenizer_name.")
    tokenizer = tokenizer_for(model_args, training_texts(task, sources), options.max_seq_length)
    if task.tokenizer and tokenizer.get_vocab() != VOCABULARIES[task.tokenizer]().get_vocab():
        logger.warning(
            "%s is defined on its own vocabulary (%s), and is read by another here: its scores do not compare with "
            "published ones (--tokenizer_name %s).",
            task.name,
            task.tokenizer,
            OWN_TOKENIZER,
        )
    return tokenizer


def training_texts(task: Task, sources: Sources) -> Iterator[str]:
    """Queries and documents that the task trains on; of a cross-validated task all, without their answers."""
    examples = load_documents(task, sources)
    for example in examples["train"] if "train" in examples else examples[ALL]:
        yield from _texts(example)


def _texts(example: Example) -> Iterator[str]:
    yield from filter(None, (example.query, example.text))


def with_overrides(args: ClassifierArguments, overrides: str) -> ClassifierArguments:
    """
    Arguments with further changes to the configuration.

    Raises:
        ValueError: a field that does not exist, or beside --config_name.
    """
    changed = replace(args, config_overrides=",".join(filter(None, [args.config_overrides, overrides])))
    build_config(changed)
    return changed


def make_tuner(
    task: Task,
    model_args: ClassifierArguments,
    options: LongContextArguments,
    training_args: FineTuningArguments,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
) -> DocumentTuner:
    """
    A tuner with the head that the task needs, for documents of up to `length` tokens.

    Raises:
        ValueError: a model with fewer positions, or without a switch that is set.
    """
    experiment = ExperimentArguments(
        max_seq_length=length,
        preprocessing_num_workers=options.preprocessing_num_workers,
        pad_to_max_length=options.pad_to_max_length,
    )
    classifier_config(model_args, document_task(task, ("a", "b")), length)
    if task.kind in TOKEN_KINDS:
        return PositionTuner(task, model_args, experiment, training_args, tokenizer)
    tuner = FrozenTuner if options.frozen_encoder else DocumentTuner
    return tuner(model_args, experiment, training_args, tokenizer)


def export_texts(
    tasks: Sequence[Task], sources: Sources, model_args: ClassifierArguments, options: LongContextArguments
) -> dict[str, Any]:
    """
    Write the texts that a task trains on, a JSON line each, and the tokenizer, for run_mlm.py.

    Raises:
        ValueError: several tasks, or a cross-validated one, whose texts are all scored.
    """
    if len(tasks) > 1 or tasks[0].folds:
        raise ValueError("--export_texts takes one task, and none that is cross-validated: all its texts are scored.")
    (task,), folder = tasks, Path(options.export_texts or "")
    tokenizer = task_tokenizer(task, sources, model_args, options)
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    with draft(folder / TEXTS_FILE) as path, path.open("w", encoding="utf-8") as file:
        for text in training_texts(task, replace(sources, tokenizer=tokenizer)):
            file.write(json.dumps({"text": text}) + "\n")
            number += 1
    tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    print(f"{number:,} texts: {folder / TEXTS_FILE}, tokenizer: {folder / TOKENIZER_FOLDER}", flush=True)
    return {"texts": number}
