# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What is said of reads whose weights are known, and that the weights of models are what they are said of."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from evaluation_concept.reading import (
    NO_CLASS,
    PreferenceCounter,
    ReadRow,
    StageMeans,
    TokenClasses,
    by_frequency,
    by_place_in_sentence,
    example_reading,
    mutual_information,
    one_hot,
    read_weights,
    reader_names,
    reader_weights,
    study_reading,
)
from tests.evaluation.checkpoints import small_model, small_tokenizer

LENGTH, SPANS, FREE, HEADS = 12, 3, 2, 2
KINDS = np.array([NO_CLASS, *[0, 1] * 5, NO_CLASS])


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


def even_weights() -> np.ndarray:
    return np.full((HEADS, FREE + SPANS, LENGTH), 1 / LENGTH)


def own_span_weights() -> np.ndarray:
    """Anchored concepts read the four tokens of their spans alike."""
    weights = even_weights()
    weights[:, FREE:] = np.repeat(np.eye(SPANS), LENGTH // SPANS, axis=1) / (LENGTH // SPANS)
    return weights


def stage(weights: np.ndarray, free: int | None = FREE):
    means = StageMeans()
    means.add_row(weights, free)
    return means.reading()


def test_reading_all_tokens_alike_is_what_is_compared_with():
    found = stage(even_weights())
    assert (found.entropy_share, found.free_entropy_share) == pytest.approx((1, 1))
    assert found.distance == pytest.approx(found.even_distance)
    assert found.own_span == pytest.approx(found.even_own_span) == pytest.approx(1 / SPANS)


def test_reading_the_own_span():
    found = stage(own_span_weights())
    assert found.entropy_share == pytest.approx(np.log(4) / np.log(12))
    assert found.free_entropy_share == pytest.approx(1)
    assert found.own_span == pytest.approx(1)
    # Spans of four tokens around their middle: 1.5, .5, .5, 1.5 away.
    assert found.distance == pytest.approx(1)


def test_reading_one_token_has_no_entropy():
    weights = np.zeros((HEADS, FREE + SPANS, LENGTH))
    weights[..., 0] = 1
    assert stage(weights).entropy_share == pytest.approx(0)


def test_concepts_without_places_have_no_distances():
    found = stage(even_weights(), free=None)
    assert found.entropy_share == pytest.approx(1)
    assert {found.free_entropy_share, found.distance, found.own_span, found.even_distance} == {None}


def test_stages_are_means_over_rows():
    means = StageMeans()
    means.add_row(even_weights(), FREE)
    means.add_row(own_span_weights(), FREE)
    assert means.reading().own_span == pytest.approx((1 / SPANS + 1) / 2)


def test_readers_are_heads_and_free_concepts():
    weights = np.random.default_rng(0).dirichlet(np.ones(LENGTH), size=(2, HEADS, FREE + SPANS))
    read = ReadRow(weights, FREE)
    names, found = reader_names(read), reader_weights(read)
    assert len(names) == len(found) == 2 * (HEADS + FREE)
    assert found.sum(axis=1) == pytest.approx(1)
    assert found[names.index("read 2, head 1")] == pytest.approx(weights[1, 0, FREE:].mean(axis=0))
    assert found[names.index("read 1, concept 1")] == pytest.approx(weights[0, :, 1].mean(axis=0))


def test_readers_of_a_table_are_its_concepts():
    read = ReadRow(even_weights()[None], None)
    assert reader_names(read) == [f"read 1, concept {slot}" for slot in range(FREE + SPANS)]
    assert reader_weights(read).shape == (FREE + SPANS, LENGTH)


def prefer(weights: np.ndarray, kinds: np.ndarray = KINDS):
    counter = PreferenceCounter(TokenClasses(("odd", "even"), [kinds]))
    counter.add_row(0, ReadRow(weights[None], FREE))
    return counter.preferences()


def test_without_preferences_there_are_no_bits():
    found = prefer(even_weights())
    assert np.array(found.enrichment) == pytest.approx(np.ones((HEADS + FREE, 2)))
    assert (found.bits, found.shuffled_bits) == pytest.approx((0, 0))
    assert found.base == [0.5, 0.5]


def test_a_head_that_reads_one_kind_is_found():
    weights = even_weights()
    weights[0, FREE:], weights[1, FREE:] = (KINDS == 0) / 5, (KINDS == 1) / 5
    found = prefer(weights)
    rows = dict(zip(found.readers, found.enrichment, strict=True))
    assert rows["read 1, head 1"] == pytest.approx([2, 0])
    assert rows["read 1, head 2"] == pytest.approx([0, 2])
    assert rows["read 1, concept 0"] == pytest.approx([1, 1])
    # Two of four readers tell one bit each.
    assert found.bits == pytest.approx(0.5)
    assert found.shuffled_bits < found.bits


def test_mutual_information_is_that_of_the_joint_distribution():
    counts = np.array([[2, 3, 5], [5, 3, 2], [8, 1, 1]])
    readers, kinds = (np.repeat(places.ravel(), counts.ravel()) for places in np.indices(counts.shape))
    expected = mutual_info_score(readers, kinds) / np.log(2)
    assert mutual_information(counts / 10) == pytest.approx(expected)


def test_tokens_of_no_kind_are_left_out():
    assert one_hot(np.array([1, NO_CLASS, 0]), 2).tolist() == [[0, 1], [0, 0], [1, 0]]


def test_tokens_by_frequency():
    rows = [np.array([9, *[1] * 50, *[2] * 30, *[3] * 12, 9]), np.array([*[4] * 7, 5, 9])]
    found = by_frequency(rows, special_token_ids=[9])
    kinds = dict(zip(np.concatenate(rows).tolist(), np.concatenate(found.rows).tolist(), strict=True))
    assert [found.names[kinds[token]] for token in (1, 2, 3, 4, 5)] == ["frequent", "middle", "middle", "rare", "rare"]
    assert kinds[9] == NO_CLASS
    assert [len(kinds) for kinds in found.rows] == [94, 9]


def test_tokens_by_place_in_their_sentence(tokenizer):
    row = np.array(tokenizer("The mill stands there. The wheel turns all day at the bend!")["input_ids"])
    (kinds,) = by_place_in_sentence([row], tokenizer).rows
    ends = np.flatnonzero([token in ".!" for token in tokenizer.convert_ids_to_tokens(row.tolist())])
    assert (kinds[0], kinds[-1]) == (NO_CLASS, NO_CLASS)
    assert kinds[ends].tolist() == [3, 3]
    assert kinds[ends[0] + 1] == 0
    for sentence in (kinds[1 : ends[0] + 1], kinds[ends[0] + 1 : ends[1] + 1]):
        assert (np.diff(sentence) >= 0).all()


def rows_of(lengths: list[int]) -> list[np.ndarray]:
    return [np.random.default_rng(length).integers(5, 90, length) for length in lengths]


@pytest.mark.parametrize("variant", ["hybrid", "learned_concepts", "perceiver_v1", "no_free_concepts"])
def test_weights_of_models_add_up_to_one(tokenizer, variant):
    model = small_model(tokenizer, variant, attn_implementation="eager")
    rows = rows_of([40, 17, 25])
    found = dict(read_weights(model, rows))
    assert sorted(found) == [0, 1, 2]
    for index, row in enumerate(rows):
        weights = found[index].weights
        assert weights.shape[3] == len(row)
        assert weights.sum(axis=3) == pytest.approx(1, abs=1e-5)
    study = study_reading(model, rows, {"kind": TokenClasses(("a", "b"), [row % 2 for row in rows])})
    assert len(study.stages) == found[0].weights.shape[0]
    assert 0 < study.stages[0].entropy_share < 1


def test_a_row_reads_the_same_beside_longer_ones(tokenizer):
    model = small_model(tokenizer, attn_implementation="eager")
    rows = rows_of([40, 17])
    ((_, alone),) = read_weights(model, rows[1:])
    assert dict(read_weights(model, rows))[1].weights == pytest.approx(alone.weights, abs=1e-5)


@pytest.mark.parametrize(("variant", "attention"), [("funnel", "eager"), ("hybrid", "sdpa")])
def test_models_that_give_no_weights_on_tokens_are_named(tokenizer, variant, attention):
    model = small_model(tokenizer, variant, attn_implementation=attention)
    with pytest.raises(ValueError, match="no weights on single tokens"):
        list(read_weights(model, rows_of([24])))


def test_an_example_shows_the_last_read():
    weights = torch.rand(2, HEADS, FREE + SPANS, LENGTH).numpy()
    found = example_reading(ReadRow(weights, FREE), list("abcdefghijkl"))
    assert found["concepts"] == ["free 0", "free 1", "0", "1", "2"]
    assert np.array(found["weights"]) == pytest.approx(weights[1].mean(axis=0))
