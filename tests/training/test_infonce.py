# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""InfoNCE against a loop, its optimum, and two processes against one."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from evaluation_concept.late_interaction import max_sim
from training_concept.infonce import dot_products, info_nce


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def by_hand(queries: torch.Tensor, keys: torch.Tensor, targets: list[int], temperature: float) -> float:
    losses = []
    for query, target in zip(queries, targets, strict=True):
        scores = [math.exp(float(query @ key) / temperature) for key in keys]
        losses.append(-math.log(scores[target] / sum(scores)))
    return sum(losses) / len(losses)


def test_the_loss_is_the_one_of_a_loop():
    queries, keys = vectors(4, 8), vectors(7, 8, seed=1)
    assert float(info_nce(queries, keys)) == pytest.approx(by_hand(queries, keys, [0, 1, 2, 3], 0.05), rel=1e-9)
    loss = info_nce(queries, keys, torch.tensor([6, 0, 0, 3]), temperature=0.5)
    assert float(loss) == pytest.approx(by_hand(queries, keys, [6, 0, 0, 3], 0.5), rel=1e-9)


def test_gradients_are_those_of_finite_differences():
    queries, keys = vectors(3, 4).requires_grad_(), vectors(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(info_nce, (queries, keys, torch.tensor([4, 0, 1]), 0.5))


def test_one_vector_for_everything_is_worth_nothing_and_keys_of_their_own_all():
    same = vectors(1, 8).expand(6, 8)
    assert float(info_nce(same, same)) == pytest.approx(math.log(6))
    assert float(info_nce(torch.eye(6), torch.eye(6), temperature=0.01)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("late", [False, True])
def test_scores_are_not_rounded_under_autocast(late):
    queries, keys = (F.normalize(1 + 0.1 * vectors(16, 3, 8, seed=seed), dim=-1).float() for seed in (0, 1))
    score, texts = (max_sim, (queries, keys)) if late else (dot_products, (queries[:, 0], keys[:, 0]))
    expected = info_nce(*texts, score=score)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(info_nce(*texts, score=score)) == pytest.approx(float(expected), rel=1e-6)


def test_a_copy_of_the_right_key_does_not_count_as_a_negative():
    queries, keys = vectors(3, 8), vectors(3, 8, seed=1)
    doubled = torch.cat([keys, keys[:1]])
    alone = info_nce(queries, doubled, key_ids=torch.tensor([[5, 0], [6, 1], [7, 2], [5, 3]]))
    right_one_only = by_hand(queries[:1], keys, [0], 0.05)
    others = by_hand(queries[1:], doubled, [1, 2], 0.05)
    assert float(alone) == pytest.approx((right_one_only + 2 * others) / 3, rel=1e-9)


def test_what_answers_a_query_elsewhere_in_the_batch_does_not_count_as_a_negative():
    # Queries 0, 0, 1, 1 with the texts 5, 6, 6, 7; a further key has the text 6, too, and answers nothing.
    ids = torch.tensor([[5, 0], [6, 0], [6, 1], [7, 1], [6, -1]])
    queries, keys = vectors(4, 8), vectors(5, 8, seed=1)
    against = [[0, 3], [1, 3], [2, 0], [3, 0]]
    expected = sum(by_hand(queries[[row]], keys[left], [0], 0.05) for row, left in enumerate(against)) / 4
    assert float(info_nce(queries, keys, key_ids=ids)) == pytest.approx(expected, rel=1e-9)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        info_nce(vectors(2, 4), vectors(2, 4), temperature=0)
    with pytest.raises(ValueError, match="3 queries have 2 keys; give targets"):
        info_nce(vectors(3, 4), vectors(2, 4))


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    torch.multiprocessing.spawn(save_gradient, (tmp_path,), nprocs=2)
    shared, alone = torch.load(tmp_path / "gradient.pt", weights_only=True), total_gradient(0, 1, gather=False)
    torch.testing.assert_close(shared, alone, atol=1e-12, rtol=0)


def total_gradient(rank: int, processes: int, gather: bool) -> dict[str, torch.Tensor]:
    """Loss and gradient of a layer for this process's share of 4 queries and 8 keys."""
    layer = torch.eye(8, dtype=torch.float64).requires_grad_()
    # Query i has the keys 2i and 2i + 1.
    queries, keys = vectors(4, 8).chunk(processes)[rank], vectors(8, 8, seed=1).chunk(processes)[rank]
    ids = torch.tensor([[0, 1, 2, 3, 4, 2, 6, 7], [9, 8, 7, 6, 5, 4, 9, 3]]).T.chunk(processes)[rank]
    loss = info_nce(queries @ layer, keys @ layer, 2 * torch.arange(len(queries)), gather=gather, key_ids=ids)
    loss.backward()
    return {"loss": loss.detach(), "gradient": layer.grad}


def save_gradient(rank: int, folder: Path) -> None:
    """What DDP makes of two processes: the mean of their losses and gradients."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = total_gradient(rank, 2, gather=True)
    for tensor in found.values():
        dist.all_reduce(tensor)
        tensor /= 2
    if rank == 0:
        torch.save(found, folder / "gradient.pt")
    dist.destroy_process_group()
