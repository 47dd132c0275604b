# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`torch.compile` for training, in place: the model as one graph, or every kind of part once."""

from collections.abc import Collection
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput

from training_concept.arguments import ScriptTrainingArguments
from training_concept.muon import muon_for_training
from training_concept.saving import SavingTrainer


def find_regions(model: PreTrainedModel, left_out: Collection[str] = ()) -> list[nn.Module]:
    """
    The parts of `model` that are worth graphs of their own, outermost ones only.

    Concept encoders name them (`_compiled_modules`); of other models they are the blocks that stay whole when a model
    is split or sharded (`_no_split_modules`). Classes that are `left_out` are none of them.

    Raises:
        ValueError: if there are none.
    """
    names = {*(getattr(model, "_compiled_modules", None) or model._no_split_modules or ())} - {*left_out}
    parts = [module for module in model.modules() if type(module).__name__ in names]
    inner = {module for part in parts for module in part.modules() if module is not part}
    regions = [part for part in parts if part not in inner]
    if not regions:
        raise ValueError(
            f"{type(model).__name__} names no parts to compile: compile it as a whole, without "
            "--torch_compile_regions."
        )
    return regions


def compile_in_place(
    model: PreTrainedModel,
    by_regions: bool,
    static_shapes: bool,
    left_out: Collection[str] = (),
    calls_per_step: int = 1,
    **options: Any,
) -> None:
    """
    Let `model`, or with `by_regions` each of its regions, be compiled when it is first called.

    Blocks of the same structure, shapes and mode share one compilation, so that by regions the first step comes
    sooner; what lies between them runs as it is. accelerate's `compile_regions` does not fit: it also compiles every
    layer that lies between blocks by itself, of which there are more kinds than the compiler takes, and puts wrappers
    in their place. Modules compiled in place keep their names and classes, may be wrapped for several processes
    later, and leave no trace in a checkpoint.

    Args:
        model: of which no part has been wrapped yet.
        by_regions: whether to compile part by part.
        static_shapes: whether batches differ in no more than a few shapes, each of which is compiled for itself.
        left_out: see `find_regions`.
        calls_per_step: in how many ways a step calls the model, each of which is compiled for itself.
        options: for `torch.compile`: `backend`, `mode`.
    """
    modules = find_regions(model, left_out) if by_regions else [model]
    # One piece of code serves all of them. The compiler gives up on it after 8 variants unless told of more.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 2 * len(modules) * calls_per_step)
    for module in modules:
        module.compile(fullgraph=model._can_compile_fullgraph, dynamic=False if static_shapes else None, **options)


def batch_length(collator: Any) -> int | None:
    """The one length of all rows that `collator` makes, but for stages of a curriculum; `None` if there are many."""
    collator = getattr(collator, "collator", collator)
    if isinstance(collator, DataCollatorWithPadding):
        return collator.max_length if collator.padding == "max_length" else None
    return getattr(collator, "length", None)


class CompilingTrainer(SavingTrainer):
    """
    `transformers.Trainer` that compiles in place, with shapes as static as those of its collator, and has Muon.

    Evaluation, with other shapes and another mode of the model, runs as it is and compiles nothing.

    Raises:
        ValueError: if the model cannot be compiled as the arguments want it.
    """

    args: ScriptTrainingArguments
    # How all batches get the same shape, for who is told to see to it.
    one_shape = "add --pad_to_max_length"

    def __init__(self, model: PreTrainedModel, args: ScriptTrainingArguments, **kwargs: Any) -> None:
        static_shapes = batch_length(kwargs.get("data_collator")) is not None
        if args.uses_cuda_graphs and not static_shapes:
            raise ValueError(
                f"--torch_compile_mode {args.torch_compile_mode} replays one shape, and these batches have many: "
                f"{self.one_shape}."
            )
        self._step_begins = True
        super().__init__(model, args, **kwargs)
        if args.torch_compile:
            options = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}
            own = self._compiled_parts()
            compile_in_place(self.model, args.torch_compile_regions, static_shapes, **own, **options)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As stock. CUDA graphs keep their memory until a whole step, of several batches maybe, is done."""
        if self._step_begins:
            torch.compiler.cudagraph_mark_step_begin()
        loss = super().training_step(*args, **kwargs)
        self._step_begins = self.accelerator.sync_gradients
        return loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As stock, and not compiled."""
        with torch.compiler.set_stance("force_eager"):
            return super().evaluation_loop(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As stock, or Muon."""
        if self.optimizer is None and self.args.muon:  # type: ignore[has-type]
            opt_model = self.model if model is None else model
            self.optimizer = muon_for_training(opt_model, self.args, set(self.get_decay_parameter_names(opt_model)))
        return super().create_optimizer(model)

    def _compiled_parts(self) -> dict[str, Any]:
        """What `compile_in_place` is told of the model, if not its defaults."""
        return {}

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        settings = super()._build_accelerator_args(**kwargs)
        # The model is compiled already.
        settings["dynamo_plugin"].backend = DynamoBackend.NO
        return settings
