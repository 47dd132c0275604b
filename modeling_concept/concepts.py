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
"""Where concepts come from, how many there are and where they sit."""

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig

from .attention import ConceptBlock
from .tokens import TokenLayout


class Concepts(NamedTuple):
    """
    Attributes:
        states: `[batch, C, hidden_size]`.
        mask: bool `[batch, C]`, concepts in use; `None` if all are.
        positions: `[batch | 1, C]`, their places in the document in tokens; `None` if they have none.
    """

    states: torch.Tensor
    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None


class LearnedConcepts(nn.Module):
    """A table of `num_concepts` vectors, the same for every document (Perceiver IO, arXiv 2107.14795)."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.table = nn.Parameter(torch.empty(config.num_concepts, config.hidden_size))

    def forward(self, tokens: torch.Tensor, layout: TokenLayout) -> Concepts:
        """Token states `[batch, V, token_hidden_size]` give the batch size only."""
        return Concepts(self.table.expand(tokens.shape[0], -1, -1))


class AnchoredConcepts(nn.Module):
    """
    One concept for every span of `concept_ratio` tokens: the mean of the span's visible tokens, projected, plus a
    vector that all share; in front of them a few free vectors without a span.

    A document of N tokens has C = clamp(ceil(N / concept_ratio), min_concepts, max_concepts) spans. Concept i covers
    the places [i N / C, (i + 1) N / C) and sits at their centre. Free concepts sit at 0, where RoPE is the identity.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.token_hidden_size, config.hidden_size, bias=False)
        self.shared = nn.Parameter(torch.empty(1, config.hidden_size))
        self.free = nn.Parameter(torch.empty(config.num_global_concepts, config.hidden_size))

    def forward(self, tokens: torch.Tensor, layout: TokenLayout) -> Concepts:
        """
        Args:
            tokens: `[batch, V, token_hidden_size]`, zeros in unused slots.
            layout: of these tokens.
        """
        batch, free = tokens.shape[0], self.free.shape[0]
        lengths = layout.positions.shape[1] if layout.lengths is None else layout.lengths
        capacity, counts = self._count(layout.positions.shape[1]), self._count(lengths)
        centres = (torch.arange(capacity, device=tokens.device) + 0.5) * (lengths / counts) - 0.5
        positions = nn.functional.pad(centres.view(-1, capacity), (free, 0))
        states = self.shared + self.projection(self._span_means(tokens, layout, lengths, counts, capacity))
        states = torch.cat([self.free.expand(batch, -1, -1), states.to(self.free.dtype)], dim=1)
        if layout.lengths is None:
            return Concepts(states, None, positions)
        mask = torch.arange(free + capacity, device=tokens.device) < counts + free
        return Concepts(states, mask, positions * mask)

    def _count(self, lengths: int | torch.Tensor) -> int | torch.Tensor:
        """Spans of documents of so many tokens."""
        low, high = self.config.min_concepts, self.config.max_concepts
        spans = -(-lengths // self.config.concept_ratio)
        return spans.clamp(low, high) if isinstance(spans, torch.Tensor) else min(max(spans, low), high)

    def _span_means(
        self,
        tokens: torch.Tensor,
        layout: TokenLayout,
        lengths: int | torch.Tensor,
        counts: int | torch.Tensor,
        capacity: int,
    ) -> torch.Tensor:
        """Means of the visible tokens of every span `[batch, capacity, token_hidden_size]`, 0 for an empty one."""
        places = layout.to_slots(layout.positions)
        empty_safe = lengths.clamp(min=1) if isinstance(lengths, torch.Tensor) else lengths
        span = (places * counts // empty_safe).clamp(max=capacity - 1).expand(tokens.shape[:2]).unsqueeze(-1)
        used = torch.ones_like(span) if layout.mask is None else layout.mask.unsqueeze(-1)
        # Sums of many tokens need float32 where the states have less.
        exact = (tokens * used).to(torch.promote_types(tokens.dtype, torch.float32))
        sums = exact.new_zeros(tokens.shape[0], capacity, tokens.shape[2]).scatter_add(1, span.expand_as(exact), exact)
        sizes = exact.new_zeros(tokens.shape[0], capacity, 1).scatter_add(1, span, used.to(exact.dtype))
        return (sums / sizes.clamp(min=1)).to(tokens.dtype)


CONCEPT_SOURCES: dict[str, type[nn.Module]] = {"learned": LearnedConcepts, "anchored": AnchoredConcepts}


def concept_layer(config: PreTrainedConfig) -> ConceptBlock:
    """A block of concept self-attention and gated MLP."""
    return ConceptBlock(config, config.hidden_size, inner_width=config.intermediate_size)


def read_layer(config: PreTrainedConfig) -> ConceptBlock:
    """A block in which concepts read tokens."""
    return ConceptBlock(config, config.hidden_size, key_width=config.token_hidden_size)


def write_layer(config: PreTrainedConfig) -> ConceptBlock:
    """A block in which tokens read concepts (the write-back of BiXT, arXiv 2402.12138)."""
    return ConceptBlock(config, config.token_hidden_size, key_width=config.hidden_size)
