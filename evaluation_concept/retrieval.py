# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Score how well an encoder finds the passages that belong to queries, beside BM25, both together (reciprocal rank
fusion), and an encoder with random weights.

    python -m evaluation_concept.retrieval outputs/nano pairs.jsonl
    python -m evaluation_concept.retrieval outputs/retrieval pairs.jsonl --late_interaction --output scores.json

A row of the table has a query and a passage that answers it, and maybe a list of others that do not. Queries and
passages that occur in several rows count once; every passage of the table is a candidate for every query.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation_concept.bm25 import bm25_scores, fuse_ranks
from evaluation_concept.columns import read_columns, text_column
from evaluation_concept.encode import add_model_options, load_tokenizer, place_encoder
from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from evaluation_concept.late_interaction import max_sim, pad_concepts
from evaluation_concept.states import random_encoder
from modeling_concept.encoding import encode

COMMAND = "python -m evaluation_concept.retrieval"
# Passages are ranked down to here.
DEPTH = 100
METRICS = ("mrr_at_10", "ndcg_at_10", "recall_at_10", "recall_at_100")
# Likenesses of concepts that are computed at once, at most: 256 MB of them.
LARGEST_BLOCK = 2**26

Scores = Callable[[slice], np.ndarray]


@dataclass(frozen=True)
class PairColumns:
    """Where a table has queries, passages that answer them and, in lists, passages that do not (`None`: nowhere)."""

    query: str = "query"
    passage: str = "passage"
    negatives: str | None = None


@dataclass(frozen=True)
class RetrievalTask:
    """
    Queries, and which passages answer them.

    Attributes:
        queries: each once.
        passages: each once, right and wrong ones.
        relevant: for each query the indices of the passages that answer it.
    """

    queries: list[str]
    passages: list[str]
    relevant: list[set[int]]

    @classmethod
    def read(cls, source: str, columns: PairColumns, split: str = "train") -> "RetrievalTask":
        """
        Make a task of a table.

        Raises:
            OSError, ValueError: see `read_pairs`.
        """
        queries: dict[str, set[int]] = {}
        passages: dict[str, int] = {}
        for query, passage, negatives in read_pairs(source, columns, split):
            queries.setdefault(query, set()).add(passages.setdefault(passage, len(passages)))
            for negative in negatives:
                passages.setdefault(negative, len(passages))
        return cls(list(queries), list(passages), list(queries.values()))


def read_pairs(source: str, columns: PairColumns, split: str = "train") -> list[tuple[str, str, list[str]]]:
    """
    Query, passage and other passages of each row.

    Raises:
        OSError: if there is no such file or dataset.
        ValueError: if a column is not there, or holds something else than texts.
    """
    names = dict.fromkeys(name for name in (columns.query, columns.passage, columns.negatives) if name)
    rows = read_columns(source, list(names), split)
    pairs = [text_column(rows, name, source) for name in (columns.query, columns.passage)]
    negatives = [texts or [] for texts in rows[columns.negatives]] if columns.negatives else [[]] * len(rows)
    for number, texts in enumerate(negatives):
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise ValueError(f"{source}, row {number}: {columns.negatives!r} should be a list of texts.")
    return list(zip(*pairs, negatives, strict=True))


def ranking_metrics(ranked: np.ndarray, relevant: Sequence[set[int]]) -> dict[str, float]:
    """
    Means over queries, as fractions: reciprocal rank of the first right passage among the first 10, normalised
    discounted cumulative gain of these (Jarvelin & Kekalainen 2002, gains 0 and 1), and the share of right passages
    among the first 10 and 100.

    Args:
        ranked: int `[queries, depth]`, passages from the best on.
        relevant: for each query the right passages, one at least.
    """
    hits = np.array([[index in right for index in row] for row, right in zip(ranked, relevant, strict=True)])
    numbers = np.array([len(right) for right in relevant])
    top = hits[:, :10]
    first = np.where(top.any(axis=1), 1 / (top.argmax(axis=1) + 1), 0.0)
    discounts = 1 / np.log2(np.arange(2, 12))
    best = np.array([discounts[:number].sum() for number in numbers])
    values = (
        first,
        (top * discounts[: top.shape[1]]).sum(axis=1) / best,
        top.sum(axis=1) / numbers,
        hits[:, :100].sum(axis=1) / numbers,
    )
    return {name: float(value.mean()) for name, value in zip(METRICS, values, strict=True)}


def bm25_ranking(task: RetrievalTask) -> Scores:
    """BM25 scores `[queries, passages]` of a slice of the queries."""
    scores = bm25_scores(task.queries, task.passages)
    return lambda rows: scores[rows].toarray()


def fused_ranking(*rankings: Scores) -> Scores:
    """What several systems come to together, see `fuse_ranks`."""
    return lambda rows: fuse_ranks(*(ranking(rows) for ranking in rankings))


def evaluate_bm25(task: RetrievalTask) -> dict[str, float]:
    """Metrics of BM25 on the passages of the task."""
    return evaluate_ranking(task, bm25_ranking(task))


def evaluate_encoder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: RetrievalTask, **settings: Any
) -> dict[str, float]:
    """Metrics of `encoder_ranking`, which takes the same."""
    return evaluate_ranking(task, encoder_ranking(model, tokenizer, task, **settings))


def encoder_ranking(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: RetrievalTask,
    *,
    late_interaction: bool = False,
    max_query_length: int | None = None,
    max_passage_length: int | None = None,
    tokens_per_batch: int | None = None,
) -> Scores:
    """
    Cosines of embeddings, or with `late_interaction` `max_sim` of concepts, of a slice of the queries.

    Args:
        model: with a method `encode`.
        tokenizer: of the model.
        task: what to score it on.
        late_interaction: see above.
        max_query_length: longer queries are cut to so many tokens; by default to what the tokenizer allows.
        max_passage_length: as for queries.
        tokens_per_batch: see `TextEncoder`.
    """
    queries, passages = (
        encode(
            model,
            tokenizer,
            texts,
            late_interaction=late_interaction,
            max_length=length,
            tokens_per_batch=tokens_per_batch,
        )
        for texts, length in ((task.queries, max_query_length), (task.passages, max_passage_length))
    )
    if not late_interaction:
        return lambda rows: (queries.embeddings[rows] @ passages.embeddings.T).numpy()
    asked, offered = queries.concept_embeddings or [], passages.concept_embeddings or []
    return lambda rows: _late_scores(asked[rows], offered)


def markdown_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A table of metrics, a row for each system."""
    columns = [*next(iter(scores.values()))]
    lines = [f"| | {' | '.join(columns)} |", f"|---{'|---:' * len(columns)}|"]
    for system, metrics in scores.items():
        lines.append(f"| {system} | {' | '.join(f'{metrics[column]:.3f}' for column in columns)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> dict[str, dict[str, float]]:
    """
    Run the command. Returns the metrics of each system.

    Raises:
        ValueError: a setting or table that cannot be, a checkpoint of another kind of model.
        OSError: no such file or checkpoint.
    """
    options = _parse(arguments)
    columns = PairColumns(options.query_column, options.passage_column, options.negatives_column)
    task = RetrievalTask.read(options.pairs, columns, options.split)
    model = place_encoder(options)
    tokenizer = load_tokenizer(options.checkpoint, options.trust_remote_code)
    settings = {
        "late_interaction": options.late_interaction,
        "max_query_length": options.max_query_length,
        "max_passage_length": options.max_passage_length,
        "tokens_per_batch": options.tokens_per_batch,
    }
    words, ours = bm25_ranking(task), encoder_ranking(model, tokenizer, task, **settings)
    rankings = {
        "BM25": words,
        "random weights": encoder_ranking(random_encoder(model), tokenizer, task, **settings),
        "this model": ours,
        "this model and BM25": fused_ranking(ours, words),
    }
    scores = {system: evaluate_ranking(task, ranking) for system, ranking in rankings.items()}
    print(f"\n{len(task.queries):,} queries, {len(task.passages):,} passages\n\n{markdown_table(scores)}")
    if options.output:
        write_json(Path(options.output), {"queries": len(task.queries), "passages": len(task.passages), **scores})
    return scores


def evaluate_ranking(task: RetrievalTask, scores: Scores) -> dict[str, float]:
    """Metrics of a system that gives the scores `[queries, passages]` of a slice of the queries."""
    size = max(1, LARGEST_BLOCK // (8 * len(task.passages)))
    ranked = [_best(scores(rows)) for rows in _slices(len(task.queries), size)]
    return ranking_metrics(np.concatenate(ranked), task.relevant)


def _best(scores: np.ndarray) -> np.ndarray:
    depth = min(DEPTH, scores.shape[1])
    best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    order = np.take_along_axis(scores, best, axis=1).argsort(axis=1, kind="stable")[:, ::-1]
    return np.take_along_axis(best, order, axis=1)


def _late_scores(queries: Sequence[torch.Tensor], passages: Sequence[torch.Tensor]) -> np.ndarray:
    """`max_sim` `[queries, passages]`, in blocks of passages of like numbers of concepts."""
    padded = pad_concepts(queries)
    scores: np.ndarray = np.empty((len(queries), len(passages)), dtype=np.float32)
    order = np.argsort([len(concepts) for concepts in passages], kind="stable")
    size = max(1, LARGEST_BLOCK // (padded.shape[0] * padded.shape[1] * len(passages[order[-1]])))
    for rows in _slices(len(order), size):
        block = order[rows]
        scores[:, block] = max_sim(padded, pad_concepts([passages[index] for index in block])).numpy()
    return scores


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, total, size))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Score an encoder on finding passages for queries.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or name of a concept encoder")
    parser.add_argument("pairs", metavar="PAIRS", help="table of queries and passages: a file, or a dataset")
    parser.add_argument("--split", default="train", help="split of a dataset on the Hub (default: %(default)s)")
    parser.add_argument("--query_column", default="query", help="default: %(default)s")
    parser.add_argument("--passage_column", default="passage", help="default: %(default)s")
    parser.add_argument("--negatives_column", help="lists of passages that do not answer the query (default: none)")
    parser.add_argument("--late_interaction", action="store_true", help="compare concepts instead of their means")
    parser.add_argument("--max_query_length", type=int, help="in tokens (default: the tokenizer's limit)")
    parser.add_argument("--max_passage_length", type=int, help="in tokens (default: the tokenizer's limit)")
    parser.add_argument("--output", help="JSON file for the scores")
    add_model_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
