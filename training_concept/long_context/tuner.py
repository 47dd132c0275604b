# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of one checkpoint with the head that a task needs, and what a document costs it."""

import copy
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from evaluation_concept import tasks as text_tasks
from evaluation_concept.files import write_json
from evaluation_concept.long_context.tasks import Task
from training_concept.build import fit_config
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.finetuning.cell import Cell, CellResult, FineTuner
from training_concept.finetuning.data import task_logits
from training_concept.finetuning.trainer import FineTuningTrainer
from training_concept.long_context.forms import PositionExamples
from training_concept.long_context.positions import (
    PositionCollator,
    PositionTrainer,
    functions,
    tokenize_positions,
)
from training_concept.run import check_weights

COST_FILE = "cost.json"


class DocumentTuner(FineTuner):
    """A `FineTuner` that also measures what documents cost; arguments are that one's."""

    def run(self, task: text_tasks.Task, cell: Cell) -> CellResult:
        """
        The result of `cell`; its facts have seconds a document and, on a GPU, the most memory in GiB, of prediction.

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
        with self._measured(len(rows)):
            outputs = trainer.predict(rows).predictions
        return self._outputs(trainer, outputs, order)

    def _outputs(self, trainer: FineTuningTrainer, outputs: Any, order: tuple[str, ...]) -> np.ndarray:
        # Some models give hidden states beside them.
        return task_logits(outputs[0] if isinstance(outputs, tuple) else outputs, trainer.task, order)

    @contextmanager
    def _measured(self, documents: int) -> Iterator[None]:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        yield
        cost = {"seconds_per_document": (time.perf_counter() - begun) / documents}
        if torch.cuda.is_available():
            cost["predict_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
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
        return PositionTrainer(
            build_token_classifier(model_args, config, self.tokenizer, trained=cell.train is not None),
            args,
            task,
            order,
            functions=functions(self.asked),
            train_dataset=self._tokens(task, cell.train, order) if cell.train else None,
            data_collator=PositionCollator(self.tokenizer, length),
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


def build_token_classifier(
    args: ClassifierArguments, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, trained: bool
) -> PreTrainedModel:
    """
    The model that `args` name under a classifier of tokens.

    Args:
        args: name the checkpoint, or none for new weights.
        config: from `classifier_config`.
        tokenizer: of the documents.
        trained: whether the model is to be trained. If it is not, the checkpoint has to have the classifier.

    Raises:
        ValueError: damaged weights, or a classifier that is missing and that nothing will train.
    """
    config = copy.deepcopy(config)
    if not args.model_name_or_path:
        fit_config(args, config, tokenizer)
        options = {"trust_remote_code": args.trust_remote_code, "attn_implementation": args.attn_implementation}
        return AutoModelForTokenClassification.from_config(config, dtype=args.dtype, **options)
    check_weights(Path(args.model_name_or_path))
    model, report = _load(args, config)
    if not trained and (report["missing_keys"] or report["mismatched_keys"]):
        raise ValueError(f"{args.model_name_or_path} has no classifier for this task: train one with --do_train.")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return model


def _load(args: ClassifierArguments, config: PreTrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        return AutoModelForTokenClassification.from_pretrained(
            args.model_name_or_path,
            config=config,
            dtype=args.dtype,
            attn_implementation=args.attn_implementation,
            ignore_mismatched_sizes=args.ignore_mismatched_sizes,
            output_loading_info=True,
            cache_dir=args.cache_dir,
            revision=args.model_revision,
            token=args.token,
            trust_remote_code=args.trust_remote_code,
        )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"Weights of {args.model_name_or_path} have other shapes than this task and configuration give them; "
            "--ignore_mismatched_sizes starts those anew."
        ) from error
