# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The loss of a training step: objectives and losses on concepts, weighted, added up over processes, and logged."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_concept import ConceptMaskedLMOutput
from training_concept.arguments import ConceptTrainingArguments
from training_concept.loss_terms import ConceptLossManager, parse_concept_losses
from training_concept.objectives import OBJECTIVES, Collator, Forward, Objective, ObjectiveCollator, parse_objectives

ALONE = {"mlm": 1.0}
STATE_FILE = "loss_weighting.safetensors"


def is_combined(args: ConceptTrainingArguments) -> bool:
    """Whether there is more to the loss than masked language modelling."""
    return parse_objectives(args.objectives) != ALONE or bool(parse_concept_losses(args.concept_losses))


def build_objectives(args: ConceptTrainingArguments) -> dict[str, Objective]:
    """The objectives of a run, by name."""
    return {name: OBJECTIVES[name](args.objective_settings) for name in parse_objectives(args.objectives)}


def count_calls(args: ConceptTrainingArguments) -> int:
    """In how many ways steps call the model."""
    return sum(objective.num_shapes for objective in build_objectives(args).values())


def count_turns(args: ConceptTrainingArguments) -> int:
    """After how many steps they have called the model in all these ways."""
    return max(objective.num_turns for objective in build_objectives(args).values())


def check_losses(args: ConceptTrainingArguments, model: PreTrainedModel, length: int | None) -> None:
    """
    Refuse losses that cannot be computed for a model.

    Args:
        args: of the run.
        model: that is to be trained.
        length: to which all rows are padded, if they are.

    Raises:
        ValueError: naming what was set.
    """
    terms, objectives = parse_concept_losses(args.concept_losses), build_objectives(args).values()
    if args.loss_weighting != "fixed" and not terms:
        raise ValueError(f"--loss_weighting {args.loss_weighting} goes with --concept_losses only.")
    if is_combined(args) and model.config.model_type != "concept_encoder":
        raise ValueError(
            f"--objectives and --concept_losses are for concept encoders, and this is a {model.config.model_type} "
            "model."
        )
    decodes = any(objective.decodes_elsewhere for objective in objectives)
    trained = any(objective.trains_decoder for objective in objectives)
    if decodes:
        model.decoder.check_elsewhere(torch.tensor([[(length or 1) - 1]]))
    if terms and not (trained or decodes):
        raise ValueError(
            "--concept_losses are of concepts that are decoded: add mlm, nested, tsdae or prefix to --objectives."
        )
    if args.world_size > 1:
        _check_processes(args, trained, any(term.centred for term in terms), length)


def _check_processes(args: ConceptTrainingArguments, trained: bool, centred: bool, length: int | None) -> None:
    if not trained:
        raise ValueError(
            "Several processes train every parameter in every step: add mlm or nested to --objectives, with a small "
            "weight if you like."
        )
    if centred and length is None:
        raise ValueError(
            "--concept_losses with @centred compare the concepts of all processes, which needs rows of one length: "
            "leave --line_by_line out."
        )
    if args.loss_weighting != "fixed" and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise ValueError("FSDP trains the model's own weights alone: use --loss_weighting fixed.")


class LossCombination(nn.Module):
    """
    Computes the loss of a batch, as a part of that of a step: parts of all batches and processes add up to it.

    Objectives are means over the items of the step, losses on concepts over the documents of a batch, then over the
    batches of the step. Losses on concepts are of those that the first objective which decodes has made.

    Args:
        args: of the run, after `check_losses`.
        accelerator: of the run.
    """

    def __init__(self, args: ConceptTrainingArguments, accelerator: Accelerator) -> None:
        super().__init__()
        weights = parse_objectives(args.objectives)
        self.objectives = build_objectives(args)
        terms = parse_concept_losses(args.concept_losses)
        self.manager = ConceptLossManager(terms, args.loss_weighting) if terms else None
        self.labels = [f"loss_{name}" for name in (*weights, *(term.label for term in terms))]
        self.register_buffer("weights", torch.tensor(list(weights.values())), persistent=False)
        self.register_buffer("sums", torch.zeros(len(self.labels)), persistent=False)
        self._accelerator = accelerator
        self.to(accelerator.device)

    def collator(self, tokenizer: PreTrainedTokenizerBase, masking: Collator) -> Collator:
        """A collator that gives, beside the batch of `masking`, those of the other objectives."""
        base: Any = getattr(masking, "collator", masking)
        collators = {name: objective.collator(tokenizer, base) for name, objective in self.objectives.items()}
        return ObjectiveCollator(masking, {name: made for name, made in collators.items() if made is not None})

    def batches(self, batch: Mapping[str, Any]) -> dict[str, Mapping[str, torch.Tensor]]:
        """The batch of each objective, by name."""
        masked = {name: values for name, values in batch.items() if name != "objectives"}
        return {name: batch.get("objectives", {}).get(name, masked) for name in self.objectives}

    def inputs(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What the model is called with for a batch: arguments of each call."""
        batches = self.batches(batch)
        return [objective.inputs(batches[name], step=0) for name, objective in self.objectives.items()]

    def count(self, batches: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """Items of each objective in the batches of a step, of all processes, `[objectives]`."""
        split = [self.batches(batch) for batch in batches]
        counts = [
            torch.stack([objective.count(parts[name]) for parts in split]).sum()
            for name, objective in self.objectives.items()
        ]
        return self._accelerator.reduce(torch.stack(counts).to(self.weights.device)).clamp(min=1)

    def forward(
        self,
        model: Forward,
        unwrapped: Forward,
        batch: Mapping[str, Any],
        totals: torch.Tensor,
        step: int,
        num_batches: int,
    ) -> torch.Tensor:
        """
        This process's part of the step's loss, times the number of processes, whose gradients DDP averages.

        Args:
            model: as it is trained, maybe wrapped for several processes.
            unwrapped: the same, without that.
            batch: of `collator`.
            totals: of `count`.
            step: number of the step.
            num_batches: of the step.
        """
        batches, parts = self.batches(batch), []
        concepts: ConceptMaskedLMOutput | None = None
        for (name, objective), total in zip(self.objectives.items(), totals.unbind(), strict=True):
            call = unwrapped if objective.calls_often else model
            if self.manager is not None and concepts is None:
                call = partial(call, return_concepts=True)
            loss, outputs = objective.loss(call, batches[name], total, step)
            concepts = outputs if concepts is None else concepts
            parts.append(loss)
        if self.manager is not None and concepts is not None:
            given = (concepts.concept_states, concepts.concept_mask, concepts.concept_documents)
            parts += [loss / num_batches for loss in self.manager.losses(*given).values()]
        return self._add_up(torch.stack(parts), num_batches)

    def _add_up(self, parts: torch.Tensor, num_batches: int) -> torch.Tensor:
        """Objectives and losses on concepts, `[labels]`, weighted."""
        everywhere = self._accelerator.reduce(parts.detach())
        self.sums += everywhere
        number = len(self.objectives)
        own = parts * self._accelerator.num_processes
        task, of_all = ((self.weights * values[:number]).sum() for values in (own, everywhere))
        if self.manager is None:
            return task
        known = torch.cat([of_all.view(1), everywhere[number:]])
        return self.manager.total(task, own[number:], known, penalty_share=1 / num_batches)

    def report(self, steps: int) -> dict[str, float]:
        """What to log: each loss, averaged over the `steps` since the last report, and weights that are learned."""
        values = dict(zip(self.labels, (self.sums / steps).tolist(), strict=True)) if steps else {}
        self.sums.zero_()
        if self.manager is not None and self.learns:
            names = ["task", *(term.label for term in self.manager.terms)]
            learned = self.manager.weighting().tolist()
            values |= {f"weight_{name}": weight for name, weight in zip(names, learned, strict=True)}
        return values

    @property
    def learns(self) -> bool:
        """Whether weights are learned."""
        return next(self.parameters(), None) is not None

    def save(self, folder: Path) -> None:
        """Write the weights that are learned into a checkpoint."""
        if self.learns:
            save_file(self.state_dict(), folder / STATE_FILE)


def load_weighting(combination: LossCombination | None, folder: Path) -> None:
    """
    Read what `LossCombination.save` has written into a checkpoint.

    Raises:
        ValueError: for a checkpoint of a run that learned other weights.
    """
    path = folder / STATE_FILE
    saved = load_file(path) if path.is_file() else {}
    ours = {} if combination is None else combination.state_dict()
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in ours.items()}:
        raise ValueError(
            f"{folder} was trained with other --concept_losses or --loss_weighting, whose weights are learned: "
            "go on with the same, or start anew."
        )
    if combination is not None:
        combination.load_state_dict(saved)
