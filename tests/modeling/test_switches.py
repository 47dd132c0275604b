# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Every value of every switch, and all pairs of them, keep the equalities; every parameter of theirs learns."""

import itertools

import pytest
import torch

from modeling_concept import ConceptEncoderForMaskedLM
from tests.modeling.combinations import FIELDS, covering_combinations, pairs_of
from tests.modeling.equalities import check_backends_and_losses, check_packing, check_padding, check_saving, gradients
from tests.modeling.tiny import SWITCHES, VARIANTS, masked_batch, tiny_config, tiny_model

COMBINATIONS, IMPOSSIBLE = covering_combinations(least=60)
CHECKS = (check_padding, check_packing, check_backends_and_losses, check_saving)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("switch", SWITCHES)
def test_equalities_hold(switch, check, tmp_path):
    check(tiny_model(ConceptEncoderForMaskedLM, switch), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("fields", COMBINATIONS, ids=itertools.count())
def test_equalities_hold_in_combination(fields, check, tmp_path):
    check(tiny_model(ConceptEncoderForMaskedLM, **fields), tmp_path)


def test_combinations_cover_every_pair_that_fits_together():
    covered = set().union(*map(pairs_of, COMBINATIONS))
    values = [(name, value) for name, values in FIELDS.items() for value in values]
    pairs = {frozenset(pair) for pair in itertools.combinations(values, 2) if len(dict(pair)) == 2}
    assert pairs - covered == set(IMPOSSIBLE)
    assert {frozenset(name for name, _ in pair) for pair in IMPOSSIBLE} == {
        frozenset(("decoder_reads", "concept_init")),
        frozenset(("decoder_reads", "concept_positions")),
        frozenset(("decoder_reads", "position_embedding")),
        frozenset(("concept_positions", "position_embedding")),
    }


@pytest.mark.parametrize("pair", IMPOSSIBLE, ids=lambda pair: "-".join(sorted(map(str, dict(pair).values()))))
def test_what_does_not_fit_together_is_refused_with_a_reason(pair):
    with pytest.raises(ValueError, match="|".join(dict(pair))):
        tiny_config(**dict(pair))


@pytest.mark.parametrize("switch", [*VARIANTS, *SWITCHES])
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
@pytest.mark.parametrize("switch", [*VARIANTS, *SWITCHES])
def test_compiles_as_one_graph(switch):
    torch._dynamo.reset()
    model, batch = tiny_model(ConceptEncoderForMaskedLM, switch).train(), masked_batch()
    if model.config.sample_iterations:
        model.eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.manual_seed(0)
    loss = compiled(**batch).loss
    torch.manual_seed(0)
    expected = model(**batch).loss
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected), atol=1e-10, rtol=1e-8)


def test_switches_have_their_own_names():
    assert not SWITCHES.keys() & VARIANTS.keys()
