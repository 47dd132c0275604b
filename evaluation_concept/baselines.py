# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What masked-language-model loss means: the scores of predictors that know word counts and nothing else.

Both are scored on the masked positions of the batches that the model is scored on. A model that does no better
than `unigram_baseline` has learned nothing from context; one no better than `bag_of_words_baseline` knows which
words a row (of packed rows: a document) holds, but not their order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from scipy.optimize import minimize_scalar
from torch.nn.utils.rnn import pad_sequence

from evaluation_concept.errors import NotMeasurableError

IGNORED_LABEL = -100
ROWS_PER_BATCH = 1000


@dataclass(frozen=True)
class BaselineScore:
    """A score over all masked positions: mean loss in nats, share of right first guesses, number of positions."""

    loss: float
    accuracy: float
    num_tokens: int


@dataclass(frozen=True)
class TokenStatistics:
    """How often each token occurs in the training rows.

    Attributes:
        counts: [V] occurrences; 0 for special tokens, which are never predicted.
        is_special: [V] bool.
    """

    counts: np.ndarray
    is_special: np.ndarray

    @classmethod
    def from_chunks(
        cls, chunks: Dataset | IterableDataset, vocab_size: int, special_token_ids: Sequence[int]
    ) -> "TokenStatistics":
        """Count the tokens of the column `input_ids`.

        Raises:
            ValueError: a token id outside the vocabulary, or no rows.
        """
        counts: np.ndarray = np.zeros(vocab_size, dtype=np.int64)
        for batch in chunks.select_columns("input_ids").with_format("numpy").iter(ROWS_PER_BATCH):
            ids = np.concatenate(list(batch["input_ids"]))
            if ids.min() < 0 or ids.max() >= vocab_size:
                raise ValueError(f"the rows hold token ids outside the vocabulary of {vocab_size} tokens")
            counts += np.bincount(ids, minlength=vocab_size)
        is_special: np.ndarray = np.zeros(vocab_size, dtype=bool)
        is_special[list(special_token_ids)] = True
        counts[is_special] = 0
        if not counts.any():
            raise NotMeasurableError("there are no tokens to count")
        return cls(counts, is_special)

    @property
    def unigram(self) -> np.ndarray:
        """Add-one smoothed probability of each token, [V]."""
        return (self.counts + 1) / (self.counts.sum() + len(self.counts))


def unigram_baseline(statistics: TokenStatistics, batches: Iterable[Mapping[str, torch.Tensor]]) -> BaselineScore:
    """Score the predictor that always answers with the training frequencies.

    Args:
        statistics: of the training rows.
        batches: evaluation batches of `MaskingCollator`.
    """
    return bag_of_words_baseline(statistics, 0.0, batches)


def bag_of_words_baseline(
    statistics: TokenStatistics, weight: float, batches: Iterable[Mapping[str, torch.Tensor]]
) -> BaselineScore:
    """Score `(1 - weight) * unigram + weight * bag`, the bag being the frequencies of the row's visible tokens.

    Args:
        statistics: of the training rows.
        weight: from `fit_bag_of_words_weight`, on training batches.
        batches: evaluation batches of `MaskingCollator`.

    Raises:
        ValueError: no masked position in any batch.
    """
    loss, hits, count = 0.0, 0, 0
    for batch in _by_document(batches, statistics):
        rows, gold = _masked_tokens(batch)
        mixture = (1 - weight) * statistics.unigram + weight * _bag_of_words(statistics, batch)
        loss -= np.log(mixture[rows, gold]).sum()
        hits += int((mixture.argmax(axis=1)[rows] == gold).sum())
        count += len(gold)
    if count == 0:
        raise NotMeasurableError("no batch has a masked position to score")
    return BaselineScore(loss=float(loss / count), accuracy=hits / count, num_tokens=count)


def fit_bag_of_words_weight(statistics: TokenStatistics, batches: Iterable[Mapping[str, torch.Tensor]]) -> float:
    """Return the weight in [0, 1] with the lowest loss on these batches; give it training batches only.

    Raises:
        ValueError: no masked position in any batch.
    """
    unigram, bag = np.concatenate([np.empty((2, 0)), *_gold_probabilities(statistics, batches)], axis=1)
    if unigram.size == 0:
        raise NotMeasurableError("no batch has a masked position to fit the weight on")
    found = minimize_scalar(
        lambda weight: -np.log((1 - weight) * unigram + weight * bag).mean(), bounds=(0.0, 1.0), method="bounded"
    )
    return float(found.x)


def _gold_probabilities(
    statistics: TokenStatistics, batches: Iterable[Mapping[str, torch.Tensor]]
) -> Iterator[np.ndarray]:
    """For each batch the probability of its masked tokens under unigram and bag, [2, number of masked tokens]."""
    for batch in _by_document(batches, statistics):
        rows, gold = _masked_tokens(batch)
        yield np.stack([statistics.unigram[gold], _bag_of_words(statistics, batch)[rows, gold]])


def _by_document(
    batches: Iterable[Mapping[str, torch.Tensor]], statistics: TokenStatistics
) -> Iterator[Mapping[str, torch.Tensor]]:
    """Batches whose rows are documents: each packed row becomes a batch of its own, of its documents."""
    padding = int(statistics.is_special.argmax())
    for batch in batches:
        if "document_lengths" not in batch:
            yield batch
            continue
        for ids, labels, lengths in zip(batch["input_ids"], batch["labels"], batch["document_lengths"], strict=True):
            sizes = lengths[lengths > 0].tolist()
            parts = (values[: sum(sizes)].split(sizes) for values in (ids, labels))
            documents = (
                pad_sequence(part, True, fill) for part, fill in zip(parts, (padding, IGNORED_LABEL), strict=True)
            )
            yield dict(zip(("input_ids", "labels"), documents, strict=True))


def _masked_tokens(batch: Mapping[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Row and right token of each masked position."""
    labels = batch["labels"].cpu().numpy()
    rows, columns = np.nonzero(labels != IGNORED_LABEL)
    return rows, labels[rows, columns]


def _bag_of_words(statistics: TokenStatistics, batch: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Frequencies of the tokens that each row shows, [B, V]; the unigram where a row shows none.

    Special tokens, padding among them, do not count, nor does a predicted position that kept its token.
    """
    ids, labels = batch["input_ids"].cpu().numpy(), batch["labels"].cpu().numpy()
    visible = (labels == IGNORED_LABEL) & ~statistics.is_special[ids]
    rows, columns = np.nonzero(visible)
    num_rows, vocab_size = len(ids), len(statistics.counts)
    counts = np.bincount(rows * vocab_size + ids[rows, columns], minlength=num_rows * vocab_size)
    totals = visible.sum(axis=1, keepdims=True)
    bag = counts.reshape(num_rows, vocab_size) / np.maximum(totals, 1)
    return np.where(totals > 0, bag, statistics.unigram)
