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

from .attention import (
    ConceptAttention,
    ConceptBlock,
    LocalWindows,
    ResidualLinear,
    Stream,
    cross_windows,
    read_documents,
    read_neighbours,
    take,
    takes_documents,
    window_ranges,
)
from .concepts import Concepts
from .kernels import Rotation, product_dtype
from .outputs import ConceptEncoderOutput
from .range_kernels import KeyRanges, has_range_kernels
from .tokens import BatchFunction, TokenLayout, document_sizes, first_true


def decoder_windows(
    layout: TokenLayout, wanted: torch.Tensor | None, window: int, batch: int, as_ranges: bool = False
) -> LocalWindows | KeyRanges:
    """
    Windows of queries at input positions on the visible tokens around them.

    Args:
        layout: of the visible tokens.
        wanted: int64 `[batch, K]`, the positions that have a query, -1 for none; `None` if all have.
        window: visible tokens, half of them on each side.
        batch: rows of the batch.
        as_ranges: whether they are wanted as stretches of keys.
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
    rank = visible.cumsum(dim=1) - visible
    if as_ranges:
        return window_ranges(rank, first, end, slots, window, query_slots)
    return cross_windows(rank, first, end, slots, window, query_slots)


def query_stream(
    layout: TokenLayout, wanted: torch.Tensor | None, documents: torch.Tensor | None, batch: int
) -> Stream:
    """Queries at `wanted` `[batch, K]`, in ascending order, of `documents` `[batch, K]`, for attention."""
    length = layout.num_tokens if wanted is None else wanted.shape[1]
    sizes = layout.lengths
    if documents is None:
        return Stream(batch, length, length)
    if wanted is not None:
        sizes = document_sizes(wanted >= 0, documents, layout.lengths)
    return Stream(batch, length, min(length, layout.longest), None, documents, sizes)


def decoder_reads(
    config: PreTrainedConfig,
    layout: TokenLayout,
    wanted: torch.Tensor | None,
    concepts: Stream,
    reads_tokens: bool,
    as_ranges: bool,
) -> tuple[torch.Tensor, dict[str, Any], dict[str, Any]]:
    """
    Places `[batch, K | N]` of the queries, and arguments of the blocks in which they read concepts and tokens, but for
    rotations.

    Args:
        layout, wanted: as in `ConceptDecoder.forward`.
        concepts: what there is to read.
        reads_tokens: whether tokens are there too.
        as_ranges: as in `decoder_windows`.
    """
    batch = concepts.batch
    places, documents = layout.positions.expand(batch, -1), layout.documents
    if wanted is not None:
        places = take(places, wanted.clamp(min=0))
        documents = None if documents is None else take(documents, wanted.clamp(min=0))
    queries, mixer = query_stream(layout, wanted, documents, batch), DECODERS[config.decoder_reads]
    concept_reads = read_documents(queries, concepts, takes_documents(config, mixer))
    if not reads_tokens:
        return places, concept_reads, {}
    return places, concept_reads, {"windows": decoder_windows(layout, wanted, config.decoder_window, batch, as_ranges)}


def encoded_concepts(
    config: PreTrainedConfig,
    outputs: ConceptEncoderOutput,
    layout: TokenLayout,
    source: nn.Module,
    concept_ratio: int | None = None,
    kept_concepts: float | None = None,
) -> Concepts:
    """
    The concepts that the encoder gave, as the decoder reads them.

    Args:
        layout: of the documents that they are of.
        source: where they came from, `ConceptEncoder.concepts`.
        concept_ratio, kept_concepts: as the encoder was given them.
    """
    # Where every concept is in use, attention without a mask is faster.
    whole = kept_concepts is None and config.nested_dropout == 0
    concepts = Concepts(outputs.last_hidden_state, None, outputs.concept_positions, outputs.concept_documents)
    if layout.lengths is not None or not whole:
        concepts = concepts._replace(mask=outputs.concept_mask.bool())
    if layout.lengths is not None and whole:
        sizes = document_sizes(concepts.mask, concepts.documents, layout.lengths)
        concepts = concepts._replace(sizes=sizes, longest=source.most(layout.longest, concept_ratio))
    return concepts


class StaticMixture(nn.Module):
    """
    Reads concepts by weights that a position has learned, whatever the concepts hold: the plan's `weighted` decoder.
    It is no attention; it only stands where attention stands.
    """

    reads_queries = False

    def __init__(self, config: PreTrainedConfig, width: int, key_width: int):
        super().__init__()
        self.logits = nn.Parameter(torch.empty(config.max_position_embeddings, config.num_concepts))
        self.o_proj = ResidualLinear(key_width, width)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor,
        places: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states: not read.
            key_value_states: concepts `[batch, C, key_width]`, `num_concepts` for each document of the row.
            places: int64 `[batch, queries]`, place of each query in its document.
            attention_mask: bool, broadcastable to `[batch, 1, queries, C]`; `None` if all are read.

        Returns:
            `[batch, queries, width]` and the weights `[batch, 1, queries, C]`.
        """
        documents = key_value_states.shape[1] // self.logits.shape[1]
        logits = self.logits[places].repeat(1, 1, documents).unsqueeze(1)
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask, torch.finfo(logits.dtype).min)
        weights = nn.functional.softmax(logits, dim=-1).to(key_value_states.dtype)
        return self.o_proj(torch.matmul(weights.squeeze(1), key_value_states)), weights


DECODERS: dict[str, type[nn.Module]] = {"perceiver": ConceptAttention, "weighted": StaticMixture}


class ConceptDecoder(nn.Module):
    """
    Queries at input positions read the concepts, and in the hybrid family first the token states around them.

    Unless there are mixing layers behind the reads, queries never see each other, so decoding some positions gives the
    same states as decoding all of them.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.concept_mixer = mixer = DECODERS[config.decoder_reads]
        width, inner, depth = config.hidden_size, config.intermediate_size, config.num_decoder_layers
        self.reading = BatchFunction(config, decoder_reads)
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
            [ConceptBlock(config, width, key_width=width, inner_width=inner, mixer=mixer) for _ in range(depth)]
        )
        self.mixing_blocks = nn.ModuleList(
            [ConceptBlock(config, width, inner_width=inner) for _ in range(config.num_decoder_mixing_layers)]
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps, bias=False)

    def forward(
        self,
        concepts: Concepts,
        tokens: torch.Tensor | None,
        layout: TokenLayout,
        rotate: Callable[[torch.Tensor, torch.Tensor | None], Rotation | None],
        in_use: torch.Tensor | None = None,
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
            in_use: bool `[batch, N]`, input positions that are no padding; `None` if none is.
            wanted: int64 `[batch, K]`, the input positions to decode, -1 for none; `None` decodes all N.
            words: word embeddings `[batch, N, embedding_size]`, read if queries hold them.
            token_residual: whether the words stay in the residual stream.

        Returns:
            Decoded states `[batch, K | N, hidden_size]`.
        """
        if len(self.mixing_blocks) == 0:
            order = self._order(layout, wanted)
            wanted = wanted if order is None else take(wanted, order)
            states = self._read(concepts, tokens, layout, rotate, wanted, words, token_residual, **kwargs)
            return self.norm(states if order is None else take(states, order.argsort(dim=1)))
        # Positions that nobody wants are decoded too, since those that are see them.
        states = self._read(concepts, tokens, layout, rotate, None, words, token_residual, **kwargs)
        states = self.norm(self._mix(states, layout, rotate, in_use, **kwargs))
        return states if wanted is None else take(states, wanted.clamp(min=0))

    def check_elsewhere(self, places: torch.Tensor) -> None:
        """
        Raises:
            `ValueError`: if this decoder cannot decode `places` `[batch, K]` from concepts alone; it names the field.
        """
        config = self.config
        # CODEPATH: no preset mixes decoded positions.
        if config.num_decoder_mixing_layers > 0:
            raise ValueError(
                "decoded_positions are decoded one by one, and num_decoder_mixing_layers="
                f"{config.num_decoder_mixing_layers} lets the positions of the input mix."
            )
        # CODEPATH: only `perceiver_v1` has learned positions.
        bounded = config.position_embedding == "learned" and not torch.compiler.is_compiling()
        if bounded and (furthest := int(places.max())) >= config.max_position_embeddings:
            raise ValueError(
                f"decoded_positions reach {furthest}, and this model has {config.max_position_embeddings} learned "
                "positions (max_position_embeddings)."
            )
        if config.decoder_query == "token+position" and config.mask_token_id is None:
            raise ValueError("decoded_positions need a mask_token_id with decoder_query='token+position'.")

    def decode_elsewhere(
        self,
        concepts: Concepts,
        layout: TokenLayout,
        rotate: Callable[[torch.Tensor, torch.Tensor | None], Rotation | None],
        places: torch.Tensor,
        documents: torch.Tensor | None = None,
        word: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Decode places of a text that need not be the input's, from concepts alone.

        Args:
            concepts: of the encoder.
            layout: of the input tokens.
            rotate: `ConceptEncoder.rotate`.
            places: int64 `[batch, K]`, -1 for none.
            documents: int64 `[batch, K]`, whose concepts are read; `None` if every row is one document.
            word: embedding `[embedding_size]` that stands for the unknown words, read if queries hold words.

        Returns:
            Decoded states `[batch, K, hidden_size]`.
        """
        length, lengths, order = places.shape[1], None, None
        if documents is not None:
            # What is no place reads the first document, which no row is without.
            documents = documents.masked_fill(places < 0, 0)
            lengths = document_sizes(places >= 0, documents, layout.lengths)
        if documents is not None and takes_documents(self.config, self.concept_mixer):
            order = documents.masked_fill(places < 0, lengths.shape[1]).argsort(dim=1, stable=True)
            places, documents = take(places, order), take(documents, order)
        layout = TokenLayout(length, length, places.clamp(min=0), lengths, documents)
        words = None if word is None else word.expand(*places.shape, -1)
        states = self.norm(self._read(concepts, None, layout, rotate, None, words, False, **kwargs))
        return states if order is None else take(states, order.argsort(dim=1))

    def _read(
        self,
        concepts: Concepts,
        tokens: torch.Tensor | None,
        layout: TokenLayout,
        rotate: Callable[[torch.Tensor, torch.Tensor | None], Rotation | None],
        wanted: torch.Tensor | None,
        words: torch.Tensor | None,
        token_residual: bool,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Queries at the wanted positions, and what they read; concepts alone, without `tokens`."""
        reads_tokens = len(self.token_reads) > 0 and tokens is not None
        as_ranges = self._takes_ranges(concepts.states)
        places, concept_reads, token_reads = self.reading(layout, wanted, concepts.stream, reads_tokens, as_ranges)
        states, residual = self._queries(places, wanted, words, token_residual)
        query_rotation = rotate(states, places)
        concept_reads |= {"query_rotation": query_rotation, "key_rotation": rotate(states, concepts.positions)}
        # CODEPATH: no preset mixes concepts by place alone.
        if self.config.decoder_reads == "weighted":
            concept_reads |= {"places": places}
        if reads_tokens:
            key_rotation = rotate(states, layout.to_slots(layout.positions))
            token_reads |= {"query_rotation": query_rotation, "key_rotation": key_rotation}
        # The first block that reads adds what it read to `residual`; later ones to their own input.
        for depth, concept_read in enumerate(self.concept_reads):
            if reads_tokens:
                states = residual = self.token_reads[depth](states, tokens, residual, **token_reads, **kwargs)
            states = residual = concept_read(states, concepts.states, residual, **concept_reads, **kwargs)
        return states

    def _takes_ranges(self, states: torch.Tensor) -> bool:
        """Whether the backend attends to the tokens around `states` without gathering them; it has no dropout."""
        config = self.config
        has_kernels = has_range_kernels(states.device, product_dtype(states), config.head_dim)
        return has_kernels and takes_documents(config) and config.attention_dropout == 0

    def _order(self, layout: TokenLayout, wanted: torch.Tensor | None) -> torch.Tensor | None:
        """The order of `wanted` `[batch, K]` that lays queries of one document side by side, if that is needed."""
        if wanted is None or layout.documents is None or not takes_documents(self.config, self.concept_mixer):
            return None
        return wanted.masked_fill(wanted < 0, layout.num_tokens).argsort(dim=1)

    def _queries(
        self, places: torch.Tensor, wanted: torch.Tensor | None, words: torch.Tensor | None, token_residual: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries at `places` `[batch, K]`, and what of them stays in the residual stream: `[batch, K, width]`."""
        states = self.query.expand(*places.shape, -1)
        if self.position_embeddings is not None:
            states = states + self.position_embeddings(places)
        states = states.to(product_dtype(states))
        if self.token_projection is None:
            return states, states
        words = words if wanted is None else take(words, wanted.clamp(min=0))
        with_words = states + self.token_projection(words)
        return with_words, with_words if token_residual else states

    def _mix(
        self,
        states: torch.Tensor,
        layout: TokenLayout,
        rotate: Callable[[torch.Tensor, torch.Tensor | None], Rotation | None],
        in_use: torch.Tensor | None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Local self-attention among the states of all positions `[batch, N, width]`."""
        order, places = None, layout.positions.expand(states.shape[0], -1)
        stream = Stream(states.shape[0], layout.num_tokens, layout.longest, None, layout.documents)
        if in_use is not None:
            # Windows go by rank among what is in use, as those of tokens do.
            order = first_true(in_use)
            states, places = take(states, order), take(places, order)
            stream = stream._replace(mask=take(in_use, order), sizes=layout.lengths)
        unpadded, window = takes_documents(self.config), self.config.local_attention
        window = read_neighbours(stream, window, unpadded, states.device)
        rotation = rotate(states, places)
        for block in self.mixing_blocks:
            states = block(states, **window, query_rotation=rotation, key_rotation=rotation, **kwargs)
        return states if order is None else take(states, order.argsort(dim=1))


class ConceptPredictionHead(nn.Module):
    """Decoded states `[..., hidden_size]` to the width of the word embeddings `[..., embedding_size]`."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_activation]
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.norm_eps, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.act_fn(self.dense(hidden_states)))
