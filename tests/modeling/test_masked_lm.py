# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Masked-LM: sparse = dense, dropped = masked keys, some queries = all queries, and what losses are divided by."""

import pytest
import torch
from torch.nn import functional as F

from modeling_concept import ConceptEncoder, ConceptEncoderForMaskedLM
from tests.modeling.tiny import MASK, VARIANTS, document, masked_batch, tiny_model

DROPPING = [name for name, fields in VARIANTS.items() if fields.get("masked_tokens") != "mask"]


def gradients(model, loss) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("given", ["labels", "masked_positions"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_loss_equals_dense_loss(variant, given):
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant), masked_batch()
    positions = batch.pop("masked_positions")
    logits = model(batch["input_ids"]).logits
    dense = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    if given == "masked_positions":
        batch["masked_positions"] = positions
    sparse = model(**batch, return_logits=False)
    assert sparse.logits is None
    torch.testing.assert_close(sparse.loss, dense, atol=1e-10, rtol=0)
    torch.testing.assert_close(gradients(model, sparse.loss), gradients(model, dense), atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_queries_at_some_positions_equal_queries_at_all(variant):
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant), masked_batch()
    positions = batch["masked_positions"]
    some = model(batch["input_ids"], masked_positions=positions).logits
    everywhere = model(batch["input_ids"]).logits
    index = positions[..., None].expand(-1, -1, everywhere.shape[-1])
    torch.testing.assert_close(some, everywhere.gather(1, index), atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_with_fewer_masks_are_filled(variant):
    """Short rows, -1 fills and padding give what every row gives alone."""
    model = tiny_model(ConceptEncoderForMaskedLM, variant)
    documents = [document(length, masked=0.3) for length in (30, 12, 5)]
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    attention_mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(d) for d in documents], batch_first=True)
    where = [(d == MASK).nonzero().flatten() for d in documents]
    positions = torch.nn.utils.rnn.pad_sequence(where, batch_first=True, padding_value=-1)
    labels = torch.full_like(ids, -100)
    losses = []
    for row, (tokens, place) in enumerate(zip(documents, where, strict=True)):
        labels[row, place] = 7 + row
        alone = torch.full_like(tokens, -100)
        alone[place] = 7 + row
        losses.append(model(tokens[None], labels=alone[None]).loss * len(place))
    loss = model(ids, attention_mask=attention_mask, masked_positions=positions, labels=labels).loss
    torch.testing.assert_close(loss, sum(losses) / sum(map(len, where)), atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", DROPPING)
def test_dropped_masks_equal_masked_keys(variant):
    """With `masked_positions` the masked tokens leave the sequence, without it they are keys that nothing reads."""
    model, batch = tiny_model(ConceptEncoder, variant), masked_batch()
    dropped = model(batch["input_ids"], masked_positions=batch["masked_positions"], output_token_states=True)
    hidden = model(batch["input_ids"], output_token_states=True)
    assert dropped.token_states.shape[1] == 37 - 9
    assert dropped.token_mask is None
    assert hidden.token_mask.sum() == 3 * (37 - 9)
    torch.testing.assert_close(dropped.last_hidden_state, hidden.last_hidden_state, atol=1e-10, rtol=0)
    torch.testing.assert_close(dropped.token_states, hidden.token_states[:, : 37 - 9], atol=1e-10, rtol=0)


@pytest.mark.parametrize(("variant", "sees"), [("hybrid", False), ("bottleneck", False), ("seen_masks", True)])
def test_dropped_masks_are_not_seen(variant, sees):
    model, ids = tiny_model(ConceptEncoder, variant), masked_batch()["input_ids"]
    before = model(ids).last_hidden_state
    with torch.no_grad():
        model.embed_tokens.weight[MASK] += 1
    assert torch.equal(before, model(ids).last_hidden_state) is not sees


@pytest.mark.parametrize("variant", VARIANTS)
def test_embeddings_may_be_given_instead_of_ids(variant):
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant), masked_batch()
    embeds = model.get_input_embeddings()(batch["input_ids"])
    by_ids = model(batch["input_ids"], masked_positions=batch["masked_positions"]).logits
    by_embeds = model(inputs_embeds=embeds, masked_positions=batch["masked_positions"]).logits
    torch.testing.assert_close(by_ids, by_embeds, atol=1e-10, rtol=0)


def test_logits_come_beside_labels_on_request_and_in_evaluation():
    model, batch = tiny_model(ConceptEncoderForMaskedLM), masked_batch()
    assert model.train()(**batch).logits is None
    assert model(**batch, return_logits=True).logits.shape == (3, 9, 99)
    assert model.eval()(**batch, return_logits=False).logits is None
    assert torch.equal(model(**batch).logits, model(**batch, return_logits=True).logits)
    positions = batch.pop("masked_positions")
    full = model(**batch, return_logits=True)
    assert full.logits.shape == (3, 37, 99)
    torch.testing.assert_close(full.loss, model(**batch, masked_positions=positions).loss)
    loss, logits = model(**batch, return_logits=True, return_dict=False)
    assert torch.equal(logits, full.logits)
    assert torch.equal(loss, full.loss)


def test_loss_of_micro_batches_adds_up():
    model, batch = tiny_model(ConceptEncoderForMaskedLM), masked_batch(rows=4)
    batch["labels"][0, batch["masked_positions"][0, :5]] = -100
    items = (batch["labels"] != -100).sum()
    parts = [
        model(**{name: value[i : i + 1] for name, value in batch.items()}, num_items_in_batch=items) for i in range(4)
    ]
    torch.testing.assert_close(sum(part.loss for part in parts), model(**batch).loss)


def test_no_labels_give_a_loss_of_zero():
    model = tiny_model(ConceptEncoderForMaskedLM)
    ids = document(11)[None]
    loss = model(ids, labels=torch.full_like(ids, -100)).loss
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant):
    """No parameter without a gradient: data-parallel training would stop at it."""
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant), masked_batch()
    model(**batch, token_type_ids=batch["input_ids"] % 2).loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("variant", ["hybrid", "thin", "perceiver_v1"])
def test_resized_vocabulary_stays_tied(variant):
    model = tiny_model(ConceptEncoderForMaskedLM, variant)
    ids = document(11, masked=0.3)[None]
    before = model(ids).logits
    model.resize_token_embeddings(120)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.vocab_size == 120
    assert model.lm_head.bias.shape == (120,)
    torch.testing.assert_close(model(ids).logits[..., :99], before)
    model.resize_token_embeddings(50)
    assert model(ids.clamp(max=49)).logits.shape == (1, 11, 50)


def test_factorised_head_ties_the_narrow_embedding():
    model = tiny_model(ConceptEncoderForMaskedLM, "thin")
    assert model.lm_head.weight.shape == (99, 12)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_gradient_checkpointing_changes_nothing(variant, reentrant):
    model, batch = tiny_model(ConceptEncoderForMaskedLM, variant).train(), masked_batch()
    off = gradients(model, model(**batch).loss)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    on = gradients(model, model(**batch).loss)
    torch.testing.assert_close(on, off, atol=1e-10, rtol=0)


def test_wrong_inputs_get_one_clear_error():
    model = tiny_model(ConceptEncoderForMaskedLM)
    ids = document(10)[None]
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model(ids, inputs_embeds=torch.zeros(1, 10, 32))
    with pytest.raises(ValueError, match=r"attention_mask .*\(1, 9\).*\(1, 10\)"):
        model(ids, attention_mask=torch.ones(1, 9))
    with pytest.raises(ValueError, match="max_position_embeddings"):
        tiny_model(ConceptEncoderForMaskedLM, "perceiver_v1")(document(65)[None])
