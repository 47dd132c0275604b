# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether one system is better than another on the same examples: the paired bootstrap (Efron & Tibshirani 1993)."""

from dataclasses import dataclass

import numpy as np

from evaluation_concept.metrics import score

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """
    By how many points one system is ahead of another.

    Attributes:
        points: on the examples as they are.
        low, high: ends of the 95 % interval over resampled examples.
    """

    points: float
    low: float
    high: float


def paired_bootstrap(
    metric: str, ours: np.ndarray, theirs: np.ndarray, references: np.ndarray, seed: int = 0
) -> Difference:
    """
    The difference of two systems' scores, and how sure it is given so few examples.

    Both are scored on the same resampled examples; the score of a system of several runs is the mean of theirs, so
    that their spread is averaged out on both sides. The interval is of percentiles.

    Args:
        metric: a key of `evaluation_concept.metrics.METRICS`.
        ours, theirs: predictions `[runs, n]`, maybe of different numbers of runs.
        references: `[n]`.
        seed: of the resampling.

    Raises:
        ValueError: if these are not of the same examples, by their number.
    """
    if not ours.shape[1] == theirs.shape[1] == len(references):
        raise ValueError(f"predictions for {ours.shape[1]} and {theirs.shape[1]} of {len(references)} examples")

    def difference(rows: np.ndarray) -> float:
        sides = [np.mean([score(metric, run[rows], references[rows]) for run in system]) for system in (ours, theirs)]
        return float(sides[0] - sides[1])

    generator, number = np.random.default_rng(seed), len(references)
    resampled = [difference(generator.integers(number, size=number)) for _ in range(RESAMPLES)]
    ends: np.ndarray = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(difference(np.arange(number)), *map(float, ends))
