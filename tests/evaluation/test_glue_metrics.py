# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""GLUE's metrics against sums done by hand and the libraries that define them, and what tells two systems apart."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

import evaluation_concept.metrics
from evaluation_concept.comparison import paired_bootstrap
from evaluation_concept.glue import GLUE_TASKS
from evaluation_concept.metrics import measure, score

METRIC_FILE = Path(evaluation_concept.metrics.__file__).with_name("glue.py")
OFFICIAL = {
    "cola": {"matthews_correlation"},
    "sst2": {"accuracy"},
    "mrpc": {"accuracy", "f1"},
    "stsb": {"pearson", "spearmanr"},
    "qqp": {"accuracy", "f1"},
    "mnli": {"accuracy"},
    "qnli": {"accuracy"},
    "rte": {"accuracy"},
    "wnli": {"accuracy"},
}


def test_known_vectors() -> None:
    references, predictions = np.array([1, 1, 1, 0, 0, 0, 0, 1]), np.array([1, 0, 1, 1, 0, 0, 0, 1])
    # 3 right positives, 1 wrong one, 1 missed, 3 right negatives.
    assert measure("accuracy_f1", predictions, references) == {"accuracy": 6 / 8, "f1": 2 * 3 / (2 * 3 + 1 + 1)}
    assert score("accuracy_f1", predictions, references) == pytest.approx(100 * 0.75)
    mcc = (3 * 3 - 1 * 1) / np.sqrt(4 * 4 * 4 * 4)
    assert measure("matthews", predictions, references)["matthews_correlation"] == pytest.approx(mcc)
    ranks = measure("correlation", np.array([1.0, 2.0, 30.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert ranks["spearmanr"] == pytest.approx(1 - 6 * (0 + 0 + 1 + 1) / (4 * (16 - 1)))
    assert ranks["pearson"] == pytest.approx(18.5 / np.sqrt(578.75 * 5))
    assert score("accuracy", np.array([2, 1, 0, 0]), np.array([2, 1, 1, 0])) == 75


@pytest.mark.parametrize("number", [5, 40, 700])
def test_they_are_those_of_the_libraries_that_define_them(number: int) -> None:
    generator = np.random.default_rng(number)
    references, predictions = generator.integers(2, size=(2, number))
    assert measure("accuracy_f1", predictions, references) == pytest.approx(
        {"accuracy": accuracy_score(references, predictions), "f1": f1_score(references, predictions)}
    )
    mcc = measure("matthews", predictions, references)["matthews_correlation"]
    assert mcc == pytest.approx(matthews_corrcoef(references, predictions))
    # With ties, and in half precision.
    values = generator.integers(0, 50, size=(2, number)).astype(np.float16) / 10
    expected = {
        of: way(*values.astype(float)).statistic for of, way in (("pearson", pearsonr), ("spearmanr", spearmanr))
    }
    assert measure("correlation", *values) == pytest.approx(expected)


def test_where_a_metric_is_not_defined_it_is_0() -> None:
    constant, varied = np.zeros(4, dtype=int), np.array([0, 1, 0, 1])
    assert measure("accuracy_f1", constant, constant) == {"accuracy": 1.0, "f1": 0.0}
    assert measure("matthews", constant, varied) == {"matthews_correlation": 0.0}
    # Of a model that diverged.
    assert measure("correlation", np.array([0, 1, np.nan, 3]), varied) == {"pearson": 0.0, "spearmanr": 0.0}
    assert measure("correlation", np.full(4, 2.5), varied) == {"pearson": 0.0, "spearmanr": 0.0}


@pytest.mark.parametrize("task", list(OFFICIAL))
def test_each_task_has_its_official_metric_in_a_module_that_evaluate_loads(task: str) -> None:
    metric = evaluate.load(str(METRIC_FILE), task)
    found = metric.compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
    assert set(found) == OFFICIAL[task]
    assert found == measure(GLUE_TASKS[task].metric, np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]))


def test_the_module_refuses_another_task() -> None:
    with pytest.raises(ValueError, match="'boolq' is no task of GLUE; these are: cola"):
        evaluate.load(str(METRIC_FILE), "boolq")


def noisy(references: np.ndarray, share: float, seed: int) -> np.ndarray:
    """`references` with a share of them turned over."""
    flips = np.random.default_rng(seed).random(len(references)) < share
    return np.where(flips, 1 - references, references)


def test_a_difference_is_that_of_the_means_and_its_interval_the_textbook_one() -> None:
    references = np.random.default_rng(0).integers(2, size=2000)
    ours = np.stack([noisy(references, 0.10, seed) for seed in (1, 2, 3)])
    theirs = np.stack([noisy(references, 0.20, seed) for seed in (4, 5)])
    found = paired_bootstrap("accuracy", ours, theirs, references)
    by_example = np.mean(ours == references, axis=0) - np.mean(theirs == references, axis=0)
    assert found.points == pytest.approx(100 * by_example.mean())
    # Of a mean over 2000 examples, by the central limit theorem.
    half = 100 * 1.96 * by_example.std() / np.sqrt(len(references))
    assert (found.low, found.high) == pytest.approx((found.points - half, found.points + half), abs=0.15)


def test_pairing_tells_apart_what_two_separate_intervals_do_not() -> None:
    references = np.random.default_rng(0).integers(2, size=400)
    theirs = noisy(references, 0.30, seed=1)
    wrong = np.flatnonzero(theirs != references)[:12]
    ours = theirs.copy()
    ours[wrong] = references[wrong]
    found = paired_bootstrap("accuracy", ours[None], theirs[None], references)
    spread = 100 * 1.96 * np.sqrt(0.3 * 0.7 / len(references))
    assert 0 < found.low < found.points == 3 < spread


def test_the_same_predictions_and_the_same_seed_give_the_same() -> None:
    references = np.arange(50) % 2
    ours, theirs = (noisy(references, share, seed=2)[None] for share in (0.1, 0.3))
    first = paired_bootstrap("matthews", ours, theirs, references)
    assert first == paired_bootstrap("matthews", ours, theirs, references)
    nothing = paired_bootstrap("matthews", ours, ours, references)
    assert (nothing.points, nothing.low, nothing.high) == (0, 0, 0)


def test_predictions_of_other_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="predictions for 5 and 4 of 5 examples"):
        paired_bootstrap("accuracy", np.zeros((1, 5)), np.zeros((1, 4)), np.zeros(5))
