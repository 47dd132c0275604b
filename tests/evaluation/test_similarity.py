# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Zero-shot similarity: measures against definitions, pairs that are what they say, and the command."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from evaluation_concept import similarity
from evaluation_concept.encode import load_encoder
from evaluation_concept.errors import exit_code
from evaluation_concept.similarity import (
    TextPairs,
    agreement,
    encoder_likeness,
    main,
    neighbour_pairs,
    read_text_pairs,
    tfidf_likeness,
)
from modeling_concept import ConceptEncoderForTextEncoding
from tests.modeling.tiny import tiny_model
from training_concept.tokenization import train_tokenizer

WORDS = [f"word{letter}" for letter in "abcdefghijklmnop"]
SENTENCES = [" ".join(WORDS[start : start + length]) for start, length in ((0, 3), (1, 9), (5, 5), (8, 8), (2, 4))]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 300, model_max_length=64)
    model = tiny_model(ConceptEncoderForTextEncoding, dtype=torch.float32, vocab_size=len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pairs_of(scores: list[float]) -> TextPairs:
    texts = [SENTENCES[index % len(SENTENCES)] for index in range(len(scores) + 1)]
    return TextPairs(texts[:-1], texts[1:], np.array(scores))


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def refusal(capsys, *given: object) -> str:
    assert exit_code(main, [str(value) for value in given]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_classes_are_scored_by_how_many_pairs_of_pairs_are_in_order():
    likeness, labels = np.array([0.9, 0.8, 0.8, 0.3, 0.1]), [1.0, 0.0, 1.0, 0.0, 1.0]
    ones, zeros = ([value for value, label in zip(likeness, labels, strict=True) if label == kind] for kind in (1, 0))
    auc = np.mean([(one > zero) + (one == zero) / 2 for one, zero in product(ones, zeros)])
    found = agreement(likeness, pairs_of(labels))
    assert found["auc"] == pytest.approx(auc)
    assert set(found) == {"auc", "average_precision"}
    assert agreement(np.array(labels), pairs_of(labels)) == {"auc": 1, "average_precision": 1}


def test_numbers_are_scored_by_their_order():
    scores = [0.0, 1.5, 2.5, 5.0]
    assert agreement(np.exp(scores), pairs_of(scores))["spearman"] == pytest.approx(1)
    assert agreement(np.exp(scores), pairs_of(scores))["pearson"] < 0.99
    assert agreement(-np.array(scores), pairs_of(scores)) == pytest.approx({"spearman": -1, "pearson": -1})
    assert agreement(np.ones(4), pairs_of(scores)) == {"spearman": 0, "pearson": 0}


def test_likenesses_of_an_encoder_are_those_of_its_vectors(checkpoint, monkeypatch):
    model, tokenizer = load_encoder(str(checkpoint)), AutoTokenizer.from_pretrained(checkpoint)
    pairs = pairs_of([1.0, 0.0, 0.0, 1.0, 0.0])
    monkeypatch.setattr(similarity, "PAIRS_AT_A_TIME", 2)
    found = encoder_likeness(model, tokenizer, pairs)
    mean = model.encode(SENTENCES, tokenizer).embeddings.mean(dim=0)
    for index, texts in enumerate(zip(pairs.first, pairs.second, strict=True)):
        alone = [model.encode([text], tokenizer, late_interaction=True) for text in texts]
        one, other = (encoded.embeddings[0] for encoded in alone)
        assert found["cosine"][index] == pytest.approx((one @ other).item(), abs=1e-5)
        centred = torch.cosine_similarity(one - mean, other - mean, dim=0).item()
        assert found["centred"][index] == pytest.approx(centred, abs=1e-4)
        likeness = alone[0].concept_embeddings[0] @ alone[1].concept_embeddings[0].T
        late = (likeness.amax(dim=1).mean() + likeness.amax(dim=0).mean()).item() / 2
        assert found["late_interaction"][index] == pytest.approx(late, abs=1e-5)


def test_a_bag_of_words_sees_words_and_not_their_order():
    pairs = TextPairs(["a cat sat", "a cat sat"], ["sat cat a", "the dog ran"], np.array([1.0, 0.0]))
    np.testing.assert_allclose(tfidf_likeness(pairs), [1, 0], atol=1e-12)


def test_neighbours_are_of_one_text_and_others_of_two():
    passages = {name: [f"{name} {place}" for place in range(6)] for name in "abc"} | {"d": ["d 0"], "e": []}
    pairs = neighbour_pairs(passages, 20)
    assert pairs.are_classes
    assert len(pairs.scores) == 20
    assert pairs.first[:10] == pairs.first[10:]
    for first, second, label in zip(*pairs, strict=True):
        (name, place), (other, next_place) = first.split(), second.split()
        assert (name == other) == bool(label)
        assert not label or int(next_place) == int(place) + 1
    assert neighbour_pairs(passages, 20).second == pairs.second
    assert neighbour_pairs(passages, 20, seed=1).second != pairs.second
    assert len(neighbour_pairs(passages, 1000).scores) == 2 * 15


@pytest.mark.parametrize("passages", [{}, {"a": ["1", "2"]}, {"a": ["1"], "b": ["1"]}])
def test_texts_that_make_no_pairs_are_refused(passages):
    with pytest.raises(ValueError, match="Pairs need two texts or more"):
        neighbour_pairs(passages, 10)


def test_the_command_scores_a_table_and_says_so(checkpoint, tmp_path, capsys):
    rows = [
        {"a": first, "b": second, "score": index}
        for index, (first, second, _) in enumerate(zip(*pairs_of([1.0, 0.0, 0.0, 1.0]), strict=True))
    ]
    table = write(tmp_path / "pairs.jsonl", rows)
    results = main([str(checkpoint), table, "--text_columns", "a", "b", "--output", str(tmp_path / "results.json")])
    systems = [
        f"{name}, {kind}"
        for name in ("random weights", "this model")
        for kind in ("cosine", "centred", "late_interaction")
    ]
    assert list(results) == ["TF-IDF", *systems]
    assert json.loads((tmp_path / "results.json").read_text()) == {"pairs": 4, **results}
    assert "| this model, centred |" in capsys.readouterr().out
    model, tokenizer = load_encoder(str(checkpoint)), AutoTokenizer.from_pretrained(checkpoint)
    pairs = read_text_pairs(table, ["a", "b"], "score")
    expected = agreement(encoder_likeness(model, tokenizer, pairs)["cosine"], pairs)
    assert results["this model, cosine"] == pytest.approx(expected, abs=1e-5)


def test_the_command_makes_pairs_of_a_folder(checkpoint, tmp_path):
    for name, words in (("one", WORDS[:8]), ("two", WORDS[8:])):
        (tmp_path / f"{name}.txt").write_text(" ".join(words * 40), encoding="utf-8")
    results = main([str(checkpoint), str(tmp_path), "--num_pairs", "6"])
    # These two texts have no word in common.
    assert results["TF-IDF"] == {"auc": 1, "average_precision": 1}
    assert 0 <= results["this model, cosine"]["auc"] <= 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"sentence1": "a", "sentence2": "b"}, "has no column 'score'"),
        ({"sentence1": "a", "sentence2": "b", "score": 1}, "not always the same"),
        ({"sentence1": "a", "sentence2": "b", "score": "much"}, "'score' should be a number in every row"),
        ({"sentence1": "a", "sentence2": "b", "score": None}, "'score' should be a number in every row"),
        ({"sentence1": "", "sentence2": "b", "score": 1}, "row 0: 'sentence1' is ''"),
    ],
)
def test_tables_that_cannot_be_are_refused(tmp_path, capsys, row, problem):
    table = write(tmp_path / "pairs.jsonl", [row, row])
    assert problem in refusal(capsys, "no/checkpoint/needed", table)


def test_a_table_without_rows_is_named(tmp_path, capsys):
    table = tmp_path / "PAIRS.CSV"
    table.write_text("sentence1,sentence2,score\n")
    assert f"{table} has no rows" in refusal(capsys, "no/checkpoint/needed", table)


def test_pairs_of_a_folder_are_of_two_kinds(tmp_path, capsys):
    assert "--num_pairs 1 must be at least 2" in refusal(capsys, "no/checkpoint/needed", tmp_path, "--num_pairs", "1")


def test_sources_that_are_not_there_are_refused(tmp_path, capsys):
    assert "There is no file" in refusal(capsys, "no/checkpoint/needed", tmp_path / "nowhere.csv")


def test_a_folder_with_what_is_no_text_says_how_to_leave_it_out(checkpoint, tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    message = refusal(capsys, checkpoint, tmp_path)
    assert "a.txt" in message
    assert "--glob names the files to read" in message
    assert "--skip_unreadable" not in message
