# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Every value of every switch keeps the equalities, and every parameter that it brings is used."""

import pytest
import torch

from modeling_concept import ConceptEncoderForMaskedLM
from tests.modeling.test_masked_lm import gradients
from tests.modeling.test_packing import documents, pack, split
from tests.modeling.tiny import SWITCHES, VARIANTS, document, masked_batch, tiny_config, tiny_model

TOTAL = 50


@pytest.fixture(params=SWITCHES)
def model(request) -> ConceptEncoderForMaskedLM:
    return tiny_model(ConceptEncoderForMaskedLM, request.param)


def test_padding_changes_nothing(model):
    texts = [document(length, masked=0.3) for length in (1, 8, 21, 37)]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=17)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    for flip in (False, True):
        ids, mask = (ids.flip(1), mask.flip(1)) if flip else (ids, mask)
        together = model(ids, attention_mask=mask).logits
        for row, text in enumerate(texts):
            alone = model((text.flip(0) if flip else text)[None]).logits[0]
            torch.testing.assert_close(together[row, mask[row].bool()], alone, atol=1e-10, rtol=0)


def test_packing_changes_nothing(model):
    rows = documents()
    packed = split(model(**pack(rows)).logits, rows)
    for ours, tokens in zip(packed, [tokens for row in rows for tokens in row], strict=True):
        torch.testing.assert_close(ours, model(tokens[None]).logits[0], atol=1e-10, rtol=0)


def test_backends_and_sparse_losses_agree(model):
    batch = masked_batch()
    positions = batch.pop("masked_positions")
    results = []
    for backend in ("sdpa", "eager"):
        model.set_attn_implementation(backend)
        for extra in ({}, {"masked_positions": positions}):
            loss = model(**batch, **extra).loss
            results.append([loss.detach(), *gradients(model, loss)])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-10, rtol=1e-8)


def test_saved_and_loaded_bitwise(model, tmp_path):
    model = model.float()
    model.save_pretrained(tmp_path)
    loaded = ConceptEncoderForMaskedLM.from_pretrained(tmp_path)
    ids = document(33, masked=0.2)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_parameter_learns_within_three_steps(switch):
    """From a fresh model, where write-back and counted distances start as zeros."""
    torch.manual_seed(0)
    model = ConceptEncoderForMaskedLM(tiny_config(switch)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    touched = set()
    for _ in range(3):
        optimizer.zero_grad()
        model(**masked_batch(rows=6)).loss.backward()
        touched |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert touched == {name for name, parameter in model.named_parameters() if parameter.numel()}


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHES)
def test_compiles_as_one_graph(switch):
    torch._dynamo.reset()
    model, batch = tiny_model(ConceptEncoderForMaskedLM, switch).train(), masked_batch()
    if model.config.sample_iterations:
        model.eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    loss, expected = compiled(**batch).loss, model(**batch).loss
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected), atol=1e-10, rtol=1e-8)


def test_switches_have_their_own_names():
    assert not SWITCHES.keys() & VARIANTS.keys()
