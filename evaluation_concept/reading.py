# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What concepts read: how sharply, how far from where they sit, and whether they prefer some kinds of tokens."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation_concept.errors import NotMeasurableError
from evaluation_concept.states import num_free_concepts, pad_batches, span_of

# Readers of a table of concepts that are reported: those that differ most from what they could read.
MOST_READERS = 16
FREQUENCY_BINS = ("frequent", "middle", "rare")
# Shares of all tokens that the frequent words and the frequent and middle ones together make up.
FREQUENCY_BORDERS = (0.5, 0.9)
SENTENCE_BINS = ("first quarter", "second quarter", "third quarter", "last quarter")
SENTENCE_END = re.compile(r"[.?!][\"')\]]*$")
NO_CLASS = -1


@dataclass(frozen=True)
class TokenClasses:
    """
    One way to sort tokens into kinds.

    Attributes:
        names: of the K kinds.
        rows: for each row the kind of its tokens, int64 `[N]`; -1 for tokens of none.
    """

    names: Sequence[str]
    rows: list[np.ndarray]


class ReadRow(NamedTuple):
    """
    Attention of one row.

    Attributes:
        weights: `[S, heads, C, N]`, weights of each read, stage and head; each `[N]` adds up to 1.
        free: concepts in front that have no span; `None` if none has one.
    """

    weights: np.ndarray
    free: int | None


@dataclass(frozen=True)
class StageReading:
    """
    How the concepts of one stage read, means over heads, concepts and rows.

    Attributes:
        entropy_share: entropy of the weights over that of reading all tokens alike: 1 is a mean, 0 a single token.
        free_entropy_share: the same for free concepts.
        distance: mean distance in tokens of what a concept reads from where it sits; `None`, as the next three, if
            no concept sits anywhere.
        even_distance: what it would be if all tokens were read alike.
        own_span: share of the weights on the concept's own span.
        even_own_span: what it would be if all tokens were read alike.
    """

    entropy_share: float | None
    free_entropy_share: float | None
    distance: float | None
    even_distance: float | None
    own_span: float | None
    even_own_span: float | None


@dataclass(frozen=True)
class Preferences:
    """
    What readers prefer among K kinds of tokens. A reader is a head of a stage, for all anchored concepts together, or
    a concept that is the same in every document.

    Attributes:
        names: of the kinds.
        base: share of each kind in the text.
        readers: names of the readers.
        enrichment: for each reader and kind, the share of its weights on the kind over the kind's share in the text.
        bits: mutual information between reader and kind of token, all readers being as likely, in bits.
        shuffled_bits: the same if the tokens' kinds are shuffled in every row: what chance gives.
    """

    names: list[str]
    base: list[float]
    readers: list[str]
    enrichment: list[list[float]]
    bits: float
    shuffled_bits: float


@dataclass(frozen=True)
class Reading:
    """How concepts read: each stage, and what readers prefer by each way to sort tokens."""

    stages: list[StageReading]
    preferences: dict[str, Preferences]


def study_reading(
    model: PreTrainedModel, rows: Sequence[np.ndarray], classes: Mapping[str, TokenClasses], seed: int = 0
) -> Reading:
    """
    Read rows once and tell how.

    Args:
        model: with `attn_implementation="eager"`.
        rows: token ids of each, without mask tokens.
        classes: ways to sort the tokens of these rows.

    Raises:
        ValueError: see `read_weights`.
    """
    stages: list[StageMeans] = []
    counters = {name: PreferenceCounter(kinds, seed) for name, kinds in classes.items()}
    for index, read in read_weights(model, rows):
        stages = stages or [StageMeans() for _ in read.weights]
        for stage, weights in zip(stages, read.weights, strict=True):
            stage.add_row(weights, read.free)
        for counter in counters.values():
            counter.add_row(index, read)
    preferences = {name: counter.preferences() for name, counter in counters.items()}
    return Reading([stage.reading() for stage in stages], preferences)


@torch.no_grad()
def read_weights(model: PreTrainedModel, rows: Sequence[np.ndarray]) -> Iterator[tuple[int, ReadRow]]:
    """
    The attention weights of every row, with its index, rows of like length after one another.

    Args:
        model: with `attn_implementation="eager"`, which alone gives weights.
        rows: token ids of each, without mask tokens.

    Raises:
        NotMeasurableError: the model gives no weights of concepts on tokens.
    """
    free = num_free_concepts(model.config)
    for group, batch in pad_batches(rows, model.config.pad_token_id or 0, model.device):
        outputs = model.base_model(**batch, output_attentions=True)
        reads = [weights for weights in outputs.cross_attentions or () if weights is not None]
        if not reads or reads[0].shape[-1] != batch["input_ids"].shape[1]:
            raise NotMeasurableError(
                "its reads give no weights on single tokens (a funnel, or attention that is not eager)"
            )
        stages = torch.stack(reads, dim=1).float().cpu().numpy()
        used = outputs.concept_mask.bool().cpu().numpy()
        for place, index in enumerate(group):
            length = len(rows[index])
            yield index, ReadRow(stages[place][:, :, used[place], :length], free)


class StageMeans:
    """Means over the rows of one stage."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add_row(self, weights: np.ndarray, free: int | None) -> None:
        """
        Add what the weights of a row tell.

        Args:
            weights: `[heads, C, N]`.
            free: as in `ReadRow`.
        """
        length = weights.shape[2]
        shares = entropy(weights, axis=2) / max(np.log(length), np.finfo(float).tiny)
        if free:
            self._add("free_entropy_share", shares[:, :free])
        self._add("entropy_share", shares[:, free or 0 :])
        if free is None:
            return
        spans = weights.shape[1] - free
        anchored, own = weights[:, free:], span_of(length, spans) == np.arange(spans)[:, None]
        anchors = (np.arange(spans) + 0.5) * length / spans - 0.5
        distances = np.abs(np.arange(length) - anchors[:, None])
        self._add("distance", (anchored * distances).sum(axis=2))
        self._add("even_distance", distances)
        self._add("own_span", (anchored * own).sum(axis=2))
        self._add("even_own_span", own.mean(axis=1))

    def _add(self, name: str, values: np.ndarray) -> None:
        self.values.setdefault(name, []).append(float(values.mean()))

    def reading(self) -> StageReading:
        means = {name: float(np.mean(values)) for name, values in self.values.items()}
        return StageReading(**{name: means.get(name) for name in StageReading.__annotations__})


class PreferenceCounter:
    """
    Sums over rows of the weights of every reader on every kind of token.

    Args:
        classes: the kinds.
        seed: of the shuffle that chance is judged by.
    """

    def __init__(self, classes: TokenClasses, seed: int = 0) -> None:
        self.classes, self.generator = classes, np.random.default_rng(seed)
        self.readers: list[str] = []
        self.mass: np.ndarray = np.zeros(1)
        self.shuffled: np.ndarray = np.zeros(1)
        self.tokens: np.ndarray = np.zeros(len(classes.names))

    def add_row(self, index: int, read: ReadRow) -> None:
        """Add row `index` of the classes."""
        kinds, number = self.classes.rows[index], len(self.classes.names)
        sorted_ = kinds != NO_CLASS
        shuffled = kinds.copy()
        shuffled[sorted_] = self.generator.permutation(kinds[sorted_])
        self.readers, weights = reader_names(read), reader_weights(read)
        self.mass = self.mass + weights @ one_hot(kinds, number)
        self.shuffled = self.shuffled + weights @ one_hot(shuffled, number)
        self.tokens += one_hot(kinds, number).sum(axis=0)

    def preferences(self) -> Preferences:
        """What they tell, of the readers that prefer something most."""
        base = self.tokens / self.tokens.sum()
        shares = self.mass / self.mass.sum(axis=1, keepdims=True)
        chosen = np.sort(np.argsort(-_divergence(shares, base), kind="stable")[:MOST_READERS])
        enrichment = np.divide(shares, base, out=np.ones_like(shares), where=base > 0)
        return Preferences(
            names=list(self.classes.names),
            base=base.tolist(),
            readers=[self.readers[reader] for reader in chosen],
            enrichment=enrichment[chosen].tolist(),
            bits=mutual_information(shares),
            shuffled_bits=mutual_information(self.shuffled / self.shuffled.sum(axis=1, keepdims=True)),
        )


def reader_names(read: ReadRow) -> list[str]:
    """Names of the readers of `reader_weights`."""
    stages, heads, concepts, _ = read.weights.shape
    names = []
    for stage in range(1, stages + 1):
        if read.free is not None:
            names += [f"read {stage}, head {head + 1}" for head in range(heads)]
        named = concepts if read.free is None else read.free
        names += [f"read {stage}, concept {concept}" for concept in range(named)]
    return names


def reader_weights(read: ReadRow) -> np.ndarray:
    """
    Weights `[readers, N]` of one row: the mean over all anchored concepts of each head, and over all heads of each
    free concept, or of each concept where none is anchored; stage after stage.
    """
    parts = []
    for weights in read.weights:
        if read.free is not None:
            parts.append(weights[:, read.free :].mean(axis=1))
        parts.append(weights[:, : read.free].mean(axis=0))
    return np.concatenate(parts)


def mutual_information(shares: np.ndarray) -> float:
    """
    Bits that the kind of a token tells of its reader, all readers being as likely.

    Args:
        shares: `[readers, K]`, each reader's distribution over kinds.
    """
    return float(_divergence(shares, shares.mean(axis=0)).mean())


def _divergence(shares: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of each row from `base`, in bits."""
    return entropy(shares, np.broadcast_to(base, shares.shape), base=2, axis=1)


def one_hot(kinds: np.ndarray, number: int) -> np.ndarray:
    """Kinds int64 `[N]` as `[N, number]`, zeros for -1."""
    return (kinds[:, None] == np.arange(number)).astype(float)


def by_frequency(rows: Sequence[np.ndarray], special_token_ids: Sequence[int]) -> TokenClasses:
    """
    Tokens by how frequent they are in these rows: the most frequent ones, which make up half of the text, the next
    ones, up to nine tenths, and the rare rest.
    """
    ids, places, counts = np.unique(np.concatenate(rows), return_inverse=True, return_counts=True)
    special = np.isin(ids, special_token_ids)
    counts = np.where(special, 0, counts)
    order = np.argsort(-counts, kind="stable")
    # A token belongs where the text before it ends.
    before = np.empty(len(ids))
    before[order] = np.concatenate([[0], counts[order].cumsum()[:-1]]) / counts.sum()
    kinds = np.where(special, NO_CLASS, np.searchsorted(FREQUENCY_BORDERS, before, side="right"))
    return TokenClasses(FREQUENCY_BINS, np.split(kinds[places], np.cumsum([len(row) for row in rows])[:-1]))


def by_place_in_sentence(rows: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase) -> TokenClasses:
    """Tokens by the quarter of their sentence; a sentence ends with a token that ends with `.`, `?` or `!`."""
    return TokenClasses(SENTENCE_BINS, [_quarters(row, tokenizer) for row in rows])


def _quarters(row: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    tokens = tokenizer.convert_ids_to_tokens(row.tolist())
    special = np.isin(row, tokenizer.all_special_ids)
    ends = np.array([SENTENCE_END.search(token) is not None for token in tokens])
    sentence = np.concatenate([[0], ends.cumsum()[:-1]])
    first = np.searchsorted(sentence, sentence, side="left")
    size = np.searchsorted(sentence, sentence, side="right") - first
    quarters = (np.arange(len(row)) - first) * len(SENTENCE_BINS) // size
    return np.where(special, NO_CLASS, quarters)


def example_reading(read: ReadRow, tokens: Sequence[str]) -> dict[str, Any]:
    """
    What each concept of one row reads in the last stage, mean over heads.

    Returns:
        `tokens` [N], `concepts` [C] (names) and `weights` [C][N].
    """
    weights = read.weights[-1].mean(axis=0)
    free = read.free or 0
    names = [f"free {slot}" if slot < free else str(slot - free) for slot in range(len(weights))]
    return {"tokens": list(tokens), "concepts": names, "weights": weights.tolist()}
