# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers about concepts `[B, C, H]` of B documents, C slots, width H; `mask` `[B, C]` says which slots are in use.

No number is enough alone. Concepts that carry a document depend on it (`input_share`), differ within it
(`distinct_share`, `entropy_ranks`) and let its words be read off (`evaluation_concept.probes`): a constant table fails
the first, copies of one vector the second, and noise the last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from threadpoolctl import threadpool_limits

from evaluation_concept.errors import NotMeasurableError

NOT_FINITE = "Some concepts are not finite (NaN or infinity): check the checkpoint with --health."
# Concepts come in float32 or less: what is smaller than this, relative to their size, is rounding.
ROUNDING = 1e-5
# Deviation, relative to that of all concepts, below which a slot says nothing and two slots say the same.
INDISTINCT = 5e-2
# Share of the mean variance that a dimension in use has at least.
USED_VARIANCE = 1e-2
# Numbers that the products of pairs of concepts may take at a time: 256 MB in float64.
MOST_PRODUCTS = 2**25


@dataclass(frozen=True)
class ConceptMetrics:
    """
    Geometry of concepts; shares are fractions 0..1.

    Attributes:
        num_documents: B.
        num_concepts: slots in use, mean over the documents.
        width: H.
        entropy_rank: mean of `entropy_ranks`.
        entropy_rank_share: mean of `entropy_ranks` over min(C - 1, H), the highest they can be.
        input_share: see `input_share`.
        distinct_share: see `distinct_share`.
        cosine: mean of `mean_cosines`, raw: 1 if all concepts of a document point one way.
        centred_cosine: mean of `mean_cosines`, centred: 1 if they lie on one line.
        dimension_entropy: see `dimension_entropy`.
        dimensions_used: see `dimensions_used`.
        norm_mean: mean length of a concept.
        norm_max: largest length.
        dead: see `dead_slots`, number of them.
        duplicates: see `duplicate_slots`, number of them.
        plan_rank: see `plan_rank`.
        plan_rank_share: `plan_rank` over the number of slots.
    """

    num_documents: int
    num_concepts: float
    width: int
    entropy_rank: float
    entropy_rank_share: float
    input_share: float
    distinct_share: float
    cosine: float
    centred_cosine: float
    dimension_entropy: float
    dimensions_used: float
    norm_mean: float
    norm_max: float
    dead: int
    duplicates: int
    plan_rank: float
    plan_rank_share: float


def measure_concepts(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> ConceptMetrics:
    """
    All numbers of this module.

    Args:
        concepts: `[B, C, H]`, what the encoder gives as `last_hidden_state`.
        mask: `[B, C]`, nonzero for slots in use; `None` if all are.

    Raises:
        ValueError: fewer than two documents, shapes that do not fit, or numbers that are not finite.
    """
    sample = _Sample.of(concepts, mask)
    sizes, width = sample.mask.sum(dim=1), sample.concepts.shape[2]
    ranks = _entropy_ranks(sample)
    highest = (sizes - 1).clamp(min=1, max=width)
    norms = sample.squares.sqrt()
    rank = _plan_rank(sample)
    return ConceptMetrics(
        num_documents=len(sample.concepts),
        num_concepts=float(sizes.double().mean()),
        width=width,
        entropy_rank=float(ranks.mean()),
        entropy_rank_share=float((ranks / highest).mean()),
        input_share=_share_within(sample, dim=0),
        distinct_share=_share_within(sample, dim=1),
        cosine=float(_mean_cosines(sample, centred=False).mean()),
        centred_cosine=float(_mean_cosines(sample, centred=True).mean()),
        dimension_entropy=_dimension_entropy(sample),
        dimensions_used=_dimensions_used(sample),
        norm_mean=float(norms.mean()),
        norm_max=float(norms.max()),
        dead=int(_dead_slots(sample).sum()),
        duplicates=int(_duplicate_slots(sample).sum()),
        plan_rank=rank,
        plan_rank_share=rank / int(sample.mask.any(dim=0).sum()),
    )


def entropy_ranks(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Effective rank of each document's concepts around their mean: the exponential of the entropy of the normalised
    singular values (Roy & Vetterli, "The effective rank", EUSIPCO 2007).

    A mean that all concepts share counts for nothing, and at most min(C - 1, H) can be reached. It does not see how
    large the differences are: copies of one vector with a little noise have a high rank (`distinct_share` is low).

    Returns:
        Float64 `[B]`; 0 for a document whose concepts are all equal.
    """
    return _entropy_ranks(_Sample.of(concepts, mask))


def centred_spectrum(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    The normalised singular values that `entropy_ranks` are made of, largest first, mean over the documents.

    Returns:
        Float64 `[R]`, adding up to 1 if no document's concepts are all equal; R is the most that a document has above
        rounding, at most min(C - 1, H).
    """
    shares = _singular_shares(_Sample.of(concepts, mask))
    return shares[:, : int((shares > 0).sum(dim=1).max())].mean(dim=0)


def input_share(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """
    Share of the variance of all concepts that depends on the input: variance over documents at a slot, over all
    variance (law of total variance, slots as groups). 0 for a table that is the same whatever the document.
    """
    return _share_within(_Sample.of(concepts, mask), dim=0)


def distinct_share(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """
    Share of the variance of all concepts that lies between the concepts of one document, over all variance (law of
    total variance, documents as groups). 0 for copies of one vector.
    """
    return _share_within(_Sample.of(concepts, mask), dim=1)


def mean_cosines(concepts: torch.Tensor, mask: torch.Tensor | None = None, *, centred: bool = False) -> torch.Tensor:
    """
    Mean over all pairs of concepts of a document: of their cosine or, centred, of its size.

    Args:
        centred: whether to subtract the mean of the document's concepts first. What is left adds up to zero, so that
            only the size of its cosines tells something.

    Returns:
        Float64 `[B]`; 0 for a document of one concept, and for pairs with a vector of zeros.
    """
    return _mean_cosines(_Sample.of(concepts, mask), centred)


def dimension_entropy(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """
    Over how many directions the variance of all concepts spreads, as a share of H: the exponential of the entropy of
    the normalised eigenvalues of their covariance, over H. It does not depend on the axes. 0 if nothing varies.
    """
    return _dimension_entropy(_Sample.of(concepts, mask))


def dimensions_used(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """Share of the H coordinates whose variance over all concepts is at least 1 % of the mean variance."""
    return _dimensions_used(_Sample.of(concepts, mask))


def dead_slots(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Slots whose concept hardly depends on the document: its deviation over documents is below 5 % of the deviation of
    all concepts from their common mean.

    Returns:
        Bool `[C]`; false for a slot that fewer than two documents use.
    """
    return _dead_slots(_Sample.of(concepts, mask))


def duplicate_slots(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Slots that hold what an earlier one holds, whatever the document: over the documents that use both, the distance
    is below 5 % of what it is for two concepts drawn from all.

    Returns:
        Bool `[C]`.
    """
    return _duplicate_slots(_Sample.of(concepts, mask))


def plan_rank(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """
    The "effective rank" of the plan, sum(S) / max(S) of the singular values of the mean over documents, not centred.

    It misleads. Averaging over documents removes what depends on the input, so a constant table of orthogonal rows
    scores C and noise scores high; not centring lets a mean that all concepts share, which costs no information, push
    full information down to nearly 1. It is here to be seen beside `entropy_ranks`.
    """
    return _plan_rank(_Sample.of(concepts, mask))


@dataclass(frozen=True)
class _Sample:
    """
    What is measured, checked and brought to float64 once for all numbers.

    Attributes:
        concepts: float64 `[B, C, H]`, zeros where a slot is not in use.
        mask: bool `[B, C]`.
    """

    concepts: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, concepts: torch.Tensor, mask: torch.Tensor | None) -> "_Sample":
        """
        Raises:
            ValueError: as `measure_concepts`.
        """
        if concepts.dim() != 3 or len(concepts) < 2:
            raise ValueError(
                f"Concepts of shape {tuple(concepts.shape)} are not those of two or more documents [B, C, H]."
            )
        mask = torch.ones(concepts.shape[:2], device=concepts.device) if mask is None else mask
        if mask.shape != concepts.shape[:2]:
            raise ValueError(f"A mask of shape {tuple(mask.shape)} does not fit concepts {tuple(concepts.shape)}.")
        mask = mask.bool()
        concepts = concepts.double().masked_fill(~mask.unsqueeze(2), 0)
        if not concepts.isfinite().all():
            raise NotMeasurableError(NOT_FINITE)
        return cls(concepts, mask)

    @cached_property
    def vectors(self) -> torch.Tensor:
        """The concepts in use `[V, H]` of all documents."""
        return self.concepts[self.mask]

    @cached_property
    def squares(self) -> torch.Tensor:
        """The squared lengths `[V]` of `vectors`."""
        return self.vectors.square().sum(dim=1)

    @cached_property
    def deviations(self) -> torch.Tensor:
        """`vectors` less their mean."""
        return self.vectors - self.vectors.mean(dim=0)

    @cached_property
    def centred(self) -> torch.Tensor:
        """Concepts `[B, C, H]` less the mean of their document; zeros where a slot is not in use."""
        return (self.concepts - self.means(dim=1)) * self.mask.unsqueeze(2)

    def means(self, dim: int) -> torch.Tensor:
        """Means over the documents (0) or slots (1) in use, `[1, C, H]` or `[B, 1, H]`; zeros where none is."""
        counts = self.mask.sum(dim=dim, keepdim=True).clamp(min=1).unsqueeze(2)
        return self.concepts.sum(dim=dim, keepdim=True) / counts

    def spread(self, dim: int) -> torch.Tensor:
        """Squared distances `[B, C]` of the concepts from `means`; zeros where a slot is not in use."""
        return (self.concepts - self.means(dim)).square().sum(dim=2) * self.mask

    @cached_property
    def variance(self) -> torch.Tensor:
        """Mean squared distance of the concepts in use from their mean."""
        return self.deviations.square().sum(dim=1).mean()

    @cached_property
    def rounding(self) -> torch.Tensor:
        """The mean squared distance that rounding alone may make."""
        return ROUNDING**2 * self.squares.mean()

    @property
    def indistinct(self) -> torch.Tensor:
        """The squared distance that is next to nothing beside that of all concepts, or beside rounding."""
        return INDISTINCT**2 * self.variance + self.rounding


def _entropy_ranks(sample: _Sample) -> torch.Tensor:
    shares = _singular_shares(sample)
    return torch.special.entr(shares).sum(dim=1).exp() * (shares > 0).any(dim=1)


def _singular_shares(sample: _Sample) -> torch.Tensor:
    """
    Singular values of each document's centred concepts, normalised, largest first: `[B, min(C, H)]`, with zeros for
    what is rounding; zeros alone if the concepts are all equal.
    """
    documents = sample.centred if sample.centred.shape[1] <= sample.centred.shape[2] else sample.centred.mT
    squares = _by_parts(lambda part: _decompose(torch.linalg.eigvalsh, part @ part.mT), documents)
    # Squaring leaves half the digits to small values: what lies below 1e-8 of the largest is lost, with either sign.
    values = squares.clamp(min=0).sqrt().flip(1)
    # Equal concepts leave rounding, which has a rank of its own.
    values = values * (values > ROUNDING * sample.concepts.norm(dim=(1, 2)).unsqueeze(1))
    totals = values.sum(dim=1, keepdim=True)
    return values / torch.where(totals > 0, totals, 1)


def _decompose(decomposition: Callable[[torch.Tensor], torch.Tensor], matrices: torch.Tensor) -> torch.Tensor:
    """`decomposition` of matrices `[..., R, S]` in one thread; more would wait for one another and hold cores."""
    with threadpool_limits(limits=1):
        return decomposition(matrices)


def _mean_cosines(sample: _Sample, centred: bool) -> torch.Tensor:
    directions = torch.nn.functional.normalize(sample.centred if centred else sample.concepts, dim=2)
    sizes = sample.mask.sum(dim=1)
    return _by_parts(lambda part: _sum_of_products(part, centred), directions) / (sizes * (sizes - 1)).clamp(min=1)


def _sum_of_products(vectors: torch.Tensor, absolute: bool) -> torch.Tensor:
    """Over all ordered pairs of two different vectors of `[B, C, H]`: `[B]`."""
    products = vectors @ vectors.mT
    products = products.abs() if absolute else products
    return products.sum(dim=(1, 2)) - products.diagonal(dim1=1, dim2=2).sum(dim=1)


def _by_parts(function: Callable[[torch.Tensor], torch.Tensor], documents: torch.Tensor) -> torch.Tensor:
    """`function` of `[B, R, ...]`, as many documents at a time as have products `[B, R, R]` that fit into memory."""
    number = max(MOST_PRODUCTS // documents.shape[1] ** 2, 1)
    return torch.cat([function(part) for part in documents.split(number)])


def _dimension_entropy(sample: _Sample) -> float:
    values = _decompose(torch.linalg.eigvalsh, sample.deviations.T.cov(correction=0)).clamp(min=0)
    if values.sum() <= sample.rounding:
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp()) / len(values)


def _dimensions_used(sample: _Sample) -> float:
    variances = sample.vectors.var(dim=0, correction=0)
    return float((variances >= USED_VARIANCE * variances.mean()).double().mean())


def _dead_slots(sample: _Sample) -> torch.Tensor:
    counts = sample.mask.sum(dim=0)
    return (sample.spread(dim=0).sum(dim=0) / counts.clamp(min=1) <= sample.indistinct) & (counts > 1)


def _duplicate_slots(sample: _Sample) -> torch.Tensor:
    # What all concepts share would cancel, at the cost of digits.
    vectors = (sample.concepts - sample.vectors.mean(dim=0)) * sample.mask.unsqueeze(2)
    weights = sample.mask.double()
    both = weights.T @ weights
    squares = vectors.square().sum(dim=2).T @ weights
    by_slot = vectors.transpose(0, 1).flatten(1)
    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab, summed over the documents that use both slots.
    distances = squares + squares.T - 2 * by_slot @ by_slot.T
    same = (distances <= 2 * both * sample.indistinct) & (both > 0)
    return same.tril(diagonal=-1).any(dim=1)


def _plan_rank(sample: _Sample) -> float:
    values = _decompose(torch.linalg.svdvals, sample.means(dim=0).squeeze(0))
    return float(values.sum() / values.max()) if values.max() > 0 else 0.0


def _share_within(sample: _Sample, dim: int) -> float:
    """Variance around the means over `dim`, over all variance; 0 if nothing varies."""
    within = sample.spread(dim).sum() / len(sample.vectors)
    return float(within / sample.variance) if sample.variance > sample.rounding else 0.0
