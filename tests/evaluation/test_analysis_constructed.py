# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Encoders of known worth: our numbers rank them by it, the plan's metric does not, and each number has its part."""

from functools import cache

import numpy as np
import pytest
import torch

from evaluation_concept.constructed import (
    ENCODERS,
    LENGTH,
    NUM_DOCUMENTS,
    RATIO,
    VOCABULARY,
    WIDTH,
    Judgement,
    draw_documents,
    study,
)

TRUE = ("true", "true, with a shared mean")
WORTHLESS = ("copies of one vector", "noise", "constant orthogonal table")
SEEDS = (0, 1)


@cache
def judged(seed: int) -> dict[str, Judgement]:
    return study(seed)


@pytest.fixture(params=SEEDS)
def judgements(request) -> dict[str, Judgement]:
    return judged(request.param)


def test_ours_puts_full_information_above_everything_else(judgements):
    assert min(judgements[name].weakest for name in TRUE) > 0.8
    assert max(judgements[name].weakest for name in WORTHLESS) < 0.1


def test_a_shared_mean_costs_nothing(judgements):
    plain, shifted = (judgements[name] for name in TRUE)
    for name in ("entropy_rank_share", "input_share", "distinct_share", "probe_auc"):
        assert getattr(shifted, name) == pytest.approx(getattr(plain, name), abs=1e-3)


def test_each_worthless_encoder_is_found_by_the_number_that_is_made_for_it(judgements):
    assert judgements["constant orthogonal table"].input_share < 0.01
    assert judgements["copies of one vector"].distinct_share < 0.01
    assert judgements["noise"].probe_auc == pytest.approx(0.5, abs=0.03)


def test_the_probe_ranks_by_information(judgements):
    auc = {name: it.probe_auc for name, it in judgements.items()}
    assert min(auc[name] for name in TRUE) > 0.95
    # The mean of a document tells something of its spans.
    assert 0.6 < auc["copies of one vector"] < 0.9
    assert auc["constant orthogonal table"] == pytest.approx(0.5, abs=0.03)


def test_the_plan_s_metric_ranks_the_other_way_round(judgements):
    ranked = sorted(judgements, key=lambda name: -judgements[name].plan_rank_share)
    assert ranked[0] == "constant orthogonal table"
    assert ranked[-2:] == list(TRUE)
    assert judgements["constant orthogonal table"].plan_rank_share == pytest.approx(1)


def test_the_rank_alone_does_not_tell(judgements):
    best = max(judgements, key=lambda name: judgements[name].entropy_rank_share)
    assert best in WORTHLESS


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_encoders_are_reproducible_and_of_one_shape(encode):
    ids = draw_documents()
    concepts = encode(ids, 0)
    assert concepts.shape == (NUM_DOCUMENTS, LENGTH // RATIO, WIDTH)
    assert torch.equal(concepts, encode(ids, 0))


def test_documents_hold_words_of_the_vocabulary():
    ids = draw_documents(1)
    assert ids.shape == (NUM_DOCUMENTS, LENGTH)
    assert 0 <= ids.min() <= ids.max() < VOCABULARY
    assert not np.array_equal(ids, draw_documents(2))
