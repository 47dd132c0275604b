# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices of linear layers and AdamW for everything else, as one optimizer."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from training_concept.arguments import computes_in_bf16

# Of the quintic iteration (https://kellerjordan.github.io/posts/muon/); PyTorch's own Muon has the same.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# What a step of AdamW is like in root mean square, so that one learning rate serves both (arXiv 2502.16982).
ADAMW_RMS = 0.2
ADAMW_NAMES = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)


class MuonWithAdamW(torch.optim.Optimizer):
    """
    Muon with Nesterov momentum and decoupled weight decay (arXiv 2502.16982) for the groups with `muon=True`, AdamW
    for the others, so that one schedule and one checkpoint serve both.

    It computes what `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")` does, for all matrices of a shape at a time;
    one by one, those of a small model take a thousand kernels that are shorter than their launch. A matrix that is
    several times as tall as wide, such as one of queries, keys and values, counts as several (see `in_parts`).

    Args:
        params: parameters or groups of them; a group may set `muon` and any of the arguments below.
        lr: of both.
        betas, eps: of AdamW.
        weight_decay: of both.
        momentum: of Muon.
        iterations: of Newton-Schulz in a step of Muon.
        fused: whether AdamW steps in one kernel; `None` leaves it to PyTorch.

    Raises:
        ValueError: a parameter for Muon that is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        iterations: int = 5,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "iterations": iterations,
            "fused": fused,
            "muon": False,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """
        As stock.

        Raises:
            ValueError: a parameter for Muon that is no matrix.
        """
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        if added["muon"] and (wrong := [tuple(it.shape) for it in added["params"] if it.ndim != 2]):
            raise ValueError(f"Muon is for matrices; of its parameters {wrong[0]} is none.")

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One step of all groups, on the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [it for it in group["params"] if it.grad is not None]
            if not params:
                continue
            if group["muon"]:
                for matrices in _by_shape(params):
                    self._step_muon(matrices, group)
            else:
                self._step_adamw(params, group)
        return loss

    def _step_muon(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        grads = [it.grad for it in params]
        for param in params:
            if not self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        buffers = [self.state[it]["momentum_buffer"] for it in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, buffers, group["momentum"])
        parts = in_parts(torch.stack(ahead))
        directions = orthogonalised(parts, group["iterations"]).to(params[0].dtype).view(len(params), *params[0].shape)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        scale = ADAMW_RMS * math.sqrt(max(parts.shape[-2:]))
        torch._foreach_add_(params, list(directions.unbind()), alpha=-group["lr"] * scale)

    def _step_adamw(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        for param in params:
            if not (state := self.state[param]):
                state["step"] = torch.zeros((), dtype=torch.float32, device=param.device if group["fused"] else None)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
        adamw(
            params,
            [it.grad for it in params],
            *([self.state[it][name] for it in params] for name in ("exp_avg", "exp_avg_sq")),
            max_exp_avg_sqs=[],
            state_steps=[self.state[it]["step"] for it in params],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def in_parts(matrices: torch.Tensor) -> torch.Tensor:
    """
    `matrices` `[n, rows, columns]` as square ones `[n * parts, columns, columns]` if they are a whole number of those
    on top of each other, else as they are: one matrix for several projections is no reason to orthogonalise them
    together.
    """
    rows, columns = matrices.shape[-2:]
    return matrices.view(-1, columns, columns) if rows % columns == 0 else matrices


def orthogonalised(matrices: torch.Tensor, iterations: int) -> torch.Tensor:
    """
    Roughly the nearest matrix with orthonormal rows (or columns, where these are fewer) to each of `matrices`, by the
    Newton-Schulz iteration in bfloat16: singular values come to lie between about .7 and 1.2. Devices that would
    convert bfloat16 at every product, which takes ten times as long, iterate in float32.

    Args:
        matrices: `[..., rows, columns]`.
        iterations: how often.

    Returns:
        `[..., rows, columns]` in the dtype of the iteration.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    dtype = torch.bfloat16 if computes_in_bf16(on_cpu=matrices.device.type == "cpu") else torch.float32
    result = (matrices.mT if tall else matrices).to(dtype)
    result = result / torch.linalg.matrix_norm(result, keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.mT if tall else result


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of linear layers that are no embeddings (nor tied to them), and all other trained parameters."""
    embeddings = {id(it.weight) for it in model.modules() if isinstance(it, nn.Embedding)}
    linear = {id(it.weight) for it in model.modules() if isinstance(it, nn.Linear)} - embeddings
    parameters = [it for it in model.parameters() if it.requires_grad]
    return [it for it in parameters if id(it) in linear], [it for it in parameters if id(it) not in linear]


def muon_for_training(model: nn.Module, args: TrainingArguments, decaying: Collection[str]) -> MuonWithAdamW:
    """
    The optimizer of a Trainer: matrices and what is named in `decaying` have its weight decay.

    Raises:
        ValueError: what is not for Muon would not be AdamW's, or weights are sharded, so that no process has whole
            matrices.
    """
    if args.optim not in ADAMW_NAMES:
        raise ValueError(f"With --muon the rest is trained by AdamW; --optim {args.optim.value} is another.")
    if any(isinstance(it, DTensor) for it in model.parameters()):
        raise ValueError("--muon needs whole matrices, and FSDP shards them; leave it out or train by DDP.")
    matrices, others = split_parameters(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = [it for it in others if names[id(it)] in decaying]
    plain = [it for it in others if names[id(it)] not in decaying]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "muon": True},
        {"params": decayed},
        {"params": plain, "weight_decay": 0.0},
    ]
    return MuonWithAdamW(
        [group for group in groups if group["params"]],
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        weight_decay=args.weight_decay,
        fused=args.optim == OptimizerNames.ADAMW_TORCH_FUSED,
    )


def _by_shape(params: Iterable[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    groups: dict[tuple[Any, ...], list[torch.Tensor]] = defaultdict(list)
    for param in params:
        groups[tuple(param.shape), param.device, param.dtype].append(param)
    return groups.values()
