# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a linear model reads off concepts: which tokens they stand for, and whether two words were swapped.

Features are standardised by the training part; what has to be chosen is chosen on the validation part and scored once
on the test part. A document and all that was made of it is in one part.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from evaluation_concept.errors import NotMeasurableError
from evaluation_concept.states import evenly

RIDGE_PENALTIES = (1.0, 100.0, 10_000.0)
INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}
# Every part needs a document, and one does not tell.
FEWEST_DOCUMENTS = 10
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z])")
WORD = re.compile(r"[a-z]+")


class Split(NamedTuple):
    """Indices of the samples in each part, int64 `[n]`."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class SwapPair(NamedTuple):
    """A sentence, the same with two words that follow one another swapped, and the document it is from."""

    original: str
    swapped: str
    document: int


@dataclass(frozen=True)
class TokenRecovery:
    """
    How well a linear model tells which tokens a concept or a document stands for.

    Attributes:
        auc: area under the ROC curve, mean over the tokens asked for; 0.5 is chance.
        recall: share of a sample's tokens among the k that the model ranks first, k being their number.
        prior_recall: the same for the ranking by frequency, which knows nothing of the sample.
        num_tokens: tokens asked for.
        num_samples: samples in the test part.
    """

    auc: float
    recall: float
    prior_recall: float
    num_tokens: int
    num_samples: int


@dataclass(frozen=True)
class OrderRecovery:
    """
    How well a linear model tells sentences from those with two swapped words; 0.5 is chance and any bag of words.

    Attributes:
        paired_accuracy: share of pairs of which it tells the swapped one, given both.
        single_accuracy: share of sentences, swapped or not, of which it tells what they are, each by itself.
        num_pairs: pairs in the test part.
    """

    paired_accuracy: float
    single_accuracy: float
    num_pairs: int


def split_by_document(documents: Sequence[int] | np.ndarray, seed: int = 0) -> Split:
    """
    Put 60, 20 and 20 % of the documents in the three parts, and every sample where its document is.

    Args:
        documents: the document of each sample.

    Raises:
        NotMeasurableError: fewer than 10 documents.
    """
    names = np.unique(documents)
    if len(names) < FEWEST_DOCUMENTS:
        raise NotMeasurableError(
            f"Probes need {FEWEST_DOCUMENTS} documents, to train on some and test on others; got {len(names)}."
        )
    order = np.random.default_rng(seed).permutation(names)
    borders = (np.cumsum(list(PARTS.values()))[:-1] * len(names)).round().astype(int)
    return Split(*(np.flatnonzero(np.isin(documents, part)) for part in np.split(order, borders)))


def choose_tokens(members: Iterable[np.ndarray], number: int, excluded: Sequence[int] = ()) -> np.ndarray:
    """
    The `number` most frequent tokens that at most half of the samples hold, most frequent first.

    Args:
        members: token ids of each sample.
        excluded: ids not to ask for, such as special tokens.
    """
    distinct = [np.unique(ids) for ids in members]
    ids, counts = np.unique(np.concatenate(distinct), return_counts=True)
    fit = (counts <= len(distinct) / 2) & ~np.isin(ids, excluded)
    return ids[fit][np.argsort(-counts[fit], kind="stable")][:number]


def held_tokens(members: Sequence[np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Bool `[samples, tokens]`, which of `tokens` each sample holds."""
    return np.stack([np.isin(tokens, ids) for ids in members])


def probe_tokens(features: np.ndarray, held: np.ndarray, split: Split) -> TokenRecovery:
    """
    Rank tokens by a ridge regression of their presence.

    Args:
        features: `[samples, F]`.
        held: bool `[samples, tokens]`, from `held_tokens`.

    Raises:
        NotMeasurableError: no token is in some and not in all samples of each part.
    """
    varies = np.all([held[part].any(axis=0) & ~held[part].all(axis=0) for part in split], axis=0)
    if not varies.any():
        raise NotMeasurableError(
            "There is too little text to probe tokens: none is in some samples of each part only."
        )
    held = held[:, varies]
    models = [make_pipeline(StandardScaler(), Ridge(penalty)) for penalty in RIDGE_PENALTIES]
    for model in models:
        model.fit(features[split.train], held[split.train])
    best = max(models, key=lambda model: _auc(model, features, held, split.validation))
    truth, scores = held[split.test], best.predict(features[split.test]).reshape(len(split.test), -1)
    prior = np.broadcast_to(held[split.train].mean(axis=0), truth.shape)
    return TokenRecovery(
        auc=float(roc_auc_score(truth, scores, average="macro")),
        recall=recall_at_own_size(truth, scores),
        prior_recall=recall_at_own_size(truth, prior),
        num_tokens=held.shape[1],
        num_samples=len(truth),
    )


def recall_at_own_size(truth: np.ndarray, scores: np.ndarray) -> float:
    """
    Share of a sample's k positives among its k highest scores, mean over the samples that have any.

    Args:
        truth: bool `[samples, classes]`.
        scores: `[samples, classes]`.
    """
    sizes = truth.sum(axis=1)
    ranked = np.take_along_axis(truth, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    found = (ranked & (np.arange(truth.shape[1]) < sizes[:, None])).sum(axis=1)
    return float((found[sizes > 0] / sizes[sizes > 0]).mean())


def _auc(model: Ridge, features: np.ndarray, held: np.ndarray, part: np.ndarray) -> float:
    return roc_auc_score(held[part], model.predict(features[part]).reshape(len(part), -1), average="macro")


def split_sentences(text: str, shortest: int = 8, longest: int = 40) -> Iterator[str]:
    """Sentences of so many words, words one space apart; they end in front of a capital after `.`, `!` or `?`."""
    for sentence in SENTENCE_END.split(text):
        words = sentence.split()
        if shortest <= len(words) <= longest:
            yield " ".join(words)


def swap_pairs(texts: Iterable[str], most: int, seed: int = 0) -> list[SwapPair]:
    """
    Sentences and what becomes of them when two words that follow one another are swapped.

    The two are drawn among words of small letters alone that are not the same, and none is the first of its sentence:
    no capital, no punctuation and, with tokenizers that split at spaces, no token gives the swap away.

    Args:
        texts: one a document.
        most: pairs, taken evenly from all sentences.
    """
    generator = np.random.default_rng(seed)
    sentences = [(document, sentence) for document, text in enumerate(texts) for sentence in split_sentences(text)]
    pairs = (_swap(sentences[index][0], sentences[index][1], generator) for index in evenly(len(sentences), most))
    return [pair for pair in pairs if pair is not None]


def _swap(document: int, sentence: str, generator: np.random.Generator) -> SwapPair | None:
    words = sentence.split()
    plain = [WORD.fullmatch(word) is not None for word in words]
    places = [
        place
        for place in range(1, len(words) - 1)
        if plain[place] and plain[place + 1] and words[place] != words[place + 1]
    ]
    if not places:
        return None
    place = int(generator.choice(places))
    words[place], words[place + 1] = words[place + 1], words[place]
    return SwapPair(sentence, " ".join(words), document)


def probe_order(original: np.ndarray, swapped: np.ndarray, split: Split) -> OrderRecovery:
    """
    Tell sentences from swapped ones by logistic regressions.

    One sees a single sentence (the task BShift of Conneau et al., arXiv 1805.01070), which asks how likely the
    sentence is. The other sees the difference of a pair, so that what the sentence is about does not drown what the
    order is; features of a bag of words leave it nothing.

    Args:
        original, swapped: features `[pairs, F]` of both sentences of each pair.
        split: of the pairs.
    """
    both = np.stack([original, swapped]), np.stack([original - swapped, swapped - original])
    # Many short products: threads would spend the time on waiting for one another.
    with threadpool_limits(limits=1):
        paired, single = (_tell_swapped(features, split) for features in reversed(both))
    return OrderRecovery(paired, single, len(split.test))


def _tell_swapped(features: np.ndarray, split: Split) -> float:
    """Accuracy on features `[2, samples, F]` of the two classes; half a hit where the score says nothing."""
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=penalty, solver="newton-cholesky"))
        for penalty in INVERSE_PENALTIES
    ]
    labels: np.ndarray = np.repeat([0, 1], len(split.train))
    for model in models:
        model.fit(np.concatenate(features[:, split.train]), labels)
    best = max(models, key=lambda model: _hits(model, features[:, split.validation]))
    return _hits(best, features[:, split.test])


def _hits(model: LogisticRegression, features: np.ndarray) -> float:
    first, second = (model.decision_function(samples) for samples in features)
    return float((np.heaviside(-first, 0.5).mean() + np.heaviside(second, 0.5).mean()) / 2)
