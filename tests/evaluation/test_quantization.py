# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A quantised encoder is close to the one it was made of, which stays as it is."""

import pytest
import torch
from torch import nn
from torch.ao.nn.quantized.dynamic import Linear

from evaluation_concept.quantization import quantize_int8
from modeling_concept import ConceptEncoderForTextEncoding
from tests.modeling.tiny import document, tiny_model


@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_every_linear_layer_is_in_int8_and_embeddings_are_close(backend):
    model, ids = tiny_model(ConceptEncoderForTextEncoding, dtype=torch.float32), document(60)[None]
    model.set_attn_implementation(backend)
    weights = {name: values.clone() for name, values in model.state_dict().items()}
    quantized = quantize_int8(model)
    number = sum(isinstance(module, nn.Linear) for module in model.modules())
    assert number == sum(isinstance(module, Linear) for module in quantized.modules()) > 0
    assert not any(isinstance(module, nn.Linear) for module in quantized.modules())
    with torch.no_grad():
        ours, theirs = quantized(ids).embeddings, model(ids).embeddings
    assert not torch.equal(ours, theirs)
    assert torch.cosine_similarity(ours, theirs).item() > 0.99
    assert all(torch.equal(values, weights[name]) for name, values in model.state_dict().items())


def test_other_precisions_are_refused():
    with pytest.raises(ValueError, match=r"this one is in torch.bfloat16 on cpu"):
        quantize_int8(tiny_model(ConceptEncoderForTextEncoding, dtype=torch.bfloat16))
