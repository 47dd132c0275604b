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
What is bound by memory, in one pass over it: Triton kernels, and the same in PyTorch.

They are the layer norm of every head with its rotary positions, and the backward pass of a gated activation.
"""

import re
from typing import Any

import torch
from torch import nn
from transformers.utils.import_utils import is_triton_available

HAS_TRITON = is_triton_available()
Rotation = tuple[torch.Tensor, torch.Tensor]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_HEAD_DIM = 256
# All heads of a token are one program's, in its registers.
MAX_WIDTH = 4096
# Numbers that a program reads of each tensor at a time: enough to have loads under way, few enough for registers.
FORWARD_TILE = 4096
BACKWARD_TILE = 2048
# Numbers of a program of the gated activation.
GATE_TILE = 1024
# Programs of the backward pass; each adds up the gradient of the weight over all the tokens that it visits.
BACKWARD_PROGRAMS = 528


def kernels_run_on(device: torch.device) -> bool:
    """Whether kernels can be made for `device`."""
    return HAS_TRITON and device.type == "cuda"


def product_dtype(states: torch.Tensor) -> torch.dtype:
    """In what autocast computes matrix products of `states`; without autocast, what they have."""
    device = states.device.type
    casts = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if casts and states.dtype != torch.float64 else states.dtype


def rotate(states: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
    """Turn `[batch, length, heads, head_dim]` by its positions; states without positions (`None`) stay as they are."""
    if rotation is None:
        return states
    cos, sin = rotation
    first, second = states.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(states.dtype)


def norm_and_rotate(
    states: torch.Tensor,
    weight: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """
    Layer norm without bias over each head (ViT-22B, arXiv 2302.05442), then rotary positions (RoFormer, arXiv
    2104.09864), which pair channel `d` with `d + head_dim / 2`.

    One kernel where Triton, the device and the sizes allow it; it computes in float32 and its gradients are
    deterministic, but have no gradients themselves.

    Args:
        states: `[batch, length, heads, head_dim]`, of any strides.
        weight: `[head_dim]`; `None` leaves the norm out.
        cos, sin: `[batch | 1, length, 1, head_dim / 2]`, which get no gradient; `None` leaves the rotation out. The
            kernel copies them unless they are contiguous.
        eps: added to the variance.
        dtype: of the result.
    """
    if _has_kernel(states, dtype) and not (weight is None and cos is None):
        return norm_and_rotate_in_triton(states, weight, cos, sin, eps, dtype)
    if weight is not None:
        states = nn.functional.layer_norm(states, states.shape[-1:], weight, eps=eps)
    # Under autocast the norm gives float32, and not every attention backend is cast back.
    return rotate(states, None if cos is None else (cos, sin)).to(dtype)


def gated_gelu(gate_up: torch.Tensor) -> torch.Tensor:
    """
    GEGLU (arXiv 2002.05202) of `[..., 2 * width]`, gates before what they gate: `[..., width]`.

    GELU is the approximation by a hyperbolic tangent (arXiv 1606.08415, section 2), `gelu_pytorch_tanh`. Compilers
    make one kernel of the forward pass, but not of both gradients side by side. The kernel's gradients have none
    themselves.
    """
    if kernels_run_on(gate_up.device) and gate_up.dtype in DTYPES:
        return gated_gelu_with_triton(gate_up)
    return _gate(gate_up)


def _gate(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return nn.functional.gelu(gate, approximate="tanh") * up


def _has_kernel(states: torch.Tensor, dtype: torch.dtype) -> bool:
    heads, head_dim = states.shape[2:]
    fits = 2 <= head_dim <= MAX_HEAD_DIM and head_dim & (head_dim - 1) == 0 and heads * head_dim <= MAX_WIDTH
    return fits and kernels_run_on(states.device) and states.dtype in DTYPES and dtype in DTYPES


if is_triton_available():
    import triton
    import triton.language as tl
    from torch.library import triton_op, wrap_triton

    @triton.jit
    def _load_halves(pointer, offsets, mask, HALF: tl.constexpr):
        first = tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(pointer + offsets + HALF, mask=mask, other=0.0).to(tl.float32)
        return first, second

    @triton.jit
    def _load_weight(weight, HALF: tl.constexpr):
        channels = tl.arange(0, HALF)[None, :]
        return _load_halves(weight, channels, channels < HALF, HALF)

    @triton.jit
    def _load_turns(cos, sin, tokens, mask, period, HALF: tl.constexpr):
        # Every head asks for its own copy, which caches serve: then angles lie in the same registers as states.
        offsets = (tokens % period)[:, None] * HALF + tl.arange(0, HALF)[None, :]
        return tl.load(cos + offsets, mask=mask, other=0.0), tl.load(sin + offsets, mask=mask, other=0.0)

    @triton.jit
    def _mean(first, second, HALF: tl.constexpr):
        return (tl.sum(first + second, axis=1) * (0.5 / HALF))[:, None]

    @triton.jit
    def _normalise(first, second, EPS: tl.constexpr, HALF: tl.constexpr):
        mean = _mean(first, second, HALF)
        first, second = first - mean, second - mean
        scale = tl.rsqrt(_mean(first * first, second * second, HALF) + EPS)
        return first * scale, second * scale, scale

    @triton.jit
    def _rows(start, num_tokens, HEADS: tl.constexpr, HEAD_BLOCK: tl.constexpr, ROWS: tl.constexpr):
        """The token and the head of every row of a tile, and whether there are such ones."""
        rows = tl.arange(0, ROWS)
        tokens, heads = start + rows // HEAD_BLOCK, rows % HEAD_BLOCK
        return tokens, heads, ((tokens < num_tokens) & (heads < HEADS))[:, None]

    @triton.jit
    def _offsets(tokens, heads, token_stride, head_stride, HALF: tl.constexpr):
        """Of the first half of the channels; in 64 bits, for batches of any length."""
        return (tokens.to(tl.int64) * token_stride + heads * head_stride)[:, None] + tl.arange(0, HALF)[None, :]

    @triton.jit
    def _norm_kernel(
        output,
        states,
        weight,
        cos,
        sin,
        num_tokens,
        token_stride,
        head_stride,
        period,
        EPS: tl.constexpr,
        HEADS: tl.constexpr,
        HALF: tl.constexpr,
        HEAD_BLOCK: tl.constexpr,
        TOKEN_BLOCK: tl.constexpr,
    ):
        start = tl.program_id(0) * TOKEN_BLOCK
        tokens, heads, mask = _rows(start, num_tokens, HEADS, HEAD_BLOCK, HEAD_BLOCK * TOKEN_BLOCK)
        first, second = _load_halves(states, _offsets(tokens, heads, token_stride, head_stride, HALF), mask, HALF)
        if weight is not None:
            first_weight, second_weight = _load_weight(weight, HALF)
            first, second, _ = _normalise(first, second, EPS, HALF)
            first, second = first * first_weight, second * second_weight
        if cos is not None:
            turns = _load_turns(cos, sin, tokens, mask, period, HALF)
            first, second = first * turns[0] - second * turns[1], second * turns[0] + first * turns[1]
        offsets = _offsets(tokens, heads, HEADS * 2 * HALF, 2 * HALF, HALF)
        tl.store(output + offsets, first, mask=mask)
        tl.store(output + offsets + HALF, second, mask=mask)

    @triton.jit
    def _norm_backward_kernel(
        states_grad,
        weight_grads,
        output_grad,
        grad_token_stride,
        grad_head_stride,
        states,
        weight,
        cos,
        sin,
        num_tokens,
        token_stride,
        head_stride,
        period,
        EPS: tl.constexpr,
        HEADS: tl.constexpr,
        HALF: tl.constexpr,
        HEAD_BLOCK: tl.constexpr,
        TOKEN_BLOCK: tl.constexpr,
    ):
        """Program `p` of `P` takes the blocks of tokens `p`, `p + P`, `p + 2 P` and so on."""
        if weight is not None:
            first_weight, second_weight = _load_weight(weight, HALF)
            first_total = tl.zeros((HEAD_BLOCK * TOKEN_BLOCK, HALF), dtype=tl.float32)
            second_total = tl.zeros((HEAD_BLOCK * TOKEN_BLOCK, HALF), dtype=tl.float32)
        for start in range(tl.program_id(0) * TOKEN_BLOCK, num_tokens, tl.num_programs(0) * TOKEN_BLOCK):
            tokens, heads, mask = _rows(start, num_tokens, HEADS, HEAD_BLOCK, HEAD_BLOCK * TOKEN_BLOCK)
            offsets = _offsets(tokens, heads, grad_token_stride, grad_head_stride, HALF)
            first, second = _load_halves(output_grad, offsets, mask, HALF)
            if cos is not None:
                turns = _load_turns(cos, sin, tokens, mask, period, HALF)
                first, second = first * turns[0] + second * turns[1], second * turns[0] - first * turns[1]
            if weight is not None:
                offsets = _offsets(tokens, heads, token_stride, head_stride, HALF)
                first_state, second_state = _load_halves(states, offsets, mask, HALF)
                first_state, second_state, scale = _normalise(first_state, second_state, EPS, HALF)
                first_total += first * first_state
                second_total += second * second_state
                first, second = first * first_weight, second * second_weight
                mean = _mean(first, second, HALF)
                along = _mean(first * first_state, second * second_state, HALF)
                first = (first - mean - first_state * along) * scale
                second = (second - mean - second_state * along) * scale
            offsets = _offsets(tokens, heads, HEADS * 2 * HALF, 2 * HALF, HALF)
            tl.store(states_grad + offsets, first, mask=mask)
            tl.store(states_grad + offsets + HALF, second, mask=mask)
        if weight is not None:
            weight_grads += tl.program_id(0) * 2 * HALF + tl.arange(0, HALF)
            tl.store(weight_grads, tl.sum(first_total, axis=0))
            tl.store(weight_grads + HALF, tl.sum(second_total, axis=0))

    def _flat(states: torch.Tensor) -> torch.Tensor:
        """`[batch * length, heads, head_dim]` with channels side by side, which is a view of most inputs."""
        states = states.flatten(0, 1)
        return states if states.stride(-1) == 1 else states.contiguous()

    def _arguments(
        states: torch.Tensor,
        weight: torch.Tensor | None,
        cos: torch.Tensor | None,
        sin: torch.Tensor | None,
        eps: float,
        tile: int,
    ) -> dict[str, Any]:
        """What both kernels are told."""
        flat = _flat(states)
        num_tokens, heads, head_dim = flat.shape
        if cos is not None:
            cos, sin = (angles.flatten(0, 2).contiguous() for angles in (cos, sin))
        head_block = triton.next_power_of_2(heads)
        return {
            "states": flat,
            "weight": weight,
            "cos": cos,
            "sin": sin,
            "num_tokens": num_tokens,
            "token_stride": flat.stride(0),
            "head_stride": flat.stride(1),
            "period": num_tokens if cos is None else cos.shape[0],
            "EPS": eps,
            "HEADS": heads,
            "HALF": head_dim // 2,
            "HEAD_BLOCK": head_block,
            "TOKEN_BLOCK": max(1, tile // (head_block * head_dim)),
        }

    # A checkpoint brings a copy of this file, which may be imported beside the package's own.
    _NAMESPACE = re.sub(r"\W", "_", __name__)

    @triton_op(f"{_NAMESPACE}::norm_and_rotate", mutates_args={})
    def norm_and_rotate_in_triton(
        states: torch.Tensor,
        weight: torch.Tensor | None,
        cos: torch.Tensor | None,
        sin: torch.Tensor | None,
        eps: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """As `norm_and_rotate`, in one kernel."""
        output = torch.empty(states.shape, dtype=dtype, device=states.device)
        arguments = _arguments(states, weight, cos, sin, eps, FORWARD_TILE)
        blocks = -(-arguments["num_tokens"] // arguments["TOKEN_BLOCK"])
        with torch.cuda.device_of(states):
            wrap_triton(_norm_kernel)[(blocks,)](output, **arguments)
        return output

    @triton_op(f"{_NAMESPACE}::norm_and_rotate_backward", mutates_args={})
    def _backward_in_triton(
        output_grad: torch.Tensor,
        states: torch.Tensor,
        weight: torch.Tensor | None,
        cos: torch.Tensor | None,
        sin: torch.Tensor | None,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the states and of the weight, which are nothing to go by if there is none."""
        states_grad = torch.empty(states.shape, dtype=states.dtype, device=states.device)
        arguments = _arguments(states, weight, cos, sin, eps, BACKWARD_TILE)
        blocks = -(-arguments["num_tokens"] // arguments["TOKEN_BLOCK"])
        programs = min(blocks, BACKWARD_PROGRAMS)
        weight_grads = torch.empty(programs, states.shape[-1], dtype=torch.float32, device=states.device)
        grad = _flat(output_grad)
        arguments |= {"output_grad": grad, "grad_token_stride": grad.stride(0), "grad_head_stride": grad.stride(1)}
        with torch.cuda.device_of(states):
            wrap_triton(_norm_backward_kernel)[(programs,)](states_grad, weight_grads, **arguments)
        return states_grad, weight_grads.sum(dim=0)

    def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.eps, _ = inputs
        ctx.save_for_backward(*tensors)

    def _backward(ctx: Any, output_grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight, cos, sin = ctx.saved_tensors  # once: gradient checkpointing recomputes them for it
        states_grad, weight_grad = _backward_in_triton(output_grad, states, weight, cos, sin, ctx.eps)
        return states_grad, None if weight is None else weight_grad.to(weight.dtype), None, None, None, None

    norm_and_rotate_in_triton.register_autograd(_backward, setup_context=_save)

    @triton.jit
    def _gelu_backward_kernel(gate_up_grad, gate_up, output_grad, number, WIDTH: tl.constexpr, TILE: tl.constexpr):
        """Gradients of `gate_up` `[rows, 2 * WIDTH]` from those of the `number` outputs."""
        index = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
        mask = index < number
        places = index + index // WIDTH * WIDTH
        gate = tl.load(gate_up + places, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(gate_up + places + WIDTH, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(output_grad + index, mask=mask, other=0.0).to(tl.float32)
        # GELU is the gate times this share, which a sigmoid of twice the argument is as well as the tangent.
        share = tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
        steep = 1.5957691216057308 * (1 + 0.134145 * gate * gate)
        slope = share + gate * share * (1 - share) * steep
        tl.store(gate_up_grad + places, grad * up * slope, mask=mask)
        tl.store(gate_up_grad + places + WIDTH, grad * gate * share, mask=mask)

    @triton_op(f"{_NAMESPACE}::gated_gelu", mutates_args={})
    def gated_gelu_with_triton(gate_up: torch.Tensor) -> torch.Tensor:
        """As `gated_gelu`; the backward pass is one kernel."""
        return _gate(gate_up)

    @triton_op(f"{_NAMESPACE}::gated_gelu_backward", mutates_args={})
    def _gate_backward_in_triton(output_grad: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
        gate_up, output_grad = gate_up.contiguous(), output_grad.contiguous()
        gate_up_grad = torch.empty_like(gate_up)
        number, width = output_grad.numel(), output_grad.shape[-1]
        with torch.cuda.device_of(gate_up):
            arguments = {"number": number, "WIDTH": width, "TILE": GATE_TILE}
            blocks = -(-number // GATE_TILE)
            wrap_triton(_gelu_backward_kernel)[(blocks,)](gate_up_grad, gate_up, output_grad, **arguments)
        return gate_up_grad

    def _save_gates(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def _gate_backward(ctx: Any, output_grad: torch.Tensor) -> torch.Tensor:
        return _gate_backward_in_triton(output_grad, *ctx.saved_tensors)

    gated_gelu_with_triton.register_autograd(_gate_backward, setup_context=_save_gates)
