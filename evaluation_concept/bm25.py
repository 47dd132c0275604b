# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""BM25, the bag of words that retrieval is measured by (Robertson & Zaragoza 2009, "The Probabilistic Relevance
Framework", section 3), and how its ranks and those of others become one."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, diags
from scipy.stats import rankdata
from sklearn.feature_extraction.text import CountVectorizer


def bm25_scores(queries: Sequence[str], passages: Sequence[str], k1: float = 1.2, b: float = 0.75) -> csr_matrix:
    """
    Scores `[queries, passages]`; 0 where a passage has no word of the query.

    The inverse document frequency is that of Lucene, ln(1 + (P - n + .5) / (n + .5)), which is never negative.

    Args:
        k1: how soon further occurrences of a word stop to count.
        b: by how much a word counts for less in a longer passage, from 0 to 1.
    """
    vectorizer = CountVectorizer(token_pattern=r"(?u)\w+", dtype=np.float64)
    if not any(map(vectorizer.build_analyzer(), passages)):  # of which it would make an error
        return csr_matrix((len(queries), len(passages)))
    counts = vectorizer.fit_transform(passages).tocsr()
    number, occurrences = len(passages), np.diff(counts.tocsc().indptr)
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    damping = k1 * (1 - b + b * lengths / lengths.mean())
    counts.data *= (k1 + 1) / (counts.data + np.repeat(damping, np.diff(counts.indptr)))
    rarity = np.log1p((number - occurrences + 0.5) / (occurrences + 0.5))
    return vectorizer.transform(queries) @ (counts @ diags(rarity)).T.tocsr()


def fuse_ranks(*scores: np.ndarray, constant: int = 60) -> np.ndarray:
    """
    Reciprocal rank fusion (Cormack, Clarke & Buettcher 2009, SIGIR): the sum over systems of 1 / (constant + rank).

    Args:
        scores: of each system, `[queries, passages]`, on scales of their own; passages of the same score share a rank.
        constant: how little the first ranks differ from those behind them.

    Returns:
        `[queries, passages]`.
    """
    ranks = [rankdata(-values, method="min", axis=-1) for values in scores]
    return np.sum([1 / (constant + rank) for rank in ranks], axis=0)
