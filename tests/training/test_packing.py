# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Packing: every token exactly once, documents whole and in order, rows within their bounds and nearly full."""

import numpy as np
import pytest

from training_concept.chunking import DocumentPacker
from training_concept.packing import cut_windows, default_max_documents, pack_documents, pack_pieces

ENDS = (2, 3)
# Number of documents, row length, longest document, most documents in a row.
LAYOUTS = [(0, 16, 16, 4), (1, 16, 16, 1), (300, 16, 16, 1), (300, 64, 64, 4), (300, 64, 24, 64), (50, 3, 3, 1)]


def random_documents(number: int, seed: int = 0) -> list[np.ndarray]:
    """Documents of consecutive numbers, some of them empty, so that every token is another."""
    sizes = np.random.default_rng(seed).geometric(0.03, size=number) - 1
    ends = np.cumsum(sizes)
    return np.split(np.arange(10, 10 + sizes.sum(), dtype=np.int32), ends[:-1]) if number else []


def windows(document: np.ndarray, size: int) -> list[list[int]]:
    return [document[start : start + size].tolist() for start in range(0, len(document), size)]


def pieces_of(rows: list[np.ndarray], lengths: list[np.ndarray]) -> list[list[list[int]]]:
    """The documents of each row with their special tokens."""
    return [
        [piece.tolist() for piece in np.split(row, np.cumsum(sizes)[:-1])]
        for row, sizes in zip(rows, lengths, strict=True)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_window_of_every_document_is_in_exactly_one_row(layout: tuple[int, int, int, int]) -> None:
    number, length, longest, most = layout
    documents = random_documents(number)
    rows, lengths = pack_documents(documents, length, longest, ENDS, most)
    assert all(len(row) <= length and len(sizes) <= most for row, sizes in zip(rows, lengths, strict=True))
    assert all(sizes.sum() == len(row) for row, sizes in zip(rows, lengths, strict=True))
    packed = [piece for row in pieces_of(rows, lengths) for piece in row]
    assert all((piece[0], piece[-1]) == ENDS for piece in packed)
    wanted = [window for document in documents for window in windows(document, longest - 2)]
    assert sorted(piece[1:-1] for piece in packed) == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_their_documents_come_in_the_order_of_the_text(layout: tuple[int, int, int, int]) -> None:
    number, *bounds = layout
    rows, lengths = pack_documents(random_documents(number), bounds[0], bounds[1], ENDS, bounds[2])
    firsts = [[piece[1] for piece in row] for row in pieces_of(rows, lengths)]
    assert all(row == sorted(row) for row in firsts)
    assert firsts == sorted(firsts)


def test_types_are_kept() -> None:
    rows, lengths = pack_documents([np.array([9, 8], dtype=np.uint16)], 8, 8, (65535, 0), 1)
    assert [(row.dtype, row.tolist()) for row in rows] == [(np.uint16, [65535, 9, 8, 0])]
    assert [(sizes.dtype, sizes.tolist()) for sizes in lengths] == [(np.int32, [4])]


def test_windows_are_full_but_for_the_last() -> None:
    document, start, length = cut_windows(np.array([0, 5, 10, 11]), 5)
    assert document.tolist() == [1, 2, 2, 3, 3, 3]
    assert start.tolist() == [0, 0, 5, 0, 5, 10]
    assert length.tolist() == [5, 5, 5, 5, 5, 1]


def reference(lengths: list[int], capacity: int, most: int) -> list[set[int]]:
    """Best-fit decreasing, by looking at every row for every piece."""
    rows: list[list[int]] = []
    for piece in sorted(range(len(lengths)), key=lambda piece: -lengths[piece]):
        rooms = [
            (capacity - sum(lengths[other] for other in row) - lengths[piece], row) for row in rows if len(row) < most
        ]
        fitting = [room for room, _ in rooms if room >= 0]
        if not fitting:
            rows.append([piece])
            continue
        # Of equally good rows the one that became so last.
        next(row for room, row in reversed(rooms) if room == min(fitting)).append(piece)
    return [set(row) for row in rows]


@pytest.mark.parametrize("most", [2, 100])
def test_pieces_go_where_they_leave_least_room(most: int) -> None:
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 30, size=40)
        rows = pack_pieces(lengths, 30, most)
        wanted = reference(lengths.tolist(), 30, most)
        assert rows.max() + 1 == len(wanted)
        rooms = (sorted(30 - sum(lengths[list(row)]) for row in group) for group in (
            [set(np.flatnonzero(rows == row)) for row in range(rows.max() + 1)], wanted
        ))  # fmt: skip
        assert next(rooms) == next(rooms)


def test_rows_are_numbered_by_their_first_piece() -> None:
    rows = pack_pieces(np.array([1, 5, 9, 2, 8]), 10, 10)
    assert rows.tolist() == [0, 1, 0, 2, 2]
    assert pack_pieces(np.array([], dtype=int), 10, 10).tolist() == []


@pytest.mark.parametrize("lengths", [[0], [11], [5, 11]])
def test_a_piece_that_fits_no_row_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit rows of 1 to 10"):
        pack_pieces(np.array(lengths), 10, 10)


@pytest.mark.parametrize("length", [512, 4096])
def test_rows_are_nearly_full(length: int) -> None:
    # Log-normal lengths, median 400 tokens: about what web pages and encyclopedia articles have.
    sizes = np.random.default_rng(0).lognormal(6, 1, size=20_000).astype(int) + 1
    _, _, pieces = cut_windows(sizes, length - 2)
    rows = pack_pieces(pieces + 2, length, default_max_documents(length))
    assert (pieces + 2).sum() / ((rows.max() + 1) * length) >= 0.99


def test_a_buffer_is_packed_when_it_is_full() -> None:
    documents = random_documents(3000)
    packer = DocumentPacker(16, 16, ENDS, 4)
    early = [row for start in range(0, 3000, 100) for row in packer.push(documents[start : start + 100])]
    late = list(packer.finish())
    assert early
    assert late
    assert not list(packer.finish())
    packed = [piece for row in early + late for piece in pieces_of([row["input_ids"]], [row["document_lengths"]])[0]]
    assert sorted(piece[1:-1] for piece in packed) == [
        window for document in documents for window in windows(document, 14)
    ]
