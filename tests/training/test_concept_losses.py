# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses on concepts: equal to loops in NumPy, their gradients, their optima, and what each of them cannot see."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from torch.utils._python_dispatch import TorchDispatchMode

from training_concept.concept_losses import LOSSES, ConceptBatch, Pairs, centre, spanning_trees

WIDTH = 6


def of_one(name: str, concepts: torch.Tensor) -> float:
    """The loss of one document of concepts `[C, H]`."""
    return float(of_batch(name, concepts.unsqueeze(0)))


def of_batch(
    name: str, states: torch.Tensor, mask: torch.Tensor | None = None, documents: torch.Tensor | None = None
) -> torch.Tensor:
    used = torch.ones(states.shape[:2], dtype=torch.bool) if mask is None else mask
    return LOSSES[name](states, Pairs.of(ConceptBatch(states, used, documents)))


def centred(name: str, states: torch.Tensor) -> float:
    """The loss of input-centred concepts `[B, C, H]`."""
    concepts = centre(ConceptBatch(states, torch.ones(states.shape[:2], dtype=torch.bool)))
    return float(of_batch(name, concepts.states, concepts.mask))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simplex(number: int) -> torch.Tensor:
    """Points at equal distances from one another and from 0, of length sqrt(H): `[number, number]`."""
    corners = torch.eye(number, dtype=torch.float64) - 1 / number
    return corners / corners.norm(dim=1, keepdim=True) * number**0.5


# Loops over the concepts [C, H] of one document.


def loop_orthogonality(z: np.ndarray) -> float:
    count = len(z)
    cosine = [
        (z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j])) ** 2
        for i in range(count)
        for j in range(count)
        if i != j
    ]
    return float(np.mean(cosine))


def loop_soft_orthogonality(z: np.ndarray) -> float:
    return float(np.linalg.norm(z @ z.T / z.shape[1] - np.eye(len(z)), "fro") ** 2 / len(z))


def loop_vicreg(z: np.ndarray) -> float:
    covariance = np.cov(z, rowvar=False)
    variance = np.mean([max(0.0, 1 - math.sqrt(covariance[d, d] + 1e-4)) for d in range(z.shape[1])])
    crossed = sum(covariance[d, e] ** 2 for d in range(z.shape[1]) for e in range(z.shape[1]) if d != e)
    return float(variance + 0.04 * crossed / z.shape[1])


def loop_uniformity(z: np.ndarray) -> float:
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return float(np.log(np.mean(np.exp(-2 * pdist(unit, "sqeuclidean")))))


def loop_combined(z: np.ndarray) -> float:
    return loop_orthogonality(z) + loop_vicreg(z)


def loop_t_regs(z: np.ndarray) -> float:
    points = z / math.sqrt(z.shape[1])
    # Longer by 1, since SciPy takes 0 for no edge; the tree is the same.
    tree = minimum_spanning_tree(squareform(pdist(points) + 1)).sum() - (len(z) - 1)
    return float(np.mean((np.linalg.norm(points, axis=1) - 1) ** 2) - tree / (len(z) - 1))


REFERENCES: dict[str, Callable[[np.ndarray], float]] = {
    "orthogonality": loop_orthogonality,
    "soft_orthogonality": loop_soft_orthogonality,
    "vicreg": loop_vicreg,
    "uniformity": loop_uniformity,
    "combined": loop_combined,
    "t_regs": loop_t_regs,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_a_loop(name):
    for count in (2, 5, 11):
        concepts = random(3, count, WIDTH, seed=count)
        expected = np.mean([REFERENCES[name](document.numpy()) for document in concepts])
        assert float(of_batch(name, concepts)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_documents_count_alike_and_are_compared_with_themselves_alone(name):
    """Three rows: two documents and unused slots, one document, one of a single concept that has no other."""
    states = random(3, 9, WIDTH)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [0] * 9, [0, 1, 1, 1, 1, 1, 1, 1, 1]])
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, 7:] = False
    mask[2, 1:] = False
    alone = [states[0, :3], states[0, 3:7], states[1]]
    expected = np.mean([REFERENCES[name](document.numpy()) for document in alone])
    states[~mask] = 99.0
    assert float(of_batch(name, states, mask, documents)) == pytest.approx(expected, rel=1e-5)
    # With nothing to compare, there is no loss.
    assert float(of_batch(name, states[2:], mask[2:], documents[2:])) == 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("is_centred", [False, True])
def test_gradients_are_those_of_finite_differences(name, is_centred):
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()

    def loss(states: torch.Tensor) -> torch.Tensor:
        concepts = ConceptBatch(states, mask)
        concepts = centre(concepts) if is_centred else concepts
        return LOSSES[name](concepts.states, Pairs.of(concepts))

    assert torch.autograd.gradcheck(loss, random(3, 4, WIDTH).requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_copies_and_zeros_have_finite_gradients(name):
    for states in (torch.zeros(2, 4, WIDTH), torch.ones(2, 4, WIDTH)):
        states.requires_grad_()
        of_batch(name, states).backward()
        assert states.grad.isfinite().all()


def test_a_minimum_spanning_tree_is_that_of_scipy():
    for seed in range(5):
        points = random(1, 40, 3, seed=seed)
        expected = loop_t_regs(points[0].numpy())
        assert of_one("t_regs", points[0]) == pytest.approx(expected, rel=1e-9)


def grid(side: int) -> torch.Tensor:
    """Points `[side^3, 3]` that all have neighbours at one distance, in no order."""
    points = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 3)
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]


TIED = {
    "grid": grid(4),
    "simplex": simplex(33),
    "copies": random(1, 3).expand(40, -1),
    "copies of some": random(7, 3)[torch.arange(40) % 7],
    "line": torch.arange(50, dtype=torch.float64).unsqueeze(1) * torch.ones(3),
}


@pytest.mark.parametrize("name", TIED)
def test_a_minimum_spanning_tree_with_ties_is_one_without_circles(name):
    points = TIED[name]
    mask = torch.ones(2, 2 * len(points), dtype=torch.bool)
    mask[0, 3::5] = False
    mask[1, len(points) :] = False
    documents = torch.arange(2 * len(points)).expand(2, -1) // len(points)
    # The second row is padded with what would be near.
    states = points.repeat(2, 2, 1)[:, : mask.shape[1]].reshape(2, -1, points.shape[1])
    pairs = Pairs.of(ConceptBatch(states, mask, documents))
    trees = spanning_trees(states, pairs)
    for row in range(2):
        for document in range(2):
            of_it = (documents[row] == document) & mask[row]
            places = of_it.nonzero().flatten().numpy()
            joined = trees.edges[row] & (documents[row] == document)
            assert int(joined.sum()) == max(len(places) - 1, 0)
            starts, ends = (side[row, joined].numpy() for side in (trees.starts, trees.ends))
            assert np.isin(np.concatenate([starts, ends]), places).all()
            graph = coo_array((np.ones(len(starts)), (starts, ends)), shape=(mask.shape[1],) * 2)
            assert connected_components(graph, directed=False)[0] == mask.shape[1] - int(joined.sum())
    expected = np.mean(
        [loop_t_regs(points[kept].numpy()) for kept in (mask[0].view(2, -1)[0], mask[0].view(2, -1)[1])]
    )
    assert float(of_batch("t_regs", states[:1], mask[:1], documents[:1])) == pytest.approx(expected, rel=1e-6)


class Operations(TorchDispatchMode):
    """Counts the operations on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


def test_rounds_of_a_spanning_tree_grow_with_the_digits_of_the_number_of_concepts():
    found = {}
    for number in (63, 127, 255):
        with Operations() as operations:
            of_batch("t_regs", random(2, number, 3))
        found[number] = operations.number
    assert found[255] - found[127] <= found[127] - found[63] + 5
    assert found[255] < 600


def test_spanning_trees_of_damaged_concepts_do_not_fail():
    for damage in (math.nan, math.inf):
        states = random(2, 20, 3)
        states[0, 5] = damage
        assert not of_batch("t_regs", states).isfinite()


# Optima.


def test_orthogonal_concepts_are_the_optimum_of_orthogonality():
    frame = torch.linalg.qr(random(WIDTH, WIDTH)).Q * WIDTH**0.5
    assert of_one("orthogonality", frame) == pytest.approx(0, abs=1e-6)
    assert of_one("soft_orthogonality", frame) == pytest.approx(0, abs=1e-9)
    assert of_one("soft_orthogonality", 2 * frame) == pytest.approx(9)
    assert of_one("orthogonality", 2 * frame) == pytest.approx(0, abs=1e-6)


def test_no_more_concepts_than_dimensions_are_orthogonal():
    """Descent ends at the Welch bound, which 5 vectors in 3 dimensions reach."""
    bound = (5 - 3) / (3 * (5 - 1))
    assert descend("orthogonality", random(5, 3)) == pytest.approx(bound, abs=1e-4)


def test_white_concepts_are_the_optimum_of_vicreg():
    samples = random(20, WIDTH)
    white = torch.linalg.qr(samples - samples.mean(0)).Q * 19**0.5
    assert of_one("vicreg", white) == pytest.approx(0, abs=1e-6)
    assert of_one("vicreg", 3 * white + 7) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("number", "width"), [(4, 6), (2, 6), (3, 40), (5, 96)])
def test_fewer_concepts_than_dimensions_end_at_a_flat_spectrum(number, width):
    """The last two end at a smaller deviation than 1: of (5, 96) it is .65, and the loss .514 where 1 has .92."""
    deviations = np.linspace(0, 1, 10_001)
    lowest = (1 - deviations + 0.04 * deviations**4 * (width / (number - 1) - 1)).min()
    assert descend("vicreg", random(number, width)) == pytest.approx(lowest, abs=1e-2)


@pytest.mark.parametrize(("name", "lowest"), [("uniformity", -4 * 5 / 4), ("t_regs", -math.sqrt(2 * 5 / 4))])
def test_a_simplex_is_the_optimum_of_uniformity_and_t_regs(name, lowest):
    assert of_one(name, simplex(5)) == pytest.approx(lowest, abs=1e-5)
    others = [simplex(5) + 0.3 * random(5, 5, seed=seed) for seed in range(20)]
    on_sphere = [points / points.norm(dim=1, keepdim=True) * 5**0.5 for points in others]
    assert min(of_one(name, points) for points in on_sphere) > lowest


def test_t_regs_lengthens_its_tree_as_far_as_the_sphere_lets_it():
    # On a simplex of radius r the loss is (r - 1)^2 - r sqrt(2 C / (C - 1)): best at r = 1 + sqrt(C / 2 (C - 1)).
    edge = math.sqrt(2 * 5 / 4)
    best = 1 + edge / 2
    lowest = (best - 1) ** 2 - best * edge
    assert of_one("t_regs", best * simplex(5)) == pytest.approx(lowest)
    assert descend("t_regs", random(5, 5)) == pytest.approx(lowest, abs=1e-2)


def descend(name: str, concepts: torch.Tensor, steps: int = 1500) -> float:
    """Where gradient descent ends."""
    concepts = concepts.clone().requires_grad_()
    optimizer = torch.optim.Adam([concepts], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = of_batch(name, concepts.unsqueeze(0))
        loss.backward()
        optimizer.step()
    return float(loss)


# What they tell apart, and what not.


@pytest.mark.parametrize("name", LOSSES)
def test_copies_of_one_vector_are_worse_than_anything_else(name):
    copies = random(1, WIDTH).expand(5, -1) / random(1, WIDTH).norm() * WIDTH**0.5
    assert of_one(name, copies) > max(of_one(name, random(5, WIDTH, seed=seed)) for seed in range(20))


def table(texts: int = 16) -> torch.Tensor:
    """Orthogonal concepts, the same for every text."""
    return (torch.eye(WIDTH, dtype=torch.float64) * WIDTH**0.5).expand(texts, -1, -1)


def frames(texts: int = 16, seed: int = 0) -> torch.Tensor:
    """Orthogonal concepts, others for every text."""
    return torch.linalg.qr(random(texts, WIDTH, WIDTH, seed=seed)).Q * WIDTH**0.5


WORST = {
    "orthogonality": 1.0,
    "soft_orthogonality": 1.0,
    "vicreg": 0.99,
    "uniformity": 0.0,
    "combined": 1.99,
    "t_regs": 1.0,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_table_without_information_satisfies_raw_losses_and_not_centred_ones(name):
    assert float(of_batch(name, table())) == pytest.approx(float(of_batch(name, frames())), abs=0.05)
    assert centred(name, table()) == pytest.approx(WORST[name], abs=1e-6)
    assert centred(name, frames()) < WORST[name] - 0.3


@pytest.mark.parametrize("name", LOSSES)
def test_copies_that_follow_the_input_are_worse_than_a_document_of_its_own_concepts(name):
    copies = frames()[:, :1].expand(-1, WIDTH, -1)
    assert centred(name, copies) > centred(name, frames()) + 0.3


@pytest.mark.parametrize("name", LOSSES)
def test_angles_alone_take_a_whisper_for_information(name):
    """A table with a thousandth of input-dependent variance."""
    whisper = table() + 0.03 * frames()
    taken_in = name in ("orthogonality", "uniformity")
    assert (centred(name, whisper) == pytest.approx(centred(name, frames()), abs=0.02)) == taken_in


@pytest.mark.parametrize("name", LOSSES)
def test_noise_is_taken_for_information(name):
    """Concepts of a text, and concepts that are drawn anew whenever it is read."""
    assert centred(name, frames(64, seed=1)) == pytest.approx(centred(name, frames(64)), abs=0.2)


def test_vicreg_does_not_see_what_concepts_share():
    concepts = random(16, WIDTH, WIDTH)
    assert float(of_batch("vicreg", concepts + 100)) == pytest.approx(float(of_batch("vicreg", concepts)))
    assert float(of_batch("orthogonality", concepts + 100)) > 0.99


def test_t_regs_sees_no_distance_but_those_of_its_tree():
    """Three points on a sphere, the last one turned around the second: the path is as long, its ends move apart."""

    def path(turn: float) -> torch.Tensor:
        ends = [[math.sin(0.5), 0], [0, 0], [math.sin(0.5) * math.cos(turn), math.sin(0.5) * math.sin(turn)]]
        heights = [math.cos(0.5), 1, math.cos(0.5)]
        points = [[*end, height] for end, height in zip(ends, heights, strict=True)]
        return torch.tensor(points, dtype=torch.float64) * 3**0.5

    assert of_one("t_regs", path(1.5)) == pytest.approx(of_one("t_regs", path(3.0)))
    assert of_one("uniformity", path(1.5)) > of_one("uniformity", path(3.0)) + 0.1


# Centring.


def test_a_slot_is_centred_over_the_documents_that_have_it():
    states = random(2, 6, 3)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]).bool()
    result = centre(ConceptBatch(states, mask, documents))
    first = torch.stack([states[0, 0], states[0, 3], states[1, 0]])
    third = torch.stack([states[0, 2], states[1, 2]])
    torch.testing.assert_close(result.states[0, 3], states[0, 3] - first.mean(0))
    torch.testing.assert_close(result.states[1, 2], states[1, 2] - third.mean(0))
    # The fourth slot of one document alone, and slots that are not used.
    assert result.mask.tolist() == [[True, True, True, True, True, False], [True, True, True, False, False, False]]
    assert not result.states[~result.mask].any()


def test_dropped_concepts_do_not_shift_slots():
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
    mask = torch.tensor([[0, 1, 1, 0, 0, 1]]).bool()
    assert ConceptBatch(random(1, 6, 2), mask, documents).ranks.tolist() == [[0, 1, 2, 0, 1, 2]]
