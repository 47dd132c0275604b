# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The Trainer for masked language modelling: exact metrics from masked positions alone, and throughput in the log."""

import inspect
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments

from modeling_concept.losses import IGNORED, labels_at, mean_cross_entropy
from training_concept.arguments import ConceptTrainingArguments
from training_concept.combination import LossCombination, check_losses, count_calls, is_combined, load_weighting
from training_concept.compilation import CompilingTrainer, batch_length
from training_concept.mixture import GroupedSampler, MixtureDataset, MixtureSampler
from training_concept.throughput import TRAINING_PASSES, ThroughputMeter, count_forward_flops

logger = logging.getLogger(__name__)


def decodes_positions(model: PreTrainedModel) -> bool:
    """Whether `model` can be told which positions to decode (`masked_positions`), as concept encoders can."""
    return "masked_positions" in inspect.signature(model.forward).parameters


def loss_options(args: ConceptTrainingArguments) -> dict[str, Any]:
    """What `args` set of the loss, as a concept encoder takes it."""
    options = {
        "label_smoothing": args.label_smoothing_factor,
        "z_loss": args.z_loss,
        "loss_kernel": "liger" if args.use_liger_kernel else None,
    }
    return {name: value for name, value in options.items() if value}


def masked_lm_loss(
    outputs: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> torch.Tensor:
    """
    Sum of the cross-entropies of `logits [B, N, V]` at `labels [B, N]`, over the number of labels in the whole step.

    Stock heads such as BERT's average within each batch instead, so their loss would change with accumulation. The
    options are those of a concept encoder (`modeling_concept.losses.linear_cross_entropy`).
    """
    return mean_cross_entropy(outputs["logits"], labels, num_items_in_batch, label_smoothing, z_loss)


def masked_lm_sums(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """
    Per row the summed negative log-likelihood (nats), the hits and the number of scored positions, `[B, 3]` in fp32.

    `logits [B, K, V]` belong to `targets [B, K]`, where -100 is not scored.
    """
    scored = targets != IGNORED
    logits, wanted = logits[scored].float(), targets[scored]
    columns = (F.cross_entropy(logits, wanted, reduction="none"), logits.argmax(-1) == wanted, torch.ones_like(wanted))
    blank = torch.zeros_like(targets, dtype=torch.float32)
    return torch.stack([blank.masked_scatter(scored, column.float()).sum(1) for column in columns], dim=1)


def takes_documents(model: PreTrainedModel) -> bool:
    """Whether `model` tells the documents of a row apart (`document_lengths`), as concept encoders do."""
    return "document_lengths" in inspect.signature(model.forward).parameters


def masked_lm_metrics(prediction: EvalPrediction, sizes: Mapping[str, int] | None = None) -> dict[str, float]:
    """
    Loss (nats), accuracy and perplexity over all scored tokens, from the rows of `masked_lm_sums`.

    If the rows are those of several sources, `sizes` of them one behind the other, each has its loss as well.
    """
    sums = prediction.predictions.astype("float64")
    nll, hits, count = sums.sum(axis=0)
    loss = nll / count
    metrics = {"loss": loss, "accuracy": hits / count, "perplexity": math.exp(loss) if loss < 700 else math.inf}
    if sizes is None or len(sizes) < 2:
        return metrics
    parts = np.split(sums, np.cumsum(list(sizes.values()))[:-1])
    by_source = {label: part.sum(axis=0) for label, part in zip(sizes, parts, strict=True)}
    return metrics | {f"{label}_loss": part[0] / part[2] for label, part in by_source.items()}


def _reduce_in_float32(accelerator: Accelerator) -> None:
    """Let FSDP add up gradients in float32, as DDP does, and leave the loss in it; stock rounds both."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    policy = getattr(plugin, "mixed_precision_policy", None)
    if plugin is not None and isinstance(policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)


def check_fills_batch(dataset: Any, args: TrainingArguments, kind: str = "rows") -> None:
    """
    Raises:
        ValueError: if a dataset is too short for one batch, on all devices.
    """
    batch_size = args.train_batch_size * args.world_size
    if hasattr(dataset, "__len__") and len(dataset) < batch_size:
        raise ValueError(
            f"The training data makes {len(dataset)} {kind}, too few for one full batch of {batch_size}. Lower "
            "--per_device_train_batch_size."
        )


def _check_sampling(dataset: Any, strategy: str) -> None:
    is_mixture = isinstance(dataset, MixtureDataset) and (dataset.weights is not None or dataset.num_stages > 1)
    if is_mixture and strategy != "random":
        raise ValueError(
            f"--train_sampling_strategy {strategy} takes no notice of weights of sources and of schedules: use random."
        )


class ConceptTrainer(CompilingTrainer):
    """
    `transformers.Trainer` for any `AutoModelForMaskedLM`.

    Evaluation keeps three sums of a row instead of its logits, so that its figures are averages over tokens, whatever
    the batch size, and nothing of size `[B, N, V]` is gathered. Models that decode given positions get them; for
    others the loss is normalised here, over the whole step. Every logged loss comes with the throughput. Sources of a
    mixture are evaluated together and one by one.

    The loss may be that of several objectives, and of the concepts (`training_concept.combination`); what is evaluated
    is masked language modelling. Weights that are learned between them are part of a checkpoint, not of the model.

    Raises:
        ValueError: as `CompilingTrainer`, or if incomplete batches are dropped and the training data fills none.
    """

    args: ConceptTrainingArguments
    one_shape = "leave out --line_by_line"
    data_collator: Any

    def __init__(self, model: PreTrainedModel, args: ConceptTrainingArguments, **kwargs: Any) -> None:
        self._decodes_positions = decodes_positions(model)
        self._loss_options = loss_options(args)
        self._eval_sizes: Mapping[str, int] | None = None
        # cuDNN's attention gave NaN gradients for queries on an H100 (torch 2.11) where every other kernel is right.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if args.dataloader_drop_last:
            check_fills_batch(kwargs.get("train_dataset"), args)
        _check_sampling(kwargs.get("train_dataset"), args.train_sampling_strategy)
        check_losses(args, model, batch_length(kwargs.get("data_collator")))
        loss = {name: value for name, value in self._loss_options.items() if name != "loss_kernel"}
        super().__init__(
            model,
            args,
            compute_loss_func=None if self._decodes_positions else partial(masked_lm_loss, **loss),
            compute_metrics=self._metrics,
            **kwargs,
        )
        _reduce_in_float32(self.accelerator)
        self.combination = LossCombination(args, self.accelerator) if is_combined(args) else None
        self._totals: torch.Tensor | None = None
        self.current_gradient_accumulation_steps = args.gradient_accumulation_steps
        # Stock smooths labels on logits, which models that decode given positions do not return beside a loss.
        self.label_smoother = None
        self.throughput = ThroughputMeter(self.accelerator, args.peak_flops)
        self._flops_per_position: float | None = None
        self._reported_step = 0

    def _compiled_parts(self) -> dict[str, Any]:
        # Liger Kernel's loss breaks graphs.
        left_out = ("LinearCrossEntropy",) if self.args.use_liger_kernel else ()
        return {"left_out": left_out, "calls_per_step": count_calls(self.args)}

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        settings = super()._build_accelerator_args(**kwargs)
        for handler in settings["kwargs_handlers"]:
            # Gradients live in the buckets that are reduced, rather than being copied there and back.
            handler.gradient_as_bucket_view = True
        return settings

    def floating_point_ops(self, inputs: Mapping[str, torch.Tensor]) -> float:
        """Operations of a training step on `inputs`: those of the first batch seen, scaled to its `input_ids`."""
        if self._flops_per_position is None:
            calls = [inputs] if self.combination is None else self.combination.inputs(inputs)
            try:
                flops = TRAINING_PASSES * sum(count_forward_flops(self.model, call) for call in calls)
            except RuntimeError as error:
                logger.warning("FLOPs are estimated from the parameters, since they cannot be counted: %s", error)
                flops = super().floating_point_ops(inputs)
            self._flops_per_position = flops / inputs["input_ids"].numel()
        return self._flops_per_position * inputs["input_ids"].numel()

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """As stock, and counted by the throughput meter."""
        if self._step_begins and self.combination is not None:
            # Stock clears the gradients of the model alone.
            self.combination.zero_grad()
        inputs = self._prepare_inputs(inputs)
        if self._flops_per_position is None:
            self.floating_point_ops(inputs)
            self.throughput.restart()
            self._reported_step = self.state.global_step
        self.throughput.update(inputs, self.floating_point_ops(inputs))
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As stock; the losses of training are joined by their throughput, its end by that of the whole run."""
        if "loss" in logs:
            steps = self.state.global_step - self._reported_step
            logs.update({} if self.combination is None else self.combination.report(steps))
            logs.update(self._report())
        elif "train_runtime" in logs:
            self._report()
            total = self.throughput.total.rates(self.throughput.peak_flops)
            logs.update({f"train_{name}": rate for name, rate in total.items()})
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As stock, outside the time that the throughput is measured over."""
        with self.throughput.paused():
            return super().evaluate(*args, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """As stock; a model that decodes given positions also gets the options of the loss that are set."""
        options = self._loss_options if self._decodes_positions else {}
        if self.combination is not None:
            calls = [partial(called, **options) for called in (model, self.model)]
            totals = self.combination.count([inputs]) if self._totals is None else self._totals
            batches = self.current_gradient_accumulation_steps
            loss = self.combination(*calls, inputs, totals, self.state.global_step, batches)
            return (loss, None) if return_outputs else loss
        return super().compute_loss(model, {**inputs, **options}, return_outputs, num_items_in_batch)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """No loss (the metrics have it), the `[B, 3]` sums of the rows, and their number of scored tokens `[B]`."""
        inputs = self._prepare_inputs(inputs)
        targets = inputs.pop("labels")
        if "masked_positions" in inputs:
            targets = labels_at(targets, inputs["masked_positions"])
        with torch.no_grad(), self.compute_loss_context_manager():
            sums = masked_lm_sums(model(**inputs)["logits"], targets)
        return None, sums, sums[:, 2]

    def get_train_dataloader(self) -> DataLoader:
        """As stock, with the inputs of all objectives in its batches."""
        masking = self.data_collator
        if self.combination is not None:
            self.data_collator = self.combination.collator(self.processing_class, masking)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = masking

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """As stock, but whole (`dataloader_drop_last` is for training) and with the same masks every time."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            loader = super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last
        self._eval_sizes = getattr(loader.dataset, "sizes", [None])[-1]
        # A loader with persistent workers is kept, and takes its second pass for a second epoch.
        loader.iteration = 0
        return loader

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        strategy = self.args.train_sampling_strategy
        if isinstance(dataset, MixtureDataset) and strategy == "group_by_length":
            rows_per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return GroupedSampler(dataset, self.args.data_seed_or_seed, rows_per_step)
        if strategy != "random" or not isinstance(dataset, MixtureDataset):
            return super()._get_train_sampler(train_dataset)
        return MixtureSampler(dataset, self.args.data_seed_or_seed, self._stage_starts(dataset))

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        if isinstance(eval_dataset, MixtureDataset) and len(eval_dataset.sizes[-1]) > 1:
            # Stock groups these rows by length, too, if it does so in training; sources are told apart by their order.
            return SequentialSampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset)

    def _stage_starts(self, dataset: MixtureDataset) -> list[int]:
        """First visit of each stage, an equal part of the steps, of which the last of an epoch may be small."""
        rows_per_batch = self.args.train_batch_size * self.args.world_size
        whole = math.floor if self.args.dataloader_drop_last else math.ceil
        batches = whole(len(dataset) / rows_per_batch)
        steps_per_epoch = max(math.ceil(batches / self.args.gradient_accumulation_steps), 1)
        steps = self.args.max_steps
        steps = steps if steps > 0 else math.ceil(self.args.num_train_epochs * steps_per_epoch)
        starts = [divmod(stage * steps // dataset.num_stages, steps_per_epoch) for stage in range(dataset.num_stages)]
        rows_per_step = rows_per_batch * self.args.gradient_accumulation_steps
        return [epoch * len(dataset) + step * rows_per_step for epoch, step in starts]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """As without losses of other kinds; weights that are learned between these are a group that does not decay."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.combination is not None and self.combination.learns:
            optimizer.add_param_group({"params": list(self.combination.parameters()), "weight_decay": 0.0})
        return optimizer

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        if self.combination is not None and batch_samples:
            self._totals = self.combination.count(batch_samples)
        return super()._get_num_items_in_batch(batch_samples, device)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.combination is not None and self.args.should_save:
            self.combination.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_weighting(self.combination, Path(checkpoint))
        super()._load_optimizer_and_scheduler(checkpoint)

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return masked_lm_metrics(prediction, self._eval_sizes)

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = super()._prepare_inputs(inputs)
        if not self._decodes_positions:
            inputs.pop("masked_positions", None)
        return inputs

    def _report(self) -> dict[str, float]:
        steps, self._reported_step = self.state.global_step - self._reported_step, self.state.global_step
        return self.throughput.report(steps)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.throughput.paused():
            super()._save_checkpoint(*args, **kwargs)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # A tied weight is saved once, under its other name: stock warns of each as missing.
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)
