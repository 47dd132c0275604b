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
"""Which tokens the encoder sees, in which slots, and how they become token states."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig

from .attention import (
    ConceptAttention,
    ConceptBlock,
    ResidualLinear,
    Stream,
    read_neighbours,
    self_windows,
    take,
    takes_documents,
)
from .kernels import Rotation, product_dtype

# Arguments of layers, which take turns with them.
Turns = list[dict[str, Any]]


class TokenLayout(NamedTuple):
    """
    The visible tokens of a batch, moved to the front of their rows. Made once, at the door; nothing behind it knows of
    padding, holes or mask tokens. N is the length of the input, V the number of slots.

    Attributes:
        num_tokens: N.
        longest: no document has more tokens.
        positions: int64 `[batch | 1, N]`, place of every input token in its document, padding and holes not counted;
            behind a funnel, `[batch | 1, V]`, the mean place of the tokens that a slot stands for.
        lengths: int64 `[batch, D]`, tokens of the documents of each row, mask tokens included, 0 behind the last one;
            `None` if every row is one document of N.
        documents: int64 `[batch, N]`, the document of every input token, that of padding the last one; `None` if
            every row is one document.
        index: int64 `[batch, V]`, the input token in every slot; `None` if slots are input tokens.
        mask: bool `[batch, V]`, slots in use; `None` if all are.
    """

    num_tokens: int
    longest: int
    positions: torch.Tensor
    lengths: torch.Tensor | None = None
    documents: torch.Tensor | None = None
    index: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def visible(self, batch: int) -> torch.Tensor:
        """Bool `[batch, V]`, slots in use, for `batch` rows."""
        if self.mask is not None:
            return self.mask
        return torch.ones(batch, self.num_slots, dtype=torch.bool, device=self.positions.device)

    @property
    def num_slots(self) -> int:
        """V."""
        return self.positions.shape[1] if self.index is None else self.index.shape[1]

    @property
    def slot_documents(self) -> torch.Tensor | None:
        """Int64 `[batch, V]`, the document of every slot; `None` if every row is one document."""
        return None if self.documents is None else self.to_slots(self.documents)

    def to_slots(self, values: torch.Tensor) -> torch.Tensor:
        """Take `[batch | 1, N, ...]` to slots `[batch, V, ...]`."""
        if self.index is None:
            return values
        return take(values.expand(self.index.shape[0], *values.shape[1:]), self.index)

    def stream(self, batch: int) -> Stream:
        """The slots of `batch` rows, as attention takes them."""
        documents, longest = self.slot_documents, min(self.longest, self.num_slots)
        sizes = None if self.mask is None else document_sizes(self.mask, documents, self.lengths)
        return Stream(batch, self.num_slots, longest, self.mask, documents, sizes)


class BatchFunction(nn.Module):
    """
    What `function(config, ...)` says of the places of a batch, as a module without weights, which can be compiled by
    itself: it has many small operations.
    """

    def __init__(self, config: PreTrainedConfig, function: Callable[..., Any]):
        super().__init__()
        self.config, self.function = config, function

    def forward(self, *args: Any) -> Any:
        return self.function(self.config, *args)


def document_sizes(mask: torch.Tensor, documents: torch.Tensor | None, lengths: torch.Tensor | None) -> torch.Tensor:
    """
    How many slots in use each document has, int64 `[batch, D]`.

    Args:
        mask: bool `[batch, slots]`, slots in use.
        documents: int64 `[batch, slots]`, their documents; `None` if every row is one.
        lengths: int64 `[batch, D]`, which gives the number of documents.
    """
    if documents is None:
        return mask.sum(dim=1, keepdim=True)
    return torch.zeros_like(lengths).scatter_add(1, documents, mask.long())


def segment_of(places: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """
    In which of the segments laid end to end in a row each place lies; behind the last one, in the last that is not
    empty.

    int64 `[batch | 1, places]` in segments of `lengths` `[batch, D]`: int64 `[batch, places]`.
    """
    # One search, with all rows end to end: for a GPU, the compiler of PyTorch 2.11 makes no code of a search by row
    # for places that are the same in all rows.
    rows, number = lengths.shape
    row = torch.arange(rows, device=lengths.device).unsqueeze(1)
    whole = lengths.sum(dim=1, keepdim=True)
    ends, begin = lengths.flatten().cumsum(dim=0), whole.cumsum(dim=0) - whole
    segment = torch.searchsorted(ends, places + begin, right=True) - row * number
    last = ((lengths > 0) * torch.arange(lengths.shape[1], device=lengths.device)).amax(dim=1, keepdim=True)
    return torch.minimum(segment, last)


def segment_means(states: torch.Tensor, segments: torch.Tensor, number: int, used: torch.Tensor) -> torch.Tensor:
    """
    Means of the states of each segment.

    Args:
        states: `[batch, length, width]`.
        segments: int64 `[batch, length]`, the segment of each.
        number: S, segments of a row.
        used: bool `[batch, length]`, states that count.

    Returns:
        `[batch, S, width]`, zeros for a segment without states.
    """
    # Sums and counts of many states need float32 where the states have less.
    weights = used.unsqueeze(-1).to(torch.promote_types(states.dtype, torch.float32))
    index, blank = segments.unsqueeze(-1), weights.new_zeros(states.shape[0], number, states.shape[2])
    sums = blank.scatter_add(1, index.expand_as(states), states * weights)
    return (sums / blank[..., :1].scatter_add(1, index, weights).clamp(min=1)).to(states.dtype)


def place_tokens(
    shape: torch.Size,
    attention_mask: torch.Tensor | None,
    document_lengths: torch.Tensor | None,
    max_document_length: int | None,
    device: torch.device,
) -> tuple[TokenLayout, torch.Tensor | None]:
    """
    Documents of a batch of `shape` `[batch, N]` and the places of tokens in them.

    Args:
        attention_mask: `[batch, N]`, 0 for padding or holes; rows are one document each.
        document_lengths: whole numbers `[batch, D]`, for rows of several documents; padding follows the last one.
        max_document_length: no document has more tokens; N if not given.

    Returns:
        A layout whose slots are the input tokens, and bool `[batch, N]`, tokens that are no padding (`None` if none
        is).
    """
    length, places = shape[1], torch.arange(shape[1], device=device).unsqueeze(0)
    longest = min(max_document_length or length, length)
    if document_lengths is not None:
        document_lengths = document_lengths.long()
        in_use = places < document_lengths.sum(dim=1, keepdim=True)
        # Learned positions end, and padding may not.
        if document_lengths.shape[1] == 1:
            return TokenLayout(length, longest, places * in_use, document_lengths), in_use
        documents = segment_of(places, document_lengths)
        starts = document_lengths.cumsum(dim=1) - document_lengths
        positions = (places - starts.gather(1, documents)) * in_use
        return TokenLayout(length, longest, positions, document_lengths, documents), in_use
    if attention_mask is None:
        return TokenLayout(length, longest, places), None
    in_use = attention_mask != 0
    positions = (in_use.long().cumsum(dim=1) - 1).clamp(min=0)
    return TokenLayout(length, longest, positions, in_use.sum(dim=1, keepdim=True)), in_use


def given_tokens(
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    masked_positions: torch.Tensor | None,
) -> torch.Tensor:
    """
    Ids `[batch, N]` or embeddings `[batch, N, embedding_size]`, whichever are given.

    Raises:
        `ValueError`: for both or none of them, and for shapes that do not fit, naming the argument.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
    name, given, axes = ("input_ids", input_ids, 2) if inputs_embeds is None else ("inputs_embeds", inputs_embeds, 3)
    if given.dim() != axes:
        raise ValueError(f"{name} of shape {tuple(given.shape)} have {given.dim()} axes, not {axes}.")
    shape = tuple(given.shape[:2])
    # One row of types may stand for all.
    if token_type_ids is not None and tuple(token_type_ids.shape) not in (shape, (1, shape[1])):
        raise ValueError(f"token_type_ids of shape {tuple(token_type_ids.shape)} do not fit inputs {shape}.")
    if masked_positions is not None and (masked_positions.dim() != 2 or masked_positions.shape[0] != shape[0]):
        raise ValueError(f"masked_positions of shape {tuple(masked_positions.shape)} do not fit inputs {shape}.")
    return given


def check_inputs(
    config: PreTrainedConfig,
    shape: torch.Size,
    attention_mask: torch.Tensor | None,
    document_lengths: torch.Tensor | None,
    max_document_length: int | None = None,
) -> None:
    """
    Refuse inputs of `shape` `[batch, N]` that do not fit together or are too long for the model.

    Raises:
        `ValueError`: naming the argument.
    """
    if 0 in shape:
        raise ValueError(f"Inputs of shape {tuple(shape)} hold no token.")
    if document_lengths is not None and attention_mask is not None:
        raise ValueError("You cannot specify both attention_mask and document_lengths")
    if document_lengths is not None and (document_lengths.dim() != 2 or len(document_lengths) != shape[0]):
        raise ValueError(
            f"document_lengths of shape {tuple(document_lengths.shape)} does not fit inputs {tuple(shape)}."
        )
    if attention_mask is not None and attention_mask.shape != shape:
        raise ValueError(f"attention_mask of shape {tuple(attention_mask.shape)} does not fit inputs {tuple(shape)}.")
    # Learned positions begin anew in every document of a row.
    longest = shape[1] if document_lengths is None else min(max_document_length or shape[1], shape[1])
    if config.position_embedding == "learned" and longest > config.max_position_embeddings:
        raise ValueError(
            f"{longest} tokens are more than the {config.max_position_embeddings} learned positions "
            "(max_position_embeddings) of this model; position_embedding='rope' takes any length."
        )


def check_options(
    config: PreTrainedConfig,
    num_iterations: int | None,
    concept_ratio: int | None,
    kept_concepts: float | None,
    others: dict[str, Any],
) -> None:
    """
    Refuse arguments of `ConceptEncoder.forward` that have no meaning, and `others` that it does not have.

    Raises:
        `ValueError`: naming the argument.
    """
    if refused := [name for name in ("is_causal", "position_ids") if name in others]:
        raise ValueError(
            f"{refused[0]}: places follow from attention_mask or document_lengths, and every token may see later ones."
        )
    if num_iterations is not None and num_iterations < 1:
        raise ValueError(f"num_iterations={num_iterations}: the core runs once at least.")
    ratio, kept = concept_ratio, kept_concepts
    if ratio is not None and (ratio != int(ratio) or ratio < 1 or config.concept_init != "anchored"):
        raise ValueError(
            f"concept_ratio={ratio}: it is a whole number of tokens per concept, for concept_init='anchored'."
        )
    if kept is not None and not 0 < kept <= 1:
        raise ValueError(f"kept_concepts={kept} must lie in (0, 1].")


def dropped_tokens(
    config: PreTrainedConfig,
    input_ids: torch.Tensor | None,
    shape: torch.Size,
    masked_positions: torch.Tensor | None,
) -> torch.Tensor | None:
    """
    Bool `[batch, N]`, the tokens that have a place but are not seen by the encoder; `None` if all are.

    Args:
        input_ids: int64 `[batch, N]`, or `None` if the model was given embeddings.
        shape: `[batch, N]`.
        masked_positions: int64 `[batch, K]`, -1 for none; they say what embeddings cannot.
    """
    # CODEPATH: `perceiver_v1` shows mask tokens to the encoder; the other presets drop them.
    if config.masked_tokens == "mask":
        return None
    if input_ids is not None:
        return input_ids == config.mask_token_id
    if masked_positions is None:
        return None
    index = torch.where(masked_positions < 0, shape[1], masked_positions)
    dropped = torch.zeros(shape[0], shape[1] + 1, dtype=torch.bool, device=index.device)
    return dropped.scatter(1, index, True)[:, :-1]


def first_true(mask: torch.Tensor) -> torch.Tensor:
    """The order, int64 `[batch, N]`, that moves what is `True` in `mask` to the front of its row, by counting."""
    behind = mask.sum(dim=1, keepdim=True) + mask.logical_not().cumsum(dim=1)
    target = torch.where(mask, mask.cumsum(dim=1), behind) - 1
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(target)
    return torch.empty_like(target).scatter(1, target, places)


def arrange_tokens(
    layout: TokenLayout, in_use: torch.Tensor | None, dropped: torch.Tensor | None, shape: torch.Size, num_dropped: int
) -> TokenLayout:
    """
    Move the visible tokens of a batch of `shape` `[batch, N]` to the front of their rows.

    Args:
        layout, in_use: from `place_tokens`.
        dropped: bool `[batch, N]`, tokens that keep their place in the document and are not seen; `None` if there
            are none.
        num_dropped: V is as much less than N, but at least 1. It may be more than 0 only if no row has more than V
            visible tokens; with `in_use` at `None`, every row has to have exactly `N - num_dropped`.
    """
    if in_use is None and dropped is None:
        return layout
    visible = torch.ones(shape, dtype=torch.bool, device=layout.positions.device) if in_use is None else in_use
    visible = visible if dropped is None else visible & ~dropped
    num_slots = max(shape[1] - num_dropped, 1)
    index = first_true(visible)[:, :num_slots]
    exact = in_use is None and 0 < num_dropped < shape[1]
    mask = None if exact else visible.gather(1, index)
    # The compiler of PyTorch 2.11 cannot return what `_replace` makes.
    return TokenLayout(*layout[:5], index, mask)


def arrange_batch(
    config: PreTrainedConfig,
    shape: torch.Size,
    device: torch.device,
    input_ids: torch.Tensor | None,
    masked_positions: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    document_lengths: torch.Tensor | None,
    max_document_length: int | None,
) -> TokenLayout:
    """Which tokens of a batch of `shape` `[batch, N]` the encoder sees, in which slots."""
    dropped = dropped_tokens(config, input_ids, shape, masked_positions)
    drops = dropped is not None and masked_positions is not None
    layout, in_use = place_tokens(shape, attention_mask, document_lengths, max_document_length, device)
    return arrange_tokens(layout, in_use, dropped, shape, masked_positions.shape[1] if drops else 0)


class ConceptTokenEmbedding(nn.Module):
    """Word embeddings `[batch, V, embedding_size]` to token states: sentence A or B, learned position, width, norm."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.embedding_size)
        self.position_embeddings, self.projection = None, nn.Identity()
        # CODEPATH: only `perceiver_v1` has learned positions.
        if config.position_embedding == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.embedding_size)
        # CODEPATH: presets with a factorised embedding (`mini`, `small`, `base`) widen it here.
        if config.embedding_size != config.token_hidden_size:
            self.projection = nn.Linear(config.embedding_size, config.token_hidden_size, bias=False)
        self.norm = nn.LayerNorm(config.token_hidden_size, eps=config.norm_eps, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        words: torch.Tensor,
        token_type_ids: torch.Tensor | None,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        Args:
            words: `[batch, V, embedding_size]`.
            token_type_ids: int64 `[batch | 1, V]`; `None` if all are 0.
            positions: int64 `[batch | 1, V]`.
            mask: bool `[batch, V]` or `None`; unused slots become zeros.

        Returns:
            Token states `[batch, V, token_hidden_size]`.
        """
        if token_type_ids is None:
            # One for all: its gradient is a sum, where on a GPU every token would add to the same place.
            token_type_ids = positions.new_zeros(1, 1)
        states = words + self.token_type_embeddings(token_type_ids)
        if self.position_embeddings is not None:
            states = states + self.position_embeddings(positions)
        # Under autocast this sum and the norm are float32, which every block behind them would read and write.
        states = self.dropout(self.norm(self.projection(states))).to(product_dtype(states))
        return states if mask is None else states * mask.unsqueeze(-1)


def rank_slots(layout: TokenLayout, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The rank of every slot among those of its document, its document, both int64 `[batch, V]`, and how many visible
    slots each document has, int64 `[batch, D]`; `visible` is bool `[batch, V]`.
    """
    slots = torch.arange(visible.shape[1], device=visible.device).expand_as(visible)
    if layout.documents is None:
        return slots, torch.zeros_like(slots), visible.sum(dim=1, keepdim=True)
    documents = layout.slot_documents
    sizes = document_sizes(visible, documents, layout.lengths)
    return slots - (sizes.cumsum(dim=1) - sizes).gather(1, documents), documents, sizes


class TokenConvolution(nn.Module):
    """
    Depthwise convolution over the visible tokens of a document, between two projections (QANet, arXiv 1804.09541, has
    such layers in the place of recurrence). It is no attention; it only stands where attention stands.
    """

    reads_queries = True

    def __init__(self, config: PreTrainedConfig, width: int, key_width: int | None):
        super().__init__()
        self.in_proj = nn.Linear(width, width, bias=False)
        self.taps = nn.Parameter(torch.empty(config.conv_kernel_size, width))
        self.out_proj = ResidualLinear(width, width)

    def forward(
        self, hidden_states: torch.Tensor, key_value_states: None, neighbours: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """
        Args:
            hidden_states: `[batch, V, width]`.
            neighbours: bool `[batch, V, conv_kernel_size]`, which of the slots around each one count.

        Returns:
            `[batch, V, width]`, and no weights.
        """
        reach = self.taps.shape[0] // 2
        states = nn.functional.pad(self.in_proj(hidden_states), (0, 0, reach, reach))
        around = states.unfold(1, self.taps.shape[0], 1) * neighbours.unsqueeze(2)
        return self.out_proj((around * self.taps.T).sum(dim=-1).to(hidden_states.dtype)), None


def read_window(config: PreTrainedConfig, layout: TokenLayout, stream: Stream) -> dict[str, Any]:
    """A window of `local_attention` visible tokens around each one."""
    return read_neighbours(stream, config.local_attention, takes_documents(config), layout.positions.device)


def local_mixing(config: PreTrainedConfig, layout: TokenLayout, stream: Stream) -> Turns:
    """Sliding windows of `local_attention` visible tokens."""
    return [read_window(config, layout, stream)]


def shifted_mixing(config: PreTrainedConfig, layout: TokenLayout, stream: Stream) -> Turns:
    """Blocks of `local_attention` visible tokens, in every other layer shifted by half a block (Swin, 2103.14030)."""
    visible, width = layout.visible(stream.batch), config.local_attention
    rank, documents, _ = rank_slots(layout, visible)
    cells = [documents * (visible.shape[1] + 1) + (rank + shift) // width for shift in (0, width // 2)]
    return [{"windows": self_windows(visible, 2 * width, cell)} for cell in cells]


def convolution_mixing(config: PreTrainedConfig, layout: TokenLayout, stream: Stream) -> Turns:
    """The slots around each one that hold visible tokens of its document."""
    visible, documents = layout.visible(stream.batch), stream.documents
    around = (config.conv_kernel_size // 2,) * 2
    neighbours = nn.functional.pad(visible, around).unfold(1, config.conv_kernel_size, 1)
    if documents is not None:
        near = nn.functional.pad(documents, around).unfold(1, config.conv_kernel_size, 1)
        neighbours = neighbours & (near == documents.unsqueeze(-1))
    return [{"neighbours": neighbours}]


class TokenMixer(NamedTuple):
    """
    How tokens see their neighbours.

    Attributes:
        module: what stands in the block.
        arguments: from configuration, layout and its stream to arguments that the layers take in turns.
    """

    module: type[nn.Module]
    arguments: Callable[[PreTrainedConfig, TokenLayout, Stream], Turns]


TOKEN_MIXERS: dict[str, TokenMixer] = {
    "local": TokenMixer(ConceptAttention, local_mixing),
    "shifted": TokenMixer(ConceptAttention, shifted_mixing),
    "conv": TokenMixer(TokenConvolution, convolution_mixing),
}


def mixing_arguments(config: PreTrainedConfig, layout: TokenLayout, batch: int) -> tuple[Stream, Turns]:
    """The slots of `batch` rows as attention takes them, and arguments of the layers that mix them."""
    stream = layout.stream(batch)
    # CODEPATH: `perceiver_v1` never mixes tokens; every other preset does.
    if config.token_mixer == "none" or config.num_token_layers + config.num_interleaved_token_layers == 0:
        return stream, []
    return stream, TOKEN_MIXERS[config.token_mixer].arguments(config, layout, stream)


def token_layer(config: PreTrainedConfig) -> ConceptBlock:
    """A block that mixes tokens as `config.token_mixer` says, and a gated MLP."""
    width, inner = config.token_hidden_size, config.token_intermediate_size
    return ConceptBlock(config, width, inner_width=inner, mixer=TOKEN_MIXERS[config.token_mixer].module)


class SlotPairs(NamedTuple):
    """
    Neighbouring visible slots of a document, taken two and two.

    Attributes:
        target: int64 `[batch, V]`, the new slot of every slot.
        visible: bool `[batch, V]`, slots that have one.
        num_slots: how many new slots there are, used or not.
    """

    target: torch.Tensor
    visible: torch.Tensor
    num_slots: int

    def mean(self, states: torch.Tensor) -> torch.Tensor:
        """The means of pairs: `[batch, V, width]` to `[batch, num_slots, width]`, zeros in unused slots."""
        return segment_means(states, self.target, self.num_slots, self.visible)


def pair_slots(layout: TokenLayout, batch: int) -> tuple[SlotPairs, TokenLayout]:
    """Pair the slots of a layout of `batch` rows. Returns the pairs and the layout of the new slots."""
    visible = layout.visible(batch)
    rank, documents, sizes = rank_slots(layout, visible)
    halves = (sizes + 1) // 2
    count = (visible.shape[1] + sizes.shape[1]) // 2
    starts = (halves.cumsum(dim=1) - halves).gather(1, documents)
    pairs = SlotPairs((starts + rank // 2).clamp(max=count - 1), visible, count)
    places = layout.to_slots(layout.positions).expand(batch, -1)
    positions = pairs.mean(places.unsqueeze(-1).float()).squeeze(-1)
    slots = torch.arange(count, device=visible.device).unsqueeze(0)
    full = layout.mask is None and layout.documents is None
    mask = None if full else slots < halves.sum(dim=1, keepdim=True)
    packed = None if layout.documents is None else segment_of(slots, halves)
    return pairs, TokenLayout(layout.num_tokens, layout.longest, positions, layout.lengths, packed, None, mask)


class TokenFunnel(nn.Module):
    """
    Stages that halve the token stream (Funnel-Transformer, arXiv 2006.03236): two neighbours become one state, their
    mean, which reads the window around both of them.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        width, inner = config.token_hidden_size, config.token_intermediate_size
        self.blocks = nn.ModuleList(
            [ConceptBlock(config, width, key_width=width, inner_width=inner) for _ in range(config.num_funnel_stages)]
        )

    def forward(
        self,
        tokens: torch.Tensor,
        layout: TokenLayout,
        rotate: Callable[[torch.Tensor, torch.Tensor | None], Rotation | None],
        **kwargs: Any,
    ) -> tuple[torch.Tensor, TokenLayout, list[torch.Tensor]]:
        """
        Args:
            tokens: `[batch, V, token_hidden_size]`.
            layout: of these tokens.
            rotate: `ConceptEncoder.rotate`.

        Returns:
            The short stream, its layout, and for `widen` where the slots of each stage went.
        """
        targets = []
        for block in self.blocks:
            window = read_window(self.config, layout, layout.stream(tokens.shape[0]))
            rotation = rotate(tokens, layout.to_slots(layout.positions))
            pairs, layout = pair_slots(layout, tokens.shape[0])
            queries = take(pairs.mean(tokens), pairs.target)
            read = block(queries, tokens, **window, query_rotation=rotation, key_rotation=rotation, **kwargs)
            tokens = pairs.mean(read)
            targets.append(pairs.target)
        return tokens, layout, targets

    def widen(self, tokens: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
        """The state of the short stream `[batch, new V, width]` that stands for every slot: `[batch, V, width]`."""
        for target in reversed(targets):
            tokens = take(tokens, target)
        return tokens
