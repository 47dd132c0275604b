# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The metrics of GLUE by their official definitions; nothing is fetched.

In NumPy, and tested to equal scikit-learn's and SciPy's: what these check of their input takes many times as long as
the score, and a bootstrap takes thousands of scores.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import rankdata

Measure = Callable[[np.ndarray, np.ndarray], float]


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of `predictions` `[n]` that equal `references` `[n]`."""
    return float(np.mean(np.equal(predictions, references)))


def f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """F1 of class 1; 0 if it neither occurs nor is predicted."""
    predicted, right = np.equal(predictions, 1), np.equal(references, 1)
    return float(2 * np.sum(predicted & right) / max(np.sum(predicted) + np.sum(right), 1))


def matthews_correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """Matthews' correlation of two classes, which is Pearson's of their numbers; 0 if all predictions are the same."""
    return pearson(predictions, references)


def pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    """Pearson's correlation; 0 where it is not defined, since one side is constant or holds what is no number."""
    # As floats of 64 bits: in half of them near neighbours would tie.
    pair = [np.asarray(values, dtype=np.float64) for values in (predictions, references)]
    is_undefined = any(np.ptp(values) == 0 or not np.isfinite(values).all() for values in pair)
    return 0.0 if is_undefined else float(np.corrcoef(*pair)[0, 1])


def spearman(predictions: np.ndarray, references: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where it is not defined, as `pearson` is not."""
    return pearson(rankdata(predictions), rankdata(references))


METRICS: dict[str, Mapping[str, Measure]] = {
    "accuracy": {"accuracy": accuracy},
    "accuracy_f1": {"accuracy": accuracy, "f1": f1},
    "matthews": {"matthews_correlation": matthews_correlation},
    "correlation": {"pearson": pearson, "spearmanr": spearman},
}


def measure(metric: str, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """
    The values of a metric, by name.

    Args:
        metric: a key of `METRICS`.
        predictions: `[n]`, classes or values.
        references: `[n]`, the right ones.
    """
    return {name: of(predictions, references) for name, of in METRICS[metric].items()}


def score(metric: str, predictions: np.ndarray, references: np.ndarray) -> float:
    """The one number of a task, in points 0..100 (a correlation may be negative): the mean of its metric's values."""
    return 100 * float(np.mean(list(measure(metric, predictions, references).values())))
