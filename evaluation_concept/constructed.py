# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Encoders built by hand, whose worth is known: what the analysis has to tell apart."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from evaluation_concept.concept_metrics import measure_concepts
from evaluation_concept.probes import choose_tokens, held_tokens, probe_tokens, split_by_document

NUM_DOCUMENTS, LENGTH, RATIO = 300, 64, 4
VOCABULARY, WIDTH, TOPICS = 120, 48, 6
# The plan's metric takes what all concepts share for rank 1, and this much of it hides everything else.
SHARED_MEAN = 8.0
JITTER = 0.02
# Tokens that the probe asks for.
NUM_TOKENS = 50


@dataclass(frozen=True)
class Judgement:
    """
    What the numbers say of an encoder; fractions 0..1.

    Attributes:
        plan_rank_share: see `concept_metrics.plan_rank`, over the number of slots.
        entropy_rank_share: see `concept_metrics.ConceptMetrics`.
        input_share: see `concept_metrics.input_share`.
        distinct_share: see `concept_metrics.distinct_share`.
        probe_auc: how well the tokens of a span are read off its concept; 0.5 is chance.
        weakest: the least of our four, the probe's as a share of the way from chance to certainty: concepts that fail
            one of them are of no use as concepts, whatever the others say.
    """

    plan_rank_share: float
    entropy_rank_share: float
    input_share: float
    distinct_share: float
    probe_auc: float
    weakest: float


def draw_documents(seed: int = 0) -> np.ndarray:
    """Token ids `[NUM_DOCUMENTS, LENGTH]`, each drawn from the words of a topic, frequent ones far more often."""
    generator = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, VOCABULARY + 1)
    topics = np.stack([zipf * generator.uniform(0.1, 2, VOCABULARY) for _ in range(TOPICS)])
    topics /= topics.sum(axis=1, keepdims=True)
    drawn = generator.integers(TOPICS, size=NUM_DOCUMENTS)
    return np.stack([generator.choice(VOCABULARY, size=LENGTH, p=topics[topic]) for topic in drawn])


def span_means(ids: np.ndarray, seed: int = 0) -> torch.Tensor:
    """
    The true encoder: concept i is the mean of random word vectors of span i, in a random rotation.

    Args:
        ids: `[B, N]`.

    Returns:
        `[B, N / RATIO, WIDTH]`; so do the others.
    """
    generator = np.random.default_rng(seed)
    words = generator.normal(size=(VOCABULARY, WIDTH))
    words -= words[ids].mean(axis=(0, 1))
    rotation, _ = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))
    spans = words[ids].reshape(len(ids), -1, RATIO, WIDTH).mean(axis=2)
    return torch.from_numpy(spans @ rotation)


def shared_mean(ids: np.ndarray, seed: int = 0) -> torch.Tensor:
    """The same information, with one large vector added to every concept."""
    concepts = span_means(ids, seed)
    direction = np.random.default_rng(seed + 1).normal(size=WIDTH)
    return concepts + SHARED_MEAN * torch.from_numpy(direction / np.linalg.norm(direction))


def orthogonal_table(ids: np.ndarray, seed: int = 0) -> torch.Tensor:
    """Orthogonal rows that are the same for every document: no information, the optimum of an orthogonality loss."""
    generator = np.random.default_rng(seed)
    rows, _ = np.linalg.qr(generator.normal(size=(WIDTH, ids.shape[1] // RATIO)))
    return torch.from_numpy(rows.T).expand(len(ids), -1, -1).clone()


def duplicates(ids: np.ndarray, seed: int = 0) -> torch.Tensor:
    """The mean of the document's concepts in every slot, with a little noise."""
    concepts = span_means(ids, seed)
    noise = np.random.default_rng(seed + 1).normal(size=concepts.shape)
    scale = JITTER * concepts.mean(dim=1, keepdim=True).std()
    return concepts.mean(dim=1, keepdim=True) + scale * torch.from_numpy(noise)


def noise(ids: np.ndarray, seed: int = 0) -> torch.Tensor:
    """Normal noise that has nothing to do with the document."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(len(ids), ids.shape[1] // RATIO, WIDTH)))


ENCODERS: dict[str, Callable[[np.ndarray, int], torch.Tensor]] = {
    "true": span_means,
    "true, with a shared mean": shared_mean,
    "copies of one vector": duplicates,
    "noise": noise,
    "constant orthogonal table": orthogonal_table,
}


def judge(concepts: torch.Tensor, ids: np.ndarray, seed: int = 0) -> Judgement:
    """
    Measure the concepts `[B, C, H]` of documents `[B, N]`, concept i being that of the i-th of C equal spans.

    Args:
        seed: of the split of the documents.
    """
    metrics = measure_concepts(concepts)
    spans = ids.reshape(-1, ids.shape[1] // concepts.shape[1])
    held = held_tokens(list(spans), choose_tokens(spans, NUM_TOKENS))
    owners = np.arange(len(ids)).repeat(concepts.shape[1])
    auc = probe_tokens(concepts.flatten(0, 1).numpy(), held, split_by_document(owners, seed)).auc
    shares = (metrics.entropy_rank_share, metrics.input_share, metrics.distinct_share)
    return Judgement(metrics.plan_rank_share, *shares, probe_auc=auc, weakest=min(*shares, max(2 * auc - 1, 0.0)))


def study(seed: int = 0) -> dict[str, Judgement]:
    """The judgement of every encoder on the same documents."""
    ids = draw_documents(seed)
    return {name: judge(encode(ids, seed), ids, seed) for name, encode in ENCODERS.items()}
