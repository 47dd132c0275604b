# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Batches that every model of the ladder is given: the same masked documents end to end in one row, without padding
between them, in shapes that never change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.contenders import ConceptContender, Contender
from benchmarks.workload import PAD
from training_concept.masking import MaskingCollator

IGNORED = -100
# The bound on the documents of a batch: so many standard deviations above the mean, rounded up to a multiple.
DEVIATIONS = 3
DOCUMENTS_STEP = 64

Inputs = dict[str, Any]


@dataclass(frozen=True)
class FlatBatch:
    """
    Documents of several packed rows end to end.

    Attributes:
        input_ids: int64 `[T]`, masked, padding behind the last document.
        positions: int64 `[T]`, place of every token in its document.
        lengths: int64 `[D]`, tokens of each document, T in all: padding makes documents of its own, which kernels and
            learned positions need; then 0.
        num_tokens: without padding.
        masked: int64 `[K]`, indices of the masked tokens, ascending, -1 behind the last one.
        targets: int64 `[K]`, what they were, -100 behind the last one.
        rows: int64 `[K]`, which packed row each of them comes from.
        longest: N, no document is longer.
    """

    input_ids: np.ndarray
    positions: np.ndarray
    lengths: np.ndarray
    num_tokens: int
    masked: np.ndarray
    targets: np.ndarray
    rows: np.ndarray
    longest: int


@dataclass(frozen=True)
class LadderBatch:
    """
    What a training step takes.

    Attributes:
        inputs: arguments of the model.
        num_tokens: without padding.
    """

    inputs: Inputs
    num_tokens: int

    def pin_memory(self) -> "LadderBatch":
        """The same with tensors that a device can fetch by itself."""
        pinned = {name: it.pin_memory() if isinstance(it, torch.Tensor) else it for name, it in self.inputs.items()}
        return LadderBatch(pinned, self.num_tokens)

    def to(self, device: torch.device) -> Inputs:
        """The arguments on `device`, which the host does not wait for."""
        return {
            name: it.to(device, non_blocking=True) if isinstance(it, torch.Tensor) else it
            for name, it in self.inputs.items()
        }


class FlatCollator:
    """
    Collates and masks packed rows, and lays their documents end to end.

    Shapes are static, so a batch has at most D documents, those of padding included; what is beyond it (in a batch of
    a thousand) is left out.

    Args:
        collator: of packed rows, with a `length` N.
        max_documents: D, see `most_documents`.
    """

    def __init__(self, collator: MaskingCollator, max_documents: int) -> None:
        self.collator = collator
        self.length = int(collator.length or 0)
        self.max_documents = max_documents

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> FlatBatch:
        """
        From B rows to a batch of T = B N tokens with K masks, as many as B full rows have.

        Raises:
            ValueError: what the collator raises.
        """
        batch = {name: it.numpy() for name, it in self.collator(rows).items()}
        used = np.arange(batch["input_ids"].shape[1]) < batch["document_lengths"].sum(axis=1, keepdims=True)
        size, slots = len(rows) * self.length, batch["masked_positions"].size
        lengths, tokens = self._fill(batch["document_lengths"][batch["document_lengths"] > 0], size)
        labels = batch["labels"][used][:tokens]
        members: np.ndarray = np.repeat(np.arange(len(rows)), used.sum(axis=1))
        masked = np.flatnonzero(labels != IGNORED)
        return FlatBatch(
            input_ids=_padded(batch["input_ids"][used][:tokens], size, PAD),
            positions=np.arange(size) - np.repeat(np.cumsum(lengths) - lengths, lengths),
            lengths=_padded(lengths, self.max_documents, 0),
            num_tokens=tokens,
            masked=_padded(masked, slots, -1),
            targets=_padded(labels[masked], slots, IGNORED),
            rows=_padded(members[masked], slots, -1),
            longest=self.length,
        )

    def _fill(self, lengths: np.ndarray, size: int) -> tuple[np.ndarray, int]:
        """Lengths of as many documents as there is room for, those of padding behind them; tokens of the former."""
        tokens = np.concatenate([[0], np.cumsum(lengths)])
        fillers = -(-(size - tokens) // self.length)
        kept = int(np.searchsorted(np.arange(len(tokens)) + fillers, self.max_documents, side="right")) - 1
        ends = np.minimum(tokens[kept] + self.length * np.arange(fillers[kept] + 1), size)
        return np.concatenate([lengths[:kept], np.diff(ends)]), int(tokens[kept])


class InputCollator:
    """
    Collates rows to what a model takes.

    Args:
        flat: lays documents end to end.
        contender: whose inputs are wanted.
    """

    def __init__(self, flat: FlatCollator, contender: Contender) -> None:
        self.flat = flat
        self.to_inputs = inputs_of(contender)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> LadderBatch:
        """As `FlatCollator`."""
        batch = self.flat(rows)
        return LadderBatch(self.to_inputs(batch), batch.num_tokens)


def most_documents(num_documents: np.ndarray, rows: int) -> int:
    """
    A bound on the documents in a batch of so many rows, the same for all seeds.

    Args:
        num_documents: int64 `[R]`, documents of each packed row.
        rows: B, how many of them are drawn.
    """
    spread = DEVIATIONS * float(num_documents.std()) * rows**0.5
    likely = min(float(num_documents.mean()) * rows + spread, int(num_documents.max()) * rows) + 1
    return -(-int(likely) // DOCUMENTS_STEP) * DOCUMENTS_STEP


def inputs_of(contender: Contender) -> Callable[[FlatBatch], Inputs]:
    """From a batch to the arguments of the contender's model in training."""
    if not isinstance(contender, ConceptContender):
        return control_inputs
    config: Any = contender.config(contender.attentions[0], 1)
    return partial(concept_inputs, drops=config.masked_tokens == "drop")


def concept_inputs(batch: FlatBatch, drops: bool = True) -> Inputs:
    """
    Arguments of our models.

    Args:
        batch: to be given to them.
        drops: whether they drop masked tokens, T - K visible ones being left. Padding is cut to be just so much.
    """
    kept = batch.masked >= 0
    labels = np.full_like(batch.input_ids, IGNORED)
    labels[batch.masked[kept]] = batch.targets[kept]
    end = len(batch.input_ids) - (int((~kept).sum()) if drops else 0)
    arrays = {
        "input_ids": batch.input_ids,
        "document_lengths": np.diff(np.minimum(np.cumsum(batch.lengths), end), prepend=0),
        "masked_positions": batch.masked,
        "labels": labels,
    }
    inputs: Inputs = {name: torch.from_numpy(values)[None] for name, values in arrays.items()}
    return inputs | {"max_document_length": batch.longest}


def control_inputs(batch: FlatBatch) -> Inputs:
    """Arguments of the library's models."""
    return {
        "input_ids": torch.from_numpy(batch.input_ids)[None],
        "position_ids": torch.from_numpy(batch.positions)[None],
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], np.cumsum(batch.lengths)]).astype(np.int32)),
        "max_length": batch.longest,
        "masked": torch.from_numpy(batch.masked.clip(min=0)),
        "targets": torch.from_numpy(batch.targets),
    }


def _padded(values: np.ndarray, size: int, filler: int) -> np.ndarray:
    """Int64 `[size]`: the values, then `filler`."""
    padded: np.ndarray = np.full(size, filler, dtype=np.int64)
    padded[: len(values)] = values
    return padded
