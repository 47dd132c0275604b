# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Summaries of data, against numbers worked out by hand."""

import numpy as np
import pytest

from training_concept.data_summary import length_quantiles, summarise_masking, summarise_sources


def flags(rows: list[str]) -> np.ndarray:
    """Rows of 0 and 1 as bool [B, N]."""
    return np.array([[mark == "1" for mark in row] for row in rows])


def test_sources_are_counted_and_shared_out_by_weight():
    lengths = {"books": np.array([10, 0, 20]), "mail": np.array([5] * 18)}
    books, mail = summarise_sources(
        lengths, {"books": 3.0, "mail": 1.0, "not there": 9.0}, {"books": "public domain", "mail": None}
    )
    assert (books.documents, books.blank, books.tokens, books.license) == (2, 1, 30, "public domain")
    assert (mail.documents, mail.blank, mail.tokens, mail.license) == (18, 0, 90, "")
    assert (books.size_share, books.weight_share) == (0.25, 0.75)
    assert (mail.size_share, mail.weight_share) == (0.75, 0.25)


def test_without_weights_sources_are_shared_out_by_size():
    books, mail = summarise_sources({"books": np.array([1]), "mail": np.array([3])}, {"books": None, "mail": None})
    assert (books.weight_share, mail.weight_share) == (books.size_share, mail.size_share) == (0.25, 0.75)


def test_quantiles_are_lengths_that_occur():
    assert length_quantiles(np.arange(1, 101)) == (5, 25, 50, 75, 95, 100)
    assert length_quantiles(np.array([7])) == (7, 7, 7, 7, 7, 7)
    assert length_quantiles(np.array([], dtype=int)) == (0, 0, 0, 0, 0, 0)


def test_masks_are_counted_by_part_of_a_word():
    # [CLS] aa a bbb c [SEP], words begin where the second table says; then a row with padding at its end.
    maskable = flags(["01111110", "01100000"])
    word_starts = flags(["01100100", "01000000"])
    masked = flags(["01101110", "00100000"])
    # Words: a | bbb (columns 2-4) | cc (5-6); dd in the second row.
    summary = summarise_masking(masked, maskable, word_starts, num_tokens=12, num_wanted=np.array([5, 2]))
    assert (summary.rows, summary.tokens, summary.masked) == (2, 12, 6)
    assert summary.masked_share == 0.5
    assert summary.exact_rows == 1
    # Stretches: columns 1-2 and 4-6, then column 2: 6 tokens in 3.
    assert summary.span_length == 2
    # Of bbb, cc and dd, all touched, only cc is masked as a whole.
    assert summary.whole_words == pytest.approx(1 / 3)
    assert summary.part_rates == {"first": 2 / 3, "middle": 0, "last": 1, "single": 1}


def test_a_word_does_not_go_on_behind_a_special_token():
    # Columns 1-2 and 4-5 are maskable, with a special token between them, and nothing is marked as a beginning.
    summary = summarise_masking(
        flags(["011000"]), flags(["011011"]), flags(["000000"]), num_tokens=6, num_wanted=np.array([2])
    )
    assert summary.whole_words == 1
    assert summary.part_rates == {"first": 0.5, "middle": None, "last": 0.5, "single": None}


def test_words_of_one_token_are_not_counted_as_masked_whole():
    summary = summarise_masking(flags(["10"]), flags(["11"]), flags(["11"]), num_tokens=2, num_wanted=np.array([1]))
    assert summary.whole_words is None
    assert summary.part_rates["single"] == 0.5
