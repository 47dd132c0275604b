# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
`torch.export` of encoder and classifier: the numbers of the model, for any batch and for lengths in whole blocks.

A block is half a window (`local_attention // 2`; `decoder_window // 2` must divide it): shapes in windowed attention
are whole numbers of them, which the exporter takes for a condition on the length. Texts are padded up to that.
"""

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from modeling_concept import ConceptEncoder, ConceptEncoderForSequenceClassificationViaDecoder
from tests.modeling.tiny import SIZE, document, tiny_model

BLOCK = SIZE["local_attention"] // 2
OUTPUTS = {ConceptEncoder: "last_hidden_state", ConceptEncoderForSequenceClassificationViaDecoder: "logits"}
SHAPES = ((3, 48), (1, 48), (7, 8), (2, 36), (1, 204))


class PaddedModel(nn.Module):
    """A model that takes one padded document a row and gives its first output alone."""

    def __init__(self, model: nn.Module, output: str):
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[self.output]


def make_batch(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents that fill their rows less and less."""
    ids = torch.stack([document(length, seed=row) for row in range(rows)])
    ends = torch.tensor([[length - row * length // (rows + 1)] for row in range(rows)])
    return ids, (torch.arange(length) < ends).long()


def build(model_class: type[nn.Module], variant: str) -> PaddedModel:
    layers = {"num_hidden_layers": 1, "num_token_layers": 1}
    model = tiny_model(model_class, variant, torch.float32, decoder_window=BLOCK, **layers)
    return PaddedModel(model, OUTPUTS[model_class])


@torch.no_grad()
def exported(model: PaddedModel) -> nn.Module:
    sizes = {0: Dim("batch", min=1, max=1024), 1: BLOCK * Dim("blocks", min=2, max=4096)}
    return export(model, make_batch(3, 48), dynamic_shapes=(sizes, sizes)).module()


@pytest.fixture(scope="module")
def classifier() -> PaddedModel:
    return build(ConceptEncoderForSequenceClassificationViaDecoder, "hybrid")


@pytest.fixture(scope="module")
def program(classifier) -> nn.Module:
    return exported(classifier)


@torch.no_grad()
def check(program: nn.Module, model: nn.Module, shape: tuple[int, int]) -> None:
    batch = make_batch(*shape)
    torch.testing.assert_close(program(*batch), model(*batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exported_classifier_computes_the_same(program, classifier, shape):
    check(program, classifier, shape)


@torch.no_grad()
def test_another_length_is_refused_and_padding_makes_it_fit(program, classifier):
    ids, mask = make_batch(2, 37)
    with pytest.raises(AssertionError, match="Guard failed"):
        program(ids, mask)
    padded = [nn.functional.pad(values, (0, -37 % BLOCK)) for values in (ids, mask)]
    torch.testing.assert_close(program(*padded), classifier(ids, mask), atol=1e-5, rtol=1e-5)


def test_an_exported_encoder_with_learned_positions_takes_any_length():
    model = build(ConceptEncoder, "perceiver_v1")
    sizes = {0: Dim("batch", min=1, max=1024), 1: Dim("length", min=2, max=64)}
    with torch.no_grad():
        program = export(model, make_batch(3, 48), dynamic_shapes=(sizes, sizes)).module()
    for shape in ((1, 2), (4, 37), (2, 64)):
        check(program, model, shape)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "thin", "learned_concepts"])
@pytest.mark.parametrize("model_class", OUTPUTS)
def test_every_family_is_exported(model_class, variant):
    model = build(model_class, variant)
    program = exported(model)
    for shape in SHAPES:
        check(program, model, shape)
