# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Make rows of tokenised documents that come one after another: joined and cut, packed whole, or one a row."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

import numpy as np

from training_concept.packing import pack_documents

Row: TypeAlias = dict[str, np.ndarray]

# A buffer's last row is half empty on average: less than half a percent.
ROWS_PER_BUFFER = 128


class RowMaker(Protocol):
    """Turns documents (token ids without special tokens) into rows (`input_ids` with them)."""

    def push(self, documents: Iterable[np.ndarray]) -> Iterator[Row]:
        """Append documents; yield the rows that are ready."""

    def finish(self) -> Iterator[Row]:
        """Yield the rows that are left."""


class StreamCutter:
    """Joins documents, one separator between two, and cuts the stream in rows `[CLS] length-2 tokens [SEP]`.

    Args:
        length: N, tokens in a row.
        ends: first token of every row, and its last, which is also put between two documents.
        dtype: of the rows.
    """

    def __init__(self, length: int, ends: tuple[int, int], dtype: str = "int32") -> None:
        self.size = length - 2
        self.ends = ends
        nothing: np.ndarray = np.empty(0, dtype=dtype)
        self.last_cut = self.rest = self.joint = nothing

    def push(self, documents: Iterable[np.ndarray]) -> Iterator[Row]:
        """Append documents (token ids without special tokens); yield the rows that are full, [N]."""
        pieces = [self.rest]
        for document in documents:
            pieces += [self.joint, document]
            self.joint = np.array(self.ends[1:], dtype=self.rest.dtype)
        stream = np.concatenate(pieces, dtype=self.rest.dtype)
        whole = len(stream) // self.size * self.size
        cuts = stream[:whole].reshape(-1, self.size)
        if len(cuts):
            self.last_cut = cuts[-1]
        self.rest = stream[whole:]
        return self._frame(cuts)

    def finish(self) -> Iterator[Row]:
        """Yield the row that ends where the stream ends, [N], unless it was yielded before.

        It is shorter than N only if the whole stream is.
        """
        if len(self.rest):
            yield from self._frame(np.concatenate([self.last_cut, self.rest])[None, -self.size :])

    def _frame(self, cuts: np.ndarray) -> Iterator[Row]:
        return ({"input_ids": row} for row in np.pad(cuts, ((0, 0), (1, 1)), constant_values=(self.ends,)))


class DocumentPacker:
    """Gathers documents until they fill `ROWS_PER_BUFFER` rows and packs these, as `pack_documents` does.

    Args:
        length, max_document_length, ends, max_documents: as in `pack_documents`.
    """

    def __init__(self, length: int, max_document_length: int, ends: tuple[int, int], max_documents: int) -> None:
        self.layout = (length, max_document_length, ends, max_documents)
        self.buffer: list[np.ndarray] = []
        self.room = self.tokens = ROWS_PER_BUFFER * length

    def push(self, documents: Iterable[np.ndarray]) -> Iterator[Row]:
        """Append documents; yield the rows of each buffer that fills, with their `document_lengths`."""
        for document in documents:
            self.buffer.append(document)
            self.room -= len(document)
            if self.room <= 0:
                yield from self.finish()

    def finish(self) -> Iterator[Row]:
        """Yield the rows of what is in the buffer."""
        rows, lengths = pack_documents(self.buffer, *self.layout)
        self.buffer, self.room = [], self.tokens
        yield from ({"input_ids": row, "document_lengths": sizes} for row, sizes in zip(rows, lengths, strict=True))


class LineFramer:
    """Makes each document a row of at most `length` tokens, the special ones included."""

    def __init__(self, length: int, ends: tuple[int, int]) -> None:
        self.size = length - 2
        self.ends = ends

    def push(self, documents: Iterable[np.ndarray]) -> Iterator[Row]:
        """Yield a row for each document."""
        for document in documents:
            yield {"input_ids": np.pad(document[: self.size], 1, constant_values=self.ends)}

    def finish(self) -> Iterator[Row]:
        """Nothing is left."""
        return iter(())
