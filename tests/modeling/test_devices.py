# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""An accelerator gives what the CPU gives. Runs where there is one (CUDA or MPS), and is skipped elsewhere."""

import pytest
import torch

from modeling_concept import ConceptEncoderForMaskedLM
from tests.modeling.tiny import VARIANTS, masked_batch, packed_batch, padded_batch, tiny_model

DEVICE = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
pytestmark = [
    pytest.mark.skipif(DEVICE is None, reason="no accelerator on this machine"),
    # What other variants have compiled counts towards the limit of recompilations.
    pytest.mark.usefixtures("fresh_compiler"),
]


def on_device(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.to(DEVICE) for name, value in batch.items()}


def loss_and_gradients(model, batch) -> list[torch.Tensor]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return [loss.detach().float().cpu(), *(p.grad.float().cpu().clone() for p in model.parameters())]


def furthest(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The norm of a difference over the norm of one, where that is largest: under .11 from rounding to bfloat16."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in pairs)


def wide_model(variant: str = "hybrid") -> ConceptEncoderForMaskedLM:
    """Heads of 16, which is the least that range kernels take."""
    return tiny_model(ConceptEncoderForMaskedLM, variant, torch.float32, hidden_size=64).to(DEVICE)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("make_batch", [masked_batch, padded_batch, packed_batch])
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_equal_those_of_the_cpu(variant, make_batch, backend):
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant, torch.float32), make_batch()
    expected = loss_and_gradients(model, batch)
    model.to(DEVICE).set_attn_implementation(backend)
    torch.testing.assert_close(loss_and_gradients(model, on_device(batch)), expected, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_bfloat16_is_near_float32(variant):
    model = tiny_model(ConceptEncoderForMaskedLM, variant, torch.float32).to(DEVICE)
    batch = on_device(masked_batch())
    exact = model(**batch).loss
    torch.testing.assert_close(model.bfloat16()(**batch).loss.float(), exact, atol=0.1, rtol=0.05)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        torch.testing.assert_close(model.float()(**batch).loss.float(), exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("make_batch", [masked_batch, packed_batch])
@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_compiled_equals_eager(variant, make_batch):
    model = tiny_model(ConceptEncoderForMaskedLM, variant, torch.float32).to(DEVICE).train()
    batch = on_device(make_batch())
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    expected = loss_and_gradients(model, batch)
    torch.testing.assert_close(loss_and_gradients(compiled, batch), expected, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_compiled_equals_eager_without_padding(variant):
    if DEVICE.type != "cuda":
        pytest.skip("elsewhere documents are taken one by one, on the host")
    model, batch = wide_model(variant).train(), on_device(packed_batch())
    model.set_attn_implementation("varlen")
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    with torch.autocast("cuda", torch.bfloat16):
        ours, expected = loss_and_gradients(compiled, batch), loss_and_gradients(model, batch)
    torch.testing.assert_close(ours[0], expected[0], atol=0.05, rtol=0.02)
    assert furthest(ours, expected) < 0.2


@pytest.mark.parametrize("make_batch", [masked_batch, packed_batch])
def test_regions_that_are_replayed_equal_eager(make_batch):
    if DEVICE.type != "cuda":
        pytest.skip("only CUDA records what it launches")
    model, batch = wide_model().train(), on_device(make_batch())
    model.set_attn_implementation("varlen")
    with torch.autocast("cuda", torch.bfloat16):
        expected = loss_and_gradients(model, batch)
        for module in model.modules():
            if type(module).__name__ in model._compiled_modules:
                module.compile(fullgraph=True, dynamic=False, mode="reduce-overhead")
        for _ in range(4):
            torch.compiler.cudagraph_mark_step_begin()
            assert furthest(loss_and_gradients(model, batch), expected) < 0.2


@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
@pytest.mark.parametrize("make_batch", [masked_batch, packed_batch])
def test_a_step_never_waits_for_the_device(make_batch, backend):
    """With `masked_positions` neither forward nor backward reads a value back to the host."""
    if DEVICE.type != "cuda":
        pytest.skip("only CUDA can tell")
    model, batch = wide_model(), on_device(make_batch())
    model.set_attn_implementation(backend)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
