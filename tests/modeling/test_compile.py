# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiled = eager, with no graph break in forward and loss and no second compilation for batches of one shape."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder
from tests.modeling.tiny import document, masked_batch, tiny_model

pytestmark = pytest.mark.usefixtures("fresh_compiler")

# Of every kind of block: tracing takes most of the time, and goes by their number.
ONE_OF_EACH = {"num_hidden_layers": 1, "num_token_layers": 1, "num_interleaved_token_layers": 1}


def loss_and_gradients(model, forward, batch) -> list[torch.Tensor]:
    model.zero_grad()
    loss = forward(**batch).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("given", ["masked_positions", "labels"])
@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_compiled_loss_and_gradients_equal_eager_ones(variant, given):
    """For any content of a batch of that shape, after one compilation."""
    layers = {} if (variant, given) == ("hybrid", "masked_positions") else ONE_OF_EACH
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant, **layers).train(), masked_batch()
    if given == "labels":
        del batch["masked_positions"]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    for shift in range(3):
        batch["input_ids"] = torch.where(batch["labels"] == -100, (batch["input_ids"] + shift).clamp(5, 98), 4)
        torch.testing.assert_close(
            loss_and_gradients(model, compiled, batch), loss_and_gradients(model, model, batch), atol=1e-10, rtol=1e-8
        )
    assert counter.frame_count == 1


def test_compiled_classification_of_padded_text_equals_eager():
    model = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, **ONE_OF_EACH)
    ids = torch.stack([document(20), document(20, seed=1)])
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits, atol=1e-10, rtol=0
    )


def test_inductor_equals_eager():
    layers = ONE_OF_EACH | {"num_interleaved_token_layers": 0}
    model, batch = tiny_model(ConceptEncoderForMaskedLM, dtype=torch.float32, **layers).train(), masked_batch()
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    torch.testing.assert_close(
        loss_and_gradients(model, compiled, batch), loss_and_gradients(model, model, batch), atol=1e-4, rtol=1e-3
    )
