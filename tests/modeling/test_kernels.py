# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The fused kernel equals PyTorch, forward and backward; on a CPU it runs in Triton's interpreter."""

import importlib.util
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers.dynamic_module_utils import get_imports

from modeling_concept import kernels
from tests.modeling.kernel_runs import (
    DEVICE,
    beside_the_interpreter,
    check_in_interpreter,
    on_gpu,
    on_kernels,
    traced,
    written_by_kernels,
)

EPS = 1e-5


def load_copy(name: str):
    """Import the file once more, as the code of a checkpoint does."""
    spec = importlib.util.spec_from_file_location(name, kernels.__file__)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def rotation(rows: int, length: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As `ConceptRotaryEmbedding` gives it: two views of one tensor, in which neither is contiguous."""
    angles = torch.randn(rows, length, 1, head_dim // 2, device=DEVICE)
    turns = torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
    return turns[..., 0], turns[..., 1]


def inputs(batch: int, length: int, heads: int, head_dim: int, dtype: torch.dtype = torch.float32):
    """A fused projection of queries, keys and values, the weight, and the rotation of every row."""
    torch.manual_seed(0)
    projected = torch.randn(batch, length, 3 * heads * head_dim, device=DEVICE, dtype=dtype, requires_grad=True)
    weight = torch.randn(head_dim, device=DEVICE, requires_grad=True)
    return projected, weight, rotation(batch, length, head_dim)


def keys(projected: torch.Tensor, head_dim: int) -> torch.Tensor:
    return projected.unflatten(-1, (3, -1, head_dim)).unbind(-3)[1]


def outputs_and_gradients(function, projected, weight, turns, dtype=torch.float32) -> list[torch.Tensor]:
    """What comes out, and the gradients, which arrive as they do from attention: with heads before positions."""
    cos, sin = turns
    output = function(keys(projected, len(weight)), weight, cos, sin, EPS, dtype)
    upstream = torch.linspace(-1, 1, output.numel(), device=DEVICE).sin().to(dtype)
    output.transpose(1, 2).backward(upstream.view_as(output.transpose(1, 2)))
    gradients = [projected.grad, weight.grad]
    projected.grad = weight.grad = None
    return [output.detach(), *gradients]


def exact(projected, weight, turns) -> list[torch.Tensor]:
    """The same in float64, which no kernel computes."""
    projected, weight = (tensor.detach().double().requires_grad_() for tensor in (projected, weight))
    return outputs_and_gradients(kernels.norm_and_rotate, projected, weight, turns, torch.float64)


def in_triton(*arguments) -> torch.Tensor:
    return kernels.norm_and_rotate_in_triton(*arguments)


@beside_the_interpreter
def test_kernels_pass_in_triton_interpreter():
    check_in_interpreter(__file__)


@traced
def test_compilers_take_nothing_but_outputs_for_written_to(fresh_compiler, monkeypatch):
    """What they take for written to they copy in every step, and record no graph of it."""
    projected, weight, turns = inputs(2, 30, 3, 16)
    heads, weight = keys(projected.detach(), 16), weight.detach()
    arguments = (heads, weight, *turns, EPS)
    forward = (*arguments, torch.float32)
    assert written_by_kernels(kernels.norm_and_rotate_in_triton, forward, monkeypatch) == [{"output"}]
    written = written_by_kernels(kernels._backward_in_triton, (heads, *arguments), monkeypatch)
    assert written == [{"states_grad", "weight_grads"}]
    gates = (torch.ones(3, 8), torch.ones(3, 16))
    assert written_by_kernels(kernels._gate_backward_in_triton, gates, monkeypatch) == [{"gate_up_grad"}]


@on_kernels
@pytest.mark.parametrize("programs", [2, kernels.BACKWARD_PROGRAMS])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 13, 3, 16), (1, 301, 4, 32), (3, 5, 12, 64), (2, 9, 2, 256)])
def test_kernel_equals_torch_on_parts_of_a_projection(shape, programs, monkeypatch):
    monkeypatch.setattr(kernels, "BACKWARD_PROGRAMS", programs)
    arguments = inputs(*shape)
    result = [tensor.double() for tensor in outputs_and_gradients(in_triton, *arguments)]
    torch.testing.assert_close(result, exact(*arguments), atol=2e-5 * shape[1] ** 0.5, rtol=1e-5)


@on_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(dtype):
    arguments = inputs(2, 37, 3, 32, dtype)
    output, states_grad, weight_grad = outputs_and_gradients(in_triton, *arguments, dtype=dtype)
    assert (output.dtype, states_grad.dtype, weight_grad.dtype) == (dtype, dtype, torch.float32)
    expected = exact(*arguments)
    rounding = torch.finfo(dtype).eps
    # Half of that on a GPU: the interpreter cuts bfloat16 off instead of rounding it.
    torch.testing.assert_close(output.double(), expected[0], atol=1e-4, rtol=1.01 * rounding)
    # Gradients that arrive are rounded too, which `exact` does not do.
    torch.testing.assert_close(states_grad.double(), expected[1], atol=4 * rounding, rtol=rounding)
    torch.testing.assert_close(weight_grad.double(), expected[2], atol=8 * rounding, rtol=rounding)


@on_kernels
@pytest.mark.parametrize(("normed", "rotated"), [(False, True), (True, False)])
def test_norm_and_rotation_can_be_left_out(normed, rotated):
    projected, weight, (cos, sin) = inputs(2, 13, 3, 16)
    rest = (weight if normed else None, cos if rotated else None, sin if rotated else None, EPS, torch.float32)
    results = []
    for function in (in_triton, kernels.norm_and_rotate):
        states = keys(projected.detach(), 16).requires_grad_()
        output = function(states, *rest)
        output.square().sum().backward()
        results.append([output, states.grad])
    torch.testing.assert_close(*results)


@on_kernels
def test_all_rows_can_share_one_rotation():
    projected, weight, _ = inputs(3, 13, 3, 16)
    shared = rotation(1, 13, 16)
    repeated = tuple(turn.expand(3, -1, -1, -1) for turn in shared)
    once, thrice = (outputs_and_gradients(in_triton, projected, weight, turns) for turns in (shared, repeated))
    torch.testing.assert_close(once, thrice, atol=0, rtol=0)


@on_kernels
def test_states_of_any_strides_give_a_contiguous_result():
    _, weight, (cos, sin) = inputs(2, 13, 3, 16)
    states = torch.randn(2, 3, 16, 13, device=DEVICE).permute(0, 3, 1, 2)
    result = in_triton(states, weight, cos, sin, EPS, torch.bfloat16)
    assert result.is_contiguous()
    torch.testing.assert_close(result, in_triton(states.contiguous(), weight, cos, sin, EPS, torch.bfloat16))


@on_kernels
def test_no_tokens_have_no_gradients():
    arguments = inputs(1, 0, 3, 16)
    output, states_grad, weight_grad = outputs_and_gradients(in_triton, *arguments)
    assert output.shape == (1, 0, 3, 16)
    assert states_grad.shape == arguments[0].shape
    assert weight_grad.tolist() == [0.0] * 16


@on_kernels
def test_gradients_are_the_same_every_time_and_under_checkpointing():
    arguments = inputs(2, 301, 3, 16)

    def checkpointed(*operands):
        return checkpoint(in_triton, *operands, use_reentrant=False)

    first, *others = (outputs_and_gradients(f, *arguments) for f in (in_triton, in_triton, checkpointed))
    for other in others:
        torch.testing.assert_close(other, first, atol=0, rtol=0)


@on_kernels
def test_operator_keeps_the_rules_of_operators():
    projected, weight, turns = inputs(2, 5, 3, 16)
    arguments = (keys(projected, 16), weight, *turns, EPS, torch.float32)
    rules = ("test_schema", "test_autograd_registration")
    torch.library.opcheck(kernels.norm_and_rotate_in_triton, arguments, test_utils=rules)


@on_kernels
def test_file_can_be_imported_again_under_other_names_and_its_own():
    arguments = inputs(2, 13, 3, 16)
    expected = outputs_and_gradients(in_triton, *arguments)
    names = ("transformers_modules.my-model.0a1b.kernels", "kernels", "kernels")
    copies = [load_copy(name) for name in names]
    for module in (kernels, copies[0], copies[2]):
        torch.testing.assert_close(outputs_and_gradients(module.norm_and_rotate_in_triton, *arguments), expected)


@on_kernels
@pytest.mark.parametrize("shape", [(1, 2), (3, 5, 14), (2, 301, 48), (0, 6)])
def test_gated_activation_equals_torch(shape):
    torch.manual_seed(0)
    results = []
    gate_up = 3 * torch.randn(shape, device=DEVICE)
    for function in (kernels.gated_gelu_with_triton, by_torch):
        leaf = gate_up.clone().requires_grad_()
        output = function(leaf)
        upstream = torch.linspace(-1, 1, output.numel(), device=DEVICE).sin().view(output.shape)
        # Of any strides, as gradients are.
        output.backward(upstream.T.contiguous().T if upstream.dim() == 2 else upstream)
        results.append([output, leaf.grad])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def by_torch(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def test_gated_activation_without_a_kernel_is_that_of_torch():
    gate_up = torch.randn(3, 14, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(kernels.gated_gelu(gate_up), by_torch(gate_up), atol=0, rtol=0)


@on_gpu
@pytest.mark.parametrize("dynamic", [False, True])
def test_kernel_compiles_without_graph_break(dynamic):
    projection = torch.nn.Linear(48, 3 * 48, bias=False, device=DEVICE)
    _, weight, turns = inputs(2, 37, 3, 16)

    def attend(states: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        query, key, value = projection(states).unflatten(-1, (3, -1, 16)).unbind(-3)
        query, key = (kernels.norm_and_rotate(part, weight, cos, sin, EPS, value.dtype) for part in (query, key))
        heads = (part.transpose(1, 2) for part in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)

    states = torch.randn(2, 37, 48, device=DEVICE)
    results = []
    for function in (attend, torch.compile(attend, fullgraph=True, dynamic=dynamic)):
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = function(states, weight, *turns).float().square().mean()
        loss.backward()
        results.append([loss, projection.weight.grad, weight.grad])
        projection.weight.grad = weight.grad = None
    torch.testing.assert_close(*results, atol=1e-3, rtol=1e-2)


@on_gpu
def test_kernel_runs_in_cuda_graphs():
    projected, weight, (cos, sin) = inputs(2, 37, 3, 16)
    states = keys(projected.detach(), 16).contiguous()
    in_triton(states, weight.detach(), cos, sin, EPS, torch.float32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = in_triton(states, weight.detach(), cos, sin, EPS, torch.float32)
    states.normal_()
    graph.replay()
    torch.testing.assert_close(result, in_triton(states, weight.detach(), cos, sin, EPS, torch.float32))


@pytest.mark.parametrize("head_dim", [24, 512])
def test_sizes_without_a_kernel_are_computed_by_torch(head_dim):
    arguments = inputs(2, 13, 3, head_dim)
    result = [tensor.double() for tensor in outputs_and_gradients(kernels.norm_and_rotate, *arguments)]
    torch.testing.assert_close(result, exact(*arguments), atol=1e-4, rtol=1e-4)


def test_states_without_norm_and_position_stay_as_they_are():
    states = torch.randn(2, 13, 3, 16, device=DEVICE)
    assert kernels.norm_and_rotate(states, None, None, None, EPS, torch.float32) is states


def test_file_needs_no_triton(monkeypatch):
    assert set(get_imports(kernels.__file__)) <= {"torch", "transformers", *sys.stdlib_module_names}
    monkeypatch.setattr("transformers.utils.import_utils.is_triton_available", lambda: False)
    module = load_copy("kernels_without_triton")
    assert not module.HAS_TRITON
    arguments = inputs(2, 13, 3, 16)
    result = outputs_and_gradients(module.norm_and_rotate, *arguments)
    torch.testing.assert_close([tensor.double() for tensor in result], exact(*arguments), atol=1e-4, rtol=1e-4)
