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
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Rotation = tuple[torch.Tensor, torch.Tensor]


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


def document_mask(
    keys: torch.Tensor | None, query_documents: torch.Tensor | None, key_documents: torch.Tensor | None
) -> torch.Tensor | None:
    """
    Which keys a query may read: those in use, of its own document.

    Args:
        keys: bool `[batch, keys]`, keys in use; `None` if all are.
        query_documents: int64 `[batch | 1, queries]`, `None` if every row is one document.
        key_documents: int64 `[batch | 1, keys]`, `None` if every row is one document.

    Returns:
        Bool, broadcastable to `[batch, heads, queries, keys]`; `None` if a query may read every key.
    """
    mask = None if keys is None else keys[:, None, None]
    if query_documents is None or key_documents is None:
        return mask
    same = query_documents[:, None, :, None] == key_documents[:, None, None]
    return same if mask is None else same & mask


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
    last = torch.maximum(end - 1, first)
    query = torch.stack(torch.broadcast_tensors(torch.minimum(query_rank, last), first, last))
    query = torch.cat([query, query[..., -1:].expand(-1, -1, -num_queries % half)], dim=-1).unflatten(-1, (-1, half))
    query_rank, first, last = query.unsqueeze(-1)
    key_rank = query_rank[:, :, 0] + torch.arange(-half, 2 * half, device=query_rank.device)
    key = key_rank.unsqueeze(2)
    mask = ((query_rank - key).abs() <= half) & (key >= first) & (key <= last)
    return LocalWindows(mask.flatten(0, 1)[:, None], half, num_queries, key_rank.clamp(0, slots - 1), query_slots)


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

    @staticmethod
    def compute_default_rope_parameters(
        config: PreTrainedConfig, device: torch.device | None = None, seq_len: int | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, float]:
        """Inverse frequencies `[head_dim / 2]` and the attention factor of plain RoPE."""
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float, device=device) / config.head_dim
        return config.rope_parameters["rope_theta"] ** -exponent, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Rotation:
        """
        Cosines and sines `[batch, length, 1, head_dim]` of the angles at `position_ids` `[batch, length]`.

        `x` gives the device, and the precision if it is a higher one than float32.
        """
        # In float32 an angle at position 10^6 is off by 0.1 radian. MPS has no float64 and keeps what it has.
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        angles = position_ids[..., None].to(exact) * self.inv_freq.to(device=x.device, dtype=exact)
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(2)
        dtype = torch.promote_types(x.dtype, torch.float32)
        return (angles.cos() * self.attention_scaling).to(dtype), (angles.sin() * self.attention_scaling).to(dtype)


def rotate(states: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
    """Turn `[batch, length, heads, head_dim]` by its positions; states without positions (`None`) stay as they are."""
    if rotation is None:
        return states
    cos, sin = rotation
    first, second = states.chunk(2, dim=-1)
    return (states * cos + torch.cat((-second, first), dim=-1) * sin).to(states.dtype)


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
    gates = logits.sigmoid()
    gates = gates if attention_mask is None else gates * attention_mask
    furthest = module.distances.shape[1] // 2 - 1
    distance = contextual_positions(gates).clamp(max=furthest)
    index = torch.arange(key.shape[2], device=key.device)
    offset = (furthest + 1) * (index > index[:, None])
    near = distance.floor()
    by_distance = torch.matmul(query, module.distances.to(query.dtype))
    low = by_distance.gather(-1, near.long() + offset)
    high = by_distance.gather(-1, distance.ceil().long() + offset)
    return attend(module, logits + torch.lerp(low, high, distance - near), value, attention_mask, dropout)


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

    def __init__(self, config: PreTrainedConfig, width: int, key_width: int):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(key_width, width, bias=False)
        self.v_proj = nn.Linear(key_width, width, bias=False)
        self.o_proj = ResidualLinear(width, width)
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        # CODEPATH: `perceiver_v1` has no query-key norm, every other preset does.
        if config.qk_norm:
            self.q_norm = nn.LayerNorm(self.head_dim, eps=config.norm_eps, bias=False)
            self.k_norm = nn.LayerNorm(self.head_dim, eps=config.norm_eps, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        windows: LocalWindows | None = None,
        query_rotation: Rotation | None = None,
        key_rotation: Rotation | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: `[batch, queries, width]`.
            key_value_states: `[batch, keys, key_width]`; `None` is self-attention.
            attention_mask: bool, `True` where a query may read, broadcastable to `[batch, 1, queries, keys]`.
            windows: reads are confined to these windows; takes the place of `attention_mask`.
            query_rotation, key_rotation: from `ConceptRotaryEmbedding`, or `None` for states without a position.

        Returns:
            The output `[batch, queries, width]`, and the weights where the backend gives them.
        """
        keys_from = hidden_states if key_value_states is None else key_value_states
        split = (-1, self.head_dim)
        query = rotate(self.q_norm(self.q_proj(hidden_states).unflatten(-1, split)), query_rotation)
        key = rotate(self.k_norm(self.k_proj(keys_from).unflatten(-1, split)), key_rotation)
        value = self.v_proj(keys_from).unflatten(-1, split)
        if windows is not None:
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
        if windows is not None:
            output = _from_blocks(output, windows, hidden_states.shape[0])
        return self.o_proj(output), weights


class SlotAttention(ConceptAttention):
    """Attention in which queries compete for keys."""

    forced_interface = staticmethod(slot_attention_forward)


class ContextualAttention(ConceptAttention):
    """Self-attention with contextual position encoding, up to `config.cope_distances` in either direction."""

    forced_interface = staticmethod(contextual_attention_forward)

    def __init__(self, config: PreTrainedConfig, width: int, key_width: int):
        super().__init__(config, width, key_width)
        self.distances = nn.Parameter(torch.empty(self.head_dim, 2 * config.cope_distances))


class ConceptMLP(nn.Module):
    """Gated feed-forward network (GEGLU, arXiv 2002.05202)."""

    def __init__(self, config: PreTrainedConfig, width: int, inner_width: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner_width, bias=False)
        self.up_proj = nn.Linear(width, inner_width, bias=False)
        self.down_proj = ResidualLinear(inner_width, width)
        self.act_fn = ACT2FN[config.hidden_activation]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[..., width]` to `[..., width]`."""
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


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
        self.attention = mixer(config, width, key_width or width)
        self.mlp_norm = nn.LayerNorm(width, eps=config.norm_eps, bias=False) if inner_width else None
        self.mlp = ConceptMLP(config, width, inner_width) if inner_width else None
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: `[batch, queries, width]`.
            key_value_states: `[batch, keys, key_width]`, given exactly if the block was built with `key_width`.
            residual: what the attention output is added to, if not `hidden_states`.

        Returns:
            New states `[batch, queries, width]`. Other arguments go to `ConceptAttention`.
        """
        residual = hidden_states if residual is None else residual
        keys = None if self.key_norm is None else self.key_norm(key_value_states)
        attended, _ = self.attention(self.attention_norm(hidden_states), keys, **kwargs)
        hidden_states = residual + self.dropout(attended)
        if self.mlp is not None:
            hidden_states = hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))
        return hidden_states
