# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Pack documents into rows of bounded length, their borders kept, with little room left over.

Best-fit decreasing (Johnson, 1973), which packing of language-model inputs was found to need no more than (Krell et
al., "Efficient Sequence Packing without Cross-contamination", 2021; Ding et al., "Fewer Truncations Improve Language
Modeling", 2024).
"""

from collections.abc import Sequence

import numpy as np


def cut_windows(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut documents in windows: full ones first, then the rest as a window of its own.

    Args:
        lengths: [M] tokens of each document.
        size: most tokens in a window.

    Returns:
        document, start (in the document) and length of each window, all int64 [P], in the order of the text. Every
        token lies in exactly one window; a document without tokens has none.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    counts: np.ndarray = -(-lengths // size)
    document: np.ndarray = np.repeat(np.arange(len(lengths)), counts)
    start = size * (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))
    return document, start, np.minimum(size, lengths[document] - start)


def pack_pieces(lengths: np.ndarray, capacity: int, max_pieces: int) -> np.ndarray:
    """Assign pieces to rows: from the longest on, each to the row that it leaves the least room in.

    Args:
        lengths: [P] tokens of each piece, between 1 and `capacity`.
        capacity: most tokens in a row.
        max_pieces: most pieces in a row.

    Returns:
        Row of each piece, int64 [P], 0 to R - 1; rows are numbered in the order of their first piece.

    Raises:
        ValueError: a piece that is empty or fits no row.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) == 0:
        return np.empty(0, dtype=np.int64)
    if lengths.min() < 1 or lengths.max() > capacity:
        raise ValueError(f"pieces of {lengths.min()} to {lengths.max()} tokens do not fit rows of 1 to {capacity}")
    longest_first = np.argsort(-lengths, kind="stable")
    rows: np.ndarray = np.empty(len(lengths), dtype=np.int64)
    rows[longest_first] = _best_fit(lengths[longest_first].tolist(), capacity, max_pieces)
    _, first, numbers = np.unique(rows, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers]


def _best_fit(lengths: Sequence[int], capacity: int, max_pieces: int) -> list[int]:
    """Row of each piece in turn. Rows are kept by the room left in them, and a bit says which rooms there are."""
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    pieces: list[int] = []
    rows: list[int] = []
    for length in lengths:
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(pieces)
            pieces.append(0)
        pieces[row] += 1
        room -= length
        if room and pieces[row] < max_pieces:
            by_room[room].append(row)
            rooms |= 1 << room
        rows.append(row)
    return rows


def pack_documents(
    documents: Sequence[np.ndarray],
    length: int,
    max_document_length: int,
    ends: tuple[int, int],
    max_documents: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frame documents, or windows of long ones, with special tokens and pack them into rows.

    Args:
        documents: token ids without special tokens; those without any are passed over.
        length: N, most tokens in a row.
        max_document_length: most tokens of a document in a row, special ones included; longer ones are cut in
            windows, full ones first.
        ends: classifier and separator token, before and behind each document or window.
        max_documents: most documents (or windows) in a row.

    Returns:
        Rows of token ids [<= N], of the type of `documents`, and the lengths of the documents in each row, int32
        [<= max_documents], special tokens included. Documents keep their order in a row, and rows come in the order
        of their first document. Every token of every document is in exactly one row.
    """
    if not documents:
        return [], []
    sizes = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
    document, start, inner = cut_windows(sizes, max_document_length - len(ends))
    start += (np.cumsum(sizes) - sizes)[document]
    row = pack_pieces(inner + len(ends), length, max_documents)
    order = np.argsort(row, kind="stable")
    tokens = _framed(np.concatenate(documents), start[order], inner[order], ends)
    framed = (inner[order] + len(ends)).astype(np.int32)
    last_pieces = np.cumsum(np.bincount(row))[:-1]
    last_tokens = np.cumsum(np.bincount(row, weights=inner + len(ends)).astype(np.int64))[:-1]
    return np.split(tokens, last_tokens), np.split(framed, last_pieces)


def _framed(stream: np.ndarray, start: np.ndarray, inner: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    """The pieces `stream[start:start + inner]` one behind the other, each between its special tokens."""
    stops = np.cumsum(inner + len(ends))
    target = stops - inner - len(ends)
    tokens = np.empty(stops[-1] if len(stops) else 0, dtype=stream.dtype)
    tokens[target], tokens[stops - 1] = ends
    within = np.arange(inner.sum()) - np.repeat(np.cumsum(inner) - inner, inner)
    tokens[within + np.repeat(target + 1, inner)] = stream[within + np.repeat(start, inner)]
    return tokens


def default_max_documents(length: int) -> int:
    """Documents that a row of `length` tokens holds at most unless told otherwise: one for each 64 tokens."""
    return max(1, length // 64)
