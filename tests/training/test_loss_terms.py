# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights of losses on concepts: what they are at first, what they learn, and what they can never do to the task."""

import warnings

import pytest
import torch

from training_concept.concept_losses import LOSSES
from training_concept.loss_terms import (
    WEIGHTINGS,
    ConceptLossManager,
    KendallGalWeighting,
    LearnableWeighting,
    Term,
    parse_concept_losses,
    parse_weights,
)


def test_terms_are_read_from_text():
    terms = parse_concept_losses(" vicreg@centred:0.05, orthogonality:2e-2,t_regs")
    assert terms == [Term("vicreg", True, 0.05), Term("orthogonality", False, 0.02), Term("t_regs", False, 1.0)]
    assert [term.label for term in terms] == ["vicreg@centred", "orthogonality", "t_regs"]
    for nothing in (None, "", "none"):
        assert parse_concept_losses(nothing) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vicreg:0.1,", "'' is not of the form name:weight, with a weight above 0"),
        ("vicreg:much", "'vicreg:much' is not of the form name:weight"),
        ("vicreg:-1", "'vicreg:-1' is not of the form"),
        ("vicreg:inf", "'vicreg:inf' is not of the form"),
        ("vicreg:", "'vicreg:' is not of the form"),
        ("vicreg:1,vicreg:2", "names vicreg twice"),
        ("vigreg:1", "--concept_losses has no loss 'vigreg'; it has orthogonality, soft_orthogonality, vicreg"),
        ("vicreg@raw:1", "--concept_losses has no loss 'vicreg@raw'"),
    ],
)
def test_text_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_concept_losses(text)


def test_a_name_alone_weighs_one():
    assert parse_weights("a,b:3", "--flag") == {"a": 1.0, "b": 3.0}


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_begin_as_configured_and_the_total_is_their_sum(name):
    manager = ConceptLossManager(parse_concept_losses("vicreg:0.05,orthogonality:0.02"), name)
    torch.testing.assert_close(manager.weighting(), torch.tensor([1, 0.05, 0.02]))
    task, losses = torch.tensor(4.0), torch.tensor([0.5, 2.0])
    total = manager.total(task, losses, torch.cat([task.view(1), losses]))
    assert float(total) == pytest.approx(4 + 0.05 * 0.5 + 0.02 * 2)


@pytest.mark.parametrize("name", ["learnable", "kendall_gal"])
def test_weights_learn_what_autograd_says_of_the_total(name):
    """The gradient of the parameters is that of the plain formula, that of the losses its weights."""
    manager = ConceptLossManager(parse_concept_losses("vicreg:0.05,orthogonality:0.02"), name)
    torch.nn.init.normal_(next(manager.parameters()), std=0.1)
    values = torch.tensor([4.0, 0.5, 2.0], requires_grad=True)
    plain = (manager.weighting() * values.detach()).sum() + manager.weighting.penalty()
    (expected,) = torch.autograd.grad(plain, list(manager.parameters()))
    total = manager.total(values[0], values[1:], values)
    by_values, by_weights = torch.autograd.grad(total, [values, next(manager.parameters())])
    torch.testing.assert_close(by_weights, expected)
    torch.testing.assert_close(by_values, manager.weighting().detach())
    assert float(total) == pytest.approx(float(plain))


def learn(manager: ConceptLossManager, values: list[float], steps: int = 300) -> torch.Tensor:
    optimizer = torch.optim.Adam(manager.parameters(), lr=0.05)
    known = torch.tensor(values)
    for _ in range(steps):
        optimizer.zero_grad()
        manager.total(known[0], known[1:], known).backward()
        optimizer.step()
    return manager.weighting().detach()


def test_learned_shares_add_up_to_what_was_configured():
    manager = ConceptLossManager(parse_concept_losses("vicreg:0.05,orthogonality:0.02"), "learnable")
    weights = learn(manager, [4.0, 0.5, 0.1])
    assert weights[0] == 1
    assert float(weights[1:].sum()) == pytest.approx(0.07)
    # It goes to what is lowest, which is all that gradients can tell.
    assert weights[2] > 0.06
    alone = ConceptLossManager(parse_concept_losses("vicreg:0.05"), "learnable")
    torch.testing.assert_close(learn(alone, [4.0, 0.5]), torch.tensor([1, 0.05]))


def test_an_uncertainty_within_bounds_has_its_known_optimum():
    # exp(s) = 2 w L: the weight becomes 1 / (2 L).
    manager = ConceptLossManager(parse_concept_losses("vicreg:1"), "kendall_gal")
    assert float(learn(manager, [0.4, 0.7])[0]) == pytest.approx(1 / 0.8, abs=0.01)
    assert float(learn(manager, [0.4, 0.7])[1]) == pytest.approx(1 / 1.4, abs=0.01)


def test_small_weights_beside_a_task_above_1_end_at_four_times_what_was_configured():
    """At its bounds the weighting by uncertainty is a fixed one, whatever the values are."""
    configured = [0.05, 0.02]
    for values in ([1.1, 0.9, 2.0], [9.0, 3.0, 0.3]):
        manager = ConceptLossManager(parse_concept_losses("vicreg:0.05,orthogonality:0.02"), "kendall_gal")
        weights = learn(manager, values)
        assert float(weights[0]) == pytest.approx(0.5)
        assert (weights[1:] / weights[0]).tolist() == pytest.approx([4 * weight for weight in configured])


@pytest.mark.parametrize("task", [0.01, 4.0, 1e4])
@pytest.mark.parametrize("loss", [-5.0, 1e-6, 1e4])
def test_no_losses_mute_the_task(task, loss):
    manager = ConceptLossManager(parse_concept_losses("uniformity:0.05"), "kendall_gal")
    weights = learn(manager, [task, loss])
    assert weights[0] >= 0.5 - 1e-6
    assert weights[1] / weights[0] <= 4 * 0.05 + 1e-6


def test_without_bounds_the_task_would_be_muted(monkeypatch):
    monkeypatch.setattr(KendallGalWeighting, "BOUND", 100.0)
    manager = ConceptLossManager(parse_concept_losses("uniformity:0.05"), "kendall_gal")
    weights = learn(manager, [1e4, -5.0])
    assert weights[1] / weights[0] > 100


def test_a_bound_is_no_trap():
    manager = ConceptLossManager(parse_concept_losses("vicreg:1"), "kendall_gal")
    assert float(learn(manager, [100.0, 100.0])[0]) == pytest.approx(0.5)
    assert float(learn(manager, [0.4, 0.7])[0]) == pytest.approx(1 / 0.8, abs=0.01)


def test_the_manager_computes_every_form_of_every_loss_in_float32_at_least():
    text = ",".join(f"{name},{name}@centred" for name in LOSSES)
    manager = ConceptLossManager(parse_concept_losses(text))
    states = torch.randn(3, 5, 8)
    losses = manager.losses(states, torch.ones(3, 5))
    assert list(losses) == text.split(",")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = manager.losses(states.bfloat16().float(), torch.ones(3, 5))
        half = manager.losses(states.bfloat16(), torch.ones(3, 5))
    for name in losses:
        assert half[name].dtype == torch.float32
        assert torch.equal(half[name], cast[name])
        assert float(half[name]) == pytest.approx(float(losses[name]), abs=0.05)


def test_a_single_document_has_nothing_to_be_centred_on():
    manager = ConceptLossManager(parse_concept_losses("vicreg@centred"))
    with pytest.warns(UserWarning, match="are 0 where there is one: raise --per_device_train_batch_size"):
        losses = manager.losses(torch.randn(1, 5, 8), torch.ones(1, 5))
    assert float(losses["vicreg@centred"]) == 0
    with warnings.catch_warnings(action="error"):
        manager.losses(torch.randn(2, 5, 8), torch.ones(2, 5))
        manager.losses(torch.randn(1, 5, 8), torch.ones(1, 5), documents=torch.tensor([[0, 0, 0, 1, 1]]))


def test_learnable_weights_are_of_the_losses_alone():
    assert [tuple(p.shape) for p in LearnableWeighting([1.0, 2.0]).parameters()] == [(2,)]
    assert [tuple(p.shape) for p in KendallGalWeighting([1.0, 2.0]).parameters()] == [(3,)]
