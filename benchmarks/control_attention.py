# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention that benchmarks give to the library's models: unpadded flash kernels with a window, and none at all."""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from modeling_concept.attention import Segments, varlen_attention_forward

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
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Self-attention inside documents that lie end to end in one row, by the kernels that our own models have.

    Args:
        query, key, value: `[1, heads, T, head_dim]`.
        sliding_window: as the library's models pass it: a token sees `sliding_window - 1` neighbours on each side.
        cu_seqlens: int32 `[D + 1]`, where documents begin and end.
        max_length: the most tokens of a document.

    Returns:
        The output `[1, T, heads, head_dim]`, and no weights.
    """
    reach = None if sliding_window is None else sliding_window - 1
    segments = Segments(cu_seqlens, cu_seqlens, max_length, max_length, reach)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return varlen_attention_forward(module, query, key, value, None, scaling, segments=segments)


def skipped_attention_forward(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """No attention: zeros of the shape of the queries, to count what everything else costs."""
    return torch.zeros_like(query).transpose(1, 2).contiguous(), None


AttentionInterface.register(UNPADDED, unpadded_attention_forward)
AttentionInterface.register(SKIPPED, skipped_attention_forward)
