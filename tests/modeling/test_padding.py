# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A document gives the same numbers alone, padded on either side, with holes, and beside any batch mates."""

import pytest
import torch

from modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassificationViaDecoder,
)
from tests.modeling.tiny import VARIANTS, document, tiny_model

LENGTHS = (1, 2, 3, 8, 21, 37, 47)
TOTAL = 50
LAYOUTS = ("right", "left", "holed")


def places(length: int, layout: str) -> torch.Tensor:
    """Where the tokens of a document of `length` stand in a row of `TOTAL`."""
    if layout == "right":
        return torch.arange(length)
    if layout == "left":
        return torch.arange(TOTAL - length, TOTAL)
    return torch.randperm(TOTAL, generator=torch.Generator().manual_seed(length))[:length].sort().values


def pad(
    documents: list[torch.Tensor], layout: str, fill: int
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """`input_ids`, `attention_mask` and the places of every document; what is not attended to holds `fill`."""
    ids = torch.full((len(documents), TOTAL), fill)
    mask = torch.zeros_like(ids)
    where = [places(len(tokens), layout) for tokens in documents]
    for row, (tokens, place) in enumerate(zip(documents, where, strict=True)):
        ids[row, place], mask[row, place] = tokens, 1
    return ids, mask, where


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_do_not_depend_on_padding_or_batch_mates(variant, layout, dtype, tolerance):
    model = tiny_model(ConceptEncoderForMaskedLM, variant, dtype)
    documents = [document(length, masked=0.3) for length in LENGTHS]
    for fill in (0, 17):
        ids, mask, where = pad(documents, layout, fill)
        together = model(ids, attention_mask=mask).logits
        for row, tokens in enumerate(documents):
            alone = model(tokens[None]).logits[0]
            torch.testing.assert_close(together[row, where[row]], alone, atol=tolerance, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_concepts_and_their_positions_do_not_depend_on_padding(variant, layout):
    model = tiny_model(ConceptEncoder, variant)
    documents = [document(length, masked=0.2) for length in LENGTHS]
    ids, mask, _ = pad(documents, layout, fill=0)
    together = model(ids, attention_mask=mask)
    for row, tokens in enumerate(documents):
        alone = model(tokens[None])
        used = together.concept_mask[row].bool()
        torch.testing.assert_close(
            together.last_hidden_state[row, used], alone.last_hidden_state[0], atol=1e-10, rtol=0
        )
        assert not together.last_hidden_state[row, ~used].any()
        if alone.concept_positions is not None:
            torch.testing.assert_close(together.concept_positions[row, used], alone.concept_positions[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_classification_does_not_depend_on_padding(variant, layout):
    model = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, variant, num_labels=3)
    documents = [document(length) for length in LENGTHS]
    ids, mask, where = pad(documents, layout, fill=0)
    types = torch.zeros_like(ids)
    for row, place in enumerate(where):
        types[row, place[len(place) // 2 :]] = 1
    together = model(ids, attention_mask=mask, token_type_ids=types).logits
    for row, tokens in enumerate(documents):
        alone = model(tokens[None], token_type_ids=types[row, where[row]][None]).logits[0]
        torch.testing.assert_close(together[row], alone, atol=1e-10, rtol=0)


def test_a_mask_of_ones_changes_nothing():
    model = tiny_model(ConceptEncoderForMaskedLM)
    ids = document(23, masked=0.3)[None]
    torch.testing.assert_close(model(ids, attention_mask=torch.ones_like(ids)).logits, model(ids).logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_padding_or_masks_alone_stay_finite(variant):
    model = tiny_model(ConceptEncoderForMaskedLM, variant, torch.float32).train()
    ids = torch.stack([document(9), torch.full((9,), 4), document(9, seed=1)])
    mask = torch.ones_like(ids)
    mask[2] = 0
    for backend in ("sdpa", "eager", "varlen"):
        model.set_attn_implementation(backend)
        model.zero_grad()
        model(ids, attention_mask=mask, labels=torch.full_like(ids, 7)).loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        assert torch.isfinite(model(ids, attention_mask=mask).logits).all()


def test_what_is_padded_never_matters():
    """Mutation of unattended tokens changes nothing, mutation of attended ones does."""
    model = tiny_model(ConceptEncoderForMaskedLM)
    ids = document(20)[None].repeat(3, 1)
    mask = torch.ones_like(ids)
    mask[:, 15:] = 0
    ids[1, 16], ids[2, 14] = 50, 50 if ids[2, 14] != 50 else 51
    logits = model(ids, attention_mask=mask).logits[:, :14]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-10, rtol=0)
    assert not torch.allclose(logits[0], logits[2])
