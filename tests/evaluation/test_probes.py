# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Probes find what was planted and nothing in noise; swapped sentences are the same bag; parts share no document."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from evaluation_concept import probes
from evaluation_concept.probes import (
    Split,
    choose_tokens,
    held_tokens,
    probe_order,
    probe_tokens,
    recall_at_own_size,
    split_by_document,
    split_sentences,
    swap_pairs,
)

SAMPLES, TOKENS, WIDTH = 600, 12, 24
TEXT = (
    "The river keeps its old name in the hills. Nobody there asks why it does so, or since when it has. "
    "Dr. Stone said so! Short one. A mill stands at the bend and the wheel turns all day for the town."
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def split() -> Split:
    return split_by_document(range(SAMPLES))


def test_a_document_is_in_one_part(generator):
    documents = generator.integers(40, size=500)
    split = split_by_document(documents, seed=3)
    parts = [set(documents[part]) for part in split]
    assert sorted(np.concatenate(split)) == list(range(500))
    assert len(set.union(*parts)) == sum(map(len, parts)) == 40
    assert [len(part) for part in parts] == [24, 8, 8]


def test_another_seed_splits_otherwise():
    assert not np.array_equal(split_by_document(range(50), 0).test, split_by_document(range(50), 1).test)


def test_few_documents_are_refused():
    with pytest.raises(ValueError, match="need 10 documents"):
        split_by_document([0, 1, 2] * 9)


def test_chosen_tokens_are_the_most_frequent_that_tell_something():
    members = [np.array(ids) for ids in ([1, 2, 2, 9], [1, 2, 3, 9], [1, 4, 9], [1, 3, 9, 9])]
    assert choose_tokens(members, 10, excluded=[9]).tolist() == [2, 3, 4]
    assert choose_tokens(members, 1).tolist() == [2]


def test_held_tokens():
    assert held_tokens([np.array([5, 5]), np.array([7, 6])], np.array([5, 6])).tolist() == [
        [True, False],
        [False, True],
    ]


def test_recall_counts_hits_among_as_many_as_there_are():
    truth = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    scores = np.array([[0.9, 0.1, 0.5, 0.2], [0.0, 0.1, 0.2, 0.3], [1.0, 2.0, 3.0, 4.0]])
    assert recall_at_own_size(truth, scores) == pytest.approx((0.5 + 1) / 2)


def test_tokens_that_were_planted_are_found(generator, split):
    held = generator.random((SAMPLES, TOKENS)) < np.linspace(0.4, 0.1, TOKENS)
    features = held @ generator.normal(size=(TOKENS, WIDTH)) + 0.1 * generator.normal(size=(SAMPLES, WIDTH))
    found = probe_tokens(features, held, split)
    assert found.auc > 0.99
    assert found.recall > 0.95 > found.prior_recall
    assert (found.num_tokens, found.num_samples) == (TOKENS, len(split.test))


def test_nothing_is_found_in_noise(generator, split):
    held = generator.random((SAMPLES, TOKENS)) < np.linspace(0.4, 0.1, TOKENS)
    found = probe_tokens(generator.normal(size=(SAMPLES, WIDTH)), held, split)
    assert found.auc == pytest.approx(0.5, abs=0.06)
    assert found.recall == pytest.approx(found.prior_recall, abs=0.1)


def test_tokens_that_no_part_can_tell_are_not_asked_for(generator, split):
    held = generator.random((SAMPLES, 3)) < 0.3
    held[:, 0], held[split.test, 1] = True, False
    assert probe_tokens(generator.normal(size=(SAMPLES, WIDTH)), held, split).num_tokens == 1
    with pytest.raises(ValueError, match="too little text"):
        probe_tokens(generator.normal(size=(SAMPLES, WIDTH)), held[:, :2], split)


def test_order_that_was_planted_is_found(generator, split):
    original = 5 * generator.normal(size=(SAMPLES, WIDTH))
    swapped = original + 0.3 * generator.normal(size=WIDTH) + 0.1 * generator.normal(size=(SAMPLES, WIDTH))
    found = probe_order(original, swapped, split)
    assert found.paired_accuracy > 0.99
    # What sentences are about drowns it where the other one is not seen.
    assert 0.5 < found.single_accuracy < found.paired_accuracy
    assert found.num_pairs == len(split.test)


def test_order_that_stands_in_single_sentences_is_found(generator, split):
    original, swapped = generator.normal(size=(2, SAMPLES, WIDTH))
    swapped[:, 0] += 8
    assert probe_order(original, swapped, split).single_accuracy > 0.99


def test_a_bag_of_words_has_no_order(generator, split):
    bag = generator.normal(size=(SAMPLES, WIDTH))
    found = probe_order(bag, bag, split)
    assert (found.paired_accuracy, found.single_accuracy) == (0.5, 0.5)


def test_the_order_probe_leaves_other_cores_alone(generator, split, monkeypatch):
    threads = []
    fit = probes.LogisticRegression.fit

    def watched(model, *arguments, **options):
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(model, *arguments, **options)

    monkeypatch.setattr(probes.LogisticRegression, "fit", watched)
    with threadpool_limits(limits=2):
        probe_order(*generator.normal(size=(2, SAMPLES, WIDTH)), split)
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    assert set(threads) == {1}


def test_no_order_is_found_in_noise(generator, split):
    original, swapped = generator.normal(size=(2, SAMPLES, WIDTH))
    found = probe_order(original, swapped, split)
    assert found.paired_accuracy == pytest.approx(0.5, abs=0.15)
    assert found.single_accuracy == pytest.approx(0.5, abs=0.15)


def test_sentences_end_in_front_of_capitals():
    assert list(split_sentences(TEXT)) == [
        "The river keeps its old name in the hills.",
        "Nobody there asks why it does so, or since when it has.",
        "A mill stands at the bend and the wheel turns all day for the town.",
    ]
    assert list(split_sentences(TEXT, shortest=2, longest=3)) == ["Stone said so!", "Short one."]


def test_swapped_sentences_are_the_same_words():
    pairs = swap_pairs([TEXT, TEXT.upper(), TEXT], most=100)
    assert {pair.document for pair in pairs} == {0, 2}
    for pair in pairs:
        before, after = pair.original.split(), pair.swapped.split()
        changed = [place for place, words in enumerate(zip(before, after, strict=True)) if words[0] != words[1]]
        assert sorted(before) == sorted(after)
        assert changed == [changed[0], changed[0] + 1]
        assert changed[0] > 0
        assert all(before[place].isalpha() and before[place].islower() for place in changed)


def test_pairs_are_drawn_evenly_and_by_seed():
    texts = [TEXT] * 20
    assert len(swap_pairs(texts, most=6)) == 6
    assert len({pair.document for pair in swap_pairs(texts, most=6)}) == 6
    assert swap_pairs(texts, 60, seed=0) == swap_pairs(texts, 60, seed=0) != swap_pairs(texts, 60, seed=1)


def test_sentences_without_two_plain_words_are_left_out():
    assert swap_pairs(["One, Two, Three, Four, Five, Six, Seven, Eight, Nine."], most=5) == []
