# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What stands beside the models of a study and needs no GPU: the most frequent answer and bags of words."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.studies.cells import Cell
from benchmarks.studies.keep import read_left_out
from benchmarks.studies.records import Predictions, Record, make_record
from evaluation_concept.long_context.kept import load_documents
from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.tasks import CLASSIFICATION, Sources
from evaluation_concept.tasks import make_folds
from training_concept.finetuning.experiment import baseline_predictions
from training_concept.finetuning.kept import read_kept_task
from training_concept.long_context import experiment as documents
from training_concept.long_context.corpus import PackageCorpus

GROUP = "baselines"
COMMAND = "python -m benchmarks.studies baselines"


def text_baselines(names: Iterable[str], tasks: Path) -> Iterator[Record]:
    """Records of tasks on sentences and pairs that are kept in the folder `tasks`."""
    left_out = read_left_out(tasks)
    for name in names:
        data = read_kept_task(tasks, name)
        ((split, examples),) = data.evaluation.items()
        assert examples.labels is not None
        found = baseline_predictions(data.task, make_folds(data))
        systems = {system: values[split] for system, values in found.items()}
        yield _record(name, Predictions(examples.labels, systems), left_out=left_out.get(name, 0))


def document_baselines(names: Iterable[str], package_dir: Path, tokenizer_name: str) -> Iterator[Record]:
    """
    Records of classifications of documents, from packages; the tokenizer says where 512 tokens end.

    Raises:
        ValueError: another kind of task.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    sources = Sources(corpus=PackageCorpus(package_dir))
    for task in (TASKS[name] for name in names):
        if task.kind != CLASSIFICATION:
            raise ValueError(f"{task.name} is no classification: there is no bag of words for it.")
        parts = documents.split_parts(task, load_documents(task, sources), None, None)
        scored = [example for part in parts for example in part.scored]
        found = documents.run_baselines(task, parts, tokenizer)
        right = {example.id: example.label or "" for example in scored}
        systems = {system: [dict(zip(right, run, strict=True)) for run in runs] for system, runs in found.items()}
        yield _record(task.name, Predictions.of_answers(right, systems))


def _record(task: str, predictions: Predictions, **facts: Any) -> Record:
    cell = Cell(GROUP, "", "", task, "", {})
    return make_record(cell, None, predictions, **facts) | {"command": COMMAND}
