# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs at the edge of what models take: nothing visible, other dtypes, weights that are elsewhere, odd labels."""

import accelerate
import pytest
import torch
from torch.nn import functional as F

from modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForQuestionAnswering,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderForTextEncoding,
)
from modeling_concept.attention import contextual_positions
from modeling_concept.losses import classification_loss
from modeling_concept.pooling import masked_mean
from modeling_concept.tokens import segment_of
from tests.modeling.tiny import MASK, SWITCHES, VARIANTS, document, masked_batch, tiny_config, tiny_model

CLOSE = {"atol": 1e-10, "rtol": 0}
DROPPING = [name for name, fields in (VARIANTS | SWITCHES).items() if fields.get("masked_tokens") != "mask"]


@pytest.mark.parametrize("variant", DROPPING)
@pytest.mark.parametrize("backend", ["eager", "sdpa", "varlen"])
def test_a_row_of_masks_is_the_same_padded_and_alone(variant, backend):
    model = tiny_model(ConceptEncoderForMaskedLM, variant, num_decoder_mixing_layers=0)
    reference = model(torch.full((1, 9), MASK)).logits
    model.set_attn_implementation(backend)
    ids, mask = torch.full((2, 20), MASK), torch.zeros(2, 20)
    ids[1], mask[0, :9], mask[1] = document(20, masked=0.3), 1, 1
    torch.testing.assert_close(model(ids, attention_mask=mask).logits[:1, :9], reference, **CLOSE)


@pytest.mark.parametrize("variant", ["hybrid", "funnel", "perceiver_v1"])
def test_documents_beside_one_of_masks_do_not_notice(variant):
    model = tiny_model(ConceptEncoderForMaskedLM, variant)
    texts = [document(7, masked=0.2), torch.full((2,), MASK), document(11, masked=0.2)]
    packed = model(torch.cat(texts)[None], document_lengths=torch.tensor([[7, 2, 11]])).logits[0].split([7, 2, 11])
    for place in (0, 2):
        torch.testing.assert_close(packed[place], model(texts[place][None]).logits[0], **CLOSE)


@pytest.mark.parametrize("lengths", [[0, 3, 9], [3, 0, 9], [3, 9, 0]])
def test_empty_documents_may_stand_anywhere(lengths):
    model, ids = tiny_model(ConceptEncoderForMaskedLM), document(12)
    packed = model(ids[None], document_lengths=torch.tensor([lengths])).logits[0]
    for text, logits in zip(ids.split([3, 9]), packed.split([3, 9]), strict=True):
        torch.testing.assert_close(logits, model(text[None]).logits[0], **CLOSE)
    places = torch.arange(14)[None]
    full = [number for number, length in enumerate(lengths) if length]
    assert segment_of(places, torch.tensor([lengths]))[0].tolist() == [full[0]] * 3 + [full[1]] * 11


def test_lengths_and_masks_of_any_type_mean_the_same():
    model, ids = tiny_model(ConceptEncoderForMaskedLM), document(12)[None]
    lengths = torch.tensor([[5, 7]])
    expected = model(ids, document_lengths=lengths).logits
    torch.testing.assert_close(model(ids, document_lengths=lengths.int()).logits, expected)
    mask = (torch.arange(12) < 8).long()[None]
    expected = model(ids, attention_mask=mask).logits
    for other in (mask.bool(), mask.float(), 2 * mask, 0.5 * mask):
        torch.testing.assert_close(model(ids, attention_mask=other).logits, expected)


def test_every_token_may_be_masked():
    model, ids = tiny_model(ConceptEncoderForMaskedLM), torch.full((2, 8), MASK)
    positions = torch.arange(8).expand(2, 8)
    torch.testing.assert_close(model(ids, masked_positions=positions).logits, model(ids).logits, **CLOSE)


def test_learned_positions_begin_anew_in_every_document():
    model = tiny_model(ConceptEncoderForMaskedLM, "perceiver_v1")
    texts = [document(60, seed) for seed in range(3)]
    lengths = torch.full((1, 3), 60)
    packed = model(torch.cat(texts)[None], document_lengths=lengths, max_document_length=60).logits[0]
    for text, logits in zip(texts, packed.split(60), strict=True):
        torch.testing.assert_close(logits, model(text[None]).logits[0], **CLOSE)
    with pytest.raises(ValueError, match="180 tokens are more than the 64 learned positions"):
        model(torch.cat(texts)[None], document_lengths=lengths)


@pytest.mark.parametrize("variant", ["learned_positions", "perceiver_v1", "weighted_decoder"])
@pytest.mark.parametrize("lengths", [(60,), (60, 30), (0, 60, 0)])
def test_padding_may_go_on_where_learned_positions_end(variant, lengths):
    model = tiny_model(ConceptEncoderForMaskedLM, variant)
    texts = [document(length, seed) for seed, length in enumerate(lengths)]
    row = torch.nn.functional.pad(torch.cat(texts), (0, 100), value=17)[None]
    packed = model(row, document_lengths=torch.tensor([lengths]), max_document_length=64).logits[0]
    for text, logits in zip(texts, packed.split([*lengths, 100]), strict=False):
        if len(text):
            torch.testing.assert_close(logits, model(text[None]).logits[0], **CLOSE)


def test_no_document_is_longer_than_its_row():
    model, text = tiny_model(ConceptEncoderForMaskedLM, "perceiver_v1"), document(20)
    bounded = model(text[None], document_lengths=torch.tensor([[20]]), max_document_length=512).logits
    torch.testing.assert_close(bounded, model(text[None]).logits, **CLOSE)


@pytest.mark.parametrize("variant", ["hybrid", "perceiver_v1"])
def test_offloaded_weights_give_the_same_loss_and_logits(variant):
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant), masked_batch()
    options = {"label_smoothing": 0.1, "z_loss": 1e-3, "return_logits": True}
    expected = model(**batch, **options)
    accelerate.cpu_offload(model, execution_device="cpu")
    assert model.lm_head.weight.is_meta
    outputs = model(**batch, **options)
    torch.testing.assert_close(outputs.loss, expected.loss, **CLOSE)
    torch.testing.assert_close(outputs.logits, expected.logits, **CLOSE)


def test_what_stands_in_place_of_the_output_layer_is_called_by_the_loss():
    class Adapted(torch.nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) + states[..., :1] * self.bias

    model, batch = tiny_model(ConceptEncoderForMaskedLM), masked_batch()
    before = model(**batch).loss
    adapted = Adapted(*reversed(model.lm_head.weight.shape)).double()
    adapted.load_state_dict(model.lm_head.state_dict())
    model.lm_head = adapted
    outputs = model(**batch, return_logits=True)
    labels = batch["labels"].gather(1, batch["masked_positions"])
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten()))
    assert not torch.isclose(outputs.loss, before)


@pytest.mark.parametrize(
    "head",
    [
        ConceptEncoderForMaskedLM,
        ConceptEncoderForSequenceClassificationViaDecoder,
        ConceptEncoderForQuestionAnswering,
        ConceptEncoderForTextEncoding,
        ConceptEncoder,
    ],
)
def test_a_configuration_may_ask_for_tuples(head):
    model, ids = tiny_model(head), document(9)[None]
    expected = model(ids).to_tuple()
    model.config.return_dict = False
    torch.testing.assert_close(model(ids), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_iterations": 0}, "num_iterations=0"),
        ({"num_iterations": -1}, "num_iterations=-1"),
        ({"concept_ratio": 2.5}, "concept_ratio=2.5: it is a whole number"),
        ({"position_ids": torch.arange(9)[None]}, "position_ids"),
        ({"is_causal": True}, "is_causal"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(ConceptEncoder)(document(9)[None], **arguments)


def test_labels_have_to_fit():
    model, ids = tiny_model(ConceptEncoderForMaskedLM), document(9)[None]
    with pytest.raises(ValueError, match=r"labels of shape \(1, 8\) do not fit"):
        model(ids, labels=ids[:, :8])


def test_a_place_that_is_none_has_no_loss():
    model, ids = tiny_model(ConceptEncoderForMaskedLM), document(9)[None]
    labels = torch.tensor([[7, 8, 9]])
    loss = model(ids, labels=labels, decoded_positions=torch.tensor([[3, -1, -1]])).loss
    torch.testing.assert_close(loss, model(ids, labels=labels[:, :1], decoded_positions=torch.tensor([[3]])).loss)


def test_a_regression_has_any_numbers_for_labels():
    config = tiny_config(num_labels=1)
    logits, labels = torch.tensor([[999.0], [1.0], [70001.0]]), torch.tensor([1000.3, -100.0, 70000.0])
    expected = F.mse_loss(logits, labels[:, None])
    torch.testing.assert_close(classification_loss(logits, labels, config), expected)
    halved = classification_loss(logits.bfloat16(), labels, config)
    torch.testing.assert_close(halved, F.mse_loss(logits.bfloat16().float(), labels[:, None]))


def test_unknown_labels_of_several_count_nothing():
    config = tiny_config(num_labels=3, problem_type="multi_label_classification")
    logits, labels = torch.randn(2, 3), torch.tensor([[1.0, -100.0, 0.0], [0.0, 1.0, -100.0]])
    known = labels >= 0
    expected = F.binary_cross_entropy_with_logits(logits[known], labels[known])
    torch.testing.assert_close(classification_loss(logits, labels, config), expected)


def test_a_step_without_items_has_a_loss_of_0():
    logits, labels = torch.randn(2, 2), torch.tensor([-100, -100])
    assert classification_loss(logits, labels, tiny_config(num_labels=2), num_items_in_batch=0) == 0


def test_means_of_many_states_fit_into_half_precision():
    states, mask = torch.full((1, 70_000, 2), 2.0, dtype=torch.float16), torch.ones(1, 70_000)
    assert torch.equal(masked_mean(states, mask), torch.full((1, 2), 2.0, dtype=torch.float16))


def test_contextual_attention_counts_exactly_in_half_precision():
    model = tiny_model(ConceptEncoder, "cope", torch.float32, max_concepts=600, cope_distances=512)
    attention = model.layers[0].attention
    seen = []
    model.layers[0].attention.forced_interface = lambda *inputs, **options: seen.append(inputs) or (inputs[3], None)
    assert contextual_positions(torch.full((1, 600, 600), 0.9)).dtype == torch.float32
    query = torch.randn(1, 4, 600, 8, generator=torch.Generator().manual_seed(0))
    exact, rounded = (
        type(attention).forced_interface(attention, *(3 * [query.to(dtype)]), None, scaling=0.3)[0].float()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (exact - rounded).norm() < 0.1 * exact.norm()
