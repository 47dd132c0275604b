# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""InfoNCE (arXiv 1807.03748): of many keys, each query has to pick its own; keys of all processes take part."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def dot_products(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Scores `[B, K]` of queries `[B, H]` and keys `[K, H]`; cosines, if all have length 1."""
    return queries @ keys.T


def info_nce(
    queries: torch.Tensor,
    keys: torch.Tensor,
    targets: torch.Tensor | None = None,
    temperature: float | torch.Tensor = 0.05,
    gather: bool = True,
    score: Score = dot_products,
    key_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Mean cross-entropy (nats) of picking the right key by `score / temperature`; ln K where all keys look alike.

    Gathered over processes that each bring the same numbers of queries and keys, the losses of all processes have the
    mean that one process with all queries and keys would have, and so has the gradient that DDP averages.

    Args:
        queries: `[B, H]`, or whatever `score` takes, one a row.
        keys: `[K, H]` of this process, as queries. With `gather`, rows of equal shape on all processes.
        targets: int64 `[B]`, which of this process's keys is right. By default key i for query i; further keys are
            negatives.
        temperature: what scores are divided by, above 0.
        gather: whether keys of the other processes are negatives as well, with gradients. Without
            `torch.distributed` there are none.
        score: scores `[B, K]` of queries and keys, which it gets in float32 at least, whatever autocast says.
        key_ids: int64 `[K, 2]`, a number for the text of each key and one for the query that it answers. A key with
            the text of one that answers the same query as the right one does, but is not it, does not count. By
            default all do.

    Raises:
        ValueError: a temperature that is not above 0, or fewer keys than queries without `targets`.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={float(temperature):g} must be above 0.")
    if targets is None:
        if len(keys) < len(queries):
            raise ValueError(f"{len(queries)} queries have {len(keys)} keys; give targets.")
        targets = torch.arange(len(queries), device=queries.device)
    if gather and is_distributed():
        targets = targets + len(keys) * dist.get_rank()
        keys = gather_rows(keys)
        key_ids = None if key_ids is None else gather_rows(key_ids)
    # Cosines that are divided by a small temperature need float32: to bfloat16, near neighbours are all alike.
    queries, keys = (rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in (queries, keys))
    with torch.autocast(queries.device.type, enabled=False):
        scores = score(queries, keys) / temperature
    if key_ids is not None:
        right = _right_ones(key_ids, targets)
        scores = scores.masked_fill(right.scatter(1, targets.unsqueeze(1), False), -torch.inf)
    return F.cross_entropy(scores, targets)


def _right_ones(key_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Bool `[B, K]`, keys whose text answers the query of each target, be it as another key; see `info_nce`."""
    texts, queries = key_ids.unbind(dim=1)
    answers = (queries == queries[targets].unsqueeze(1)).float()
    _, numbers = texts.unique(return_inverse=True)
    return torch.zeros_like(answers).index_add(1, numbers, answers)[:, numbers] > 0


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """
    Rows of all processes, in their order; gradients go back to where each row came from.

    Args:
        rows: `[B, ...]`, of the same shape on every process.
    """
    return _Gather.apply(rows) if is_distributed() else rows


def is_distributed() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        # Every process has a loss on every row. Not all backends can reduce and scatter in one.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
