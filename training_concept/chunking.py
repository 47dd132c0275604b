# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Cut a stream of tokenised documents in rows of one length, without dropping a token."""

from collections.abc import Iterable

import numpy as np


class StreamCutter:
    """Joins documents, one separator between two, and cuts the stream in rows `[CLS] length-2 tokens [SEP]`.

    Args:
        length: N, tokens in a row.
        cls_token_id: first token of every row.
        sep_token_id: last token of every row, and between two documents.
    """

    def __init__(self, length: int, cls_token_id: int, sep_token_id: int) -> None:
        self.size = length - 2
        self.ends = (cls_token_id, sep_token_id)
        nothing: np.ndarray = np.empty(0, dtype=np.int32)
        self.last_cut = self.rest = self.joint = nothing

    def push(self, documents: Iterable[np.ndarray]) -> np.ndarray:
        """Append documents (token ids without special tokens); return the rows that are full, [R, N] int32."""
        pieces = [self.rest]
        for document in documents:
            pieces += [self.joint, document]
            self.joint = np.array(self.ends[1:], dtype=np.int32)
        stream = np.concatenate(pieces)
        whole = len(stream) // self.size * self.size
        cuts = stream[:whole].reshape(-1, self.size)
        if len(cuts):
            self.last_cut = cuts[-1]
        self.rest = stream[whole:]
        return self._frame(cuts)

    def finish(self) -> np.ndarray:
        """Return the row that ends where the stream ends, [1, N], or [0, N] if it was returned before.

        It is shorter than N only if the whole stream is.
        """
        if len(self.rest) == 0:
            return self._frame(np.empty((0, self.size), dtype=np.int32))
        return self._frame(np.concatenate([self.last_cut, self.rest])[None, -self.size :])

    def _frame(self, cuts: np.ndarray) -> np.ndarray:
        return np.pad(cuts, ((0, 0), (1, 1)), constant_values=(self.ends,))
