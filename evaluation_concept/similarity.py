# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Score, without any training, how far the likeness of embeddings agrees with that of texts, beside a bag of words.

    python -m evaluation_concept.similarity outputs/nano pairs.jsonl --score_column label
    python -m evaluation_concept.similarity outputs/nano FOLDER --num_pairs 1000

A row of a table has two texts and how alike they are: a number, or 0 and 1 alone. Of a folder of texts, pairs are
made: a passage and the one behind it (1), and a passage and one of another text (0).
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import average_precision_score, roc_auc_score
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation_concept.columns import read_columns, text_column
from evaluation_concept.encode import add_model_options, check_texts, find_texts, load_tokenizer, place_encoder
from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from evaluation_concept.late_interaction import mutual_max_sim, pad_concepts
from evaluation_concept.passages import split_texts
from evaluation_concept.retrieval import markdown_table
from evaluation_concept.states import random_encoder
from modeling_concept.encoding import encode

COMMAND = "python -m evaluation_concept.similarity"
PASSAGE_TOKENS = 64
NUM_PAIRS = 1000
# Whose concepts are compared in one product; one by one, threads would wait for one another most of the time.
PAIRS_AT_A_TIME = 64


class TextPairs(NamedTuple):
    """Two texts a pair, and how alike they are, float64 `[pairs]`; classes if that is 0 and 1 alone."""

    first: list[str]
    second: list[str]
    scores: np.ndarray

    @property
    def are_classes(self) -> bool:
        """Whether pairs are alike (1) or not (0), and nothing in between."""
        return set(self.scores.tolist()) == {0.0, 1.0}


def read_text_pairs(source: str, texts: Sequence[str], score_column: str, split: str = "train") -> TextPairs:
    """
    The pairs of a table.

    Args:
        source: file, or name of a dataset on the Hub.
        texts: names of the two columns of texts.
        score_column: name of the column of numbers, the higher the more alike.
        split: of a dataset on the Hub.

    Raises:
        OSError: if there is no such file or dataset.
        ValueError: if a column is missing or holds something else, or all numbers are the same.
    """
    rows = read_columns(source, list(dict.fromkeys((*texts, score_column))), split)
    first, second = (text_column(rows, column, source) for column in texts)
    try:
        scores = np.array(list(rows[score_column]), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {score_column!r} should be a number in every row.") from error
    if not np.isfinite(scores).all() or np.ptp(scores) == 0:
        raise ValueError(f"{source}: {score_column!r} should be a number in every row, and not always the same.")
    return TextPairs(first, second, scores)


def neighbour_pairs(passages: Mapping[str, Sequence[str]], number: int, seed: int = 0) -> TextPairs:
    """
    Pairs of passages, half of them neighbours in a text and half of two texts, made with the same first passages.

    Args:
        passages: of each text, in their order.
        number: how many pairs, or less where there are not so many neighbours.
        seed: of what is drawn.

    Raises:
        ValueError: if no text has two passages, or there is but one text.
    """
    names = sorted(name for name, texts in passages.items() if texts)
    places = [(name, place) for name in names for place in range(len(passages[name]) - 1)]
    if len(names) < 2 or not places:
        raise ValueError("Pairs need two texts or more, and one of two passages or more.")
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(places))[: max(number // 2, 1)]
    first, neighbours, strangers = [], [], []
    for name, place in (places[index] for index in chosen):
        other = generator.choice([another for another in names if another != name])
        first.append(passages[name][place])
        neighbours.append(passages[name][place + 1])
        strangers.append(passages[other][int(generator.integers(len(passages[other])))])
    labels = [1.0] * len(first) + [0.0] * len(first)
    return TextPairs(first * 2, neighbours + strangers, np.array(labels))


def agreement(likeness: np.ndarray, pairs: TextPairs) -> dict[str, float]:
    """
    How far `likeness` `[pairs]` orders pairs as their scores do.

    Returns:
        For classes `auc`, the share of pairs of a 1 and a 0 that are in order (.5 by chance), and `average_precision`
        (the share of ones by chance); else Spearman's and Pearson's correlation, `spearman` and `pearson` (0 by
        chance, and where all likenesses are the same).
    """
    if pairs.are_classes:
        return {
            "auc": float(roc_auc_score(pairs.scores, likeness)),
            "average_precision": float(average_precision_score(pairs.scores, likeness)),
        }
    if np.ptp(likeness) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(spearmanr(likeness, pairs.scores).statistic),
        "pearson": float(pearsonr(likeness, pairs.scores).statistic),
    }


def tfidf_likeness(pairs: TextPairs) -> np.ndarray:
    """Cosines `[pairs]` of bags of words, weighted by their rarity among these texts."""
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\w+", sublinear_tf=True)
    vectorizer.fit(dict.fromkeys(pairs.first + pairs.second))
    first, second = (vectorizer.transform(texts) for texts in (pairs.first, pairs.second))
    return np.asarray(first.multiply(second).sum(axis=1)).ravel()


def encoder_likeness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: TextPairs,
    *,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
) -> dict[str, np.ndarray]:
    """
    Likenesses `[pairs]` by an encoder.

    `cosine` is that of embeddings. `centred` is the same after their mean over the texts is taken off, since vectors
    of encoders that were not trained to be compared share a direction (arXiv 1702.01417). `late_interaction` is the
    mean of `max_sim` from the first text to the second and back.
    """
    texts = list(dict.fromkeys(pairs.first + pairs.second))
    encoded = encode(
        model,
        tokenizer,
        texts,
        late_interaction=True,
        max_length=max_length,
        tokens_per_batch=tokens_per_batch,
    )
    places = {text: place for place, text in enumerate(texts)}
    first, second = ([places[text] for text in side] for side in (pairs.first, pairs.second))
    centred = torch.nn.functional.normalize(encoded.embeddings - encoded.embeddings.mean(dim=0), dim=1)
    return {
        "cosine": (encoded.embeddings[first] * encoded.embeddings[second]).sum(dim=1).numpy(),
        "centred": (centred[first] * centred[second]).sum(dim=1).numpy(),
        "late_interaction": _mutual(encoded.concept_embeddings or [], first, second),
    }


def _mutual(concepts: Sequence[torch.Tensor], first: Sequence[int], second: Sequence[int]) -> np.ndarray:
    """`mutual_max_sim` `[pairs]` of the texts at these places, whose concepts are `[C, H]` each."""
    found = []
    for start in range(0, len(first), PAIRS_AT_A_TIME):
        places = (side[start : start + PAIRS_AT_A_TIME] for side in (first, second))
        found.append(mutual_max_sim(*(pad_concepts([concepts[place] for place in part]) for part in places)))
    return torch.cat(found).numpy()


def evaluate_similarity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: TextPairs, **options: int | None
) -> dict[str, dict[str, float]]:
    """
    Agreement of a bag of words, of an encoder with random weights and of `model`.

    Args:
        model: with a method `encode`.
        tokenizer: of the model.
        pairs: to score it on.
        options: of `encoder_likeness`.
    """
    results = {"TF-IDF": agreement(tfidf_likeness(pairs), pairs)}
    for system, encoder in {"random weights": random_encoder(model), "this model": model}.items():
        for kind, likeness in encoder_likeness(encoder, tokenizer, pairs, **options).items():
            results[f"{system}, {kind}"] = agreement(likeness, pairs)
    return results


def main(arguments: Sequence[str]) -> dict[str, dict[str, float]]:
    """
    Run the command. Returns the agreement of each system.

    Raises:
        ValueError: a setting or table that cannot be, a checkpoint of another kind of model.
        OSError: no such file, folder or checkpoint.
    """
    options = _parse(arguments)
    if options.num_pairs < 2:
        raise ValueError(f"--num_pairs {options.num_pairs} must be at least 2: half of them are alike.")
    tokenizer = None
    if not Path(options.pairs).is_dir():
        pairs = read_text_pairs(options.pairs, options.text_columns, options.score_column, options.split)
    else:
        tokenizer = load_tokenizer(options.checkpoint, options.trust_remote_code)
        pairs = _pairs_of_folder(options, tokenizer)
    model = place_encoder(options)
    results = evaluate_similarity(
        model,
        tokenizer or load_tokenizer(options.checkpoint, options.trust_remote_code),
        pairs,
        max_length=options.max_seq_length,
        tokens_per_batch=options.tokens_per_batch,
    )
    print(f"\n{len(pairs.scores):,} pairs\n\n{markdown_table(results)}")
    if options.output:
        write_json(Path(options.output), {"pairs": len(pairs.scores), **results})
    return results


def _pairs_of_folder(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> TextPairs:
    texts = find_texts(Path(options.pairs), options.glob, column="")
    check_texts(texts, options.pairs, skip=False, hint=" --glob names the files to read.")
    return pairs_of_texts(zip(texts.names, texts, strict=True), tokenizer, options.num_pairs)


def pairs_of_texts(
    texts: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, number: int, seed: int = 0
) -> TextPairs:
    """
    `neighbour_pairs` of passages of `PASSAGE_TOKENS` tokens of texts `(name, text)`.

    Raises:
        ValueError: as `neighbour_pairs`.
    """
    passages: dict[str, list[str]] = {}
    for passage in split_texts(texts, tokenizer, PASSAGE_TOKENS, overlap=0):
        passages.setdefault(passage.name, []).append(passage.text)
    return neighbour_pairs(passages, number, seed)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Score embeddings on how alike pairs of texts are.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or name of a concept encoder")
    parser.add_argument("pairs", metavar="PAIRS", help="table of pairs (a file, or a dataset), or a folder of texts")
    parser.add_argument(
        "--text_columns", nargs=2, default=["sentence1", "sentence2"], help="default: sentence1 sentence2"
    )
    parser.add_argument("--score_column", default="score", help="how alike they are (default: %(default)s)")
    parser.add_argument("--split", default="train", help="split of a dataset on the Hub (default: %(default)s)")
    parser.add_argument("--glob", default="*.txt", help="names of the files of a folder (default: %(default)s)")
    parser.add_argument(
        "--num_pairs", type=int, default=NUM_PAIRS, help="how many to make of a folder (default: %(default)s)"
    )
    parser.add_argument("--max_seq_length", type=int, help="in tokens (default: the tokenizer's limit)")
    parser.add_argument("--output", help="JSON file for the results")
    add_model_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
