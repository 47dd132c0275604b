# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Every number about concepts against an independent reference, at its ends, and against what must not matter."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.stats import entropy, ortho_group
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from threadpoolctl import threadpool_limits
from torch.utils._python_dispatch import TorchDispatchMode

from evaluation_concept import concept_metrics
from evaluation_concept.concept_metrics import (
    centred_spectrum,
    dead_slots,
    dimension_entropy,
    dimensions_used,
    distinct_share,
    duplicate_slots,
    entropy_ranks,
    input_share,
    mean_cosines,
    measure_concepts,
    plan_rank,
)

DOCUMENTS, SLOTS, WIDTH = 7, 6, 10


@pytest.fixture
def concepts() -> torch.Tensor:
    """Every document, slot and dimension has a mean and a spread of its own."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = draw(DOCUMENTS, SLOTS, WIDTH) + draw(DOCUMENTS, 1, WIDTH) + draw(1, SLOTS, WIDTH)
    return values * draw(WIDTH).exp() + 3


@pytest.fixture
def mask() -> torch.Tensor:
    """Documents of 2 to 6 concepts."""
    return torch.arange(SLOTS) < torch.tensor([6, 2, 5, 3, 6, 4, 2]).unsqueeze(1)


def reference_ranks(concepts: torch.Tensor) -> list[float]:
    values = [np.linalg.svd(it - it.mean(axis=0), compute_uv=False) for it in concepts.numpy()]
    return [float(np.exp(entropy(it[it > 1e-9]))) for it in values]


def test_entropy_ranks_are_the_exponential_of_the_entropy_of_singular_values(concepts):
    assert entropy_ranks(concepts).tolist() == pytest.approx(reference_ranks(concepts))


@pytest.mark.parametrize("shape", [(9, 24, 40), (9, 40, 24)])
def test_entropy_ranks_of_concepts_that_nearly_lie_in_a_plane_keep_their_digits(shape):
    """Singular values over four decades, beside a mean that is larger than all: the squares span eight."""
    documents, slots, width = shape
    generator = torch.Generator().manual_seed(1)
    frames = torch.linalg.qr(torch.randn(documents, slots, slots, generator=generator, dtype=torch.float64)).Q
    sizes = torch.logspace(0, -4, min(slots, width), dtype=torch.float64)
    others = torch.linalg.qr(torch.randn(documents, width, width, generator=generator, dtype=torch.float64)).Q
    concepts = (frames[..., : len(sizes)] * sizes) @ others[:, : len(sizes)] + 0.5
    mask = torch.arange(slots) < torch.randint(2, slots + 1, (documents, 1), generator=generator)
    expected = []
    for document, used in zip(concepts.numpy(), mask.numpy(), strict=True):
        values = np.linalg.svd(document[used] - document[used].mean(axis=0), compute_uv=False)
        kept = values[values > concept_metrics.ROUNDING * np.linalg.norm(document[used])]
        expected.append(float(np.exp(entropy(kept))))
    assert entropy_ranks(concepts, mask).tolist() == pytest.approx(expected, rel=1e-6)


def test_parts_that_fit_into_memory_have_the_numbers_of_the_whole(concepts, mask, monkeypatch):
    whole = measure_concepts(concepts, mask)
    monkeypatch.setattr(concept_metrics, "MOST_PRODUCTS", 2 * SLOTS**2)
    assert asdict(measure_concepts(concepts, mask)) == pytest.approx(asdict(whole), rel=1e-12)


class Operations(TorchDispatchMode):
    """Counts the operations on tensors, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_ranks_leave_other_cores_alone(concepts, monkeypatch):
    threads = []
    eigvalsh = torch.linalg.eigvalsh

    def watched(matrices):
        threads.append(torch.get_num_threads())
        return eigvalsh(matrices)

    monkeypatch.setattr(torch.linalg, "eigvalsh", watched)
    with threadpool_limits(limits=2):
        measure_concepts(concepts)
        assert torch.get_num_threads() == 2
    assert threads == [1, 1]


def test_concepts_are_prepared_once_and_documents_measured_together():
    found = {}
    for documents in (4, 32):
        with Operations() as operations:
            measure_concepts(torch.rand(documents, SLOTS, WIDTH))
        found[documents] = operations.names
    assert found[4] == found[32]
    assert sum("masked_fill" in name for name in found[4]) == 1


def test_entropy_ranks_reach_their_ends():
    simplex = torch.eye(SLOTS, WIDTH).expand(2, -1, -1)
    line = torch.linspace(0, 1, SLOTS).view(1, SLOTS, 1) * torch.ones(2, 1, WIDTH)
    assert entropy_ranks(simplex).tolist() == pytest.approx([SLOTS - 1] * 2)
    assert entropy_ranks(line).tolist() == pytest.approx([1, 1])
    assert entropy_ranks(torch.rand(2, 1, WIDTH).expand(-1, SLOTS, -1)).tolist() == [0, 0]


def test_a_shared_mean_a_rotation_and_a_scale_do_not_matter(concepts):
    rotation = torch.from_numpy(ortho_group.rvs(WIDTH, random_state=0))
    moved = 100 + 5 * concepts @ rotation
    before, after = asdict(measure_concepts(concepts)), asdict(measure_concepts(moved))
    for name in ("entropy_rank", "input_share", "distinct_share", "centred_cosine", "dimension_entropy", "dead"):
        assert after[name] == pytest.approx(before[name])
    assert after["plan_rank"] < 0.8 * before["plan_rank"]


def test_the_spectrum_is_what_the_ranks_are_made_of(concepts):
    one = concepts[:1].expand(2, -1, -1)
    spectrum = centred_spectrum(one)
    assert float(torch.special.entr(spectrum).sum().exp()) == pytest.approx(reference_ranks(one)[0])
    assert float(centred_spectrum(concepts).sum()) == pytest.approx(1)
    assert (spectrum.diff() <= 0).all()


def test_shares_of_variance_are_those_of_the_analysis_of_variance(concepts):
    values = concepts.numpy()
    total = ((values - values.mean(axis=(0, 1))) ** 2).sum()
    between_slots = DOCUMENTS * ((values.mean(axis=0) - values.mean(axis=(0, 1))) ** 2).sum()
    between_documents = SLOTS * ((values.mean(axis=1) - values.mean(axis=(0, 1))) ** 2).sum()
    assert input_share(concepts) == pytest.approx(1 - between_slots / total)
    assert distinct_share(concepts) == pytest.approx(1 - between_documents / total)


def test_shares_of_variance_reach_their_ends(concepts):
    table, copies = concepts[:1].expand(DOCUMENTS, -1, -1), concepts[:, :1].expand(-1, SLOTS, -1)
    assert (input_share(table), distinct_share(table)) == pytest.approx((0, 1))
    assert (input_share(copies), distinct_share(copies)) == pytest.approx((1, 0))
    assert input_share(torch.ones(3, 4, 5)) == distinct_share(torch.ones(3, 4, 5)) == 0


@pytest.mark.parametrize("centred", [False, True])
def test_cosines_are_those_of_all_pairs(concepts, centred):
    expected = []
    for document in concepts.numpy():
        cosines = cosine_similarity(document - document.mean(axis=0) * centred)
        pairs = cosines[~np.eye(SLOTS, dtype=bool)]
        expected.append(np.abs(pairs).mean() if centred else pairs.mean())
    assert mean_cosines(concepts, centred=centred).tolist() == pytest.approx(expected)


def test_dimension_entropy_is_that_of_the_principal_components(concepts):
    shares = PCA().fit(concepts.flatten(0, 1).numpy()).explained_variance_ratio_
    assert dimension_entropy(concepts) == pytest.approx(np.exp(entropy(shares)) / WIDTH)
    assert dimension_entropy(torch.ones(3, 4, 5)) == 0


def test_dimensions_that_do_not_vary_are_not_used(concepts):
    concepts[..., :4] = concepts[..., :4] * 1e-3
    assert dimensions_used(concepts) == pytest.approx(0.6)


def test_dead_slots_are_those_that_say_the_same_of_every_document(concepts):
    concepts[:, 2] = concepts[0, 2] + 1e-3 * torch.randn(DOCUMENTS, WIDTH)
    assert dead_slots(concepts).nonzero().flatten().tolist() == [2]


def test_duplicate_slots_are_those_that_repeat_an_earlier_one(concepts):
    concepts[:, 4] = concepts[:, 1] * (1 + 1e-4)
    concepts[:, 5] = concepts[:, 1]
    assert duplicate_slots(concepts).nonzero().flatten().tolist() == [4, 5]


def test_the_plan_s_rank_is_that_of_the_mean_over_documents(concepts):
    values = np.linalg.svd(concepts.numpy().mean(axis=0), compute_uv=False)
    assert plan_rank(concepts) == pytest.approx(values.sum() / values.max())
    assert plan_rank(torch.zeros(2, 3, 4)) == 0


def test_the_plan_s_rank_is_fooled_by_a_table_and_by_a_shared_mean(concepts):
    table = torch.eye(SLOTS, WIDTH).expand(DOCUMENTS, -1, -1)
    assert plan_rank(table) == pytest.approx(SLOTS)
    assert plan_rank(concepts + 1e6) == pytest.approx(1, abs=1e-3)


def test_a_summary_holds_the_single_numbers(concepts, mask):
    found = measure_concepts(concepts, mask)
    sizes = mask.sum(dim=1)
    assert (found.num_documents, found.num_concepts, found.width) == (DOCUMENTS, float(sizes.double().mean()), WIDTH)
    shares = entropy_ranks(concepts, mask) / (sizes - 1)
    assert found.entropy_rank_share == pytest.approx(float(shares.mean()))
    norms = concepts.norm(dim=2)[mask]
    assert (found.norm_mean, found.norm_max) == pytest.approx((float(norms.mean()), float(norms.max())))
    assert found.plan_rank_share == pytest.approx(found.plan_rank / SLOTS)


def test_slots_that_are_not_in_use_do_not_count(concepts, mask):
    junk = torch.where(mask.unsqueeze(2), concepts, torch.full_like(concepts, float("nan")))
    padded = torch.cat([junk, torch.full_like(junk, float("inf"))], dim=1)
    longer = torch.cat([mask, torch.zeros_like(mask)], dim=1)
    assert asdict(measure_concepts(padded, longer)) == pytest.approx(asdict(measure_concepts(concepts, mask)))
    alone = [reference_ranks(row[used].unsqueeze(0))[0] for row, used in zip(concepts, mask, strict=True)]
    assert entropy_ranks(concepts, mask).tolist() == pytest.approx(alone)


def test_bad_input_is_named(concepts):
    with pytest.raises(ValueError, match="two or more documents"):
        measure_concepts(concepts[:1])
    with pytest.raises(ValueError, match="mask of shape"):
        measure_concepts(concepts, torch.ones(DOCUMENTS, SLOTS + 1))
    concepts[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        measure_concepts(concepts)
