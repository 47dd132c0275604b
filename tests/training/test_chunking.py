# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows hold every token of the stream, in order."""

import numpy as np
import pytest

from training_concept.chunking import StreamCutter

CLS, SEP, LENGTH = 2, 3, 10


def rows_of(documents: list[np.ndarray], documents_per_push: int) -> list[np.ndarray]:
    cutter = StreamCutter(LENGTH, (CLS, SEP))
    starts = range(0, len(documents), documents_per_push)
    pushed = [row for start in starts for row in cutter.push(documents[start : start + documents_per_push])]
    return [row["input_ids"] for row in pushed + list(cutter.finish())]


def stream_of(documents: list[np.ndarray]) -> list[int]:
    stream: list[int] = []
    for document in documents:
        stream += [SEP] * bool(stream) + document.tolist()
    return stream


@pytest.mark.parametrize("documents_per_push", [1, 3, 1000])
@pytest.mark.parametrize("num_documents", [1, 2, 7, 60])
def test_the_stream_can_be_rebuilt_from_the_rows(num_documents: int, documents_per_push: int) -> None:
    generator = np.random.default_rng(num_documents)
    lengths = [9, *generator.integers(1, 40, size=num_documents - 1)]
    documents = [generator.integers(10, 100, size=length, dtype=np.int32) for length in lengths]
    rows = rows_of(documents, documents_per_push)
    assert {(row.dtype, len(row), row[0], row[-1]) for row in rows} == {(np.dtype(np.int32), LENGTH, CLS, SEP)}
    stream, tokens = stream_of(documents), [row[1:-1].tolist() for row in rows]
    assert len(rows) == -(-len(stream) // (LENGTH - 2))
    overlap = len(rows) * (LENGTH - 2) - len(stream)
    assert [token for row in tokens[:-1] for token in row] + tokens[-1][overlap:] == stream
    assert tokens[-1] == stream[-(LENGTH - 2) :]


def test_a_stream_that_fills_its_rows_makes_no_further_row() -> None:
    rows = rows_of([np.arange(10, 26, dtype=np.int32)], 1)
    assert [row.tolist() for row in rows] == [[CLS, *range(10, 18), SEP], [CLS, *range(18, 26), SEP]]


def test_a_stream_shorter_than_a_row_makes_one_short_row() -> None:
    assert [row.tolist() for row in rows_of([np.array([10, 11]), np.array([12])], 2)] == [[CLS, 10, 11, SEP, 12, SEP]]


def test_no_documents_make_no_row() -> None:
    assert rows_of([], 1) == []
