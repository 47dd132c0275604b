# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""An optimizer that treats all models alike: what a parameter is decides whether it decays and who steps it."""

from torch import nn

from benchmarks.ladder.settings import Settings
from training_concept.muon import MuonWithAdamW, split_parameters


def make_optimizer(model: nn.Module, settings: Settings) -> MuonWithAdamW:
    """
    The optimizer of a run.

    Weight decay holds for the matrices of linear layers; norms, biases, embeddings (and the output layer that is tied
    to them) and learned vectors have none. With `optimizer="muon"` these matrices are Muon's.
    """
    matrices, others = split_parameters(model)
    decayed = {"params": matrices, "weight_decay": settings.weight_decay, "muon": settings.optimizer == "muon"}
    plain = {"params": others, "weight_decay": 0.0}
    return MuonWithAdamW([decayed, plain], betas=(settings.beta1, settings.beta2), fused=True)


def take_step(optimizer: MuonWithAdamW, settings: Settings, share: float) -> None:
    """Clip the gradients, take a step at the learning rate for `share` of the budget, forget the gradients."""
    parameters = [it for group in optimizer.param_groups for it in group["params"]]
    nn.utils.clip_grad_norm_(parameters, settings.clip)
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate_at(share)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
