# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Muon for matrices and AdamW for the rest: PyTorch's own steps, kept by a checkpoint, and what it cannot train."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from training_concept.muon import MuonWithAdamW, orthogonalised, split_parameters

from . import tiny_trainer
from .tiny_trainer import VOCABULARY, history, rows, tiny_tokenizer

MATRICES = ((12, 8), (8, 12), (8, 12), (6, 6))


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Matrices of three shapes and a vector."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=generator).to(dtype)) for shape in (*MATRICES, (5,))]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        param.grad = torch.randn(*param.shape, generator=generator)


def groups(params: list[nn.Parameter]) -> list[dict]:
    return [{"params": params[:-1], "muon": True}, {"params": params[-1:], "weight_decay": 0.0}]


def test_it_steps_as_the_optimizers_of_pytorch_do():
    ours, theirs = parameters(), parameters()
    together = MuonWithAdamW(groups(ours), lr=0.02, weight_decay=0.1, betas=(0.9, 0.98))
    muon = torch.optim.Muon(theirs[:-1], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(theirs[-1:], lr=0.02, weight_decay=0.0, betas=(0.9, 0.98))
    start = parameters()
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        together.step()
        muon.step()
        adamw.step()
    for mine, other, begun in zip(ours, theirs, start, strict=True):
        # PyTorch orthogonalises in bfloat16, ours too where that is in hardware, in another order of operations.
        assert (mine - other).norm() < 0.02 * (other - begun).norm()
    assert torch.equal(ours[-1], theirs[-1])


def test_a_matrix_of_several_projections_steps_like_several_matrices():
    fused, first, second = (nn.Parameter(torch.ones(rows, 6)) for rows in (12, 6, 6))
    optimizer = MuonWithAdamW([{"params": [fused, first, second], "muon": True}], lr=0.1)
    for step in range(3):
        set_gradients([fused], step)
        first.grad, second.grad = fused.grad[:6].clone(), fused.grad[6:].clone()
        optimizer.step()
    assert torch.equal(fused, torch.cat([first, second]))


@pytest.mark.parametrize("shape", [(3, 16, 24), (3, 24, 16), (2, 16, 16)])
def test_singular_values_come_near_to_1(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(matrices, 5).float())
    # Random square matrices have singular values near 0, which grow 3.4-fold in an iteration.
    assert values.max() < 1.3
    assert values.median() > 0.6


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_it_iterates_in_what_the_processor_multiplies(monkeypatch, native, dtype):
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: native)
    assert orthogonalised(torch.eye(4)[None], 1).dtype == dtype


def test_matrices_that_are_zero_or_without_gradient_stay():
    params = parameters()
    optimizer = MuonWithAdamW(groups(params), weight_decay=0.0)
    before = [it.detach().clone() for it in params]
    params[0].grad = torch.zeros_like(params[0])
    optimizer.step()
    assert all(torch.equal(param, was) for param, was in zip(params, before, strict=True))


@pytest.mark.parametrize("fused", [None, True])
def test_a_loaded_state_goes_on_bit_for_bit(fused):
    first = parameters()
    optimizer = MuonWithAdamW(groups(first), lr=0.01, fused=fused)
    for step in range(3):
        set_gradients(first, step)
        optimizer.step()
    second = copy.deepcopy(first)
    resumed = MuonWithAdamW(groups(second), lr=0.5, fused=fused)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for params, it in ((first, optimizer), (second, resumed)):
        set_gradients(params, 3)
        it.step()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_vector_is_nothing_for_muon():
    with pytest.raises(ValueError, match=r"matrices.*\(5,\)"):
        MuonWithAdamW([{"params": parameters(), "muon": True}])


@pytest.mark.parametrize("name", ["concept_encoder", "bert"])
def test_a_trainer_takes_every_parameter_once(tmp_path: Path, name: str):
    model = tiny_trainer.build(name)
    run = tiny_trainer.trainer(model, tmp_path, tiny_tokenizer(), rows(16, 8, 12), muon=True, weight_decay=0.1)
    optimizer = run.create_optimizer()
    assert [group["muon"] for group in optimizer.param_groups] == [True, False, False]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    taken = [id(it) for group in optimizer.param_groups for it in group["params"]]
    assert sorted(taken) == sorted(id(it) for it in model.parameters())
    matrices, _ = split_parameters(model)
    assert all(it.shape[0] != VOCABULARY for it in matrices)


def test_it_learns_and_its_rate_follows_the_schedule(tmp_path: Path):
    settings = {"muon": True, "max_steps": 12, "learning_rate": 1e-2, "lr_scheduler_type": "linear"}
    run = tiny_trainer.trainer(tiny_trainer.build(), tmp_path, tiny_tokenizer(), rows(16, 8, 12), **settings)
    run.train()
    losses = history(run, "loss")
    assert losses[-1] < losses[0] - 0.3
    assert {group["lr"] for group in run.optimizer.param_groups} == {0.0}


def test_another_optimizer_for_the_rest_is_refused(tmp_path: Path):
    run = tiny_trainer.trainer(
        tiny_trainer.build(), tmp_path, tiny_tokenizer(), rows(16, 8, 12), muon=True, optim="sgd"
    )
    with pytest.raises(ValueError, match="--optim sgd"):
        run.create_optimizer()
