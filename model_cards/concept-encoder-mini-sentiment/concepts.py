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

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig

from .attention import (
    ConceptAttention,
    ConceptBlock,
    ContextualAttention,
    SlotAttention,
    Stream,
    read_documents,
    takes_documents,
)
from .tokens import TokenLayout, segment_means, segment_of


class Concepts(NamedTuple):
    """
    Attributes:
        states: `[batch, C, hidden_size]`.
        mask: bool `[batch, C]`, concepts in use; `None` if all are.
        positions: `[batch | 1, C]`, their places in the document in tokens; `None` if they have none.
        documents: int64 `[batch | 1, C]`, the document of each; `None` if every row is one document.
        rank: int64 `[batch | 1, C]`, the number of each in its document.
        sizes: int64 `[batch, D]`, the number of each document's; `None` if every row is one document that has all of
            them, or if some were dropped.
        longest: no document has more; C if not given.
    """

    states: torch.Tensor
    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    documents: torch.Tensor | None = None
    rank: torch.Tensor | None = None
    sizes: torch.Tensor | None = None
    longest: int | None = None

    @property
    def stream(self) -> Stream:
        """Concepts as attention takes them."""
        batch, length, _ = self.states.shape
        return Stream(batch, length, min(self.longest or length, length), self.mask, self.documents, self.sizes)


def first_or(used: torch.Tensor) -> torch.Tensor:
    """Bool `[batch, D]` with the first of every row set: a row of padding keeps the concepts of one empty document."""
    return used | (torch.arange(used.shape[1], device=used.device) == 0)


class LearnedConcepts(nn.Module):
    """
    A table of `num_concepts` vectors, the same for every document (Perceiver IO, arXiv 2107.14795). Places, for
    whoever wants them, are spread evenly over the document.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.table = nn.Parameter(torch.empty(config.num_concepts, config.hidden_size))
        self.num_free = 0

    def forward(self, tokens: torch.Tensor, layout: TokenLayout, ratio: int | None = None) -> Concepts:
        """
        Args:
            tokens: `[batch, V, token_hidden_size]`, which give the batch size only.
            layout: of these tokens.
            ratio: of no meaning here.
        """
        batch, size, length = tokens.shape[0], self.table.shape[0], layout.num_tokens
        lengths = torch.full((1, 1), length, device=tokens.device) if layout.lengths is None else layout.lengths
        slots = torch.arange(size * lengths.shape[1], device=tokens.device).unsqueeze(0)
        sizes = size * first_or(lengths > 0)
        documents, rank = segment_of(slots, sizes), slots % size
        positions = (rank + 0.5) * lengths.float().gather(1, documents) / size - 0.5
        states = self.table.to(tokens.dtype).repeat(lengths.shape[1], 1).expand(batch, -1, -1)
        if layout.documents is None:
            return Concepts(states, None, positions, None, rank)
        mask = slots < sizes.sum(dim=1, keepdim=True)
        return Concepts(states, mask, positions * mask, documents, rank, sizes, size)

    def most(self, longest: int, ratio: int | None = None) -> int:
        """How many concepts a document has."""
        return self.table.shape[0]

    def order(self, rank: torch.Tensor) -> torch.Tensor:
        """When concepts go if fewer are kept: the last of the table first. `rank` to numbers in [0, 1)."""
        return rank / self.table.shape[0]


class AnchoredConcepts(nn.Module):
    """
    One concept for every span of `concept_ratio` tokens: the mean of the span's visible tokens, projected, plus a
    vector that all share; in front of them a few free vectors without a span.

    A document of N tokens has C = clamp(ceil(N / concept_ratio), min_concepts, max_concepts) spans. Concept i covers
    the places [i N / C, (i + 1) N / C) and sits at their centre. Free concepts sit at 0, where RoPE is the identity.
    The concepts of a row of several documents lie end to end.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.token_hidden_size, config.hidden_size, bias=False)
        self.shared = nn.Parameter(torch.empty(1, config.hidden_size))
        self.free = nn.Parameter(torch.empty(config.num_global_concepts, config.hidden_size))
        self.num_free = config.num_global_concepts

    def forward(self, tokens: torch.Tensor, layout: TokenLayout, ratio: int | None = None) -> Concepts:
        """
        Args:
            tokens: `[batch, V, token_hidden_size]`, zeros in unused slots.
            layout: of these tokens.
            ratio: tokens per concept, if not the configuration's.
        """
        free, length, ratio = self.num_free, layout.num_tokens, ratio or self.config.concept_ratio
        lengths = torch.full((1, 1), length, device=tokens.device) if layout.lengths is None else layout.lengths
        counts = (-(-lengths // ratio)).clamp(self.config.min_concepts, self.config.max_concepts)
        sizes = (counts + free) * first_or(lengths > 0)
        slots = torch.arange(self._capacity(length, lengths.shape[1], ratio), device=tokens.device).unsqueeze(0)
        documents = segment_of(slots, sizes)
        rank = slots - (sizes.cumsum(dim=1) - sizes).gather(1, documents)
        mask = rank < sizes.gather(1, documents)
        centres = (rank - free + 0.5) * (lengths.float() / counts).gather(1, documents) - 0.5
        # A free slot is no span, so nothing is added to its own vector; all others share the one behind those.
        vectors = nn.functional.embedding(rank.clamp(max=free), torch.cat([self.free, self.shared]))
        states = vectors + self.projection(self._span_means(tokens, layout, lengths, counts, sizes, slots.shape[1]))
        return Concepts(
            states.to(tokens.dtype),
            None if layout.lengths is None else mask,
            centres * (mask & (rank >= free)),
            None if layout.documents is None else documents,
            rank,
            None if layout.lengths is None else sizes,
            self.most(layout.longest, ratio),
        )

    def most(self, longest: int, ratio: int | None = None) -> int:
        """The most concepts that a document of up to `longest` tokens has."""
        return self._capacity(longest, 1, ratio or self.config.concept_ratio)

    def order(self, rank: torch.Tensor) -> torch.Tensor:
        """
        When concepts go if fewer are kept: `rank` to numbers in [0, 1), free concepts first.

        Spans stay spread evenly over the document (van der Corput sequence: the bits of a number, mirrored).
        """
        bits = torch.arange(self.config.max_concepts.bit_length(), device=rank.device)
        span = (rank - self.num_free).clamp(min=0)
        return (((span.unsqueeze(-1) >> bits) & 1) * 2.0 ** -(bits + 1)).sum(dim=-1)

    def _capacity(self, length: int, documents: int, ratio: int) -> int:
        """The most concepts that so many documents in a row of `length` tokens can have."""
        low, high = self.config.min_concepts, self.config.max_concepts
        spans = max(-(-length // ratio), low) + (documents - 1) * low
        return min(spans, documents * high) + documents * self.num_free

    def _span_means(
        self,
        tokens: torch.Tensor,
        layout: TokenLayout,
        lengths: torch.Tensor,
        counts: torch.Tensor,
        sizes: torch.Tensor,
        capacity: int,
    ) -> torch.Tensor:
        """Means of the visible tokens of every span `[batch, capacity, token_hidden_size]`, 0 for an empty one."""
        places, documents = layout.to_slots(layout.positions), layout.slot_documents
        first = sizes.cumsum(dim=1) - sizes + self.num_free
        if documents is not None:
            lengths, counts, first = (values.gather(1, documents) for values in (lengths, counts, first))
        span = first + (places * counts // lengths.clamp(min=1)).long()
        span = span.clamp(max=capacity - 1).expand(tokens.shape[:2])
        return segment_means(tokens, span, capacity, layout.visible(tokens.shape[0]))


CONCEPT_SOURCES: dict[str, type[nn.Module]] = {"learned": LearnedConcepts, "anchored": AnchoredConcepts}


def keep_concepts(concepts: Concepts, order: torch.Tensor, share: torch.Tensor | float) -> Concepts:
    """
    Nested dropout of concepts (arXiv 1402.0915): the same ones are kept by every larger share.

    Args:
        order: `[batch | 1, C]`, from the source of the concepts.
        share: of the concepts of each document, in (0, 1]; a number, or `[batch, 1]`.
    """
    kept = order < share
    return concepts._replace(mask=kept if concepts.mask is None else concepts.mask & kept, sizes=None)


def drawn_shares(probability: float, batch: int, device: torch.device) -> torch.Tensor:
    """Shares for `keep_concepts` `[batch, 1]`: with that probability a uniform one, else all."""
    drawn, spared = torch.rand(2, batch, 1, device=device)
    return torch.where(spared < probability, 1 - drawn, 1)


class RelativePlaces(nn.Module):
    """Concepts keep their places, which attention turns into rotations."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()

    def forward(self, concepts: Concepts) -> Concepts:
        return concepts


class NoPlaces(nn.Module):
    """Concepts lose their places."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()

    def forward(self, concepts: Concepts) -> Concepts:
        return concepts._replace(positions=None)


class SinusoidalPlaces(nn.Module):
    """A sinusoid of its place (arXiv 1706.03762, section 3.5), in tokens, is added to each concept."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.theta = config.default_theta

    def forward(self, concepts: Concepts) -> Concepts:
        width = concepts.states.shape[-1]
        exponent = torch.arange(0, width, 2, device=concepts.states.device) / width
        angles = concepts.positions.unsqueeze(-1).to(torch.promote_types(concepts.states.dtype, torch.float32))
        angles = angles * self.theta**-exponent
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :width]
        return concepts._replace(states=concepts.states + waves.to(concepts.states.dtype), positions=None)


class LearnedPlaces(nn.Module):
    """A vector for its number in the document is added to each concept."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        spans = config.num_global_concepts + config.max_concepts
        most = spans if config.concept_init == "anchored" else config.num_concepts
        self.embeddings = nn.Embedding(most, config.hidden_size)

    def forward(self, concepts: Concepts) -> Concepts:
        vectors = self.embeddings(concepts.rank.clamp(max=self.embeddings.num_embeddings - 1))
        return concepts._replace(states=concepts.states + vectors.to(concepts.states.dtype), positions=None)


CONCEPT_PLACES: dict[str, type[nn.Module]] = {
    "rope": RelativePlaces,
    "cope": RelativePlaces,
    "none": NoPlaces,
    "sinusoidal": SinusoidalPlaces,
    "learned": LearnedPlaces,
}
READS: dict[str, type[nn.Module]] = {"softmax": ConceptAttention, "slot": SlotAttention}


def concept_mixer(config: PreTrainedConfig) -> type[ConceptAttention]:
    """The self-attention of concepts."""
    return ContextualAttention if config.concept_positions == "cope" else ConceptAttention


def concept_layer(config: PreTrainedConfig) -> ConceptBlock:
    """A block of concept self-attention and gated MLP."""
    mixer = concept_mixer(config)
    return ConceptBlock(config, config.hidden_size, inner_width=config.intermediate_size, mixer=mixer)


def read_layer(config: PreTrainedConfig) -> ConceptBlock:
    """A block in which concepts read tokens."""
    mixer = READS[config.read_attention]
    return ConceptBlock(config, config.hidden_size, key_width=config.token_hidden_size, mixer=mixer)


def write_layer(config: PreTrainedConfig) -> ConceptBlock:
    """A block in which tokens read concepts (the write-back of BiXT, arXiv 2402.12138); it starts as the identity."""
    block = ConceptBlock(config, config.token_hidden_size, key_width=config.hidden_size)
    block.attention.o_proj.starts_at_zero = True
    return block


def count_iterations(config: PreTrainedConfig, wanted: int | None, training: bool) -> tuple[int, int]:
    """
    How often the core runs, and how many of the last times carry gradients.

    In training the number is drawn anew each time, so that the model works with any (arXiv 2502.05171, section 3); a
    compiled model, whose graph has one number, draws none.

    Args:
        wanted: by the caller, who has the last word; `None` leaves it to the configuration.
    """
    total = wanted or config.num_iterations
    draws = training and config.sample_iterations and not torch.compiler.is_compiling()
    if draws and wanted is None:
        total = int(torch.randint(1, config.num_iterations + 1, ()))
    return total, config.tracked_iterations or total


class Exchange(NamedTuple):
    """
    Arguments of the blocks of the core, beside states.

    Attributes:
        reading: of those in which concepts read tokens.
        thinking: of those in which concepts read each other.
        writing: of those in which tokens read concepts.
    """

    reading: dict[str, Any]
    thinking: dict[str, Any]
    writing: dict[str, Any]


def exchange_arguments(config: PreTrainedConfig, concepts: Stream, tokens: Stream) -> Exchange:
    """Who may read whom, without rotations."""
    mixers = (READS[config.read_attention], concept_mixer(config), ConceptAttention)
    read, think, write = (takes_documents(config, mixer) for mixer in mixers)
    reading = read_documents(concepts, tokens, read)
    # CODEPATH: no preset has slot attention, in which unused concepts would win tokens.
    if config.read_attention == "slot" and concepts.mask is not None:
        in_use = concepts.mask[:, None, :, None]
        reading = {"attention_mask": in_use & reading.get("attention_mask", in_use)}
    writing = read_documents(tokens, concepts, write, reading.get("segments"))
    # A row without a visible token reads its first slot, which has to stay 0.
    return Exchange(reading, read_documents(concepts, concepts, think), writing | {"in_use": tokens.mask})
