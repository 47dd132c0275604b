# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses with fewer concepts: nothing removed is the model's own loss, and what is removed is no longer seen."""

import math
from dataclasses import asdict

import pytest
import torch

from evaluation_concept import ablation
from evaluation_concept.ablation import (
    MEASURES,
    SHARES,
    SlotAblation,
    ablate_slots,
    nothing_written_back,
    unigram_loss,
)
from modeling_concept import ConceptEncoderForMaskedLM
from tests.modeling.tiny import MASK, masked_batch, tiny_config, tiny_model

SPECIAL = range(5)
FREE = 2


def build(variant: str = "hybrid", **overrides) -> ConceptEncoderForMaskedLM:
    return tiny_model(ConceptEncoderForMaskedLM, variant, **overrides)


def batches() -> list[dict[str, torch.Tensor]]:
    """Rows of two lengths, one of them padded."""
    padded = masked_batch(rows=2, length=24, count=5)
    ids = torch.nn.functional.pad(padded["input_ids"], (0, 6))
    labels = torch.nn.functional.pad(padded["labels"], (0, 6), value=-100)
    mask = torch.nn.functional.pad(torch.ones_like(padded["input_ids"]), (0, 6))
    return [masked_batch(), padded | {"input_ids": ids, "labels": labels, "attention_mask": mask}]


def ablate(model: ConceptEncoderForMaskedLM, **options) -> SlotAblation:
    return ablate_slots(model, batches(), list(SPECIAL), **options)


@torch.no_grad()
def loss(model: ConceptEncoderForMaskedLM) -> float:
    """Mean over all masked tokens."""
    scores = [(float(model(**batch).loss), int((batch["labels"] >= 0).sum())) for batch in batches()]
    return sum(value * count for value, count in scores) / sum(count for _, count in scores)


@pytest.mark.parametrize(
    "variant", ["hybrid", "bottleneck", "learned_concepts", "perceiver_v1", "funnel", "seen_masks"]
)
def test_nothing_removed_is_the_model_s_own_loss(variant):
    model = build(variant)
    found = ablate(model)
    assert found.full == pytest.approx(loss(model), rel=1e-8)
    assert found.num_tokens == 3 * 9 + 2 * 5
    # The model is as it was.
    assert ablate(model) == found
    assert loss(model) == pytest.approx(found.full, rel=1e-8)


@pytest.mark.parametrize("variant", ["hybrid", "bottleneck"])
def test_what_is_taken_away_changes_the_loss(variant):
    found = ablate(build(variant))
    losses = [found.full, *found.without_share.values(), *found.without_slot.values(), found.without_concepts]
    assert list(found.without_share) == list(SHARES)
    assert list(found.without_slot) == list(range(FREE))
    assert len(set(losses)) == len(losses)
    assert found.own_span != found.own_span_without


def test_only_the_hybrid_knows_something_without_concepts():
    model = build("bottleneck")
    found = ablate(model)
    assert found.tokens_alone == pytest.approx(found.without_concepts, rel=1e-10)
    # What is left of it is one guess for all texts at a place.
    other = [batch | {"input_ids": batch["input_ids"].roll(1, 0)} for batch in batches()]
    assert ablate_slots(model, other, list(SPECIAL)).without_concepts == pytest.approx(found.without_concepts)
    hybrid = ablate(build("hybrid"))
    assert len({hybrid.full, hybrid.without_concepts, hybrid.tokens_alone}) == 3


def test_without_write_back_there_is_nothing_to_undo():
    found = ablate(build("hybrid", write_back=False))
    assert found.tokens_alone == pytest.approx(found.without_concepts, rel=1e-10)


@torch.no_grad()
def test_tokens_are_as_if_nothing_were_written_back_and_then_as_before():
    model = build("hybrid").model
    silent = build("hybrid").model
    for write in silent.writes:
        for parameter in write.parameters():
            parameter.zero_()
    batch = batches()[0]["input_ids"]
    before = model(batch).last_hidden_state
    with nothing_written_back(model):
        assert torch.allclose(model(batch).last_hidden_state, silent(batch).last_hidden_state)
    assert torch.equal(model(batch).last_hidden_state, before)


def test_a_decoder_that_reads_no_concept_loses_nothing():
    model = build("hybrid")
    with torch.no_grad():
        for read in model.decoder.concept_reads:
            for parameter in read.parameters():
                parameter.zero_()
    found = ablate(model)
    assert [*found.without_share.values(), found.without_concepts] == pytest.approx([found.full] * (len(SHARES) + 1))
    assert found.own_span_without == pytest.approx(found.own_span)
    assert found.tokens_alone != pytest.approx(found.full)


def test_slots_of_a_table_are_all_alike_and_have_no_span():
    found = ablate(build("learned_concepts"))
    assert list(found.without_slot) == list(range(5))
    assert (found.own_span, found.own_span_without) == (None, None)


class Decodes:
    """Counts how often a model is asked for a loss."""

    def __init__(self, model: ConceptEncoderForMaskedLM) -> None:
        self.number = 0
        model.register_forward_hook(self.count)

    def count(self, *_: object) -> None:
        self.number += 1


def test_what_is_not_asked_for_is_not_decoded_and_the_rest_is_the_same():
    model = build()
    found, asked = ablate(model), ("full", "without_concepts", "tokens_alone", "unigram")
    decodes = Decodes(model)
    some = ablate(model, measures=asked)
    assert decodes.number == 3 * len(batches())
    assert {name: getattr(some, name) for name in asked} == {name: getattr(found, name) for name in asked}
    assert (some.without_share, some.without_slot, some.own_span) == ({}, {}, None)
    assert some.num_tokens == found.num_tokens
    nothing = ablate(model, measures=())
    assert nothing.full == found.full
    assert (nothing.without_concepts, nothing.tokens_alone, nothing.unigram) == (None, None, None)
    for measure in ("without_share", "without_slot"):
        assert getattr(ablate(model, measures=[measure]), measure).keys() == getattr(found, measure).keys()


def test_measures_that_there_are_not_are_named():
    assert set(MEASURES) <= set(SlotAblation.__annotations__)
    with pytest.raises(ValueError, match="no measure 'half'"):
        ablate(build(), measures=["half"])


def test_losses_stay_on_their_device_until_all_are_there(monkeypatch):
    """Two waits for each mean and one for the number of tokens; none for a decode."""
    waits = []
    numbers = ablation._numbers
    monkeypatch.setattr(ablation, "_numbers", lambda scalars: waits.append(len(scalars)) or numbers(scalars))
    model, rows = build(), batches() * 4
    decodes = Decodes(model)
    ablate_slots(model, rows, list(SPECIAL), measures=("full", "without_concepts"))
    assert decodes.number == 2 * len(rows)
    assert set(waits) == {len(rows)}
    assert len(waits) == 2 * 2 + 1


def test_draws_depend_on_the_seed():
    model = build()
    assert ablate(model, seed=0).without_share != ablate(model, seed=1).without_share


def test_the_unigram_knows_the_words_of_the_text():
    labels = torch.tensor([[-100, 7, -100, 8], [-100, -100, 7, -100]])
    batch = {"input_ids": torch.tensor([[7, MASK, 7, MASK], [7, 9, MASK, 2]]), "labels": labels}
    # Each of 99 tokens counts once more: 5 + 1 of 7, 1 + 1 of 8 and 9; special tokens are not counted.
    total = 7 + 99
    expected = -(2 * math.log(6 / total) + math.log(2 / total)) / 3
    assert unigram_loss([batch], tiny_config().vocab_size, list(SPECIAL)) == pytest.approx(expected)


def test_rows_without_masks_are_refused():
    batch = masked_batch()
    batch = {"input_ids": batch["input_ids"], "labels": torch.full_like(batch["labels"], -100)}
    with pytest.raises(ValueError, match="masked position"):
        ablate_slots(build(), [batch], list(SPECIAL))


def test_a_result_can_be_written_down():
    assert set(asdict(ablate(build()))) == set(SlotAblation.__annotations__)
