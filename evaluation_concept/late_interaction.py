# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Late interaction (ColBERT, arXiv 2004.12832) over concepts: each concept of a query finds the concept of a passage that
is most like it, and the score is the mean of these likenesses. ColBERT has their sum, which orders the passages of a
query alike; a mean of cosines is a number in [-1, 1], whatever the number of concepts.
"""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence


def max_sim(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """
    Scores of every query with every passage, `[B, K]`.

    Args:
        queries: `[B, Q, H]`, concepts of length 1. Zeros where there is none; a query without any has the score 0.
        passages: `[K, C, H]`, as queries. Each has at least one.
    """
    likeness = torch.einsum("bqh,kch->bkqc", queries, passages)
    absent = (passages == 0).all(dim=-1)
    best = likeness.masked_fill(absent[None, :, None], -torch.inf).amax(dim=-1)
    # Concepts of a query that are none have a likeness of 0 with everything.
    present = (queries != 0).any(dim=-1).sum(dim=-1)
    return best.sum(dim=-1) / present.clamp(min=1).unsqueeze(1).to(best.dtype)


def mutual_max_sim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """
    Mean of `max_sim` from the first text of each pair to the second and back, `[P]`.

    Args:
        first: `[P, Q, H]`, concepts of length 1, zeros where there is none. Each text has at least one.
        second: `[P, C, H]`, as first.
    """
    likeness = first @ second.mT
    here, there = ((side != 0).any(dim=-1) for side in (first, second))
    forth = likeness.masked_fill(~there.unsqueeze(1), -torch.inf).amax(dim=2).sum(dim=1) / here.sum(dim=1)
    back = likeness.masked_fill(~here.unsqueeze(2), -torch.inf).amax(dim=1).sum(dim=1) / there.sum(dim=1)
    return (forth + back) / 2


def max_sim_ragged(query: torch.Tensor, passages: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """
    Scores `[K]` of one query with passages that lie end to end.

    Args:
        query: `[Q, H]`, concepts of length 1.
        passages: `[total C, H]`, those of passage i from `offsets[i]` to `offsets[i + 1]`.
        offsets: int64 `[K + 1]`, from 0. A passage without concepts has the score -inf.
    """
    likeness = passages @ query.T
    return torch.segment_reduce(likeness, "max", offsets=offsets).mean(dim=1)


def pad_concepts(concepts: Sequence[torch.Tensor], length: int = 0) -> torch.Tensor:
    """Concepts `[C, H]` of several texts as `[texts, C, H]`, padded with zeros to the most, or to `length`."""
    padded = pad_sequence(list(concepts), batch_first=True)
    return torch.nn.functional.pad(padded, (0, 0, 0, max(length - padded.shape[1], 0)))
