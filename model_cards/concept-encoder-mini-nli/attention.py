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
"""The one attention module, dense or windowed, self or cross; its rotary positions; the one block around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from .kernels import Rotation, gated_gelu, kernels_run_on, norm_and_rotate
from .range_kernels import KeyRanges, attend_ranges, has_range_kernels

VARLEN = "varlen"
# Attention kernels of GPUs work on tiles of so many queries, whether they are there or not.
TILE = 64
# Documents of at most so many keys are faster as ranges, whose tiles hold several, than one by one.
SHORT = 256


class Stream(NamedTuple):
    """
    Where the documents of a batch of states `[batch, length, width]` lie: in each row end to end, unused slots last.

    Attributes:
        batch: rows.
        length: slots of a row.
        longest: no document has more slots.
        mask: bool `[batch, length]`, slots in use; `None` if all are.
        documents: int64 `[batch | 1, length]`, the document of every slot; `None` if every row is one document.
        sizes: int64 `[batch, D]`, slots of each document, 0 behind the last one; `None` if every row is one document
            that fills it, or if there are unused slots between used ones.
    """

    batch: int
    length: int
    longest: int
    mask: torch.Tensor | None = None
    documents: torch.Tensor | None = None
    sizes: torch.Tensor | None = None

    @property
    def is_full(self) -> bool:
        """Whether every row is one document that fills it."""
        return self.mask is None and self.documents is None

    @property
    def is_contiguous(self) -> bool:
        """Whether unused slots all lie at the end of their row."""
        return self.is_full or self.sizes is not None

    @property
    def num_unused(self) -> int:
        """How many segments of at most `longest` slots hold the unused slots of any row."""
        return -(-self.length // max(self.longest, 1))

    def starts(self, num_documents: int, num_unused: int, device: torch.device) -> torch.Tensor:
        """
        Where segments start when rows are laid end to end, and where the last one ends: int32
        `[batch * (D + U) + 1]`.

        A row has `num_documents` D of them, empty ones behind the last, and `num_unused` U that hold its unused slots:
        kernels leave out what a segment has beyond the `longest` that they are told, and do not even set it to 0.
        """
        rows = self.length * torch.arange(self.batch, device=device).unsqueeze(1)
        if self.sizes is None:
            ends = self.length * torch.ones(self.batch, num_documents + num_unused, dtype=torch.long, device=device)
        else:
            used = self.sizes.cumsum(dim=1)
            unused = used[:, -1:] + self.longest * torch.arange(1, num_unused + 1, device=device)
            ends = torch.cat([used, unused.clamp(max=self.length)], dim=1)
        return nn.functional.pad((rows + ends).flatten(), (1, 0)).to(torch.int32)


class Segments(NamedTuple):
    """
    Documents of queries and of the keys that they read, end to end without padding between them.

    Attributes:
        query_starts, key_starts: int32 `[segments + 1]`, where each document starts, and where the last one ends.
        max_queries, max_keys: no document has more.
        window: query `i` of a document reads its keys `j` with `|i - j| <= window`; `None` if it reads them all.
        ranges: the same for kernels that take it so, `[1, queries]`, where those are faster; see `with_ranges`.
    """

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    max_queries: int
    max_keys: int
    window: int | None = None
    ranges: KeyRanges | None = None


class LocalWindows(NamedTuple):
    """
    Windowed attention as dense attention over blocks of queries, so that no `[N, N]` mask ever exists.

    Attributes:
        mask: bool `[batch * blocks, 1, block, keys]`, `True` where a query may read a key.
        block: queries in a block.
        key_slots: int64 `[batch, blocks, keys]`, the slot of every key of a block. `None` where a block reads itself
            and its two neighbours, which needs no gather.
        num_queries: query slots that the blocks were made for, without those that fill the last block.
        query_slots: int64 `[batch, queries]`, the slot of each query at hand; `num_queries` throws the query away.
            `None` where there is a query for every slot, in order.
    """

    mask: torch.Tensor
    block: int
    num_queries: int
    key_slots: torch.Tensor | None = None
    query_slots: torch.Tensor | None = None


def segment_ranges(segments: Segments, num_queries: int) -> KeyRanges:
    """What each of `num_queries` queries of `segments` reads, as one stretch of keys."""
    starts, key_starts = segments.query_starts, segments.key_starts
    places = torch.arange(num_queries, dtype=starts.dtype, device=starts.device)
    # Not in `starts[1:]`: for a GPU, the compiler of PyTorch 2.11 searches from where the storage begins.
    segment = torch.searchsorted(starts, places, right=True) - 1
    first, last = key_starts[segment], key_starts[segment + 1] - 1
    if segments.window is not None:
        own = places - starts[segment] + first
        first, last = torch.maximum(first, own - segments.window), torch.minimum(last, own + segments.window)
    return KeyRanges(first.unsqueeze(0), last.unsqueeze(0))


def with_ranges(segments: Segments, num_queries: int) -> Segments:
    """`segments` with the ranges of all their queries, where kernels are there for those and are faster."""
    pays = segments.window is not None or segments.max_keys <= SHORT
    if not (pays and kernels_run_on(segments.query_starts.device)):
        return segments
    # The compiler of PyTorch 2.11 cannot return what `_replace` makes.
    return Segments(*segments[:5], ranges=segment_ranges(segments, num_queries))


def document_mask(queries: Stream, keys: Stream) -> torch.Tensor | None:
    """
    Which keys a query may read: those in use, of its own document, and the first one of the row if that is one
    document without any, so that no softmax is empty.

    Returns:
        Bool, broadcastable to `[batch, heads, queries, keys]`; `None` if a query may read every key.
    """
    mask = None
    if keys.mask is not None:
        mask = (keys.mask | (torch.arange(keys.length, device=keys.mask.device) == 0))[:, None, None]
    if queries.documents is None or keys.documents is None:
        return mask
    same = queries.documents[:, None, :, None] == keys.documents[:, None, None]
    return same if mask is None else same & mask


def read_documents(queries: Stream, keys: Stream, unpadded: bool, reverse: Segments | None = None) -> dict[str, Any]:
    """
    What tells `ConceptAttention` that queries read all the keys of their own document.

    Args:
        unpadded: whether the backend takes documents as they are, so that none needs a mask.
        reverse: how `keys` read `queries`, if that is known, which spares finding their documents again.
    """
    if keys.is_full and queries.documents is None:
        return {}
    if not (unpadded and queries.is_contiguous and keys.is_contiguous):
        return {"attention_mask": document_mask(queries, keys)}
    if reverse is None:
        sized = queries.sizes if keys.sizes is None else keys.sizes
        shape = (sized.shape[1], max(queries.num_unused, keys.num_unused), sized.device)
        query_starts = queries.starts(*shape)
        key_starts = query_starts if keys is queries else keys.starts(*shape)
    else:
        query_starts, key_starts = reverse.key_starts, reverse.query_starts
    segments = Segments(query_starts, key_starts, queries.longest, keys.longest)
    return {"segments": with_ranges(segments, queries.batch * queries.length)}


def read_neighbours(stream: Stream, window: int, unpadded: bool, device: torch.device) -> dict[str, Any]:
    """
    What tells `ConceptAttention` that slots read the slots of their own document in a window of `window` around them.

    Args:
        unpadded: as in `read_documents`.
        device: of the states.
    """
    if unpadded and stream.is_contiguous:
        documents = 1 if stream.sizes is None else stream.sizes.shape[1]
        starts = stream.starts(documents, stream.num_unused, device)
        segments = Segments(starts, starts, stream.longest, stream.longest, window // 2)
        return {"segments": with_ranges(segments, stream.batch * stream.length)}
    visible = torch.ones(stream.batch, stream.length, dtype=torch.bool, device=device)
    visible = visible if stream.mask is None else stream.mask
    return {"windows": self_windows(visible, window, stream.documents)}


def self_windows(visible: torch.Tensor, window: int, documents: torch.Tensor | None = None) -> LocalWindows:
    """
    Windows of tokens on themselves: slot `i` reads the visible slots `j` with `|i - j| <= window // 2`.

    Args:
        visible: bool `[batch, slots]`, slots that may be read. Every slot reads itself, so that no softmax is empty.
        window: width of the window in slots.
        documents: int64 `[batch, slots]`, the document of every slot, which windows do not leave; `None` if a row is
            one document.
    """
    slots = visible.shape[1]
    block = window // 2
    blocks = -(-slots // block)
    query = torch.arange(blocks * block, device=visible.device).view(blocks, block, 1)
    key = (torch.arange(3 * block, device=visible.device) - block).view(1, 1, -1) + query[:, :1]
    near = (query - key).abs() <= block
    around = (block, blocks * block - slots + block)
    readable = nn.functional.pad(visible, around).unfold(1, 3 * block, block)[:, :, None]
    if documents is not None:
        key_documents = nn.functional.pad(documents, around).unfold(1, 3 * block, block)
        query_documents = key_documents[:, :, block : 2 * block]
        readable = readable & (query_documents[..., None] == key_documents[:, :, None])
    mask = (near & readable) | (query == key)
    return LocalWindows(mask.flatten(0, 1)[:, None], block, slots)


def cross_windows(
    query_rank: torch.Tensor,
    first: torch.Tensor,
    end: torch.Tensor,
    slots: int,
    window: int,
    query_slots: torch.Tensor | None = None,
) -> LocalWindows:
    """
    Windows of queries on a sequence of keys: a query of rank `r` reads the keys `j` with `|r - j| <= window // 2`.

    Args:
        query_rank: int64 `[batch, num_queries]`, the place of each query slot among the keys; from one slot to the
            next it grows by 0 or 1, which bounds the keys of a block.
        first, end: int64 `[batch, num_queries | 1]`, the keys of the query's document: `first <= j < end`. Where
            there is none, key `first` is read, which holds zeros if the row has no other document.
        slots: key slots, used or not.
        window: width of the window in keys.
        query_slots: see `LocalWindows`.
    """
    half, num_queries = window // 2, query_rank.shape[1]
    block = half if query_rank.device.type == "cpu" else max(half, TILE)
    last = torch.maximum(end - 1, first)
    query = torch.stack(torch.broadcast_tensors(torch.minimum(query_rank, last), first, last))
    query = torch.cat([query, query[..., -1:].expand(-1, -1, -num_queries % block)], dim=-1).unflatten(-1, (-1, block))
    query_rank, first, last = query.unsqueeze(-1)
    key_rank = query_rank[:, :, 0] + torch.arange(-half, block + half, device=query_rank.device)
    key = key_rank.unsqueeze(2)
    mask = ((query_rank - key).abs() <= half) & (key >= first) & (key <= last)
    return LocalWindows(mask.flatten(0, 1)[:, None], block, num_queries, key_rank.clamp(0, slots - 1), query_slots)


def window_ranges(
    query_rank: torch.Tensor,
    first: torch.Tensor,
    end: torch.Tensor,
    slots: int,
    window: int,
    query_slots: torch.Tensor | None = None,
) -> KeyRanges:
    """The windows of `cross_windows`, whose arguments these are, as stretches of keys."""
    first = first.clamp(max=slots - 1)
    last = torch.maximum(end - 1, first)
    rank = torch.minimum(query_rank, last)
    bounds = torch.maximum(rank - window // 2, first), torch.minimum(rank + window // 2, last)
    if query_slots is not None:
        # What is no query reads with the last one, not to keep the tile that it lies in busy.
        index = query_slots.clamp(max=query_rank.shape[1] - 1)
        bounds = take(bounds[0], index), take(bounds[1], index)
    return KeyRanges(*(bound.to(torch.int32) for bound in bounds))


def take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`[batch, N, ...]` at `index` int64 `[batch, K]`: `[batch, K, ...]`."""
    index = index.view(*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def _query_blocks(states: torch.Tensor, windows: LocalWindows) -> torch.Tensor:
    """`[batch, queries, heads, dim]` to `[batch * blocks, block, heads, dim]`, zeros where there is no query."""
    if windows.query_slots is not None:
        index = windows.query_slots[..., None, None].expand_as(states)
        slots = states.new_zeros(states.shape[0], windows.num_queries + 1, *states.shape[2:])
        states = slots.scatter(1, index, states)[:, :-1]
    states = nn.functional.pad(states, (0, 0, 0, 0, 0, -states.shape[1] % windows.block))
    return states.unflatten(1, (-1, windows.block)).flatten(0, 1)


def _key_blocks(states: torch.Tensor, windows: LocalWindows) -> torch.Tensor:
    """`[batch, slots, heads, dim]` to `[batch * blocks, keys, heads, dim]`."""
    if windows.key_slots is None:
        block = windows.block
        padded = nn.functional.pad(states, (0, 0, 0, 0, block, -states.shape[1] % block + block))
        padded = padded.unflatten(1, (-1, block))
        return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2).flatten(0, 1)
    batch, blocks, keys = windows.key_slots.shape
    return take(states, windows.key_slots.view(batch, -1)).view(batch * blocks, keys, *states.shape[2:])


def _from_blocks(states: torch.Tensor, windows: LocalWindows, batch: int) -> torch.Tensor:
    """`[batch * blocks, block, width]` back to `[batch, queries, width]`."""
    states = states.reshape(batch, -1, states.shape[-1])[:, : windows.num_queries]
    if windows.query_slots is None:
        return states
    return take(states, windows.query_slots.clamp(max=windows.num_queries - 1))


class ConceptRotaryEmbedding(nn.Module):
    """Rotary embedding (RoFormer, arXiv 2104.09864) of real-valued positions; has every RoPE type of the library."""

    inv_freq: torch.Tensor

    def __init__(self, config: PreTrainedConfig, device: torch.device | None = None):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        rope_init_fn: Callable = self.compute_default_rope_parameters
        if self.rope_type != "default":
            rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = rope_init_fn(config, device)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "ConceptRotaryEmbedding":
        """As `nn.Module._apply`, but frequencies keep their type: in half precision far places would lose theirs."""
        kept = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, values in kept.items():
            moved = self.get_buffer(name)
            if moved.dtype != values.dtype:
                setattr(self, name, values.to(moved.device))
        return self

    @staticmethod
    def compute_default_rope_parameters(
        config: PreTrainedConfig, device: torch.device | None = None, seq_len: int | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, float]:
        """Inverse frequencies `[head_dim / 2]` and the attention factor of plain RoPE."""
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float, device=device) / config.head_dim
        return config.rope_parameters["rope_theta"] ** -exponent, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def fit(self, x: torch.Tensor, position_ids: torch.Tensor) -> None:
        """
        Choose the frequencies for texts with tokens at `position_ids`, of the RoPE types that have others for longer
        texts. All that is rotated until the next call has the same, or queries and keys would not fit together.

        `x` gives the device.
        """

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, fit: bool = True) -> Rotation:
        """
        Cosines and sines `[batch, length, 1, head_dim / 2]` of the angles at `position_ids` `[batch, length]`.

        `x` gives the device, and the precision if it is a higher one than float32. Without `fit` the frequencies are
        those that `fit` chose last.
        """
        if fit:
            self.fit(x, position_ids)
        # In float32 an angle at position 10^6 is off by 0.1 radian. MPS has no float64 and keeps what it has.
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        angles = position_ids[..., None].to(exact) * self.inv_freq.to(device=x.device, dtype=exact)
        angles = angles.remainder(2 * torch.pi).to(torch.promote_types(x.dtype, torch.float32)).unsqueeze(2)
        # A compiler works out cosines anew in every kernel that reads them, and does not look into complex numbers.
        turns = torch.polar(torch.full_like(angles, self.attention_scaling), angles)
        cos, sin = torch.view_as_real(turns).movedim(-1, 0).contiguous()
        return cos, sin


def attend(
    module: nn.Module,
    logits: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    From `logits` `[batch, heads, queries, keys]` to the output `[batch, queries, heads, head_dim]` and the weights.
    """
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask, torch.finfo(logits.dtype).min)
    weights = nn.functional.softmax(logits, dim=-1, dtype=torch.promote_types(value.dtype, torch.float32))
    weights = nn.functional.dropout(weights.to(value.dtype), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Attention in plain operations: `[batch, heads, queries, head_dim]` on `[batch, heads, keys, head_dim]`.

    Returns the output `[batch, queries, heads, head_dim]` and the weights `[batch, heads, queries, keys]`.
    """
    return attend(module, torch.matmul(query, key.transpose(2, 3)) * scaling, value, attention_mask, dropout)


def _attend_neighbours(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int | None
) -> torch.Tensor:
    """Attention `[heads, length, head_dim]` of one document, in windows if `window` is given."""
    queries, keys = query.shape[1], key.shape[1]
    if keys == 0:
        return query * 0
    if window is None:
        return nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
    parts, step = [], max(window, TILE)
    for start in range(0, queries, step):
        first, end = max(start - window, 0), min(start + step + window, keys)
        block = query[:, start : start + step]
        places = torch.arange(start, start + block.shape[1], device=query.device)
        near = (places[:, None] - torch.arange(first, end, device=query.device)).abs() <= window
        near_key, near_value = key[:, first:end], value[:, first:end]
        parts.append(
            nn.functional.scaled_dot_product_attention(block, near_key, near_value, attn_mask=near, scale=scaling)
        )
    return torch.cat(parts, dim=1)


def _attend_segments(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scaling: float
) -> torch.Tensor:
    """Attention of `[length, heads, head_dim]`, document after document."""
    query, key, value = (states.transpose(0, 1) for states in (query, key, value))
    lengths = (starts.diff().tolist() for starts in (segments.query_starts, segments.key_starts))
    queries, keys = lengths
    parts = zip(query.split(queries, dim=1), key.split(keys, dim=1), value.split(keys, dim=1), strict=True)
    outputs = [_attend_neighbours(*part, scaling, segments.window) for part in parts if part[0].shape[1] > 0]
    return torch.cat(outputs, dim=1).transpose(0, 1)


def _attend_segments_on_gpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scaling: float
) -> torch.Tensor:
    """As `_attend_segments`, in one kernel."""
    return varlen_kernel(query, key, value, segments, scaling)[0]


def varlen_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output `[length, heads, head_dim]` and the logarithm of every softmax's denominator `[heads, length]`."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    if query.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"attn_implementation={VARLEN!r} computes in half precision on a GPU, not in {query.dtype}: load the "
            "model with dtype=torch.bfloat16, use autocast (--bf16), or set attn_implementation='sdpa'."
        )
    reach = -1 if segments.window is None else segments.window
    aux, window = AuxRequest(lse=True), (reach, reach)
    return varlen_attn(query, key, value, *segments[:4], return_aux=aux, scale=scaling, window_size=window)


def num_key_parts(query: torch.Tensor, key: torch.Tensor) -> int:
    """
    Into how many parts to split the keys of `[batch, heads, keys, head_dim]` so that few queries keep a GPU busy.

    Its kernels take tiles of queries side by side and all their keys one after the other. One part where gradients
    are wanted, which have no use for more.
    """
    if torch.is_grad_enabled() or not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return 1
    batch, heads, queries, _ = query.shape
    idle = torch.cuda.get_device_properties(query.device).multi_processor_count // (batch * heads * -(-queries // 128))
    return max(min(idle, key.shape[2] // 2048), 1)


def attend_in_parts(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    parts: int,
    kernel: Callable = varlen_kernel,
) -> torch.Tensor:
    """
    Attention on `parts` of the keys, put together by the sums behind their softmaxes (Flash-Decoding).

    Args:
        query: `[batch, heads, queries, head_dim]`; `key` and `value` alike.
        kernel: as `varlen_kernel`.

    Returns:
        `[batch, queries, heads, head_dim]`.
    """
    (batch, _, queries, _), keys = query.shape, key.shape[2]
    bounds = torch.arange(batch * parts + 1, device=query.device)
    starts = ((bounds * queries).int(), (bounds * keys // parts).int())
    segments = Segments(*starts, queries, -(-keys // parts))
    rows = query.transpose(1, 2).unsqueeze(1).expand(-1, parts, -1, -1, -1).flatten(0, 2)
    flat = (states.transpose(1, 2).flatten(0, 1) for states in (key, value))
    output, log_sums = kernel(rows, *flat, segments, scaling)
    weights = log_sums.T.unflatten(0, (batch, parts, queries)).softmax(dim=1).unsqueeze(-1)
    return (output.unflatten(0, (batch, parts, queries)) * weights).sum(dim=1).to(query.dtype)


def varlen_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    segments: Segments | None = None,
    ranges: KeyRanges | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Attention within documents that lie end to end, without padding and without a mask.

    Shapes as in `eager_attention_forward`, with batches laid end to end (`batch` is 1) where `segments` are given: on
    CUDA one flash kernel, or that of `ranges` where it is faster, elsewhere document by document. Without segments and
    ranges SDPA.

    Raises:
        `ValueError`: for dropout, and on CUDA in other than half precision.
    """
    if segments is not None and has_range_kernels(query.device, query.dtype, query.shape[-1]):
        ranges = segments.ranges
    is_dense = segments is None and ranges is None
    if is_dense and attention_mask is None and (parts := num_key_parts(query, key)) > 1:
        return attend_in_parts(query, key, value, scaling, parts), None
    if is_dense:
        attend_densely = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return attend_densely(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    if dropout > 0:
        raise ValueError(f"attn_implementation={VARLEN!r} has no dropout (attention_dropout={dropout}); 'sdpa' has.")
    if ranges is not None:
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        return attend_ranges(query, key, value, ranges, scaling), None
    attend_documents = _attend_segments_on_gpu if query.is_cuda else _attend_segments
    query, key, value = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    return attend_documents(query, key, value, segments, scaling).unsqueeze(0), None


AttentionInterface.register(VARLEN, varlen_attention_forward)


def slot_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Slot attention (arXiv 2006.15055, eq. 1-2): queries compete for each key, then average over the keys they won.

    Shapes as in `eager_attention_forward`. A query that reads no key gets zeros.
    """
    logits = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask, torch.finfo(logits.dtype).min)
    shares = nn.functional.softmax(logits, dim=-2, dtype=torch.promote_types(query.dtype, torch.float32))
    if attention_mask is not None:
        shares = shares * attention_mask
    weights = shares / (shares.sum(dim=-1, keepdim=True) + module.config.norm_eps)
    weights = nn.functional.dropout(weights.to(query.dtype), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def contextual_positions(gates: torch.Tensor) -> torch.Tensor:
    """
    How many open gates lie between two states: the distances of CoPE (arXiv 2405.18719, eq. 4), in both directions.

    `gates` `[..., length, length]`, how far state `j` counts for query `i`. Entry `[i, j]` of the result is the sum of
    the gates of query `i` from `j` to `i`, both ends included.
    """
    upto = gates.cumsum(dim=-1)
    own, upto_own = (values.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) for values in (gates, upto))
    index = torch.arange(gates.shape[-1], device=gates.device)
    before = index <= index[:, None]
    return torch.where(before, upto_own - upto + gates, upto - upto_own + own)


def contextual_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Self-attention with contextual position encoding (CoPE, arXiv 2405.18719): a state is found by its content and by
    how many states that the query counts lie before it. `module.distances` holds the vectors of whole distances, first
    those to the left; the furthest serves everything beyond. Shapes as in `eager_attention_forward`.
    """
    logits = torch.matmul(query, key.transpose(2, 3)) * scaling
    # Sums of many gates need float32 where the logits have less.
    gates = logits.sigmoid().to(torch.promote_types(logits.dtype, torch.float32))
    gates = gates if attention_mask is None else gates * attention_mask
    furthest = module.distances.shape[1] // 2 - 1
    distance = contextual_positions(gates).clamp(max=furthest)
    index = torch.arange(key.shape[2], device=key.device)
    offset = (furthest + 1) * (index > index[:, None])
    near = distance.floor()
    by_distance = torch.matmul(query, module.distances.to(query.dtype))
    low = by_distance.gather(-1, near.long() + offset)
    high = by_distance.gather(-1, distance.ceil().long() + offset)
    between = torch.lerp(low, high, (distance - near).to(low.dtype))
    return attend(module, logits + between, value, attention_mask, dropout)


class HeadLayerNorm(nn.LayerNorm):
    """Layer norm of every head, without bias (ViT-22B, arXiv 2302.05442), which also turns by positions."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config.head_dim, eps=config.norm_eps, bias=False)

    def forward(self, states: torch.Tensor, rotation: Rotation | None, dtype: torch.dtype) -> torch.Tensor:
        """`[batch, length, heads, head_dim]` to the same in `dtype`; see `norm_and_rotate`."""
        cos, sin = rotation or (None, None)
        return norm_and_rotate(states, self.weight, cos, sin, self.eps, dtype)


class ResidualLinear(nn.Linear):
    """
    A linear layer whose output is added to a residual stream, which its initialisation depends on.

    It is a class of its own since transformers initialises, of code that is not its own, only modules that hold
    parameters themselves.
    """

    starts_at_zero = False

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)


class ConceptAttention(nn.Module):
    """
    Multi-head attention of `width`-wide queries on `key_width`-wide keys, through the library's attention interface.

    Queries and keys are layer-normalised per head if `config.qk_norm` (ViT-22B, arXiv 2302.05442). There are no
    biases, so states of zeros have keys and values of zeros. `forced_interface` is a way to attend that no backend has
    and that is used whatever the backend.
    """

    reads_queries = True
    forced_interface: Callable | None = None

    def __init__(self, config: PreTrainedConfig, width: int, key_width: int | None):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        self.q_proj = None if key_width is None else nn.Linear(width, width, bias=False)
        self.kv_proj = None if key_width is None else nn.Linear(key_width, 2 * width, bias=False)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False) if key_width is None else None
        self.o_proj = ResidualLinear(width, width)
        self.q_norm, self.k_norm = None, None
        # CODEPATH: `perceiver_v1` has no query-key norm, every other preset does.
        if config.qk_norm:
            self.q_norm, self.k_norm = HeadLayerNorm(config), HeadLayerNorm(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        windows: LocalWindows | KeyRanges | None = None,
        segments: Segments | None = None,
        query_rotation: Rotation | None = None,
        key_rotation: Rotation | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: `[batch, queries, width]`.
            key_value_states: `[batch, keys, key_width]`; `None` is self-attention.
            attention_mask: bool, `True` where a query may read, broadcastable to `[batch, 1, queries, keys]`.
            windows: reads are confined to these windows; takes the place of `attention_mask`. Of `KeyRanges` a backend
                has to know by itself.
            segments: reads are confined to these documents of all rows laid end to end; takes the place of both.
            query_rotation, key_rotation: from `ConceptRotaryEmbedding`, or `None` for states without a position.

        Returns:
            The output `[batch, queries, width]`, and the weights where the backend gives them.
        """
        query, key, value = self._project(hidden_states, key_value_states)
        query = self.place(query, self.q_norm, query_rotation, value.dtype)
        key = self.place(key, self.k_norm, key_rotation, value.dtype)
        if segments is not None:
            query, key, value = (states.flatten(0, 1).unsqueeze(0) for states in (query, key, value))
            kwargs["segments"] = segments
        elif isinstance(windows, KeyRanges):
            kwargs["ranges"] = windows
        elif windows is not None:
            query = _query_blocks(query, windows)
            key, value = _key_blocks(key, windows), _key_blocks(value, windows)
            attention_mask = windows.mask
        attention_interface: Callable = self.forced_interface or ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention_interface(
            self,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        output = output.flatten(2)
        if segments is not None:
            output = output.view(hidden_states.shape)
        elif isinstance(windows, LocalWindows):
            output = _from_blocks(output, windows, hidden_states.shape[0])
        return self.o_proj(output), weights

    def place(
        self, states: torch.Tensor, norm: nn.Module | None, rotation: Rotation | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """Normalise queries or keys `[batch, length, heads, head_dim]` and turn them by their positions."""
        if norm is not None:
            return norm(states, rotation, dtype)
        cos, sin = rotation or (None, None)
        return norm_and_rotate(states, None, cos, sin, self.config.norm_eps, dtype)

    def _project(
        self, hidden_states: torch.Tensor, key_value_states: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries `[batch, queries, heads, head_dim]`, keys and values `[batch, keys, heads, head_dim]`."""
        if self.qkv_proj is not None:
            return self.qkv_proj(hidden_states).unflatten(-1, (3, -1, self.head_dim)).unbind(dim=-3)
        query = self.q_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        return query, *self.kv_proj(key_value_states).unflatten(-1, (2, -1, self.head_dim)).unbind(dim=-3)


class SlotAttention(ConceptAttention):
    """Attention in which queries compete for keys."""

    forced_interface = staticmethod(slot_attention_forward)


class ContextualAttention(ConceptAttention):
    """Self-attention with contextual position encoding, up to `config.cope_distances` in either direction."""

    forced_interface = staticmethod(contextual_attention_forward)

    def __init__(self, config: PreTrainedConfig, width: int, key_width: int | None):
        super().__init__(config, width, key_width)
        self.distances = nn.Parameter(torch.empty(self.head_dim, 2 * config.cope_distances))


def takes_documents(config: PreTrainedConfig, mixer: type[nn.Module] = ConceptAttention) -> bool:
    """Whether `mixer` is told of documents by `Segments`: attention that leaves the way to attend to a backend."""
    free = issubclass(mixer, ConceptAttention) and mixer.forced_interface is None
    return free and config._attn_implementation == VARLEN


class ConceptMLP(nn.Module):
    """Gated feed-forward network (GEGLU, arXiv 2002.05202)."""

    def __init__(self, config: PreTrainedConfig, width: int, inner_width: int):
        super().__init__()
        self.gate_up_proj = nn.Linear(width, 2 * inner_width, bias=False)
        self.down_proj = ResidualLinear(inner_width, width)
        self.act_fn = ACT2FN[config.hidden_activation]
        self.is_gelu = config.hidden_activation == "gelu_pytorch_tanh"

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[..., width]` to `[..., width]`."""
        gate_up = self.gate_up_proj(hidden_states)
        if self.is_gelu:
            return self.down_proj(gated_gelu(gate_up))
        gate, up = gate_up.chunk(2, dim=-1)
        return self.down_proj(self.act_fn(gate) * up)


class ConceptBlock(GradientCheckpointingLayer):
    """
    The one block: pre-norm attention, or what `mixer` puts in its place, then a pre-norm gated MLP if `inner_width` is
    given.

    Token layers, concept layers, reads, write-back and decoder differ only in whom they attend to.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        width: int,
        key_width: int | None = None,
        inner_width: int | None = None,
        mixer: type[nn.Module] = ConceptAttention,
    ):
        super().__init__()
        self.attention_norm = nn.Identity()
        # CODEPATH: no preset has the one mixer that does not look at its queries, the static mixture of the decoder.
        if mixer.reads_queries:
            self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps, bias=False)
        self.key_norm = nn.LayerNorm(key_width, eps=config.norm_eps, bias=False) if key_width else None
        self.attention = mixer(config, width, key_width)
        self.mlp_norm = nn.LayerNorm(width, eps=config.norm_eps, bias=False) if inner_width else None
        self.mlp = ConceptMLP(config, width, inner_width) if inner_width else None
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        in_use: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: `[batch, queries, width]`.
            key_value_states: `[batch, keys, key_width]`, given exactly if the block was built with `key_width`.
            residual: what the attention output is added to, if not `hidden_states`.
            in_use: bool `[batch, queries]`; nothing is added to the others. `None` if all are in use.

        Returns:
            New states `[batch, queries, width]`. Other arguments go to `ConceptAttention`.
        """
        residual = hidden_states if residual is None else residual
        keys = None if self.key_norm is None else self.key_norm(key_value_states)
        attended, _ = self.attention(self.attention_norm(hidden_states), keys, **kwargs)
        attended = attended if in_use is None else attended * in_use.unsqueeze(-1)
        hidden_states = residual + self.dropout(attended)
        if self.mlp is not None:
            hidden_states = hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))
        return hidden_states
