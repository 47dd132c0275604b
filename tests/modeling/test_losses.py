# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernels of the vocabulary's loss: all equal the plain loss and its gradients, and hold what they say they hold."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers.dynamic_module_utils import get_imports

from modeling_concept import losses
from modeling_concept.losses import choose_kernel, linear_cross_entropy

K, E, V = 23, 6, 37
TERMS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "z": {"z_loss": 0.03},
    "both": {"label_smoothing": 0.2, "z_loss": 0.01},
}
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
KERNELS = [
    pytest.param(kernel, device, marks=[ON_GPU] if device == "cuda" else [])
    for kernel, device in [
        ("torch", "cpu"),
        ("chunked", "cpu"),
        ("torch", "cuda"),
        ("chunked", "cuda"),
        ("liger", "cuda"),
    ]
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Five positions in a chunk, which do not divide K."""
    monkeypatch.setattr(losses, "CHUNK_BYTES", 5 * V * 4)
    monkeypatch.setattr(losses, "COMPILED_CHUNK_BYTES", 5 * V * 4)


def problem(dtype=torch.float64, device="cpu", bias=True, num_positions=K, ignored=0.3):
    """Leaves `states`, `weight`, `bias`, and `targets` of which a share is ignored."""
    generator = torch.Generator().manual_seed(num_positions)
    shapes = [(num_positions, E), (V, E), (V,)]
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
    targets = torch.randint(V, (num_positions,), generator=generator)
    targets[torch.rand(num_positions, generator=generator) < ignored] = -100
    leaves = [leaf.requires_grad_() for leaf in leaves]
    return (*leaves[:2], leaves[2] if bias else None, targets.to(device))


def reference(states, weight, bias, targets, num_items_in_batch=None, label_smoothing=0.0, z_loss=0.0):
    """As defined, one labelled position at a time."""
    total = states.new_zeros(())
    for state, target in zip(states, targets.tolist(), strict=True):
        if target >= 0:
            logits = state @ weight.t() + (0 if bias is None else bias)
            log_z = logits.exp().sum().log()
            likely = logits[target] - log_z
            total = total - (1 - label_smoothing) * likely - label_smoothing * (logits - log_z).mean()
            total = total + z_loss * log_z**2
    return total / (num_items_in_batch or max((targets >= 0).sum().item(), 1))


def with_gradients(loss, *leaves) -> list[torch.Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])]


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", ["torch", "chunked", "auto"])
def test_kernels_equal_the_definition(kernel, bias, terms):
    *leaves, targets = problem(bias=bias)
    expected = with_gradients(reference(*leaves, targets, **TERMS[terms]), *leaves)
    found = with_gradients(linear_cross_entropy(*leaves, targets, kernel=kernel, **TERMS[terms]), *leaves)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_kernels_equal_the_definition_in_single_precision(kernel, terms):
    *leaves, targets = problem()
    expected = with_gradients(reference(*leaves, targets, **TERMS[terms]), *leaves)
    *leaves, targets = problem(torch.float32)
    found = with_gradients(linear_cross_entropy(*leaves, targets, kernel=kernel, **TERMS[terms]), *leaves)
    torch.testing.assert_close([value.double() for value in found], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions_per_chunk", [1, 4, 22, 23, 1000])
def test_the_size_of_a_chunk_changes_nothing(positions_per_chunk, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_BYTES", positions_per_chunk * V * 4)
    *leaves, targets = problem()
    expected = with_gradients(linear_cross_entropy(*leaves, targets, kernel="torch", **TERMS["both"]), *leaves)
    found = with_gradients(linear_cross_entropy(*leaves, targets, kernel="chunked", **TERMS["both"]), *leaves)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("kernel", "device"), KERNELS)
def test_positions_without_a_label_add_exactly_nothing(kernel, device):
    states, weight, bias, targets = problem(torch.float32, device)
    loss, by_states, *_ = with_gradients(
        linear_cross_entropy(states, weight, bias, targets, kernel=kernel, **TERMS["both"]), states, weight, bias
    )
    assert not by_states[targets == -100].any()
    assert by_states[targets != -100].any(dim=1).all()
    elsewhere = torch.where((targets == -100)[:, None], 100.0, states)
    assert torch.equal(linear_cross_entropy(elsewhere, weight, bias, targets, kernel=kernel, **TERMS["both"]), loss)


@pytest.mark.parametrize("num_positions", [0, K])
@pytest.mark.parametrize(("kernel", "device"), KERNELS)
def test_no_labels_give_zeros(kernel, device, num_positions):
    if kernel == "liger" and num_positions == 0:
        pytest.skip("Liger Kernel divides by the size of a chunk")
    *leaves, targets = problem(torch.float32, device, num_positions=num_positions, ignored=1.0)
    for value in with_gradients(linear_cross_entropy(*leaves, targets, kernel=kernel, **TERMS["both"]), *leaves):
        assert not value.any()


@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_gradients_of_a_tied_weight_add_up(kernel):
    _, weight, bias, targets = problem()
    ids = torch.arange(K) % V
    found, expected = (
        with_gradients(loss(F.embedding(ids, weight).tanh(), weight, bias, targets), weight, bias)
        for loss in (lambda *inputs: linear_cross_entropy(*inputs, kernel=kernel), reference)
    )
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("items", [lambda n: n, torch.tensor], ids=["int", "tensor"])
@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_micro_batches_add_up(kernel, items):
    states, weight, bias, targets = problem()
    items = items((targets != -100).sum().item())
    parts = zip(states.split(10), targets.split(10), strict=True)
    found = sum(linear_cross_entropy(s, weight, bias, t, num_items_in_batch=items, kernel=kernel) for s, t in parts)
    leaves = (states, weight, bias)
    torch.testing.assert_close(
        with_gradients(found, *leaves), with_gradients(reference(*leaves, targets), *leaves), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("frozen", [[0], [1], [2], [1, 2], [0, 1, 2]])
def test_what_is_frozen_gets_no_gradient(frozen):
    leaves, targets = list(problem()[:3]), problem()[3]
    expected = torch.autograd.grad(reference(*leaves, targets), leaves)
    leaves = [leaf.detach().requires_grad_(place not in frozen) for place, leaf in enumerate(leaves)]
    loss = linear_cross_entropy(*leaves, targets, kernel="chunked")
    assert loss.requires_grad == (len(frozen) < 3)
    if loss.requires_grad:
        loss.backward()
    for place, leaf in enumerate(leaves):
        if place in frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, expected[place], atol=1e-10, rtol=0)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_padded_classes_change_nothing(kernel, bias, terms, monkeypatch):
    """Not even what label smoothing spreads over the classes, of which they are none."""
    *leaves, targets = problem(bias=bias)
    expected = with_gradients(reference(*leaves, targets, **TERMS[terms]), *leaves)
    monkeypatch.setattr(losses, "_num_extra_classes", lambda weight: -weight.shape[0] % 64)
    loss = linear_cross_entropy(*leaves, targets, kernel=kernel, **TERMS[terms])
    torch.testing.assert_close(with_gradients(loss, *leaves), expected, atol=1e-10, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(*leaves, targets, kernel=kernel, **TERMS[terms]), loss)


@pytest.mark.parametrize(
    ("device", "dtype", "num_classes", "extra"),
    [
        ("cuda", torch.bfloat16, 30522, 6),
        ("cuda", torch.float16, 99, 29),
        ("cuda", torch.bfloat16, 30528, 0),
        ("cuda", torch.bfloat16, 50368 + 8, 0),
        ("cuda", torch.float32, 30522, 0),
        ("cpu", torch.bfloat16, 30522, 0),
    ],
)
def test_classes_are_padded_where_rows_are_not_aligned(device, dtype, num_classes, extra):
    weight = SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(num_classes, 8))
    assert losses._num_extra_classes(weight) == extra


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_autocast_is_near_single_precision(kernel, terms):
    *leaves, targets = problem(torch.float32)
    expected = with_gradients(linear_cross_entropy(*leaves, targets, kernel="torch", **TERMS[terms]), *leaves)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(*leaves, targets, kernel=kernel, **TERMS[terms])
    found = with_gradients(loss, *leaves)
    assert [value.dtype for value in found] == [torch.float32] * 4
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
    assert not torch.equal(found[0], expected[0])


@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_half_precision_is_near_single_precision(kernel):
    *leaves, targets = problem(torch.float32)
    expected = with_gradients(linear_cross_entropy(*leaves, targets, kernel="torch"), *leaves)
    *leaves, targets = problem(torch.bfloat16)
    loss, *gradients = with_gradients(linear_cross_entropy(*leaves, targets, kernel=kernel), *leaves)
    assert loss.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16] * 3
    torch.testing.assert_close([loss, *(gradient.float() for gradient in gradients)], expected, atol=0.02, rtol=0.02)


def test_weight_gradients_of_many_chunks_add_up_in_single_precision(monkeypatch):
    """What a chunk adds is below half a unit of the last place of a bfloat16 sum of thousands, and yet counts."""
    count = 4096
    monkeypatch.setattr(losses, "CHUNK_BYTES", 2 * 4)
    states, weight = torch.ones(count, 1).bfloat16(), torch.zeros(2, 1).bfloat16().requires_grad_()
    targets = torch.zeros(count, dtype=torch.long)
    linear_cross_entropy(states, weight, None, targets, num_items_in_batch=1, kernel="chunked").backward()
    assert weight.grad.tolist() == [[-count / 2], [count / 2]]


@pytest.mark.parametrize(("bias", "terms"), [(True, "plain"), (False, "both")])
@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_compiled_equals_eager(kernel, bias, terms, fresh_compiler):
    *leaves, targets = problem(bias=bias)
    expected = with_gradients(linear_cross_entropy(*leaves, targets, kernel="torch", **TERMS[terms]), *leaves)
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True, dynamic=False)
    found = with_gradients(compiled(*leaves, targets, kernel=kernel, **TERMS[terms]), *leaves)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_compiled_under_autocast_equals_eager(fresh_compiler):
    *leaves, targets = problem(torch.float32)
    found = []
    for loss in (linear_cross_entropy, torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(*leaves, targets, kernel="chunked", **TERMS["both"])
        found.append(with_gradients(value, *leaves))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_inductor_equals_eager(fresh_compiler, monkeypatch):
    monkeypatch.setattr(losses, "COMPILED_CHUNK_BYTES", K * 64 * 4)
    monkeypatch.setattr(losses, "_num_extra_classes", lambda weight: -weight.shape[0] % 64)
    *leaves, targets = problem(torch.float32)
    expected = with_gradients(linear_cross_entropy(*leaves, targets, kernel="torch", **TERMS["both"]), *leaves)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, dynamic=False)
    found = with_gradients(compiled(*leaves, targets, kernel="chunked", **TERMS["both"]), *leaves)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(use_reentrant):
    *leaves, targets = problem()
    expected = with_gradients(reference(*leaves, targets), *leaves)
    loss = checkpoint(
        lambda *inputs: linear_cross_entropy(*inputs, targets, kernel="chunked"), *leaves, use_reentrant=use_reentrant
    )
    loss.backward()
    found = [loss.detach(), *(leaf.grad for leaf in leaves)]
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_a_backward_pass_can_be_repeated():
    *leaves, targets = problem()
    loss = linear_cross_entropy(*leaves, targets, kernel="chunked")
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, leaves), tuple(3 * gradient for gradient in first))


def test_second_derivatives_are_refused_where_there_are_none():
    states, weight, bias, targets = problem()
    loss = linear_cross_entropy(states, weight, bias, targets, kernel="torch")
    torch.autograd.grad(torch.autograd.grad(loss, states, create_graph=True)[0].square().sum(), weight)
    loss = linear_cross_entropy(states, weight, bias, targets, kernel="chunked")
    with pytest.raises(ValueError, match=r"no second derivatives.*kernel='torch'"):
        torch.autograd.grad(loss, states, create_graph=True)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns, and how many of the operations are products."""

    elements, products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        self.products += func in {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
        return result


# 200 positions in 16 chunks: 10 would hold as much as is allowed.
@pytest.mark.parametrize(("kernel", "rows_held"), [("torch", 200), ("chunked", 13)])
def test_chunks_bound_what_is_held(kernel, rows_held, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_BYTES", 20 * V * 4)
    *leaves, targets = problem(num_positions=200)
    with LargestTensor() as seen:
        linear_cross_entropy(*leaves, targets, kernel=kernel).backward()
    assert seen.elements == max(rows_held * V, 200 * E)


def test_chunks_compute_no_logits_twice_and_no_gradients_that_nobody_wants():
    *leaves, targets = problem()
    with LargestTensor() as seen:
        linear_cross_entropy(*leaves, targets, kernel="chunked").backward()
    assert seen.products == 3 * 8
    with LargestTensor() as seen, torch.no_grad():
        loss = linear_cross_entropy(*leaves, targets, kernel="chunked")
    assert seen.products == 8
    torch.testing.assert_close(loss, reference(*leaves, targets), atol=1e-10, rtol=0)


def test_auto_goes_by_size_and_compiler(monkeypatch, fresh_compiler):
    monkeypatch.setattr(losses, "CHUNK_BYTES", 10 * V * 4)
    monkeypatch.setattr(losses, "COMPILED_CHUNK_BYTES", 20 * V * 4)
    assert [choose_kernel(positions, V) for positions in (10, 11, 21)] == ["torch", "chunked", "chunked"]
    compiled = torch.compile(lambda x: x + (choose_kernel(len(x), V) == "torch"), backend="eager", dynamic=False)
    assert [compiled(torch.zeros(positions))[0].item() for positions in (10, 11, 20, 21)] == [1, 1, 1, 0]


def test_losses_have_a_shape_without_data():
    states, weight, bias, targets = (leaf.detach().to("meta") for leaf in problem())
    for kernel in ("torch", "chunked"):
        loss = linear_cross_entropy(states, weight.requires_grad_(), bias, targets, kernel=kernel)
        assert loss.shape == ()
        assert torch.autograd.grad(loss, weight)[0].shape == (V, E)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "cut"}, "kernel 'cut'.*auto, torch, chunked, liger"),
        ({"label_smoothing": 1.5}, "label_smoothing 1.5"),
        ({"label_smoothing": -0.1}, "label_smoothing -0.1"),
        ({"z_loss": -1e-4}, "z_loss -0.0001"),
        ({"kernel": "liger"}, "'liger' runs on CUDA devices, not on cpu; use kernel='auto'"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(*problem(), **options)


def test_liger_kernel_is_missed_only_where_it_is_wanted(monkeypatch):
    assert get_imports(losses.__file__) == ["collections", "math", "torch", "transformers", "typing"]
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", None)
    with pytest.raises(ImportError, match="pip install liger-kernel"):
        losses._liger_function(torch.device("cuda"))


def test_what_liger_kernel_is_asked_for(monkeypatch):
    def liger(states, weight, targets, *, bias, accum_dtype, **options):
        asked.update(options, dtypes=[states.dtype, weight.dtype, bias.dtype], accum_dtype=accum_dtype)
        return F.cross_entropy(F.linear(states, weight, bias).float(), targets, reduction="sum")

    asked, stub = {}, SimpleNamespace(liger_fused_linear_cross_entropy=liger)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", stub)
    found = losses._liger_function(torch.device("cuda"))
    monkeypatch.setattr(losses, "_liger_function", lambda device: found)
    *leaves, targets = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(*leaves, targets, kernel="liger", label_smoothing=0.1, z_loss=1e-4)
        expected = linear_cross_entropy(*leaves, targets, kernel="torch")
    torch.testing.assert_close(loss, expected)
    assert asked == {
        "dtypes": [torch.bfloat16] * 3,
        "accum_dtype": torch.float32,
        "ignore_index": -100,
        "lse_square_scale": 1e-4,
        "label_smoothing": 0.1,
        "reduction": "sum",
    }


@ON_GPU
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["torch", "chunked", "liger"])
def test_kernels_agree_on_a_gpu(kernel, dtype, terms):
    if kernel == "liger":
        pytest.importorskip("liger_kernel")
    assert_equal_on_a_gpu(linear_cross_entropy, kernel, dtype, terms)


@ON_GPU
@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_compiled_kernels_agree_on_a_gpu(kernel, fresh_compiler):
    assert_equal_on_a_gpu(torch.compile(linear_cross_entropy, fullgraph=True), kernel, torch.bfloat16, "both")


def assert_equal_on_a_gpu(loss, kernel, dtype, terms):
    *leaves, targets = problem(torch.float32)
    expected = with_gradients(linear_cross_entropy(*leaves, targets, kernel="torch", **TERMS[terms]), *leaves)
    *leaves, targets = problem(torch.float32, "cuda")
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        value = loss(*leaves, targets, kernel=kernel, **TERMS[terms])
    found = [value.cpu() for value in with_gradients(value, *leaves)]
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@ON_GPU
@pytest.mark.parametrize("kernel", ["torch", "chunked"])
def test_no_kernel_waits_for_the_device(kernel):
    *leaves, targets = problem(torch.float32, "cuda")
    linear_cross_entropy(*leaves, targets, kernel=kernel, **TERMS["both"]).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        linear_cross_entropy(*leaves, targets, kernel=kernel, **TERMS["both"]).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
