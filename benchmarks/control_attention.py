# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention that benchmarks give to the library's models: unpadded flash kernels with a window, and none at all."""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

# Names in the library's table of attention functions. It makes no masks for names that it does not know.
UNPADDED = "benchmark_unpadded"
SKIPPED = "benchmark_skipped"


def unpadded_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    *,
    cu_seqlens: torch.Tensor,
    max_length: int,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """
    Self-attention inside documents that lie end to end in one row, in flash kernels on a GPU.

    Args:
        query, key, value: `[1, heads, T, head_dim]`.
        sliding_window: as the library's models pass it: a token sees `sliding_window - 1` neighbours on each side.
        cu_seqlens: int32 `[D + 1]`, where documents begin and end.
        max_length: the most tokens of a document.

    Returns:
        The output `[1, T, heads, head_dim]`, and no weights.
    """
    reach = -1 if sliding_window is None else sliding_window - 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = _flash if query.is_cuda else _looped
    query, key, value = (it.squeeze(0).transpose(0, 1) for it in (query, key, value))
    return attend(query, key, value, cu_seqlens, max_length, scaling, reach).unsqueeze(0), None


def skipped_attention_forward(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """No attention: zeros of the shape of the queries, to count what everything else costs."""
    return torch.zeros_like(query).transpose(1, 2).contiguous(), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
    scaling: float,
    reach: int,
) -> torch.Tensor:
    window = {"window_size_left": reach, "window_size_right": reach} if reach >= 0 else {}
    ends = (cu_seqlens, cu_seqlens, max_length, max_length)
    # No dropout, not causal, no debug mask.
    return torch.ops.aten._flash_attention_forward(
        query, key, value, *ends, 0.0, False, False, scale=scaling, **window
    )[0]


def _looped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
    scaling: float,
    reach: int,
) -> torch.Tensor:
    """The same, document by document in plain operations, for a device without the kernel."""
    outputs = []
    for part in zip(*(it.split(cu_seqlens.diff().tolist()) for it in (query, key, value)), strict=True):
        q, k, v = (it.transpose(0, 1) for it in part)
        logits = q @ k.transpose(1, 2) * scaling
        if reach >= 0:
            places = torch.arange(len(part[0]), device=q.device)
            far = (places - places[:, None]).abs() > reach
            logits = logits.masked_fill(far, torch.finfo(logits.dtype).min)
        outputs.append((logits.softmax(dim=-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


AttentionInterface.register(UNPADDED, unpadded_attention_forward)
AttentionInterface.register(SKIPPED, skipped_attention_forward)
