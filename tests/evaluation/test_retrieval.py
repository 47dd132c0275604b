# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of retrieval against definitions worked out by hand, and the command that prints them beside BM25."""

import json
import math

import numpy as np
import pytest
import torch

from evaluation_concept.bm25 import bm25_scores, fuse_ranks
from evaluation_concept.errors import exit_code
from evaluation_concept.retrieval import (
    PairColumns,
    RetrievalTask,
    evaluate_bm25,
    evaluate_ranking,
    fused_ranking,
    main,
    ranking_metrics,
)
from modeling_concept import ConceptEncoderForTextEncoding
from tests.modeling.tiny import tiny_config
from training_concept.tokenization import train_tokenizer


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_metrics_are_those_of_their_definitions():
    ranked = np.array([[2, 0, 1, *range(3, 12)], [5, 4, 3, 2, 1, 0, *range(6, 12)], [*range(12)]])
    found = ranking_metrics(ranked, [{0, 3}, {5}, {11}])
    ndcg = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert found["mrr_at_10"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["ndcg_at_10"] == pytest.approx((ndcg + 1 + 0) / 3)
    assert found["recall_at_10"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["recall_at_100"] == pytest.approx(1)


def test_bm25_is_that_of_its_formula():
    passages = ["the cat sat", "the dog and the other dog ran far", "a bird"]
    scores = bm25_scores(["the dog", "fish"], passages).toarray()
    lengths = [3, 8, 2]
    expected = np.zeros(3)
    for word, number in (("the", 2), ("dog", 1)):
        rarity = math.log(1 + (3 - number + 0.5) / (number + 0.5))
        for index, passage in enumerate(passages):
            count = passage.split().count(word)
            damping = 1.2 * (1 - 0.75 + 0.75 * lengths[index] / np.mean(lengths))
            expected[index] += rarity * count * 2.2 / (count + damping)
    np.testing.assert_allclose(scores[0], expected)
    assert not scores[1].any()


def test_a_task_has_every_text_once(tmp_path):
    rows = [
        {"query": "q", "passage": "a", "others": ["b", "c"]},
        {"query": "q", "passage": "b", "others": []},
        {"query": "r", "passage": "a", "others": ["a"]},
    ]
    task = RetrievalTask.read(write(tmp_path / "pairs.jsonl", rows), PairColumns(negatives="others"))
    assert task == RetrievalTask(["q", "r"], ["a", "b", "c"], [{0, 1}, {0}])


def test_bm25_finds_words():
    task = RetrievalTask(["green", "red"], ["red house", "green house", "house"], [{1}, {0}])
    assert evaluate_bm25(task)["mrr_at_10"] == 1


def test_fused_ranks_are_those_of_the_formula_whatever_the_scales():
    cosines = np.array([[0.9, 0.1, 0.5], [-0.2, -0.1, -0.3]])
    words = np.array([[0.0, 7.0, 3.0], [0.0, 0.0, 2.0]])
    ranks = np.array([[[1, 3, 2], [2, 1, 3]], [[3, 1, 2], [2, 2, 1]]])
    np.testing.assert_allclose(fuse_ranks(cosines, words), (1 / (60 + ranks)).sum(axis=0))
    np.testing.assert_allclose(fuse_ranks(cosines, 1000 * words), fuse_ranks(cosines, words))
    # Words that no passage has say nothing.
    assert fuse_ranks(cosines, 0 * words).argsort().tolist() == cosines.argsort().tolist()


def test_two_systems_find_together_what_neither_finds_alone():
    task = RetrievalTask(["q"], ["a", "b", "c"], [{1}])
    one, other = (lambda rows, scores=scores: np.array([scores])[rows] for scores in ([3, 2, 1], [1, 2, 0]))
    found = [evaluate_ranking(task, ranking)["mrr_at_10"] for ranking in (one, other, fused_ranking(one, other))]
    assert found == [0.5, 1, 1]


@pytest.mark.parametrize("late", [False, True])
def test_the_command_scores_what_it_is_given(tmp_path, late):
    words = [f"word{letter}" for letter in "abcdefghijklmnop"]
    tokenizer = train_tokenizer([" ".join(words)] * 3, 300, model_max_length=32)
    torch.manual_seed(3)
    ConceptEncoderForTextEncoding(tiny_config(vocab_size=len(tokenizer))).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = [" ".join(words[start : start + 4]) for start in range(12)]
    # A query that is its passage is found by all of them.
    path = write(tmp_path / "pairs.jsonl", [{"question": text, "answer": text} for text in texts])
    columns = ["--query_column", "question", "--passage_column", "answer", "--no-bf16"]
    output = tmp_path / "scores.json"
    given = [
        str(tmp_path / "model"),
        path,
        *columns,
        "--output",
        str(output),
        *(["--late_interaction"] if late else []),
    ]
    scores = main(given)
    for system in ("BM25", "random weights", "this model", "this model and BM25"):
        assert scores[system]["mrr_at_10"] == pytest.approx(1), system
    assert json.loads(output.read_text(encoding="utf-8")) == {"queries": 12, "passages": 12, **scores}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        ([{"query": "a"}], "has no column 'passage'; it has 'query'"),
        ([{"query": "a", "passage": 3}], "row 0: 'passage' is 3"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, capsys, rows, message):
    path = write(tmp_path / "pairs.jsonl", rows)
    assert exit_code(main, ["nowhere", path]) == 2
    assert message in capsys.readouterr().err
