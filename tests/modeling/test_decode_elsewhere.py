# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding places that are not the input's, from concepts alone; and the concepts that a loss is computed on."""

import pytest
import torch
from torch.nn import functional as F

from modeling_concept import ConceptEncoder, ConceptEncoderForMaskedLM
from tests.modeling.test_packing import ROWS, documents, pack
from tests.modeling.tiny import VARIANTS, document, masked_batch, tiny_model

# Variants whose decoder sees nothing but concepts, wherever it decodes.
CONCEPTS_ONLY = [
    name
    for name, fields in VARIANTS.items()
    if fields.get("decoder_tokens") == "none" and fields.get("decoder_query", "position") == "position"
]


def all_places(rows: list[list[torch.Tensor]], total: int) -> dict[str, torch.Tensor]:
    """Every place of every document of packed rows."""
    places = torch.full((len(rows), total), -1)
    owners = torch.zeros_like(places)
    for index, row in enumerate(rows):
        lengths = [len(tokens) for tokens in row]
        places[index, : sum(lengths)] = torch.cat([torch.arange(length) for length in lengths])
        owners[index, : sum(lengths)] = torch.arange(len(row)).repeat_interleave(torch.tensor(lengths))
    return {"decoded_positions": places, "decoded_documents": owners}


@pytest.mark.parametrize("backend", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("variant", CONCEPTS_ONLY)
def test_a_bottleneck_decodes_the_places_of_its_input_as_ever(variant, backend):
    model, ids = tiny_model(ConceptEncoderForMaskedLM, variant), masked_batch()["input_ids"]
    model.set_attn_implementation(backend)
    places = torch.arange(37).expand(3, -1)
    elsewhere = model(ids, decoded_positions=places).logits
    torch.testing.assert_close(elsewhere, model(ids).logits, atol=1e-10, rtol=0)


@pytest.mark.parametrize("backend", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("variant", CONCEPTS_ONLY)
def test_documents_of_a_row_are_decoded_each_from_its_own_concepts(variant, backend):
    model, rows = tiny_model(ConceptEncoderForMaskedLM, variant), documents()
    model.set_attn_implementation(backend)
    batch = pack(rows)
    ever, elsewhere = model(**batch).logits, all_places(rows, batch["input_ids"].shape[1])
    used = elsewhere["decoded_positions"] >= 0
    torch.testing.assert_close(model(**batch, **elsewhere).logits[used], ever[used], atol=1e-10, rtol=0)
    # In any order, with gaps between them.
    order = torch.randperm(used.shape[1])
    mixed = {name: values[:, order] for name, values in elsewhere.items()}
    torch.testing.assert_close(model(**batch, **mixed).logits[used[:, order]], ever[:, order][used[:, order]])


def test_a_hybrid_decodes_elsewhere_as_a_bottleneck_of_its_weights():
    hybrid, ids = tiny_model(ConceptEncoderForMaskedLM, "hybrid"), masked_batch()["input_ids"]
    bottleneck = tiny_model(ConceptEncoderForMaskedLM, "hybrid", decoder_tokens="none")
    missing = bottleneck.load_state_dict(hybrid.state_dict(), strict=False).missing_keys
    assert not missing
    places = torch.arange(20, 60).expand(3, -1)
    ours, theirs = (model(ids, decoded_positions=places).logits for model in (hybrid, bottleneck))
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_but_the_concepts_is_seen(variant):
    """The gradient by the input's embeddings vanishes when that by the concepts is cut."""
    model = tiny_model(ConceptEncoderForMaskedLM, variant)
    words = model.get_input_embeddings()(document(30)[None]).detach().requires_grad_()
    places = torch.arange(30)[None]
    loss = model(inputs_embeds=words, decoded_positions=places, labels=document(30, seed=1)[None]).loss
    assert torch.autograd.grad(loss, words)[0].abs().sum() > 0

    def cut(module, inputs, output):
        output.last_hidden_state = output.last_hidden_state.detach()
        return output

    model.model.register_forward_hook(cut)
    loss = model(inputs_embeds=words, decoded_positions=places, labels=document(30, seed=1)[None]).loss
    assert torch.autograd.grad(loss, words, allow_unused=True)[0] is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_that_of_the_logits_and_skips_what_is_no_place(variant):
    model, ids = tiny_model(ConceptEncoderForMaskedLM, variant), document(30)[None].repeat(2, 1)
    places = torch.tensor([[0, 7, 33, -1], [5, -1, -1, -1]])
    labels = torch.tensor([[9, 8, 7, -100], [6, -100, -100, -100]])
    outputs = model(ids, decoded_positions=places, labels=labels, return_logits=True)
    expected = F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(outputs.loss, expected, atol=1e-10, rtol=0)
    halved = model(ids, decoded_positions=places, labels=labels, num_items_in_batch=8).loss
    torch.testing.assert_close(halved, outputs.loss / 2, atol=1e-10, rtol=0)
    assert outputs.logits.isfinite().all()


def test_what_a_variant_cannot_decode_is_refused():
    ids, places = document(30)[None], torch.arange(65)[None]
    for variant in ("perceiver_v1", "weighted_decoder"):
        with pytest.raises(ValueError, match=r"decoded_positions reach 64, and this model has 64 learned positions"):
            tiny_model(ConceptEncoderForMaskedLM, variant)(ids, decoded_positions=places)
    with pytest.raises(ValueError, match="num_decoder_mixing_layers=2 lets the positions of the input mix"):
        tiny_model(ConceptEncoderForMaskedLM, "mixing_decoder")(ids, decoded_positions=places)
    with pytest.raises(ValueError, match="need a mask_token_id with decoder_query='token\\+position'"):
        tiny_model(ConceptEncoderForMaskedLM, "perceiver_v1", mask_token_id=None)(ids, decoded_positions=places[:, :9])
    model, rows = tiny_model(ConceptEncoderForMaskedLM), pack(documents())
    with pytest.raises(ValueError, match="decoded_documents: rows of several documents"):
        model(**rows, decoded_positions=torch.zeros(len(ROWS), 1, dtype=torch.long))
    with pytest.raises(ValueError, match="decoded_documents: rows of several documents"):
        model(ids, decoded_positions=places, decoded_documents=torch.zeros_like(places))


@pytest.mark.parametrize("variant", ["hybrid", "nested_dropout"])
def test_the_concepts_come_on_request(variant):
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant), pack(documents())
    encoder = ConceptEncoder(model.config).to(torch.float64).eval()
    encoder.load_state_dict(model.model.state_dict())
    concepts = encoder(**batch)
    labels = torch.full_like(batch["input_ids"], 7)
    assert model(**batch, labels=labels).concept_states is None
    for request in ({"labels": labels, "return_concepts": True}, {"only_concepts": True}):
        outputs = model(**batch, **request, return_logits=False)
        assert outputs.logits is None
        assert (outputs.loss is None) == ("only_concepts" in request)
        torch.testing.assert_close(outputs.concept_states, concepts.last_hidden_state)
        assert torch.equal(outputs.concept_mask, concepts.concept_mask)
        assert torch.equal(outputs.concept_documents, concepts.concept_documents)
    alone = model(**batch, only_concepts=True, kept_concepts=0.5)
    assert alone.concept_mask.sum() < concepts.concept_mask.sum()
    assert alone.logits is None


def test_packed_documents_can_be_decoded_from_some_of_their_concepts():
    model, rows = tiny_model(ConceptEncoderForMaskedLM, "bottleneck"), documents()
    batch = pack(rows)
    elsewhere = all_places(rows, batch["input_ids"].shape[1])
    used = elsewhere["decoded_positions"] >= 0
    for backend in ("sdpa", "varlen"):
        model.set_attn_implementation(backend)
        some = model(**batch, **elsewhere, kept_concepts=0.5).logits
        torch.testing.assert_close(some[used], model(**batch, kept_concepts=0.5).logits[used], atol=1e-10, rtol=0)
