# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The Trainer for classification and regression: one loss for every kind of model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel

from evaluation_concept.metrics import measure
from evaluation_concept.tasks import Task
from modeling_concept.losses import classification_loss, mean_cross_entropy
from training_concept.compilation import CompilingTrainer
from training_concept.finetuning.arguments import FineTuningArguments
from training_concept.finetuning.data import task_labels, task_logits


def task_loss(
    outputs: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    *,
    config: PreTrainedConfig,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """
    Sum over the batch of the cross-entropies (squared errors, of a regression), over the examples of the whole step.

    Stock heads such as BERT's average within each batch, which Trainer takes for their part in the loss of a step: k
    batches that are accumulated would make a gradient k times as large (transformers 5.23).

    Args:
        outputs: with `logits` `[batch, outputs]`.
        labels: `[batch]`.
        num_items_in_batch: labels of all batches and devices of the step. Defaults to those of this batch.
        config: of the model, with its `problem_type`.
        label_smoothing: share of each target that is spread over all classes.
    """
    logits = outputs["logits"]
    if config.problem_type == "regression" or not label_smoothing:
        return classification_loss(logits, labels, config, num_items_in_batch=num_items_in_batch)
    return mean_cross_entropy(logits, labels, num_items_in_batch, label_smoothing)


class FineTuningTrainer(CompilingTrainer):
    """
    `transformers.Trainer` for a task, with `task_loss` for every model and the task's metric where it evaluates.

    Args:
        model: any `AutoModelForSequenceClassification`.
        args: of one run.
        task: what is trained for.
        order: names of the labels as the model numbers them.
    """

    def __init__(
        self, model: PreTrainedModel, args: FineTuningArguments, task: Task, order: tuple[str, ...], **kwargs: Any
    ) -> None:
        self.task, self.order = task, order
        loss = partial(task_loss, config=model.config, label_smoothing=args.label_smoothing_factor)
        # Its backward pass gives NaN now and then (docs/log.md).
        torch.backends.cuda.enable_cudnn_sdp(False)
        super().__init__(model, args, compute_loss_func=loss, compute_metrics=self._metrics, **kwargs)
        # Smoothed already.
        self.label_smoother = None

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As stock, of all examples in their order."""
        with self._in_order():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As stock, of all examples in their order."""
        with self._in_order():
            return super().get_test_dataloader(*args, **kwargs)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As stock; a batch of fewer rows, the last of an epoch, runs as it is rather than being compiled for."""
        is_whole = len(inputs["input_ids"]) == self.args.train_batch_size
        with nullcontext() if is_whole else torch.compiler.set_stance("force_eager"):
            return super().training_step(model, inputs, *args, **kwargs)

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        # Stock groups by length and drops a last batch where it predicts as where it trains: answers change places.
        given = self.args.train_sampling_strategy, self.args.dataloader_drop_last
        self.args.train_sampling_strategy, self.args.dataloader_drop_last = "random", False
        try:
            yield
        finally:
            self.args.train_sampling_strategy, self.args.dataloader_drop_last = given

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        # Some models give hidden states beside them.
        logits = task_logits(logits[0] if isinstance(logits, tuple) else logits, self.task, self.order)
        labels = task_labels(prediction.label_ids, self.task, self.order)
        return measure(self.task.metric, self.task.decide(logits), labels)
