# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers about concepts `[B, C, H]` of B documents, C slots, width H; `mask` `[B, C]` says which slots are in use.

No number is enough alone. Concepts that carry a document depend on it (`input_share`), differ within it
(`distinct_share`, `entropy_ranks`) and let its words be read off (`evaluation_concept.probes`): a constant table fails
the first, copies of one vector the second, and noise the last.
"""

from dataclasses import dataclass

import torch

from evaluation_concept.errors import NotMeasurableError

NOT_FINITE = "Some concepts are not finite (NaN or infinity): check the checkpoint with --health."
# Concepts come in float32 or less: what is smaller than this, relative to their size, is rounding.
ROUNDING = 1e-5
# Deviation, relative to that of all concepts, below which a slot says nothing and two slots say the same.
INDISTINCT = 5e-2
# Share of the mean variance that a dimension in use has at least.
USED_VARIANCE = 1e-2


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
    concepts, mask = _prepared(concepts, mask)
    sizes, width = mask.sum(dim=1), concepts.shape[2]
    ranks = entropy_ranks(concepts, mask)
    highest = (sizes - 1).clamp(min=1, max=width)
    norms = concepts.norm(dim=2)[mask]
    rank = plan_rank(concepts, mask)
    return ConceptMetrics(
        num_documents=len(concepts),
        num_concepts=float(sizes.double().mean()),
        width=width,
        entropy_rank=float(ranks.mean()),
        entropy_rank_share=float((ranks / highest).mean()),
        input_share=input_share(concepts, mask),
        distinct_share=distinct_share(concepts, mask),
        cosine=float(mean_cosines(concepts, mask).mean()),
        centred_cosine=float(mean_cosines(concepts, mask, centred=True).mean()),
        dimension_entropy=dimension_entropy(concepts, mask),
        dimensions_used=dimensions_used(concepts, mask),
        norm_mean=float(norms.mean()),
        norm_max=float(norms.max()),
        dead=int(dead_slots(concepts, mask).sum()),
        duplicates=int(duplicate_slots(concepts, mask).sum()),
        plan_rank=rank,
        plan_rank_share=rank / int(mask.any(dim=0).sum()),
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
    return torch.stack([_entropy_rank(document) for document in _documents(concepts, mask)])


def centred_spectrum(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    The normalised singular values that `entropy_ranks` are made of, largest first, mean over the documents.

    Returns:
        Float64 `[min(C, H)]`, adding up to 1 if no document's concepts are all equal.
    """
    spectra = [_singular_shares(document) for document in _documents(concepts, mask)]
    return torch.nn.utils.rnn.pad_sequence(spectra, batch_first=True).mean(dim=0)


def input_share(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """
    Share of the variance of all concepts that depends on the input: variance over documents at a slot, over all
    variance (law of total variance, slots as groups). 0 for a table that is the same whatever the document.
    """
    concepts, mask = _prepared(concepts, mask)
    return _share_within(concepts, mask, dim=0)


def distinct_share(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """
    Share of the variance of all concepts that lies between the concepts of one document, over all variance (law of
    total variance, documents as groups). 0 for copies of one vector.
    """
    concepts, mask = _prepared(concepts, mask)
    return _share_within(concepts, mask, dim=1)


def mean_cosines(concepts: torch.Tensor, mask: torch.Tensor | None = None, *, centred: bool = False) -> torch.Tensor:
    """
    Mean over all pairs of concepts of a document: of their cosine or, centred, of its size.

    Args:
        centred: whether to subtract the mean of the document's concepts first. What is left adds up to zero, so that
            only the size of its cosines tells something.

    Returns:
        Float64 `[B]`; 0 for a document of one concept, and for pairs with a vector of zeros.
    """
    return torch.stack([_mean_cosine(document, centred) for document in _documents(concepts, mask)])


def dimension_entropy(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """
    Over how many directions the variance of all concepts spreads, as a share of H: the exponential of the entropy of
    the normalised eigenvalues of their covariance, over H. It does not depend on the axes. 0 if nothing varies.
    """
    concepts, mask = _prepared(concepts, mask)
    vectors = concepts[mask]
    values = torch.linalg.eigvalsh((vectors - vectors.mean(dim=0)).T.cov(correction=0)).clamp(min=0)
    if values.sum() <= ROUNDING**2 * vectors.square().sum(dim=1).mean():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp()) / len(values)


def dimensions_used(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """Share of the H coordinates whose variance over all concepts is at least 1 % of the mean variance."""
    concepts, mask = _prepared(concepts, mask)
    variances = concepts[mask].var(dim=0, correction=0)
    return float((variances >= USED_VARIANCE * variances.mean()).double().mean())


def dead_slots(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Slots whose concept hardly depends on the document: its deviation over documents is below 5 % of the deviation of
    all concepts from their common mean.

    Returns:
        Bool `[C]`; false for a slot that fewer than two documents use.
    """
    concepts, mask = _prepared(concepts, mask)
    deviations = (concepts - _slot_means(concepts, mask)).square().sum(dim=2, keepdim=True)
    dead = _slot_means(deviations, mask).squeeze(1) <= _indistinct(concepts, mask)
    return dead & (mask.sum(dim=0) > 1)


def duplicate_slots(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Slots that hold what an earlier one holds, whatever the document: over the documents that use both, the distance
    is below 5 % of what it is for two concepts drawn from all.

    Returns:
        Bool `[C]`.
    """
    concepts, mask = _prepared(concepts, mask)
    # What all concepts share would cancel, at the cost of digits.
    vectors, weights = (concepts - concepts[mask].mean(dim=0)) * mask.unsqueeze(2), mask.double()
    both = weights.T @ weights
    squares = vectors.square().sum(dim=2).T @ weights
    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab, summed over the documents that use both slots.
    distances = squares + squares.T - 2 * torch.einsum("bch,bdh->cd", vectors, vectors)
    same = (distances <= 2 * both * _indistinct(concepts, mask)) & (both > 0)
    return same.tril(diagonal=-1).any(dim=1)


def plan_rank(concepts: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """
    The "effective rank" of the plan, sum(S) / max(S) of the singular values of the mean over documents, not centred.

    It misleads. Averaging over documents removes what depends on the input, so a constant table of orthogonal rows
    scores C and noise scores high; not centring lets a mean that all concepts share, which costs no information, push
    full information down to nearly 1. It is here to be seen beside `entropy_ranks`.
    """
    concepts, mask = _prepared(concepts, mask)
    values = torch.linalg.svdvals(_slot_means(concepts, mask))
    return float(values.sum() / values.max()) if values.max() > 0 else 0.0


def _prepared(concepts: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Concepts in float64, zeros where a slot is not in use, and a bool mask."""
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
    return concepts, mask


def _documents(concepts: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
    """The concepts of each document, float64 `[C, H]`."""
    concepts, mask = _prepared(concepts, mask)
    return [document[used] for document, used in zip(concepts, mask, strict=True)]


def _entropy_rank(document: torch.Tensor) -> torch.Tensor:
    shares = _singular_shares(document)
    return torch.special.entr(shares).sum().exp() * (len(shares) > 0)


def _singular_shares(document: torch.Tensor) -> torch.Tensor:
    """Singular values of centred concepts `[C, H]`, normalised; none if the concepts are all equal."""
    values = torch.linalg.svdvals(document - document.mean(dim=0))
    # Equal concepts leave rounding, which has a rank of its own.
    values = values[values > ROUNDING * document.norm()]
    return values / values.sum()


def _mean_cosine(document: torch.Tensor, centred: bool) -> torch.Tensor:
    vectors = document - document.mean(dim=0) if centred else document
    directions = torch.nn.functional.normalize(vectors, dim=1)
    cosines = directions @ directions.T
    cosines = cosines.abs() if centred else cosines
    pairs = len(document) * (len(document) - 1)
    return (cosines.sum() - cosines.trace()) / max(pairs, 1)


def _slot_means(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Means `[C, H]` over the documents that use a slot; zeros for a slot that none uses."""
    return (values * mask.unsqueeze(2)).sum(dim=0) / mask.sum(dim=0).clamp(min=1).unsqueeze(1)


def _indistinct(concepts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The squared deviation that is next to nothing beside that of all concepts, or beside rounding."""
    vectors = concepts[mask]
    variance = (vectors - vectors.mean(dim=0)).square().sum(dim=1).mean()
    return INDISTINCT**2 * variance + ROUNDING**2 * vectors.square().sum(dim=1).mean()


def _share_within(concepts: torch.Tensor, mask: torch.Tensor, dim: int) -> float:
    """Variance around the means over `dim`, over all variance; 0 if nothing varies."""
    used = mask.unsqueeze(2)
    total = (concepts - concepts[mask].mean(dim=0))[mask].square().sum()
    counts = mask.sum(dim=dim, keepdim=True).clamp(min=1).unsqueeze(2)
    means = (concepts * used).sum(dim=dim, keepdim=True) / counts
    within = ((concepts - means) * used).square().sum()
    return float(within / total) if total > ROUNDING**2 * concepts.square().sum() else 0.0
