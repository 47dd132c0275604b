# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Losses on the concepts of a document, which keep them from saying the same.

Every loss is a mean over documents: the concepts of one are compared with each other, never with those of another.
What a loss cannot see is said where it is defined, and shown by a test.

On raw concepts, each of them is at its optimum for a table of C good vectors that is the same for every text, and so
says nothing about any. On *input-centred* concepts (`centre`) it is not.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from training_concept.infonce import gather_rows

# Standard deviation that VICReg wants of every dimension, which the final norm gives concepts whose mean is 0; what
# keeps its root differentiable; and the weight of covariance beside variance (25 : 1 in the paper).
VICREG_GAMMA, VICREG_EPSILON, VICREG_COVARIANCE = 1.0, 1e-4, 0.04
UNIFORMITY_T = 2.0
# A further coordinate of every concept, squared: it makes those equal that are 0.
COSINE_EPSILON = 1e-6
T_REGS_SPHERE = 1.0


class ConceptBatch(NamedTuple):
    """
    The concepts of documents, B rows of C.

    Attributes:
        states: `[B, C, H]`, float32 at least.
        mask: bool `[B, C]`, concepts in use.
        documents: int64 `[B, C]`, the document of its row that each belongs to, ascending; `None` if every row is one.
    """

    states: torch.Tensor
    mask: torch.Tensor
    documents: torch.Tensor | None = None

    @property
    def together(self) -> torch.Tensor:
        """Bool `[B, C, C]`, pairs in use of one document, each concept with itself included."""
        pairs = self.mask.unsqueeze(2) & self.mask.unsqueeze(1)
        return (
            pairs if self.documents is None else pairs & (self.documents.unsqueeze(2) == self.documents.unsqueeze(1))
        )

    @property
    def ranks(self) -> torch.Tensor:
        """Int64 `[B, C]`, the number of each concept in its document."""
        places = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.mask)
        return places if self.documents is None else places - torch.searchsorted(self.documents, self.documents)


class Pairs(NamedTuple):
    """
    Which concepts are compared, and how much each document counts.

    Attributes:
        together: in the type of the states, `[B, C, C]`, 1 for pairs of one document, concepts with themselves
            included.
        size: `[B, C]`, concepts in the document of each, 1 at least.
        share: `[B, C]`, adds up to 1 over the documents that have two concepts or more.
        documents: how many these are.
    """

    together: torch.Tensor
    size: torch.Tensor
    share: torch.Tensor
    documents: torch.Tensor

    @classmethod
    def of(cls, concepts: ConceptBatch) -> "Pairs":
        together = concepts.together.to(concepts.states.dtype)
        size = together.sum(dim=2)
        counted = (size > 1) / size.clamp(min=1)
        documents = counted.sum()
        return cls(together, size.clamp(min=1), counted / documents.clamp(min=1), documents)

    @property
    def others(self) -> torch.Tensor:
        """`[B, C, C]`, 1 for pairs of two different concepts of one document."""
        return self.together - torch.diag_embed(self.together.diagonal(dim1=1, dim2=2))

    def mean_over_others(self, values: torch.Tensor) -> torch.Tensor:
        """Of `values` `[B, C, C]` the mean over the other concepts of the document, `[B, C]`."""
        return (values * self.others).sum(dim=2) / (self.size - 1).clamp(min=1)

    def mean_over_documents(self, values: torch.Tensor) -> torch.Tensor:
        """Of `values` `[B, C]` the mean over the concepts of a document, then over documents."""
        return (values * self.share).sum()


ConceptLoss: TypeAlias = Callable[[torch.Tensor, Pairs], torch.Tensor]
"""From concepts `[B, C, H]` and their pairs to a scalar."""


def cosines(states: torch.Tensor) -> torch.Tensor:
    """Cosines `[B, C, C]` of the angles between concepts `[B, C, H]`; 1 between two that are 0."""
    products = states @ states.mT + COSINE_EPSILON
    lengths = products.diagonal(dim1=1, dim2=2).sqrt()
    return products / (lengths.unsqueeze(2) * lengths.unsqueeze(1))


def orthogonality(states: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """
    Mean squared cosine between two concepts of a document, 0 to 1.

    Optimum 0 for orthogonal concepts, of which there are at most H; above, the Welch bound (C - H) / (H (C - 1)).

    Blind to lengths, so on centred concepts to how much of a concept the input decides, unless that is nothing at all.
    """
    return pairs.mean_over_documents(pairs.mean_over_others(cosines(states).square()))


def soft_orthogonality(states: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """
    ||Z Z' / H - I||_F^2 / C of the concepts Z `[C, H]` of a document: orthogonality, with lengths that are wanted but
    not enforced (arXiv 1810.09102).

    Optimum 0 for orthogonal concepts of length sqrt(H), the one that the final norm gives; concepts that are 0 have 1,
    copies of one vector C - 1.
    """
    gram = states @ states.mT / states.shape[2]
    deviation = (gram - torch.eye(states.shape[1], device=gram.device, dtype=gram.dtype)).square()
    return pairs.mean_over_documents((deviation * pairs.together).sum(dim=2))


def vicreg(states: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """
    Variance and covariance terms of VICReg (arXiv 2105.04906) with the concepts of a document as samples: mean hinge
    loss of the standard deviation of a dimension below 1, and 0.04 times the squared covariances of two dimensions,
    summed and divided by H.

    Optimum 0 for C > H, concepts being white. Fewer cannot be: at best their spectrum is flat, every dimension with a
    standard deviation s, for the minimum over s <= 1 of (1 - s) + 0.04 s^4 (H / (C - 1) - 1). That is at s = 1 while
    H <= 7.25 (C - 1); concepts that are fewer still do better to shrink.

    Blind to what concepts have in common: their mean in a document is taken away.
    """
    width, free = states.shape[2], (pairs.size - 1).clamp(min=1)
    centred = states - pairs.together @ states / pairs.size.unsqueeze(2)
    variances = pairs.together @ centred.square() / free.unsqueeze(2)
    hinge = (VICREG_GAMMA - (variances + VICREG_EPSILON).sqrt()).relu().mean(dim=2)
    # The Frobenius norm of a covariance matrix is that of the Gram matrix, which is no larger and knows documents.
    gram = (centred @ centred.mT).square() * pairs.together
    squares = (pairs.together @ gram.sum(dim=2, keepdim=True)).squeeze(2) / free.square()
    covariance = (squares - variances.square().sum(dim=2)) / width
    return pairs.mean_over_documents(hinge + VICREG_COVARIANCE * covariance)


def uniformity(states: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """
    Logarithm of the mean of exp(-2 d^2) over two concepts of a document, d being their distance once they have length
    1 (arXiv 2005.10242).

    0 for copies of one vector; optimum -4 C / (C - 1) for a simplex, if C <= H + 1.

    Blind to lengths, as `orthogonality`.
    """
    potential = (2 * UNIFORMITY_T * (cosines(states) - 1)).exp() * pairs.others
    total = (pairs.together @ potential.sum(dim=2, keepdim=True)).squeeze(2)
    mean = total / (pairs.size * (pairs.size - 1)).clamp(min=1)
    # What is in no document has no potential, and no share either.
    return pairs.mean_over_documents(torch.where(mean > 0, mean, 1).log())


def combined(states: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """`orthogonality` and `vicreg`, added: angles between concepts and the spectrum that they span."""
    return orthogonality(states, pairs) + vicreg(states, pairs)


def t_regs(states: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """
    T-REGS (arXiv 2510.23484): minus the mean edge of the minimum spanning tree of a document's concepts, and the mean
    squared distance of their lengths from 1. Concepts are divided by sqrt(H), the length that the final norm gives.

    On the unit sphere the optimum is -sqrt(2 C / (C - 1)), a simplex, if C <= H + 1; as the sphere is not enforced, a
    larger simplex is better still. Gradients go through the lengths of the edges; which ones make up the tree is found
    without.

    Blind to all distances but those of the tree: clusters cost nothing beyond their short edges.
    """
    points = states / states.shape[2] ** 0.5
    trees = spanning_trees(points.detach(), pairs)
    starts, ends = (points.gather(1, places.unsqueeze(2).expand_as(points)) for places in (trees.starts, trees.ends))
    lengths = torch.linalg.vector_norm(starts - ends, dim=2) * trees.edges
    total = pairs.mean_over_documents(lengths * pairs.size / (pairs.size - 1).clamp(min=1))
    sphere = (torch.linalg.vector_norm(points, dim=2) - 1).square()
    return T_REGS_SPHERE * pairs.mean_over_documents(sphere) - total


class SpanningTrees(NamedTuple):
    """
    Trees of the points of documents, at most one edge for the place of each point.

    Attributes:
        starts, ends: the points that the edge joins, int64 `[B, C]`; not always the one of that place.
        edges: whether there is one, bool `[B, C]`: at all places of a document but one.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    edges: torch.Tensor


@torch.no_grad()
def spanning_trees(points: torch.Tensor, pairs: Pairs) -> SpanningTrees:
    """
    Minimum spanning trees of the points `[B, C, H]` of each document, by Boruvka's algorithm in all rows at once:
    every tree takes the shortest edge that leaves it, until a document is one tree. SciPy's has one graph at a time,
    in the memory of the host, for which every step would wait.
    """
    number = points.shape[1]
    distances = torch.cdist(points, points)
    # The same from both ends to the last digit, else two trees might take different edges to one another.
    distances = torch.minimum(distances, distances.mT).masked_fill(pairs.together == 0, torch.inf)
    places = torch.arange(number, device=points.device).expand(points.shape[:2])
    # The place that stands for the tree of each point.
    roots, trees = places, SpanningTrees(places, places, torch.zeros_like(places, dtype=torch.bool))
    # A round leaves a document half as many trees, rounded down: their number loses a binary digit.
    for digits in range(number.bit_length(), 1, -1):
        found = _ways_out(distances.masked_fill(roots.unsqueeze(2) == roots.unsqueeze(1), torch.inf), roots)
        starts_inside = roots.gather(1, found.starts) == places
        others = roots.gather(1, torch.where(starts_inside, found.ends, found.starts))
        # Two trees that lead to one another take one edge, which the latter keeps; the former stays as it is.
        joins = found.edges & ((others.gather(1, others) != places) | (others < places))
        trees = SpanningTrees(
            torch.where(joins, found.starts, trees.starts),
            torch.where(joins, found.ends, trees.ends),
            trees.edges | joins,
        )
        joined = torch.where(joins, others, places)
        for _ in range(digits):
            joined = joined.gather(1, joined)
        roots = joined.gather(1, roots)
    return trees


def _ways_out(distances: torch.Tensor, roots: torch.Tensor) -> SpanningTrees:
    """
    The shortest edge that leaves each tree, kept at its root.

    Edges of equal length are ordered by their earlier point, then by the later one. With that order no two are alike,
    so that edges which trees choose by themselves never close a circle.

    Args:
        distances: `[B, C, C]`, symmetric, infinite where there is no edge.
        roots: int64 `[B, C]`.
    """
    number = roots.shape[1]
    places = torch.arange(number, device=roots.device)
    # Of equal distances `min` gives the first, which is the first edge in that order, too.
    nearest, others = distances.min(dim=2)
    shortest = torch.full_like(nearest, torch.inf).scatter_reduce(1, roots, nearest, "amin").gather(1, roots)
    edges = torch.minimum(places, others) * number + torch.maximum(places, others)
    none = number**2
    edges = edges.masked_fill((nearest != shortest) | ~nearest.isfinite(), none)
    first = torch.full_like(edges, none).scatter_reduce(1, roots, edges, "amin")
    found = first < none
    first = first * found
    return SpanningTrees(first // number, first % number, found)


LOSSES: dict[str, ConceptLoss] = {
    "orthogonality": orthogonality,
    "soft_orthogonality": soft_orthogonality,
    "vicreg": vicreg,
    "uniformity": uniformity,
    "combined": combined,
    "t_regs": t_regs,
}


def centre(concepts: ConceptBatch) -> ConceptBatch:
    """
    Input-centred concepts: less the mean, over all documents of the batch and of all processes, of the concepts with
    the same number in their documents.

    What is left is what the input makes of a slot, since that mean is what the slot says whatever the input is. So a
    table without information becomes 0. What it cannot see: it takes away what all documents of the batch share (one
    subject, one style), it is an estimate from as many documents as there are (m of them shrink variances by
    (m - 1) / m), and random noise, which differs from text to text, is as good as information. A slot that only one
    document has is left out.
    """
    states, ranks, mask = concepts.states, concepts.ranks, concepts.mask.unsqueeze(2)
    known = torch.cat([states * mask, mask.to(states.dtype)], dim=2)
    sums = known.new_zeros(known.shape[1:]).index_add(0, ranks.flatten(), known.flatten(0, 1))
    sums = gather_rows(sums.unsqueeze(0)).sum(dim=0)
    counts = sums[:, -1]
    means = sums[:, :-1] / counts.clamp(min=1).unsqueeze(1)
    shared = concepts.mask & (counts > 1)[ranks]
    return concepts._replace(states=(states - means[ranks]) * shared.unsqueeze(2), mask=shared)
