# Copyright 2026 The Concept Encoder authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
Which positions have labels, and losses that are sums over all labels divided by their number.

The loss of a vocabulary, `linear_cross_entropy`, has kernels that differ in how many logits they hold at a time.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig

from .kernels import product_dtype
from .tokens import first_true

IGNORED = -100
# Logits of one chunk, as float32: enough of them to fill a GPU, and few beside the states of a training step.
CHUNK_BYTES = 2**28
# Where a compiler makes passes over half-precision logits of softmax and gradient, and never has them in float32.
COMPILED_CHUNK_BYTES = 2**30


def labelled_positions(labels: torch.Tensor) -> torch.Tensor | None:
    """
    Positions `[batch, K]` of the labels that are not -100, -1 filling rows that have fewer than K.

    K is known only to a host that waits for the device, and not to a compiler, which gets `None`: every position. The
    loss is the same.
    """
    if torch.compiler.is_compiling():
        return None
    labelled = labels != IGNORED
    most = max(int(labelled.sum(dim=1).max()), 1)
    index = first_true(labelled)[:, :most]
    return index.masked_fill(~labelled.gather(1, index), -1)


def check_labels(labels: torch.Tensor | None, *shapes: tuple[int, ...], name: str = "labels") -> None:
    """
    Refuse labels, if there are any, of a shape that is none of `shapes`: others with as many would be taken for them.

    Raises:
        ValueError: naming their shape and those that fit.
    """
    if labels is not None and labels.shape not in shapes:
        fitting = " or ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"{name} of shape {tuple(labels.shape)} do not fit: {fitting} would.")


def one_for_each(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of labels of which everything in `shape` has one: that shape, or with an axis of 1 behind."""
    return tuple(shape), (*shape, 1)


def labels_at(labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The `labels` `[batch, N]` at `positions` `[batch, K]`: `[batch, K]`, -100 for a position of -1."""
    return labels.gather(1, positions.clamp(min=0)).masked_fill(positions < 0, IGNORED)


def labels_of(labels: torch.Tensor, wanted: torch.Tensor | None, places: torch.Tensor | None) -> torch.Tensor:
    """
    The labels `[batch, K]` of what was decoded, -100 for none.

    Args:
        labels: `[batch, N]`, or `[batch, K]` of `places`.
        wanted: positions of the input that were decoded `[batch, K]`, -1 for none; `None` if all N were.
        places: other places that were decoded instead `[batch, K]`, -1 for none.
    """
    if places is not None:
        return labels.masked_fill(places < 0, IGNORED)
    return labels if wanted is None else labels_at(labels, wanted)


def labels_of_ends(starts: torch.Tensor, ends: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """
    First and last tokens of answers in rows of `shape` `[batch, N]` as labels `[2 * batch]`, -100 outside the row.

    Raises:
        ValueError: for others than one first and one last token of each row.
    """
    for name, given in {"start_positions": starts, "end_positions": ends}.items():
        check_labels(given, *one_for_each(shape[:1]), name=name)
    labels = torch.cat([starts.flatten(), ends.flatten()])
    return labels.masked_fill((labels < 0) | (labels >= shape[1]), IGNORED)


def mean_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: int | torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    **kwargs: Any,
) -> torch.Tensor:
    """
    Sum of the cross-entropies over all labels but -100, divided by their number, or by `num_items_in_batch` if given.

    With the number of items of all micro-batches and devices, sums of micro-batch losses equal the loss of the whole
    batch, which holds for every loss here. No labels give a loss of 0.

    Args:
        logits: `[..., classes]`.
        labels: int64 `[...]`.
        label_smoothing, z_loss: see `linear_cross_entropy`.
    """
    total = sum_of_losses(_wide(logits).flatten(0, -2), labels.flatten(), label_smoothing, z_loss)
    return _mean(total, (labels != IGNORED).sum(), num_items_in_batch)


def _wide(values: torch.Tensor) -> torch.Tensor:
    """`values` in float32 at least."""
    return values.to(_wide_dtype(values.dtype))


def _wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _mean(total: torch.Tensor, num_labels: int | torch.Tensor, num_items: int | torch.Tensor | None) -> torch.Tensor:
    """`total` divided by the number of items: `num_labels`, or `num_items` if given."""
    number = torch.as_tensor(num_labels if num_items is None else num_items, device=total.device)
    return total / number.clamp(min=1)


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: PreTrainedConfig,
    in_use: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """
    Loss of `[..., num_labels]` logits: `config.problem_type`, or what number and type of labels imply.

    Args:
        labels: int64 `[...]` of classes, numbers of as many as there are logits, or 0/1 of the logits' shape.
        in_use: bool `[...]`, what has labels; `None` if all do.

    Raises:
        ValueError: labels of another shape.
    """
    problem = config.problem_type
    if problem is None and config.num_labels == 1:
        problem = "regression"
    elif problem is None:
        problem = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    is_single = problem == "single_label_classification" or config.num_labels == 1
    check_labels(labels, *(one_for_each(logits.shape[:-1]) if is_single else (logits.shape,)))
    if problem == "single_label_classification":
        labels = labels if in_use is None else labels.masked_fill(~in_use, IGNORED)
        return mean_cross_entropy(logits, labels.view(-1), **kwargs)
    logits = _wide(logits)
    targets, num_items = labels.view_as(logits).to(logits.dtype), kwargs.get("num_items_in_batch")
    # -100 is a number like any other.
    if problem == "regression":
        targets = targets if in_use is None else targets.where(in_use.unsqueeze(-1), logits.detach())
        number = targets.numel() if in_use is None else in_use.sum() * config.num_labels
        return _mean(nn.functional.mse_loss(logits, targets, reduction="sum"), number, num_items)
    known = targets != IGNORED
    known = known if in_use is None else known & in_use.unsqueeze(-1)
    total = nn.functional.binary_cross_entropy_with_logits(logits[known], targets[known], reduction="sum")
    return _mean(total, known.sum(), num_items)


class Criterion(NamedTuple):
    """What is summed over positions; see `linear_cross_entropy`."""

    num_classes: int
    label_smoothing: float
    z_loss: float


def linear_cross_entropy(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    num_items_in_batch: int | torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    kernel: str = "auto",
) -> torch.Tensor:
    """
    `mean_cross_entropy` of the logits `nn.functional.linear(states, weight, bias)`, which nobody wants.

    All kernels give the same loss and the same gradients. Shapes are static: a position without a label adds exactly
    nothing to either, and no kernel but `liger` reads a value back to the host.

    Args:
        states: `[K, E]`. Under autocast they and the parameters are cast as `nn.functional.linear` casts them; softmax
            and loss are computed in float32 at least.
        weight: `[V, E]`, one row for each class of the vocabulary.
        bias: `[V]`, or `None`.
        targets: int64 `[K]`, classes, -100 for positions without a label.
        num_items_in_batch: what the sum is divided by, if not the number of labels; see `mean_cross_entropy`.
        label_smoothing: share of each target that is spread over all V classes, in [0, 1], as
            `nn.functional.cross_entropy` does it.
        z_loss: weight of the squared logarithm of the softmax's denominator, which keeps logits from drifting
            (PaLM, arXiv 2204.02311, has 1e-4).
        kernel: `"torch"` holds all logits, for a compiler to fuse what follows; `"chunked"` holds those of some
            positions at a time, then their gradients in place of them; `"liger"` is Liger Kernel's fused linear
            cross-entropy, which needs CUDA, waits for the device and breaks a compiled graph; `"auto"` is
            `choose_kernel`.

    Returns:
        The loss, a scalar in float32 at least. No labels give 0, and gradients of 0.

    Raises:
        ValueError: no such kernel, `label_smoothing` not in [0, 1], `z_loss` below 0, or `"liger"` without CUDA.
        ImportError: `"liger"`, and Liger Kernel is not installed.
    """
    if kernel != "auto" and kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r}: there is no such loss kernel. Use one of: auto, {', '.join(KERNELS)}.")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing {label_smoothing}: must be in [0, 1].")
    if z_loss < 0:
        raise ValueError(f"z_loss {z_loss}: must not be negative.")
    if kernel == "auto":
        kernel = choose_kernel(states.shape[0], weight.shape[0])
    dtype = product_dtype(states)
    parameters = (states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    total = KERNELS[kernel](*parameters, targets, Criterion(weight.shape[0], label_smoothing, z_loss))
    return _mean(total, (targets != IGNORED).sum(), num_items_in_batch)


class LinearCrossEntropy(nn.Module):
    """`linear_cross_entropy` as a module, which can be compiled by itself."""

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        return linear_cross_entropy(*args, **options)


def choose_kernel(num_positions: int, num_classes: int) -> str:
    """
    The fastest kernel that bounds memory, from what is known before any value is: the size of the logits, and whether
    they are being compiled.

    Logits that fit into one chunk are best held at once; all others go by chunks. It is never Liger Kernel, which
    reads the number of labels back to the host, and of which an H100 took three times as long as of compiled logits.
    """
    return "torch" if _logit_bytes(num_positions, num_classes) <= _chunk_bytes() else "chunked"


def _chunk_bytes() -> int:
    return COMPILED_CHUNK_BYTES if torch.compiler.is_compiling() else CHUNK_BYTES


def _num_chunks(logit_bytes: int) -> int:
    """A power of 2, since a compiler makes code for every number of chunks."""
    number = 1
    while number * _chunk_bytes() < logit_bytes:
        number *= 2
    return number


def _logit_bytes(num_positions: int, num_classes: int) -> int:
    return torch.float32.itemsize * num_positions * num_classes


def _pad_classes(weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Append classes of probability 0 to `weight` `[V, E]` and `bias` `[V]` where that makes products faster."""
    extra = _num_extra_classes(weight)
    if extra == 0:
        return weight, bias
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return nn.functional.pad(weight, (0, 0, 0, extra)), nn.functional.pad(bias, (0, extra), value=-math.inf)


def _num_extra_classes(weight: torch.Tensor) -> int:
    # GPUs load 16 bytes at a time: rows of logits that do not start on them cost a third more time.
    slow = weight.device.type == "cuda" and weight.dtype.itemsize == 2 and weight.shape[0] % 8 != 0
    return -weight.shape[0] % 64 if slow else 0


def sum_of_losses(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float, z_loss: float) -> torch.Tensor:
    """Sum of the losses of `logits` `[K, V]` at `targets` `[K]`; see `linear_cross_entropy`."""
    total = nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    if z_loss > 0:
        log_z = logits.logsumexp(dim=1).masked_fill(targets == IGNORED, 0)
        total = total + z_loss * log_z.square().sum()
    return total


def _held_at_once(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    criterion: Criterion,
) -> torch.Tensor:
    """Sum of the losses, with all logits `[K, V]`."""
    logits = _wide(nn.functional.linear(states, *_pad_classes(weight, bias)))
    if criterion.label_smoothing > 0:
        logits = logits[:, : criterion.num_classes]
    return sum_of_losses(logits, targets, criterion.label_smoothing, criterion.z_loss)


def _by_chunks(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    criterion: Criterion,
) -> torch.Tensor:
    """Sum of the losses, with the logits of one chunk of positions at a time."""
    arguments = (states, *_pad_classes(weight, bias), targets, criterion)
    if torch.is_grad_enabled():
        return ChunkedLinearCrossEntropy.apply(*arguments)
    return _sum_of_chunks(*arguments, wanted=(False, False, False))[0]


class ChunkedLinearCrossEntropy(torch.autograd.Function):
    """
    Sum of the losses; gradients are computed beside it, as long as the logits of a chunk are there.

    The loss is the end of the graph, so its gradients are known up to a factor before the backward pass begins, and no
    logits are computed twice (Liger Kernel, arXiv 2410.10989; Cut Cross-Entropy, arXiv 2411.09009).
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        criterion: Criterion,
    ) -> torch.Tensor:
        """As `linear_cross_entropy`; classes from `criterion.num_classes` on are padding."""
        total, gradients = _sum_of_chunks(states, weight, bias, targets, criterion, ctx.needs_input_grad[:3])
        ctx.save_for_backward(*gradients)
        ctx.dtype = states.dtype
        return total

    @staticmethod
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise ValueError("The chunked loss has no second derivatives (create_graph=True); use kernel='torch'.")
        gradients = (None if known is None else (known * factor).to(ctx.dtype) for known in ctx.saved_tensors)
        return (*gradients, None, None)


def _sum_of_chunks(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    criterion: Criterion,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """Sum of the losses, and its gradients by `states`, `weight` and `bias`, `None` for those that are not wanted."""
    wide = _wide_dtype(states.dtype)
    total = torch.zeros((), dtype=wide, device=states.device)
    by_states: list[torch.Tensor] = []
    by_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
    by_bias = torch.zeros_like(bias, dtype=wide) if wanted[2] else None
    num_chunks = _num_chunks(_logit_bytes(states.shape[0], weight.shape[0]))
    for rows, labels in zip(states.chunk(num_chunks), targets.chunk(num_chunks), strict=True):
        logits = nn.functional.linear(rows, weight, bias)
        total = total + _differentiate(logits, labels, criterion, any(wanted))
        if wanted[0]:
            by_states.append(logits @ weight)
        if wanted[1]:
            by_weight += logits.t() @ rows
        if wanted[2]:
            by_bias += logits.sum(dim=0, dtype=wide)
        del logits  # before those of the next chunk are made
    return total, (torch.cat(by_states) if wanted[0] else None, by_weight, by_bias)


def _differentiate(logits: torch.Tensor, labels: torch.Tensor, criterion: Criterion, in_place: bool) -> torch.Tensor:
    """Sum of the losses of `logits` `[k, V]`; if `in_place`, its gradients by the logits replace them."""
    num_classes, label_smoothing, z_loss = criterion
    ignored = (labels == IGNORED).unsqueeze(1)
    target = labels.unsqueeze(1).masked_fill(ignored, 0)
    log_p = nn.functional.log_softmax(logits, dim=1, dtype=_wide_dtype(logits.dtype))
    target_log_p = log_p.gather(1, target)
    log_z = _wide(logits.gather(1, target)) - target_log_p if z_loss > 0 else torch.zeros_like(target_log_p)
    losses = (label_smoothing - 1) * target_log_p + z_loss * log_z.square()
    if label_smoothing > 0:
        losses = losses - label_smoothing * log_p[:, :num_classes].mean(dim=1, keepdim=True)
    if in_place:
        factor = (1 + 2 * z_loss * log_z).masked_fill(ignored, 0)
        spread = torch.full_like(factor, label_smoothing / num_classes).masked_fill(ignored, 0)
        at_target = (target_log_p.exp() * factor - spread + label_smoothing - 1).masked_fill(ignored, 0)
        gradients = log_p.exp_().mul_(factor)
        if label_smoothing > 0:
            gradients[:, :num_classes] -= spread
        # Rounded once: in half precision little is left of a probability near 1 from which 1 is then taken.
        logits.copy_(gradients).scatter_(1, target, at_target.to(logits.dtype))
    return losses.masked_fill(ignored, 0).sum()


def _by_liger(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    criterion: Criterion,
) -> torch.Tensor:
    """Sum of the losses, by Liger Kernel."""
    return _liger_function(states.device)(
        states,
        weight,
        targets,
        bias=bias,
        ignore_index=IGNORED,
        lse_square_scale=criterion.z_loss,
        label_smoothing=criterion.label_smoothing,
        reduction="sum",
        accum_dtype=torch.float32,
    )


def _liger_function(device: torch.device) -> Callable:
    if device.type != "cuda":
        raise ValueError(f"kernel 'liger' runs on CUDA devices, not on {device.type}; use kernel='auto'.")
    # Sought only where it is asked for: whoever loads a checkpoint need not have it, or have its import break.
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except ImportError as error:
        raise ImportError("kernel 'liger' needs Liger Kernel: pip install liger-kernel") from error
    return liger_fused_linear_cross_entropy


KERNELS: dict[str, Callable] = {"torch": _held_at_once, "chunked": _by_chunks, "liger": _by_liger}
