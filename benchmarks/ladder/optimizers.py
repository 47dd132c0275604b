# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Optimisers that treat all models alike: who decays and who is orthogonalised follows from what a parameter is."""

import torch
from torch import nn

from benchmarks.ladder.settings import Settings


class Optimizers:
    """
    The optimisers of a run as one, with the learning rate of the schedule.

    Weight decay holds for the matrices of linear layers; norms, biases, embeddings (and the output layer that is tied
    to them) and learned vectors have none. Muon takes these matrices; its steps are scaled to those of AdamW
    (arXiv 2502.16982), so that one learning rate serves both.

    Args:
        model: whose parameters are trained.
        settings: of the run.

    Raises:
        ImportError: Muon, and PyTorch has none.
    """

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.settings = settings
        self.parameters = [it for it in model.parameters() if it.requires_grad]
        self.all = self._build(*split_parameters(model))

    def step(self, share: float) -> None:
        """Clip the gradients, take a step at the learning rate for `share` of the budget, forget the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        rate = self.settings.learning_rate_at(share)
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _build(self, matrices: list[nn.Parameter], others: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
        settings = self.settings
        adamw = {"lr": settings.learning_rate, "betas": (settings.beta1, settings.beta2), "fused": True}
        plain = {"params": others, "weight_decay": 0.0}
        decayed = {"params": matrices, "weight_decay": settings.weight_decay}
        if settings.optimizer == "adamw":
            return [torch.optim.AdamW([decayed, plain], **adamw)]
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(f"optimizer 'muon' needs PyTorch 2.9 or newer, this is {torch.__version__}")
        muon = torch.optim.Muon([decayed], lr=settings.learning_rate, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW([plain], **adamw)]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of linear layers that are no embeddings, and all other parameters."""
    embeddings = {id(it.weight) for it in model.modules() if isinstance(it, nn.Embedding)}
    linear = {id(it.weight) for it in model.modules() if isinstance(it, nn.Linear)} - embeddings
    parameters = [it for it in model.parameters() if it.requires_grad]
    return [it for it in parameters if id(it) in linear], [it for it in parameters if id(it) not in linear]
