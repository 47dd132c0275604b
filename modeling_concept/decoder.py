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
"""From concepts, and in the hybrid family the token states around a position, back to token states."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .attention import ConceptBlock, LocalWindows, Rotation, cross_windows, document_mask, take
from .concepts import Concepts
from .tokens import TokenLayout


def decoder_windows(layout: TokenLayout, wanted: torch.Tensor | None, window: int, batch: int) -> LocalWindows:
    """
    Windows of queries at input positions on the visible tokens around them.

    Args:
        layout: of the visible tokens.
        wanted: int64 `[batch, K]`, the positions that have a query, -1 for none; `None` if all have.
        window: visible tokens, half of them on each side.
        batch: rows of the batch.
    """
    slots = length = layout.positions.shape[1]
    visible = torch.ones(batch, length, dtype=torch.long, device=layout.positions.device)
    if layout.index is not None:
        used = torch.ones_like(layout.index) if layout.mask is None else layout.mask.long()
        visible, slots = torch.zeros_like(visible).scatter(1, layout.index, used), used.shape[1]
    documents, num_documents = torch.zeros_like(visible), 1
    if layout.documents is not None:
        documents, num_documents = layout.documents, layout.lengths.shape[1]
    counts = visible.new_zeros(batch, num_documents).scatter_add(1, documents, visible)
    end = counts.cumsum(dim=1)
    first, end = (end - counts).gather(1, documents), end.gather(1, documents)
    query_slots = None if wanted is None else torch.where(wanted < 0, length, wanted)
    return cross_windows(visible.cumsum(dim=1) - visible, first, end, slots, window, query_slots)


class ConceptDecoder(nn.Module):
    """
    Queries at input positions read the concepts, and in the hybrid family first the token states around them.

    Queries never see each other, so decoding some positions gives the same states as decoding all of them.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.window = config.decoder_window
        width, inner, depth = config.hidden_size, config.intermediate_size, config.num_decoder_layers
        self.query = nn.Parameter(torch.empty(1, width))
        self.position_embeddings, self.token_projection = None, None
        # CODEPATH: only `perceiver_v1` has learned positions.
        if config.position_embedding == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        # CODEPATH: only `perceiver_v1` puts the word embedding into the query.
        if config.decoder_query == "token+position":
            self.token_projection = nn.Linear(config.embedding_size, width, bias=False)
        # CODEPATH: every preset but `perceiver_v1` is of the hybrid family; the bottleneck family has no such reads.
        token_reads = depth if config.decoder_tokens == "window" else 0
        self.token_reads = nn.ModuleList(
            [ConceptBlock(config, width, key_width=config.token_hidden_size) for _ in range(token_reads)]
        )
        self.concept_reads = nn.ModuleList(
            [ConceptBlock(config, width, key_width=width, inner_width=inner) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps, bias=False)

    def forward(
        self,
        concepts: Concepts,
        tokens: torch.Tensor | None,
        layout: TokenLayout,
        rotate: Callable[[torch.Tensor, torch.Tensor | None], Rotation | None],
        wanted: torch.Tensor | None = None,
        words: torch.Tensor | None = None,
        token_residual: bool = True,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Args:
            concepts: of the encoder.
            tokens: token states `[batch, V, token_hidden_size]`; not read in the bottleneck family.
            layout: of these tokens.
            rotate: `ConceptEncoder.rotate`.
            wanted: int64 `[batch, K]`, the input positions to decode, -1 for none; `None` decodes all N.
            words: word embeddings `[batch, N, embedding_size]`, read if queries hold them.
            token_residual: whether the words stay in the residual stream.

        Returns:
            Decoded states `[batch, K | N, hidden_size]`.
        """
        batch = concepts.states.shape[0]
        places, documents = layout.positions.expand(batch, -1), layout.documents
        if wanted is not None:
            places = take(places, wanted.clamp(min=0))
            documents = None if documents is None else take(documents, wanted.clamp(min=0))
        states = self.query.expand(batch, places.shape[1], -1)
        if self.position_embeddings is not None:
            states = states + self.position_embeddings(places)
        # The first block that reads adds what it read to `residual`; later ones to their own input.
        residual = states
        if self.token_projection is not None:
            words = words if wanted is None else take(words, wanted.clamp(min=0))
            states = states + self.token_projection(words)
            residual = states if token_residual else residual
        query_rotation = rotate(states, places)
        concept_reads = {
            "attention_mask": document_mask(concepts.mask, documents, concepts.documents),
            "query_rotation": query_rotation,
            "key_rotation": rotate(states, concepts.positions),
        }
        token_reads = {}
        if len(self.token_reads) > 0:
            token_reads = {
                "windows": decoder_windows(layout, wanted, self.window, batch),
                "query_rotation": query_rotation,
                "key_rotation": rotate(states, layout.to_slots(layout.positions)),
            }
        for depth, concept_read in enumerate(self.concept_reads):
            if token_reads:
                states = residual = self.token_reads[depth](states, tokens, residual, **token_reads, **kwargs)
            states = residual = concept_read(states, concepts.states, residual, **concept_reads, **kwargs)
        return self.norm(states)


class ConceptPredictionHead(nn.Module):
    """Decoded states `[..., hidden_size]` to the width of the word embeddings `[..., embedding_size]`."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_activation]
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.norm_eps, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.act_fn(self.dense(hidden_states)))
