# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of one checkpoint with the head that a task needs, and what a document costs it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForTokenClassification,
    PreTrainedConfig,
    set_seed,
)

from evaluation_concept import tasks as text_tasks
from evaluation_concept.files import write_json
from evaluation_concept.long_context.tasks import SELECTION, Task
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.finetuning.cell import Cell, CellResult, FineTuner
from training_concept.finetuning.data import task_logits
from training_concept.finetuning.model import build_classifier
from training_concept.finetuning.trainer import FineTuningTrainer
from training_concept.long_context.forms import PositionExamples
from training_concept.long_context.positions import (
    NOWHERE,
    PositionCollator,
    PositionTrainer,
    functions,
    tokenize_positions,
)

COST_FILE = "cost.json"


class DocumentTuner(FineTuner):
    """A `FineTuner` that also measures what documents cost; arguments are that one's."""

    def run(self, task: text_tasks.Task, cell: Cell) -> CellResult:
        """
        The result of `cell`; its facts have, of prediction, seconds of one device a document and, on a GPU, the most
        memory in GiB: weights and what comes on top, but not what a training has left, such as the optimizer's states.

        Raises:
            ValueError: as building the model does, or if the cell's folder holds one that differs.
        """
        self._cost: dict[str, float] = {}
        result, path = super().run(task, cell), cell.folder / COST_FILE
        if self._cost:
            write_json(path, self._cost)
        cost = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return CellResult(result.logits, result.facts | cost)

    def _predict(
        self, trainer: FineTuningTrainer, examples: text_tasks.Examples, order: tuple[str, ...]
    ) -> np.ndarray:
        rows = self._tokens(trainer.task, examples, order)
        # A document that is asked about by several rows, one for each choice, is one.
        with self._measured(trainer, len(getattr(examples, "examples", ())) or len(rows)):
            outputs = trainer.predict(rows).predictions
        return self._outputs(trainer, outputs, order)

    def _outputs(self, trainer: FineTuningTrainer, outputs: Any, order: tuple[str, ...]) -> np.ndarray:
        # Some models give hidden states beside them.
        return task_logits(outputs[0] if isinstance(outputs, tuple) else outputs, trainer.task, order)

    @contextmanager
    def _measured(self, trainer: FineTuningTrainer, documents: int) -> Iterator[None]:
        on_gpu, left = torch.cuda.is_available(), 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            left = torch.cuda.memory_allocated()
        begun = time.perf_counter()
        yield
        seconds = (time.perf_counter() - begun) * trainer.args.world_size
        cost = {"seconds_per_document": seconds / documents}
        if on_gpu:
            used = torch.cuda.max_memory_allocated() - left + trainer.model.get_memory_footprint()
            cost["predict_memory_gib"] = used / 2**30
        # Of the examples that are scored, which come first.
        self._cost = self._cost or cost


class PositionTuner(DocumentTuner):
    """
    A tuner for tasks whose answers are places in the document.

    Args:
        asked: the task.
        args, kwargs: of `FineTuner`.
    """

    def __init__(self, asked: Task, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked = asked

    def _training_args(self, cell: Cell) -> FineTuningArguments:
        args = super()._training_args(cell)
        # Stock drops columns that no model takes, such as where the candidates are.
        args.remove_unused_columns = False
        return args

    def _build_trainer(
        self,
        task: text_tasks.Task,
        cell: Cell,
        model_args: ClassifierArguments,
        config: PreTrainedConfig,
        order: tuple[str, ...],
        args: FineTuningArguments,
    ) -> FineTuningTrainer:
        set_seed(cell.seed)
        length = self.options.max_seq_length if self.options.pad_to_max_length else None
        model = build_classifier(
            model_args,
            config,
            self.tokenizer,
            trained=cell.train is not None,
            auto_class=AutoModelForTokenClassification,
        )
        return PositionTrainer(
            model,
            args,
            task,
            order,
            functions=functions(self.asked),
            train_dataset=self._tokens(task, cell.train, order) if cell.train else None,
            data_collator=PositionCollator(self.tokenizer, length, model),
            processing_class=self.tokenizer,
        )

    def _tokens(self, task: text_tasks.Task, examples: text_tasks.Examples, order: tuple[str, ...]) -> Dataset:
        assert isinstance(examples, PositionExamples)
        if (key := (examples, order)) not in self._rows:
            options = self.options
            with self.training_args.main_process_first():
                self._rows[key] = tokenize_positions(
                    self.asked, examples, self.tokenizer, options.max_seq_length, options.preprocessing_num_workers
                )
        return self._rows[key]

    def _outputs(self, trainer: FineTuningTrainer, outputs: Any, order: tuple[str, ...]) -> np.ndarray:
        return np.asarray(outputs, dtype=np.float64)

    def _are_numbers(
        self, task: text_tasks.Task, examples: text_tasks.Examples, order: tuple[str, ...], outputs: np.ndarray
    ) -> bool:
        if self.asked.kind != SELECTION:
            return super()._are_numbers(task, examples, order, outputs)
        # Candidates that are cut off, and those that a row has fewer than others, are -inf.
        asked = zip(self._tokens(task, examples, order)["positions"], outputs, strict=True)
        return all(np.isfinite(row[: len(places)][np.array(places) != NOWHERE]).all() for places, row in asked)
