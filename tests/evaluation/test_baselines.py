# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The baselines against sums done by hand, and against each other where there is something to know."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from evaluation_concept.baselines import (
    TokenStatistics,
    bag_of_words_baseline,
    fit_bag_of_words_weight,
    unigram_baseline,
)

PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = (PAD, CLS, SEP, MASK)
VOCABULARY = 8


@pytest.fixture
def statistics() -> TokenStatistics:
    """Tokens 4 to 7 seen 5, 3, 1 and 0 times."""
    rows = [[CLS, 4, 4, 5, SEP], [CLS, 4, 4, 4, SEP], [CLS, 5, 5, 6]]
    return TokenStatistics.from_chunks(Dataset.from_dict({"input_ids": rows}), VOCABULARY, SPECIAL)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four masked tokens: 4 and 7 in the first row, 5 and 4 in the second, of which the last is shown as 6."""
    return {
        "input_ids": torch.tensor([[CLS, MASK, 5, MASK, 5, 7, SEP], [CLS, MASK, 6, 5, SEP, PAD, PAD]]),
        "labels": torch.tensor([[-100, 4, -100, 7, -100, -100, -100], [-100, 5, 4, -100, -100, -100, -100]]),
        "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
    }


def test_counts_leave_special_tokens_out(statistics: TokenStatistics) -> None:
    assert statistics.counts.tolist() == [0, 0, 0, 0, 5, 3, 1, 0]
    assert statistics.unigram == pytest.approx(np.array([1, 1, 1, 1, 6, 4, 2, 1]) / 17)


def test_counts_of_a_stream_are_the_same(statistics: TokenStatistics) -> None:
    rows = Dataset.from_dict({"input_ids": [[CLS, 4, 4, 5, SEP], [CLS, 4, 4, 4, SEP], [CLS, 5, 5, 6]]})
    streamed = TokenStatistics.from_chunks(rows.to_iterable_dataset(), VOCABULARY, SPECIAL)
    assert streamed.counts.tolist() == statistics.counts.tolist()


def test_the_unigram_loss_is_that_of_a_hand_calculation(
    statistics: TokenStatistics, batch: dict[str, torch.Tensor]
) -> None:
    score = unigram_baseline(statistics, [batch])
    # Of the tokens 4, 7, 5 and 4.
    assert score.loss == pytest.approx(-math.log((6 / 17) * (1 / 17) * (4 / 17) * (6 / 17)) / 4)
    assert score.accuracy == 0.5
    assert score.num_tokens == 4


def test_the_bag_of_words_loss_is_that_of_a_hand_calculation(
    statistics: TokenStatistics, batch: dict[str, torch.Tensor]
) -> None:
    # The first row shows 5, 5 and 7; the second only 5, since its 6 stands for the 4 to be predicted.
    score = bag_of_words_baseline(statistics, 0.25, [batch])
    probabilities = [
        0.75 * 6 / 17 + 0.25 * 0,
        0.75 * 1 / 17 + 0.25 * 1 / 3,
        0.75 * 4 / 17 + 0.25 * 1,
        0.75 * 6 / 17 + 0.25 * 0,
    ]
    assert score.loss == pytest.approx(-sum(map(math.log, probabilities)) / 4)
    # First guesses: 5 in the first row (.343 before .265), 5 in the second.
    assert score.accuracy == 0.25


def test_a_packed_document_is_scored_as_if_it_stood_alone(
    statistics: TokenStatistics, batch: dict[str, torch.Tensor]
) -> None:
    # Both rows in one, the padding behind them, and a second row of the first document alone.
    packed, lengths = {}, torch.tensor([[7, 5], [7, 0]])
    for name in ("input_ids", "labels"):
        first, second = batch[name][0], batch[name][1]
        packed[name] = torch.stack(
            [torch.cat([first, second]), torch.cat([first, second[5:], second[5:].repeat(3)[:5]])]
        )
    alone = {name: torch.cat([batch[name], batch[name][:1]]) for name in ("input_ids", "labels")}
    score = bag_of_words_baseline(statistics, 0.25, [packed | {"document_lengths": lengths}])
    assert score == pytest.approx(bag_of_words_baseline(statistics, 0.25, [alone]))
    weight = fit_bag_of_words_weight(statistics, [packed | {"document_lengths": lengths}])
    assert weight == fit_bag_of_words_weight(statistics, [alone])


def test_a_row_that_shows_nothing_has_the_unigram_as_its_bag(statistics: TokenStatistics) -> None:
    bare = {"input_ids": torch.tensor([[CLS, MASK, SEP]]), "labels": torch.tensor([[-100, 4, -100]])}
    assert bag_of_words_baseline(statistics, 0.9, [bare]) == unigram_baseline(statistics, [bare])


def test_scores_are_averages_over_tokens_however_they_are_batched(
    statistics: TokenStatistics, batch: dict[str, torch.Tensor]
) -> None:
    rows = [{name: values[[row]] for name, values in batch.items()} for row in (0, 1)]
    third = {"input_ids": torch.tensor([[CLS, MASK, 5]]), "labels": torch.tensor([[-100, 6, -100]])}
    whole = bag_of_words_baseline(statistics, 0.3, [batch, third])
    parts = bag_of_words_baseline(statistics, 0.3, [third, *rows])
    assert whole.loss == pytest.approx(parts.loss)
    assert (whole.accuracy, whole.num_tokens) == (parts.accuracy, parts.num_tokens) == (0.2, 5)


def topical_rows(seed: int, topics: int = 5, rows: int = 200, length: int = 40) -> np.ndarray:
    """Rows of which half the tokens come from the row's topic (8 tokens of 40), half from everywhere."""
    generator = np.random.default_rng(seed)
    anything = generator.integers(0, topics * 8, size=(rows, length))
    topical = generator.integers(0, topics, size=(rows, 1)) * 8 + generator.integers(0, 8, size=(rows, length))
    return 4 + np.where(generator.random((rows, length)) < 0.5, topical, anything)


def masked(rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Mask every fourth token."""
    ids, labels = torch.tensor(rows), torch.full(rows.shape, -100)
    labels[:, ::4] = ids[:, ::4]
    ids[:, ::4] = MASK
    return {"input_ids": ids, "labels": labels}


def test_the_bag_of_words_beats_the_unigram_where_texts_have_topics() -> None:
    train, held_out = topical_rows(0), topical_rows(1)
    statistics = TokenStatistics.from_chunks(Dataset.from_dict({"input_ids": train}), 44, SPECIAL)
    weight = fit_bag_of_words_weight(statistics, [masked(train[:100]), masked(train[100:])])
    unigram = unigram_baseline(statistics, [masked(held_out)])
    bag = bag_of_words_baseline(statistics, weight, [masked(held_out)])
    assert unigram.loss == pytest.approx(math.log(40), abs=0.02)
    assert bag.loss < unigram.loss - 0.1
    assert bag.accuracy > unigram.accuracy
    assert 0.3 < weight < 0.9


def test_the_fitted_weight_is_the_best_one_for_its_batches() -> None:
    train = topical_rows(0)
    statistics = TokenStatistics.from_chunks(Dataset.from_dict({"input_ids": train}), 44, SPECIAL)
    batches = [masked(train[:50]), masked(train[50:])]
    best = bag_of_words_baseline(statistics, fit_bag_of_words_weight(statistics, batches), batches).loss
    assert all(best <= bag_of_words_baseline(statistics, weight, batches).loss for weight in np.linspace(0, 0.99, 34))


def test_the_weight_is_next_to_nothing_where_a_row_says_nothing() -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(4, 44, size=(300, 40))
    statistics = TokenStatistics.from_chunks(Dataset.from_dict({"input_ids": train}), 44, SPECIAL)
    assert fit_bag_of_words_weight(statistics, [masked(train)]) < 0.05


def test_bad_input_is_refused(statistics: TokenStatistics) -> None:
    unmasked = {"input_ids": torch.tensor([[CLS, 4]]), "labels": torch.tensor([[-100, -100]])}
    with pytest.raises(ValueError, match="no batch has a masked position to score"):
        unigram_baseline(statistics, [unmasked])
    for batches in ([unmasked], []):
        with pytest.raises(ValueError, match="no batch has a masked position to fit"):
            fit_bag_of_words_weight(statistics, batches)
    with pytest.raises(ValueError, match="outside the vocabulary of 8 tokens"):
        TokenStatistics.from_chunks(Dataset.from_dict({"input_ids": [[4, 8]]}), 8, SPECIAL)
    with pytest.raises(ValueError, match="no tokens to count"):
        TokenStatistics.from_chunks(Dataset.from_dict({"input_ids": [[CLS, SEP]]}), 8, SPECIAL)
