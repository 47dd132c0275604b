# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What data looks like in numbers: the documents of a source, and what is masked, by part of a word."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
WORD_PARTS = ("first", "middle", "last", "single")


@dataclass(frozen=True)
class SourceSummary:
    """
    Documents of one source.

    Attributes:
        documents: number of documents that are not blank.
        blank: number of documents without text, which are skipped.
        tokens: in all documents, special tokens not counted.
        quantiles: tokens of a document at `QUANTILES`; the last is the longest.
        size_share: fraction of all sources' tokens.
        weight_share: fraction of the training rows, by the recipe's weights; without weights the `size_share`.
        license: as in the recipe.
    """

    name: str
    documents: int
    blank: int
    tokens: int
    quantiles: tuple[int, ...]
    size_share: float
    weight_share: float
    license: str


@dataclass(frozen=True)
class MaskingSummary:
    """
    What a scheme masks in some rows.

    Attributes:
        rows: number of rows that were looked at.
        tokens: in these rows, special tokens included.
        masked: tokens to predict.
        masked_share: of all tokens, special ones included, as `mlm_probability` counts.
        exact_rows: rows in which exactly as many tokens are masked as there should be.
        span_length: mean number of masked tokens without a visible one between them.
        whole_words: of the words of several tokens that are touched, the fraction masked as a whole. `None` if there
            is no such word.
        part_rates: masked fraction by part of a word: the first, a middle and the last token of a word of several
            tokens, and the token of a word of one (`WORD_PARTS`). `None` where there is no such token.
    """

    rows: int
    tokens: int
    masked: int
    masked_share: float
    exact_rows: int
    span_length: float
    whole_words: float | None
    part_rates: dict[str, float | None]


def summarise_sources(
    lengths: Mapping[str, np.ndarray],
    weights: Mapping[str, float | None] | None = None,
    licenses: Mapping[str, str | None] | None = None,
) -> list[SourceSummary]:
    """
    Summarise sources from the tokens of each of their documents; a document of 0 tokens is blank.

    Args:
        lengths: source to tokens per document, integers [documents].
        weights: source to share in the mixture, which need not add up to 1; that of other sources counts for nothing.
            None, for all: by size.
        licenses: source to the note in the recipe.
    """
    tokens = {name: int(counts.sum()) for name, counts in lengths.items()}
    size_shares = _shares(tokens)
    given = {name: weight for name in lengths if (weight := (weights or {}).get(name)) is not None}
    weight_shares = _shares(given) if given else size_shares
    return [
        SourceSummary(
            name=name,
            documents=int((counts > 0).sum()),
            blank=int((counts == 0).sum()),
            tokens=tokens[name],
            quantiles=length_quantiles(counts[counts > 0]),
            size_share=size_shares[name],
            weight_share=weight_shares[name],
            license=(licenses or {}).get(name) or "",
        )
        for name, counts in lengths.items()
    ]


def length_quantiles(lengths: np.ndarray) -> tuple[int, ...]:
    """Lengths at `QUANTILES`, each one that occurs; zeros for no documents."""
    if not len(lengths):
        return (0,) * len(QUANTILES)
    return tuple(int(value) for value in np.quantile(lengths, QUANTILES, method="inverted_cdf"))


def summarise_masking(
    masked: np.ndarray, maskable: np.ndarray, word_starts: np.ndarray, num_tokens: int, num_wanted: np.ndarray
) -> MaskingSummary:
    """
    Summarise the masks of B rows.

    Args:
        masked: the tokens to predict, bool [B, N].
        maskable: tokens that are neither special nor padding, bool [B, N].
        word_starts: tokens that begin a word, bool [B, N]; one behind a token that is not maskable always does.
        num_tokens: of the rows, padding left out.
        num_wanted: how many tokens of each row should be masked, [B].
    """
    words = _word_of_each_token(maskable, word_starts)
    chosen = masked[maskable]
    sizes = np.bincount(words)
    hits = np.bincount(words, weights=chosen).astype(int)
    touched = (sizes > 1) & (hits > 0)
    total = int(masked.sum())
    return MaskingSummary(
        rows=len(masked),
        tokens=num_tokens,
        masked=total,
        masked_share=total / num_tokens,
        exact_rows=int((masked.sum(axis=1) == num_wanted).sum()),
        span_length=total / max(_num_runs(masked), 1),
        whole_words=_ratio(int((touched & (hits == sizes)).sum()), int(touched.sum())),
        part_rates=_part_rates(chosen, words, sizes),
    )


def _word_of_each_token(maskable: np.ndarray, word_starts: np.ndarray) -> np.ndarray:
    """Number of the word that each maskable token belongs to, counted over all rows."""
    after_gap = np.ones_like(maskable)
    after_gap[:, 1:] = ~maskable[:, :-1]
    return np.cumsum((word_starts | after_gap)[maskable]) - 1


def _num_runs(masked: np.ndarray) -> int:
    before = np.zeros_like(masked)
    before[:, 1:] = masked[:, :-1]
    return int((masked & ~before).sum())


def _part_rates(chosen: np.ndarray, words: np.ndarray, sizes: np.ndarray) -> dict[str, float | None]:
    """Share of `chosen` by part of a word; bool [T], word of each of these T tokens, and tokens of each word."""
    place = np.arange(len(words)) - (np.cumsum(sizes) - sizes)[words]
    size = sizes[words]
    parts = {"first": place == 0, "middle": (place > 0) & (place < size - 1), "last": place == size - 1}
    within = {name: part & (size > 1) for name, part in parts.items()} | {"single": size == 1}
    return {name: _ratio(int(chosen[within[name]].sum()), int(within[name].sum())) for name in WORD_PARTS}


def _shares(amounts: Mapping[str, float]) -> dict[str, float]:
    total = sum(amounts.values())
    return {name: amount / total if total else 0.0 for name, amount in amounts.items()}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
