# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""An index of passages in one Arrow file: their texts and vectors, written as they come and read where they lie."""

import json
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from evaluation_concept.bm25 import bm25_scores, fuse_ranks
from evaluation_concept.files import draft
from evaluation_concept.late_interaction import max_sim_ragged
from evaluation_concept.passages import Passage
from modeling_concept.encoding import TextEmbeddings, TextEncoder

METADATA = b"concept_search"
# An encoder that gives these texts other vectors than the index has of them is not the one that made it.
PROBES = ("The river keeps its name.", "Taxes were lowered in 1926, and again two years later.", "?")
# Precisions and kernels differ by less.
SAME_ENCODER = 0.99


@dataclass(frozen=True)
class IndexSettings:
    """
    What has to be known of an index before it is read.

    Attributes:
        checkpoint: what it was made with.
        late_interaction: whether it has the vectors of concepts.
        max_tokens: tokens of a passage.
        overlap: tokens that it shares with the next.
        probes: embeddings of `PROBES`.
    """

    checkpoint: str
    late_interaction: bool
    max_tokens: int
    overlap: int
    probes: list[list[float]]


class Hit(NamedTuple):
    """A passage that was found, and how like the query it is: a cosine, a mean of such, or reciprocal ranks."""

    score: float
    passage: Passage


def probe(encoder: TextEncoder) -> torch.Tensor:
    """What an encoder is known by, float32 `[3, hidden_size]`."""
    return encoder.encode(PROBES).embeddings


def write_index(path: Path, passages: Iterable[Passage], encoder: TextEncoder, settings: IndexSettings) -> int:
    """
    Encode `passages` and write them to `path`, as a whole or not at all.

    Returns their number.

    Raises:
        ValueError: if there are none.
    """
    waiting: deque[Passage] = deque()

    def texts() -> Iterator[str]:
        for passage in passages:
            waiting.append(passage)
            yield passage.text

    schema = _schema(encoder.config.hidden_size, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    with draft(path) as draft_path:
        with pa.OSFile(str(draft_path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for part in encoder.stream(texts()):
                done = [waiting.popleft() for _ in range(len(part.embeddings))]
                writer.write_batch(_record_batch(done, part, schema))
                number += len(done)
        if not number:
            raise ValueError("There is no text to index: all of them are empty.")
    return number


class SearchIndex:
    """
    What `write_index` wrote, mapped into memory.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is no index.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.settings = IndexSettings(**json.loads(self.reader.schema.metadata[METADATA]))
        except (pa.ArrowInvalid, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no index of passages, or was not written to its end.") from error
        self.path = path

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches())

    def check_encoder(self, encoder: TextEncoder) -> None:
        """
        Raises:
            ValueError: if another encoder made the index.
        """
        ours, theirs = probe(encoder), torch.tensor(self.settings.probes)
        if ours.shape != theirs.shape or (ours * theirs).sum(dim=1).min() < SAME_ENCODER:
            raise ValueError(
                f"{self.path} was made with another checkpoint ({self.settings.checkpoint}) than the one that is to "
                "encode the query. Name the right --checkpoint, or index anew."
            )

    def search(self, query: str, encoder: TextEncoder, top_k: int, with_bm25: bool = False) -> list[Hit]:
        """
        The `top_k` passages that are most like `query`, best first. Every passage is looked at.

        Args:
            query: a text.
            encoder: that made the index.
            top_k: how many.
            with_bm25: whether words that stand in query and passage count as much as vectors, see `fuse_ranks`.

        Raises:
            ValueError: if `top_k` is less than 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k={top_k} must be at least 1.")
        encoded = encoder.encode([query])
        scores = torch.cat([self._scores(batch, encoded) for batch in self._batches()])
        if with_bm25:
            texts = [text for batch in self._batches() for text in batch.column("text").to_pylist()]
            scores = torch.from_numpy(fuse_ranks(scores.numpy(), bm25_scores([query], texts).toarray()[0]))
        best, rows = scores.topk(min(top_k, len(scores)))
        return [Hit(score, self._passage(row)) for score, row in zip(best.tolist(), rows.tolist(), strict=True)]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        return map(self.reader.get_batch, range(self.reader.num_record_batches))

    def _scores(self, batch: pa.RecordBatch, query: TextEmbeddings) -> torch.Tensor:
        """Scores `[rows]` of the passages of a batch."""
        if not self.settings.late_interaction:
            vectors = _mapped(batch.column("embedding").flatten())
            return vectors.view(batch.num_rows, -1) @ query.embeddings[0]
        concepts = batch.column("concepts")
        vectors = _mapped(concepts.flatten().flatten()).view(-1, query.embeddings.shape[1])
        offsets = _mapped(concepts.offsets).long()
        (asked,) = query.concept_embeddings or []
        return max_sim_ragged(asked, vectors, offsets - offsets[0])

    def _passage(self, row: int) -> Passage:
        for batch in self._batches():
            if row < batch.num_rows:
                return Passage(*(batch.column(name)[row].as_py() for name in Passage._fields))
            row -= batch.num_rows
        raise IndexError(row)


def _schema(hidden_size: int, settings: IndexSettings) -> pa.Schema:
    vector = pa.list_(pa.float32(), hidden_size)
    fields: list[tuple[str, Any]] = [("name", pa.string()), ("start", pa.int64()), ("text", pa.string())]
    fields.append(("concepts", pa.list_(vector)) if settings.late_interaction else ("embedding", vector))
    return pa.schema(fields, metadata={METADATA: json.dumps(asdict(settings))})


def _record_batch(passages: Sequence[Passage], encoded: TextEmbeddings, schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array(column) for column in zip(*passages, strict=True)]
    width = encoded.embeddings.shape[1]
    if encoded.concept_embeddings is None:
        columns.append(_vectors(encoded.embeddings, width))
    else:
        sizes = np.array([0, *map(len, encoded.concept_embeddings)])
        offsets = pa.array(sizes.cumsum(), pa.int32())
        columns.append(pa.ListArray.from_arrays(offsets, _vectors(torch.cat(encoded.concept_embeddings), width)))
    return pa.record_batch(columns, schema=schema)


def _vectors(rows: torch.Tensor, width: int) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.numpy().reshape(-1)), width)


def _mapped(values: pa.Array) -> torch.Tensor:
    """The same numbers, not copied. They must not be written to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they cannot
        return torch.from_numpy(values.to_numpy())
