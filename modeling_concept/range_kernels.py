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
# What Triton compiles has types of its own.
# mypy: allow-untyped-defs, allow-incomplete-defs
"""
Attention of queries that each read a stretch of keys: Triton kernels, forward and backward.

They are Flash Attention (arXiv 2205.14135; backward pass as in 2307.08691) whose tiles of queries visit the keys that
one of them reads, and no others.
"""

import re
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils.import_utils import is_triton_available

from .kernels import kernels_run_on

DTYPES = (torch.bfloat16, torch.float16)
# Matrix products of Triton want so many channels at least; registers hold so many at most.
HEAD_DIMS = (16, 32, 64, 128)
# Begins no range.
NO_KEY = 2**31 - 1
# Queries and keys of a tile.
QUERY_TILE = 64
KEY_TILE = 32
# Tiles that are on their way at a time, where shared memory holds so many; also Triton's default.
STAGES = 3
# Of shared memory, for what is no tile.
SPARE_BYTES = 8192


class KeyRanges(NamedTuple):
    """
    The keys that queries read.

    Attributes:
        first, last: int32 `[batch, queries]`; query `i` reads the keys `first[i] <= j <= last[i]` of its row, which
            may be none, from 0 on. Any order is right; queries side by side that read keys side by side are fast.
    """

    first: torch.Tensor
    last: torch.Tensor


def has_range_kernels(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """
    Whether `attend_ranges` can attend there, in heads of `head_dim` and `dtype`; it wants a GPU of Ampere or later, as
    flash attention does.
    """
    return kernels_run_on(device) and dtype in DTYPES and head_dim in HEAD_DIMS


def attend_ranges(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ranges: KeyRanges, scaling: float
) -> torch.Tensor:
    """
    Softmax attention of every query on the keys of its range; zeros where that is empty.

    It computes in float32 what it does not multiply as matrices. Its gradients are deterministic, but have no
    gradients themselves.

    Args:
        query: `[batch, queries, heads, head_dim]`.
        key, value: `[batch, keys, heads, head_dim]`, of any strides.
        scaling: factor of the products of queries and keys.

    Returns:
        `[batch, queries, heads, head_dim]`.
    """
    return attend_ranges_in_triton(query, key, value, *ranges, scaling)[0]


def num_stages(shared_bytes: int, head_dim: int) -> int:
    """How many tiles to have on their way, by bytes of shared memory; heads of 128: 3 on an A100, 2 on an RTX 4090."""
    row = torch.bfloat16.itemsize * head_dim
    # The kernel that needs most keeps a tile of keys and of values, and loads one of queries and of gradients.
    fit = (shared_bytes - SPARE_BYTES - 2 * KEY_TILE * row) // (2 * QUERY_TILE * row)
    return min(max(fit, 1), STAGES)


def query_tiles(ranges: KeyRanges, num_keys: int) -> torch.Tensor:
    """
    Which tiles of queries read a tile of keys: int32 `[batch, key tiles, 2]`, the first of them and the one behind the
    last, both 0 if there is none.

    They are found among all pairs of tiles, 33 million for a batch of 262,144 tokens.
    """
    queries = ranges.first.shape[1]
    fill = max(-(-queries // QUERY_TILE), 1) * QUERY_TILE - queries
    low = nn.functional.pad(ranges.first, (0, fill), value=NO_KEY).unflatten(1, (-1, QUERY_TILE)).amin(dim=2)
    high = nn.functional.pad(ranges.last, (0, fill), value=-1).unflatten(1, (-1, QUERY_TILE)).amax(dim=2)
    begin = torch.arange(0, num_keys, KEY_TILE, device=low.device).unsqueeze(1)
    reads = (low.unsqueeze(1) < begin + KEY_TILE) & (high.unsqueeze(1) >= begin)
    tiles = torch.arange(reads.shape[2], dtype=torch.int32, device=low.device)
    # Not by `argmax`, of which a compiler made one that does not find the first.
    first, last = tiles.where(reads, len(tiles)).amin(dim=2), tiles.where(reads, -1).amax(dim=2)
    return torch.stack((torch.minimum(first, last + 1), last + 1), dim=2)


if is_triton_available():
    import triton
    import triton.language as tl
    from torch.library import triton_op, wrap_triton

    # Kernels compute powers of 2.
    LOG2_E = tl.constexpr(1.4426950408889634)

    @triton.jit
    def _offsets(rows, stride, WIDTH: tl.constexpr):
        """Of the `WIDTH` channels of `rows`; in 64 bits, for batches of any length."""
        return (rows.to(tl.int64) * stride)[:, None] + tl.arange(0, WIDTH)[None, :]

    @triton.jit
    def _rows(pointer, rows, mask, stride, WIDTH: tl.constexpr):
        """Rows of `WIDTH` channels, zeros where there is none."""
        return tl.load(pointer + _offsets(rows, stride, WIDTH), mask=mask[:, None], other=0.0)

    @triton.jit
    def _store_rows(pointer, rows, mask, stride, values, WIDTH: tl.constexpr):
        tl.store(pointer + _offsets(rows, stride, WIDTH), values, mask=mask[:, None])

    @triton.jit
    def _queries(tile, batch, num_queries, QUERIES: tl.constexpr):
        """
        The queries of a tile of row `batch`: their numbers, whether there are such, and their rows in the batch.

        Pointers stay out of here: PyTorch takes what a function is given for part of what it returns, and a pointer
        that is part of where something is stored for one that is written to, which it then copies in every step.
        """
        queries = tile * QUERIES + tl.arange(0, QUERIES)
        return queries, queries < num_queries, batch * num_queries + queries

    @triton.jit
    def _bounds(first, last, rows, mask, num_keys):
        """The ranges of queries, which end in their row and of those that do not exist are empty."""
        low, high = tl.load(first + rows, mask=mask, other=num_keys), tl.load(last + rows, mask=mask, other=-1)
        return low, tl.minimum(high, num_keys - 1)

    @triton.jit
    def _place(number, TILE: tl.constexpr):
        """
        The tile of a program and its row and head, by number: tiles of `TILE` of `number` follow one another.

        The grid has one dimension, since others end at 65,535.
        """
        tiles = tl.cdiv(number, TILE)
        return tl.program_id(0) % tiles, tl.program_id(0) // tiles

    @triton.jit
    def _attention_kernel(
        output,
        log_sums,
        query,
        query_token,
        query_head,
        key,
        key_token,
        key_head,
        value,
        value_token,
        value_head,
        first,
        last,
        num_queries,
        num_keys,
        SCALE: tl.constexpr,
        HEADS: tl.constexpr,
        DIM: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
    ):
        """A program has a tile of the queries of a row and a head."""
        tile, row = _place(num_queries, QUERIES)
        batch, head = row // HEADS, row % HEADS
        queries, there, rows = _queries(tile, batch, num_queries, QUERIES)
        low, high = _bounds(first, last, rows, there, num_keys)
        states = _rows(query + head * query_head, rows, there, query_token, DIM)
        highest = tl.full((QUERIES,), -1e30, dtype=tl.float32)
        total = tl.zeros((QUERIES,), dtype=tl.float32)
        mixed = tl.zeros((QUERIES, DIM), dtype=tl.float32)
        end = tl.max(high, axis=0) + 1
        for start in range(tl.min(low, axis=0), end, KEYS):
            keys = start + tl.arange(0, KEYS)
            known, key_rows = keys < end, batch * num_keys + keys
            key_states = _rows(key + head * key_head, key_rows, known, key_token, DIM)
            logits = tl.dot(states, tl.trans(key_states)) * (SCALE * LOG2_E)
            seen = (keys[None, :] >= low[:, None]) & (keys[None, :] <= high[:, None])
            logits = tl.where(seen, logits, float("-inf"))
            higher = tl.maximum(highest, tl.max(logits, axis=1))
            weights = tl.exp2(logits - higher[:, None])
            shrink = tl.exp2(highest - higher)
            values = _rows(value + head * value_head, key_rows, known, value_token, DIM)
            total = total * shrink + tl.sum(weights, axis=1)
            mixed = mixed * shrink[:, None] + tl.dot(weights.to(values.dtype), values)
            highest = higher
        mean = mixed / tl.where(total > 0, total, 1.0)[:, None]
        _store_rows(output + head * DIM, rows, there, HEADS * DIM, mean, DIM)
        tl.store(log_sums + row * num_queries + queries, highest + tl.log2(total), mask=there)

    @triton.jit
    def _attention_query_grad_kernel(
        query_grad,
        products,
        output,
        output_grad,
        grad_token,
        grad_head,
        log_sums,
        query,
        query_token,
        query_head,
        key,
        key_token,
        key_head,
        value,
        value_token,
        value_head,
        first,
        last,
        num_queries,
        num_keys,
        SCALE: tl.constexpr,
        HEADS: tl.constexpr,
        DIM: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
    ):
        """As `_attention_kernel`; `products` of outputs and gradients are kept for `_attention_key_grad_kernel`."""
        tile, row = _place(num_queries, QUERIES)
        batch, head = row // HEADS, row % HEADS
        queries, there, rows = _queries(tile, batch, num_queries, QUERIES)
        low, high = _bounds(first, last, rows, there, num_keys)
        states = _rows(query + head * query_head, rows, there, query_token, DIM)
        grads = _rows(output_grad + head * grad_head, rows, there, grad_token, DIM)
        outputs = _rows(output + head * DIM, rows, there, HEADS * DIM, DIM)
        product = tl.sum(outputs.to(tl.float32) * grads.to(tl.float32), axis=1)
        sums = row * num_queries + queries
        tl.store(products + sums, product, mask=there)
        log_sum = tl.load(log_sums + sums, mask=there, other=0.0)
        total = tl.zeros((QUERIES, DIM), dtype=tl.float32)
        end = tl.max(high, axis=0) + 1
        for start in range(tl.min(low, axis=0), end, KEYS):
            keys = start + tl.arange(0, KEYS)
            known, key_rows = keys < end, batch * num_keys + keys
            key_states = _rows(key + head * key_head, key_rows, known, key_token, DIM)
            values = _rows(value + head * value_head, key_rows, known, value_token, DIM)
            logits = tl.dot(states, tl.trans(key_states)) * (SCALE * LOG2_E)
            seen = (keys[None, :] >= low[:, None]) & (keys[None, :] <= high[:, None])
            weights = tl.where(seen, tl.exp2(logits - log_sum[:, None]), 0.0)
            by_logits = weights * (tl.dot(grads, tl.trans(values)) - product[:, None])
            total += tl.dot(by_logits.to(key_states.dtype), key_states)
        _store_rows(query_grad + head * DIM, rows, there, HEADS * DIM, total * SCALE, DIM)

    @triton.jit
    def _attention_key_grad_kernel(
        key_grad,
        value_grad,
        tiles,
        products,
        output_grad,
        grad_token,
        grad_head,
        log_sums,
        query,
        query_token,
        query_head,
        key,
        key_token,
        key_head,
        value,
        value_token,
        value_head,
        first,
        last,
        num_queries,
        num_keys,
        SCALE: tl.constexpr,
        HEADS: tl.constexpr,
        DIM: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
    ):
        """A program has a tile of the keys of a row and a head."""
        key_tile, row = _place(num_keys, KEYS)
        batch, head = row // HEADS, row % HEADS
        keys = key_tile * KEYS + tl.arange(0, KEYS)
        known, key_rows = keys < num_keys, batch * num_keys + keys
        key_states = _rows(key + head * key_head, key_rows, known, key_token, DIM)
        values = _rows(value + head * value_head, key_rows, known, value_token, DIM)
        by_keys = tl.zeros((KEYS, DIM), dtype=tl.float32)
        by_values = tl.zeros((KEYS, DIM), dtype=tl.float32)
        tiles += (batch * tl.cdiv(num_keys, KEYS) + key_tile) * 2
        for tile in range(tl.load(tiles), tl.load(tiles + 1)):
            queries, there, rows = _queries(tile, batch, num_queries, QUERIES)
            low, high = _bounds(first, last, rows, there, num_keys)
            states = _rows(query + head * query_head, rows, there, query_token, DIM)
            grads = _rows(output_grad + head * grad_head, rows, there, grad_token, DIM)
            sums = row * num_queries + queries
            log_sum = tl.load(log_sums + sums, mask=there, other=0.0)
            product = tl.load(products + sums, mask=there, other=0.0)
            logits = tl.dot(key_states, tl.trans(states)) * (SCALE * LOG2_E)
            seen = (keys[:, None] >= low[None, :]) & (keys[:, None] <= high[None, :])
            weights = tl.where(seen, tl.exp2(logits - log_sum[None, :]), 0.0)
            by_values += tl.dot(weights.to(grads.dtype), grads)
            by_logits = weights * (tl.dot(values, tl.trans(grads)) - product[None, :])
            by_keys += tl.dot(by_logits.to(states.dtype), states)
        _store_rows(key_grad + head * DIM, key_rows, known, HEADS * DIM, by_keys * SCALE, DIM)
        _store_rows(value_grad + head * DIM, key_rows, known, HEADS * DIM, by_values, DIM)

    def _shared_bytes(device: torch.device) -> int:
        """Shared memory of a program; where PyTorch does not know it, as much as any kernel wants."""
        properties = torch.cuda.get_device_properties(device)
        return getattr(properties, "shared_memory_per_block_optin", 2**18)

    def _flat(name: str, token: str, states: torch.Tensor) -> dict[str, Any]:
        """Arguments: `states` as `[batch * length, heads, head_dim]`, a view of most, with the strides of two axes."""
        states = states.flatten(0, 1)
        states = states if states.stride(2) == 1 else states.contiguous()
        return {name: states, f"{token}_token": states.stride(0), f"{token}_head": states.stride(1)}

    def _arguments(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ranges: KeyRanges, scaling: float
    ) -> dict[str, Any]:
        """What all kernels are told."""
        states = _flat("query", "query", query) | _flat("key", "key", key) | _flat("value", "value", value)
        sizes = {"num_queries": query.shape[1], "num_keys": key.shape[1]}
        heads, dim = query.shape[2:]
        shape = {"SCALE": scaling, "HEADS": heads, "DIM": dim, "QUERIES": QUERY_TILE, "KEYS": KEY_TILE}
        if query.is_cuda and (stages := num_stages(_shared_bytes(query.device), dim)) < STAGES:
            shape["num_stages"] = stages
        return states | {name: it.contiguous() for name, it in ranges._asdict().items()} | sizes | shape

    # A checkpoint brings a copy of this file, which may be imported beside the package's own.
    _NAMESPACE = re.sub(r"\W", "_", __name__)

    @triton_op(f"{_NAMESPACE}::attend_ranges", mutates_args={})
    def attend_ranges_in_triton(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        first: torch.Tensor,
        last: torch.Tensor,
        scaling: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `attend_ranges`; also logarithms to base 2 of the softmaxes' denominators, `[batch, heads, queries]`."""
        batch, queries, heads, _ = query.shape
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        log_sums = torch.empty(batch, heads, queries, dtype=torch.float32, device=query.device)
        arguments = _arguments(query, key, value, KeyRanges(first, last), scaling)
        with torch.cuda.device_of(query):
            grid = (-(-queries // QUERY_TILE) * batch * heads,)
            wrap_triton(_attention_kernel)[grid](output, log_sums, **arguments)
        return output, log_sums

    @triton_op(f"{_NAMESPACE}::attend_ranges_backward", mutates_args={})
    def _backward_in_triton(
        output_grad: torch.Tensor,
        output: torch.Tensor,
        log_sums: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        first: torch.Tensor,
        last: torch.Tensor,
        scaling: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of queries, keys and values."""
        (batch, queries, heads, _), keys = query.shape, key.shape[1]
        grads = [torch.empty(it.shape, dtype=it.dtype, device=it.device) for it in (query, key, value)]
        products = torch.empty_like(log_sums)
        ranges = KeyRanges(first, last)
        arguments = _flat("output_grad", "grad", output_grad) | _arguments(query, key, value, ranges, scaling)
        arguments |= {"log_sums": log_sums, "products": products}
        with torch.cuda.device_of(query):
            grid = (-(-queries // QUERY_TILE) * batch * heads,)
            wrap_triton(_attention_query_grad_kernel)[grid](grads[0], output=output, **arguments)
            grid = (-(-keys // KEY_TILE) * batch * heads,)
            tiles = query_tiles(ranges, keys)
            wrap_triton(_attention_key_grad_kernel)[grid](grads[1], grads[2], tiles, **arguments)
        return grads[0], grads[1], grads[2]

    def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        *tensors, ctx.scaling = inputs
        ctx.save_for_backward(*output, *tensors)

    def _backward(ctx: Any, output_grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_backward_in_triton(output_grad, *ctx.saved_tensors, ctx.scaling), None, None, None)

    attend_ranges_in_triton.register_autograd(_backward, setup_context=_save)
