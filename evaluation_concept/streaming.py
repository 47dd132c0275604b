# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Documents that are longer than the memory of a device, encoded chunk by chunk.

`encode_in_chunks` is exact: it gives what the model gives for the whole document, up to rounding. It goes over the
document once for each stage of the core, and once before for the layers in front of it. In a pass, token layers run on
a chunk with as many neighbours on each side as can reach into it, and concepts read chunk after chunk with an online
softmax (Milakov and Gimelshein, arXiv 1805.02867): what was read so far and its log-sum-exp are all that is kept. In
between, token states lie where the caller wants them, in the memory of the host as a rule, so that a device holds one
chunk of tokens and the C concepts.

Exact for every configuration but those with a funnel (`num_funnel_stages`), whose slots are no longer tokens, and with
slot attention (`read_attention="slot"`), in which concepts compete; both are refused. Every token mixer, source and
place of concepts, write-back, shared reads and iterations are taken. `encode_in_one_pass_approximately` reads the
document once, with queries that have not seen what comes behind; only its name promises anything.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from modeling_concept.attention import ConceptBlock, Segments, varlen_kernel
from modeling_concept.concepts import Concepts
from modeling_concept.modeling_concept import ConceptEncoder, ConceptEncoderOutput
from modeling_concept.tokens import TokenLayout, check_inputs, dropped_tokens

DEFAULT_CHUNK = 16_384
# Products of queries and keys that are held at once where no kernel gives the log-sum-exp.
LOGITS_AT_ONCE = 2**26


@dataclass
class RunningRead:
    """
    An online softmax over keys that come in parts.

    Attributes:
        output: what was read so far, `[heads, queries, head_dim]`.
        log_sum: logarithm of the softmax's denominator so far, `[heads, queries]`.
    """

    output: torch.Tensor | None = None
    log_sum: torch.Tensor | None = None

    def add(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> None:
        """Read further keys; `query`, `key` and `value` are `[heads, length, head_dim]`."""
        if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
            self.merge(*_read_by_kernel(query, key, value, scaling))
            return
        step = max(LOGITS_AT_ONCE // (query.shape[0] * query.shape[1]), 1)
        for keys, values in zip(key.split(step, dim=1), value.split(step, dim=1), strict=True):
            logits = (query @ keys.transpose(1, 2)).to(torch.promote_types(query.dtype, torch.float32)) * scaling
            log_sum = logits.logsumexp(dim=-1)
            output = (logits - log_sum.unsqueeze(-1)).exp() @ values.to(logits.dtype)
            self.merge(output, log_sum)

    def merge(self, output: torch.Tensor, log_sum: torch.Tensor) -> None:
        """Take in what was read from other keys."""
        if self.output is None or self.log_sum is None:
            self.output, self.log_sum = output, log_sum
            return
        total = torch.logaddexp(self.log_sum, log_sum)
        shares = ((part - total).exp().unsqueeze(-1) for part in (self.log_sum, log_sum))
        self.output = sum(part * share for part, share in zip((self.output, output), shares, strict=True))
        self.log_sum = total


def _read_by_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output `[heads, queries, head_dim]` in float32 and log-sum-exp `[heads, queries]`, by a flash kernel."""
    query, key, value = (states.transpose(0, 1).contiguous() for states in (query, key, value))
    lengths = query.shape[0], key.shape[0]
    starts, key_starts = (torch.tensor([0, n], dtype=torch.int32, device=query.device) for n in lengths)
    output, log_sum = varlen_kernel(query, key, value, Segments(starts, key_starts, *lengths), scaling)
    return output.transpose(0, 1).float(), log_sum.float()


class Chunk(NamedTuple):
    """
    Some tokens of a document with neighbours on both sides, on the device of the model.

    Attributes:
        states: `[1, slots, token_hidden_size]`.
        layout: of these, with their places in the whole document.
        window: slots of the document that they are.
        inner: which of them the chunk itself has.
    """

    states: torch.Tensor
    layout: TokenLayout
    window: slice
    inner: slice

    @property
    def positions(self) -> torch.Tensor:
        """Places of the chunk's own tokens, int64 `[1, tokens]`."""
        return self.layout.positions[:, self.inner]

    @property
    def own(self) -> slice:
        """Slots of the document that the chunk itself has."""
        return slice(self.window.start + self.inner.start, self.window.start + self.inner.stop)


class Update(NamedTuple):
    """
    What a pass does to the tokens.

    Attributes:
        reach: how many neighbours on each side what becomes of a token depends on.
        apply: from a chunk to the new states of all its slots.
    """

    reach: int
    apply: Callable[[Chunk], torch.Tensor]


@dataclass
class ChunkedDocument:
    """
    A document in the memory of the host.

    Attributes:
        model: the encoder.
        ids: int64 `[V]`, its visible tokens.
        types: int64 `[V]`, sentence A or B.
        positions: int64 `[V]`, their places in the document.
        num_tokens: N, dropped mask tokens included.
        chunk: tokens of a chunk.
        states: `[1, V, token_hidden_size]`, token states after the last pass; empty before the first.
    """

    model: ConceptEncoder
    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    num_tokens: int
    chunk: int
    states: torch.Tensor

    def windows(self, reach: int) -> Iterator[tuple[slice, slice]]:
        """`window` and `inner` of each chunk; windows begin where blocks of tokens do (`token_mixer="shifted"`)."""
        reach = _round_up(reach, self.model.config.local_attention)
        for start in range(0, len(self.ids), self.chunk):
            first, end = max(start - reach, 0), min(start + self.chunk, len(self.ids))
            yield slice(first, min(end + reach, len(self.ids))), slice(start - first, end - first)

    def load(self, window: slice, inner: slice) -> Chunk:
        """A chunk; its states are a copy, which later changes of the document leave alone."""
        states = self.states[:, window].to(self.model.device, copy=True)
        return Chunk(states, self._layout(window), window, inner)

    def embed(self, reach: int) -> Iterator[Chunk]:
        """Chunks with their states before the first layer."""
        device = self.model.device
        for window, inner in self.windows(reach):
            layout = self._layout(window)
            ids, types = (values[window].to(device).unsqueeze(0) for values in (self.ids, self.types))
            states = self.model.embeddings(self.model.embed_tokens(ids), types, layout.positions, None)
            yield Chunk(states, layout, window, inner)

    def chunks(self, update: Update | None) -> Iterator[Chunk]:
        """Chunks without neighbours, after an update of the tokens, which the document keeps."""
        if update is None:
            yield from (self.load(*places) for places in self.windows(0))
            return
        places = list(self.windows(update.reach))
        following: Chunk | None = self.load(*places[0])
        for behind in [*places[1:], None]:
            chunk = following
            assert chunk is not None
            # The next chunk has neighbours in this one, which it needs as they are.
            following = None if behind is None else self.load(*behind)
            yield self.keep(chunk, update.apply(chunk))

    def keep(self, chunk: Chunk, states: torch.Tensor) -> Chunk:
        """Take over the new states of a chunk's own tokens, and return it without neighbours."""
        states = states[:, chunk.inner]
        if self.states.numel() == 0:
            self.states = states.new_empty(1, len(self.ids), states.shape[2], device=self.states.device)
        self.states[:, chunk.own] = states.to(self.states.device)
        return Chunk(states, self._layout(chunk.own), chunk.own, slice(0, states.shape[1]))

    def _layout(self, window: slice) -> TokenLayout:
        positions = self.positions[window].to(self.model.device).unsqueeze(0)
        return TokenLayout(positions.shape[1], positions.shape[1], positions)


@torch.no_grad()
def encode_in_chunks(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    *,
    chunk: int = DEFAULT_CHUNK,
    store: torch.device | str = "cpu",
    concept_ratio: int | None = None,
    output_token_states: bool = False,
) -> ConceptEncoderOutput:
    """
    What the encoder gives for one document, without holding all its token states on the device of the model.

    Args:
        model: a concept encoder, or one with a head, of which the encoder is taken.
        input_ids: int64 `[N]`, on any device.
        token_type_ids: int64 `[N]`, sentence A or B.
        chunk: tokens that are worked on at once, rounded up to whole windows.
        store: the device that keeps token states between passes, N times `token_hidden_size` numbers.
        concept_ratio: tokens per anchored concept, whatever the configuration says.
        output_token_states: whether to return the states of the visible tokens, on `store`.

    Raises:
        ValueError: for a model in training, or of a configuration that is not exact in chunks.
    """
    encoder = model.base_model
    _check(encoder)
    document = open_document(encoder, input_ids, token_type_ids, chunk, store)
    concepts = _anchor(document, concept_ratio)
    states, update = concepts.states, None
    iterations = encoder.config.num_iterations
    for i in range(iterations):
        states = encoder.restart(concepts.states, states, i)
        for stage in range(encoder.config.num_stages):
            states = _read(encoder, stage, concepts._replace(states=states), document.chunks(update))
            states = _think(encoder, stage, concepts._replace(states=states), document)
            update = _write_and_mix(encoder, stage, concepts._replace(states=states))
    if output_token_states and update is not None:
        for _ in document.chunks(update):
            pass
    return _output(encoder, concepts._replace(states=states), document if output_token_states else None)


@torch.no_grad()
def encode_in_one_pass_approximately(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    *,
    chunk: int = DEFAULT_CHUNK,
    concept_ratio: int | None = None,
) -> ConceptEncoderOutput:
    """
    Concepts of a document that is read once, chunk after chunk, and of which no token state is kept: not what the
    model gives for the whole document, unless that is one chunk.

    All stages take a chunk before the next one comes. The queries of a chunk have seen the chunks before it and
    nothing behind, spans that have not come yet are the shared vector, and layers of tokens do not look beyond the
    chunk. Arguments and errors are those of `encode_in_chunks`.
    """
    encoder = model.base_model
    _check(encoder)
    if encoder.config.num_iterations > 1:
        raise ValueError("num_iterations: a core that runs again has to read the document again.")
    document = open_document(encoder, input_ids, token_type_ids, chunk, "cpu")
    spans = SpanMeans(document, concept_ratio)
    stages = range(encoder.config.num_stages)
    running = [RunningRead() for _ in stages]
    for embedded in document.embed(0):
        part = embedded._replace(states=_stem(encoder, embedded))
        spans.add(part)
        concepts = spans.concepts()
        states = concepts.states
        for stage in stages:
            states = _read(encoder, stage, concepts._replace(states=states), [part], running[stage])
            states = _think(encoder, stage, concepts._replace(states=states), document)
            if update := _write_and_mix(encoder, stage, concepts._replace(states=states)):
                part = part._replace(states=update.apply(part))
    return _output(encoder, concepts._replace(states=states), None)


def open_document(
    encoder: ConceptEncoder,
    input_ids: torch.Tensor,
    token_type_ids: torch.Tensor | None,
    chunk: int,
    store: torch.device | str,
) -> ChunkedDocument:
    """
    A document to go over in chunks; arguments as those of `encode_in_chunks`.

    Raises:
        ValueError: if ids are no row of tokens, or too many for learned positions.
    """
    if input_ids.dim() != 1 or len(input_ids) == 0:
        raise ValueError(f"input_ids of shape {tuple(input_ids.shape)}: one document, a row of tokens, is encoded.")
    row = input_ids.unsqueeze(0)
    check_inputs(encoder.config, row.shape, None, None)
    dropped = dropped_tokens(encoder.config, row, row.shape, None)
    visible = (
        torch.arange(len(input_ids), device=input_ids.device) if dropped is None else (~dropped[0]).nonzero()[:, 0]
    )
    types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    if encoder.rotary_emb is not None:
        encoder.rotary_emb.fit(input_ids.to(encoder.device), torch.arange(len(input_ids), device=encoder.device))
    chunk = _round_up(max(chunk, _longest_reach(encoder)), encoder.config.local_attention)
    blank = torch.empty(0, device=store)
    return ChunkedDocument(encoder, input_ids[visible], types[visible], visible, len(input_ids), chunk, blank)


class SpanMeans:
    """
    Means of the tokens behind each concept, from chunks.

    Args:
        document: theirs.
        ratio: tokens per anchored concept, if not the configuration's.
    """

    def __init__(self, document: ChunkedDocument, ratio: int | None) -> None:
        self.document, self.ratio = document, ratio
        config, length = document.model.config, document.num_tokens
        spans = -(-length // (ratio or config.concept_ratio))
        self.number = min(max(spans, config.min_concepts), config.max_concepts)
        self.sums: torch.Tensor | None = None
        self.counts: torch.Tensor | None = None

    def add(self, chunk: Chunk) -> None:
        """Add up the tokens of a chunk."""
        span = (chunk.positions[0] * self.number // self.document.num_tokens).to(chunk.states.device)
        # Sums of many tokens need float32 where the states have less.
        states = chunk.states[0, chunk.inner].to(torch.promote_types(chunk.states.dtype, torch.float32))
        if self.sums is None or self.counts is None:
            self.sums, self.counts = states.new_zeros(self.number, states.shape[1]), states.new_zeros(self.number, 1)
            self.dtype = chunk.states.dtype
        self.sums.index_add_(0, span, states)
        self.counts.index_add_(0, span, torch.ones_like(states[:, :1]))

    def concepts(self) -> Concepts:
        """The concepts before the first read: those of a document that has one token in each span, its mean."""
        assert self.sums is not None
        assert self.counts is not None
        filled = (self.counts[:, 0] > 0).nonzero()[:, 0]
        length, encoder = self.document.num_tokens, self.document.model
        # The first place of span i is the least p with p * number // length = i.
        places = -(-filled * length // self.number)
        layout = TokenLayout(length, length, torch.arange(length, device=filled.device)[None], index=places[None])
        means = (self.sums / self.counts.clamp(min=1))[filled].to(self.dtype)
        return encoder.places(encoder.concepts(means[None], layout, self.ratio))


def _anchor(document: ChunkedDocument, ratio: int | None) -> Concepts:
    """The first pass: layers in front of the core, and where concepts start from."""
    encoder, spans = document.model, SpanMeans(document, ratio)
    for chunk in document.embed(_reach(encoder, len(encoder.token_blocks))):
        spans.add(document.keep(chunk, _stem(encoder, chunk)))
    return spans.concepts()


def _stem(encoder: ConceptEncoder, chunk: Chunk) -> torch.Tensor:
    _, _, mixing = encoder.surroundings(chunk.states, chunk.layout)
    return encoder.mix(chunk.states, encoder.token_blocks, mixing)


def _read(
    encoder: ConceptEncoder,
    stage: int,
    concepts: Concepts,
    chunks: Iterator[Chunk] | list[Chunk],
    running: RunningRead | None = None,
) -> torch.Tensor:
    """Concepts `[1, C, hidden_size]` after reading the tokens of all chunks, added to what `running` has read."""
    block, running = encoder.reads[stage % len(encoder.reads)], running or RunningRead()
    attention, width = block.attention, block.attention.head_dim
    query = attention.q_proj(block.attention_norm(concepts.states)).unflatten(-1, (-1, width))
    rotation = encoder.rotate(concepts.states, concepts.positions)
    query = attention.place(query, attention.q_norm, rotation, query.dtype)[0].transpose(0, 1)
    for chunk in chunks:
        key, value = _keys_and_values(encoder, block, chunk)
        running.add(query, key, value, attention.scaling)
    assert running.output is not None
    read = running.output.to(concepts.states.dtype).transpose(0, 1).flatten(1).unsqueeze(0)
    return concepts.states + attention.o_proj(read)


def _keys_and_values(encoder: ConceptEncoder, block: ConceptBlock, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values `[heads, tokens, head_dim]` of a chunk's own tokens."""
    attention, tokens = block.attention, chunk.states[:, chunk.inner]
    both = attention.kv_proj(block.key_norm(tokens)).unflatten(-1, (2, -1, attention.head_dim))
    key, value = both.unbind(dim=-3)
    key = attention.place(key, attention.k_norm, encoder.rotate(tokens, chunk.positions), value.dtype)
    return key[0].transpose(0, 1), value[0].transpose(0, 1)


def _think(encoder: ConceptEncoder, stage: int, concepts: Concepts, document: ChunkedDocument) -> torch.Tensor:
    """Concepts after the concept layers of a stage."""
    layout = document._layout(slice(0, 1))
    blank = concepts.states.new_zeros(1, 1, encoder.config.token_hidden_size)
    return encoder.think(concepts.states, stage, encoder.exchanging(blank, concepts, layout.stream(1), None))


def _write_and_mix(encoder: ConceptEncoder, stage: int, concepts: Concepts) -> Update | None:
    """What the end of a stage does to the tokens; `None` if nothing."""
    wide = encoder.config.num_interleaved_token_layers
    mixers = len(encoder.interleaved_blocks[stage * wide : (stage + 1) * wide])
    if not mixers and not len(encoder.writes[stage : stage + 1]):
        return None

    def apply(chunk: Chunk) -> torch.Tensor:
        slots, rotation, mixing = encoder.surroundings(chunk.states, chunk.layout)
        exchange = encoder.exchanging(chunk.states, concepts, slots, rotation)
        return encoder.write_back(chunk.states, concepts.states, stage, exchange, mixing)

    return Update(_reach(encoder, mixers), apply)


def _output(encoder: ConceptEncoder, concepts: Concepts, document: ChunkedDocument | None) -> ConceptEncoderOutput:
    states, all_used = encoder.norm(concepts.states), concepts.states.new_ones(concepts.states.shape[:2]).long()
    pooled = torch.arange(states.shape[1], device=states.device) >= encoder.concepts.num_free
    dropped = document is not None and len(document.ids) < document.num_tokens
    return ConceptEncoderOutput(
        last_hidden_state=states,
        concept_mask=all_used,
        pooled_mask=all_used * pooled,
        concept_positions=None if concepts.positions is None else concepts.positions.expand(states.shape[:2]),
        token_states=document.states if document is not None else None,
        token_index=document.positions[None] if document is not None and dropped else None,
    )


def _check(encoder: ConceptEncoder) -> None:
    if encoder.training:
        raise ValueError("Documents are encoded in chunks for inference: call model.eval() first.")
    if encoder.config.num_funnel_stages:
        raise ValueError("num_funnel_stages: slots of a funnel are no tokens, and are not encoded in chunks.")
    if encoder.config.read_attention == "slot":
        raise ValueError("read_attention='slot': concepts that compete for tokens do not read them in chunks.")


def _reach(encoder: ConceptEncoder, layers: int) -> int:
    """How far tokens see through so many token layers."""
    config = encoder.config
    far = {
        "none": 0,
        "local": config.local_attention // 2,
        "shifted": config.local_attention,
        "conv": config.conv_kernel_size // 2,
    }
    return layers * far[config.token_mixer]


def _longest_reach(encoder: ConceptEncoder) -> int:
    return _reach(encoder, max(len(encoder.token_blocks), encoder.config.num_interleaved_token_layers, 1))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
