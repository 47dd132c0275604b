# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What scores on tasks mean: those of predictors that see no text, or which words it holds and not their order."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from evaluation_concept.metrics import score
from evaluation_concept.tasks import Examples, Task, split_by_group

# Inverse strengths of the regularisation, of which one is chosen on a part of the training examples.
STRENGTHS = (0.3, 3.0, 30.0)
PARTS = 10
# Ends long before the solver's own limits on 45,000 pairs, at the same score.
TOLERANCE, MAX_ITERATIONS = 1e-3, 1000
# A word is any run of letters and digits, single ones too; a mark of punctuation counts as one.
WORDS = r"(?u)\w+|[^\w\s]"


def majority_baseline(task: Task, train: Examples, evaluation: Mapping[str, Examples]) -> dict[str, np.ndarray]:
    """
    Answer with the most frequent class of `train`, of a regression with its mean.

    Returns:
        Predictions `[n]` by split of `evaluation`.
    """
    assert train.labels is not None
    answer = train.labels.mean() if task.is_regression else np.bincount(train.labels).argmax()
    return {split: np.full(len(examples), answer) for split, examples in evaluation.items()}


def bag_of_words_baseline(task: Task, train: Examples, evaluation: Mapping[str, Examples]) -> dict[str, np.ndarray]:
    """
    Answer by logistic regression, of a regression by ridge regression, on TF-IDF of single words.

    A pair has the weights of both texts, their products and differences, and their cosine. How strongly to regularise
    is chosen on a tenth of `train`, if it has two examples or more; the tenth is trained on too in the end. Where no
    text of `train` has a word, the answer is `majority_baseline`'s.

    Returns:
        Predictions `[n]` by split of `evaluation`.
    """
    texts = [text for column in train.texts for text in column]
    if not any(text.strip() for text in texts):
        return majority_baseline(task, train, evaluation)
    vectorizer = TfidfVectorizer(token_pattern=WORDS, sublinear_tf=True)
    vectorizer.fit(texts)
    model = fit_linear(task, train, _features(vectorizer, train))
    return {split: model.predict(_features(vectorizer, examples)) for split, examples in evaluation.items()}


def fit_linear(
    task: Task, train: Examples, features: csr_matrix | np.ndarray, strengths: Sequence[float] = STRENGTHS
) -> LogisticRegression | Ridge | DummyClassifier:
    """
    Logistic regression, or ridge regression, on `features` `[n, width]` of the examples `train`.

    Args:
        strengths: inverse ones of the regularisation. One is chosen on a tenth of `train`, which shares no group with
            the rest; with a single group it is the middle one.
    """
    assert train.labels is not None
    return _fit(task, features, train.labels, _choose_strength(task, train, features, strengths))


BASELINES = {"majority": majority_baseline, "bag_of_words": bag_of_words_baseline}


def _features(vectorizer: TfidfVectorizer, examples: Examples) -> csr_matrix:
    columns = [vectorizer.transform(column) for column in examples.texts]
    if len(columns) == 1:
        return columns[0]
    first, second = columns
    products = first.multiply(second)
    return hstack([first, second, abs(first - second), products, csr_matrix(products.sum(axis=1))], format="csr")


def _choose_strength(
    task: Task, train: Examples, features: csr_matrix | np.ndarray, strengths: Sequence[float]
) -> float:
    if len(parts := set(train.groups)) < 2:
        return strengths[len(strengths) // 2]
    assert train.labels is not None
    fitted, held_out = split_by_group(train, min(PARTS, len(parts)))[0]
    scores = []
    for strength in strengths:
        model = _fit(task, features[fitted], train.labels[fitted], strength)
        scores.append(score(task.metric, model.predict(features[held_out]), train.labels[held_out]))
    return strengths[int(np.argmax(scores))]


def _fit(
    task: Task, features: csr_matrix | np.ndarray, labels: np.ndarray, strength: float
) -> LogisticRegression | Ridge | DummyClassifier:
    if task.is_regression:
        return Ridge(alpha=1 / strength).fit(features, labels)
    if len(np.unique(labels)) == 1:
        return DummyClassifier().fit(features, labels)
    return LogisticRegression(C=strength, tol=TOLERANCE, max_iter=MAX_ITERATIONS).fit(features, labels)
