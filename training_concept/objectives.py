# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
What a concept encoder is trained to do: find masked tokens, and objectives beside that.

An objective makes its own inputs of the rows that masked language modelling sees, in the collator, so that they too
depend on a row and its epoch alone; it calls the model, and says how much loss there is for each of its items. The
sum over the items of a step, divided by their number on all processes, is its loss.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from modeling_concept import ConceptMaskedLMOutput
from modeling_concept.pooling import document_means
from training_concept.collation import (
    IGNORED_LABEL,
    NO_POSITION,
    RowCollator,
    count_in_documents,
    gather_chosen,
    places_in_documents,
)
from training_concept.infonce import gather_rows
from training_concept.loss_terms import parse_weights
from training_concept.masking import DeletionCollator, MaskingCollator

Batch: TypeAlias = Mapping[str, torch.Tensor]
Collator: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]
Forward: TypeAlias = Callable[..., ConceptMaskedLMOutput]

# Spans with fewer tokens say too little to be told from others.
SHORTEST_SPAN = 8
# Shares of the concepts in turn, halves as in Matryoshka representations: few, so that little is compiled.
NESTED_SHARES = (0.5, 0.25, 0.125)


@dataclass(frozen=True)
class ObjectiveSettings:
    """What objectives can be told; each reads its own part.

    Attributes:
        deletion_probability: `tsdae`: share of a row's tokens to delete.
        contrastive_views: `contrastive`: which two texts are alike, a name in `VIEWS`.
        contrastive_temperature: `contrastive`: what cosines are divided by.
        contrastive_chunk_size: `contrastive`: texts that are encoded at a time, if not all at once.
    """

    deletion_probability: float = 0.6
    contrastive_views: str = "spans"
    contrastive_temperature: float = 0.05
    contrastive_chunk_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.deletion_probability < 1:
            raise ValueError(f"--deletion_probability {self.deletion_probability} must lie between 0 and 1.")
        if self.contrastive_views not in VIEWS:
            raise ValueError(f"--contrastive_views {self.contrastive_views} is not one of {', '.join(VIEWS)}.")
        if self.contrastive_temperature <= 0:
            raise ValueError(f"--contrastive_temperature {self.contrastive_temperature} must be above 0.")
        if self.contrastive_chunk_size is not None and self.contrastive_chunk_size < 1:
            raise ValueError(f"--contrastive_chunk_size {self.contrastive_chunk_size} must be at least 1.")


class Objective:
    """
    One thing to learn; unless a class says otherwise, to decode the labels of a batch.

    Attributes:
        trains_decoder: whether every parameter of the model takes part.
        decodes_elsewhere: whether the model is asked for `decoded_positions`.
        calls_often: whether the model is called again for the backward pass, for which it must not be wrapped.
        num_shapes: in how many ways the model is called, each of which is compiled for itself.
        num_turns: how many steps it takes until it has been called in all of them.
    """

    trains_decoder = False
    decodes_elsewhere = False
    calls_often = False
    num_shapes = 1
    num_turns = 1

    def __init__(self, settings: ObjectiveSettings) -> None:
        self.settings = settings

    def collator(self, tokenizer: PreTrainedTokenizerBase, masking: MaskingCollator) -> Collator | None:
        """What makes its inputs of rows; `None` if they are those of `masking`."""
        return None

    def count(self, batch: Batch) -> torch.Tensor:
        """Items in `batch` that the loss is a mean over, a scalar."""
        return batch["labels"].ne(IGNORED_LABEL).sum()

    def inputs(self, batch: Batch, step: int) -> dict[str, Any]:
        """Arguments of the model for a `batch` in a step, labels among them."""
        return dict(batch)

    def loss(
        self, forward: Forward, batch: Batch, total: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, ConceptMaskedLMOutput | None]:
        """
        Loss of the items of `batch`, added up and divided by `total`, and what the model gave, if it decoded.

        Args:
            forward: the model.
            total: items of the whole step, on all processes.
            step: number of the optimizer step.
        """
        outputs = forward(**self.inputs(batch, step), num_items_in_batch=total)
        return outputs.loss, outputs


class MaskedLanguageModelling(Objective):
    """`mlm`: masked tokens are decoded as the model decodes them (Devlin et al., 2019)."""

    trains_decoder = True


class NestedMaskedLanguageModelling(Objective):
    """
    `nested`: masked tokens from a share of the concepts, a half, a quarter and an eighth in turn. Every share keeps
    what smaller ones do (nested dropout, arXiv 1402.0915; Matryoshka representations, arXiv 2205.13147).
    """

    trains_decoder = True
    num_shapes = num_turns = len(NESTED_SHARES)

    def inputs(self, batch: Batch, step: int) -> dict[str, Any]:
        return {**batch, "kept_concepts": NESTED_SHARES[step % len(NESTED_SHARES)]}


class Denoising(Objective):
    """
    `tsdae`: all tokens of a document, decoded from the concepts of what deletion left of it (TSDAE, arXiv 2104.06979).
    """

    decodes_elsewhere = True

    def collator(self, tokenizer: PreTrainedTokenizerBase, masking: MaskingCollator) -> Collator:
        return DeletionCollator(tokenizer, self.settings.deletion_probability, **shared_options("tsdae", masking))


class SpanPrediction(Objective):
    """
    `prefix`: the tokens of the second half of a document, decoded from the concepts of its first half, each at the
    place where it follows.
    """

    decodes_elsewhere = True

    def collator(self, tokenizer: PreTrainedTokenizerBase, masking: MaskingCollator) -> Collator:
        return HalvesCollator(tokenizer, **shared_options("prefix", masking)).continuation


class Contrastive(Objective):
    """
    `contrastive`: of the second views of all documents of a step's batch, on all processes, the one that belongs to a
    first view, and the other way round (InfoNCE, arXiv 1807.03748). A view is its embedding.

    With a chunk size, views are encoded in chunks, first without a graph and again for the backward pass, one chunk at
    a time, by PyTorch's checkpointing: memory is that of one chunk, gradients are those of the whole batch (GradCache,
    arXiv 2101.06983).
    """

    def __init__(self, settings: ObjectiveSettings) -> None:
        super().__init__(settings)
        self.calls_often = settings.contrastive_chunk_size is not None
        # The last chunk may be smaller.
        self.num_shapes = 2 if self.calls_often else 1

    def collator(self, tokenizer: PreTrainedTokenizerBase, masking: MaskingCollator) -> Collator:
        return VIEWS[self.settings.contrastive_views](tokenizer, masking)

    def count(self, batch: Batch) -> torch.Tensor:
        return batch["pairs"].sum()

    def inputs(self, batch: Batch, step: int) -> dict[str, Any]:
        views = {name: batch[name].flatten(0, 1) for name in ("input_ids", "document_lengths")}
        return views | {"only_concepts": True}

    def loss(
        self, forward: Forward, batch: Batch, total: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, ConceptMaskedLMOutput | None]:
        inputs = self.inputs(batch, step)
        size = self.settings.contrastive_chunk_size
        if size is None:
            embeddings = embed(forward, **inputs)
        else:
            chunks = zip(inputs["input_ids"].split(size), inputs["document_lengths"].split(size), strict=True)
            embeddings = torch.cat(
                [checkpoint(embed, forward, *chunk, only_concepts=True, use_reentrant=False) for chunk in chunks]
            )
        # [B, 2, D, H] to [2, B * D, H]
        first, second = embeddings.unflatten(0, (-1, 2)).transpose(0, 1).flatten(1, 2)
        losses = sum_of_info_nce(first, second, batch["pairs"].flatten(), self.settings.contrastive_temperature)
        return losses / total, None


OBJECTIVES: dict[str, type[Objective]] = {
    "mlm": MaskedLanguageModelling,
    "nested": NestedMaskedLanguageModelling,
    "tsdae": Denoising,
    "prefix": SpanPrediction,
    "contrastive": Contrastive,
}


def parse_objectives(text: str) -> dict[str, float]:
    """
    Read `--objectives`, such as `"mlm:1,contrastive:0.1"`: weights by name.

    Raises:
        ValueError: as `parse_weights`, and for an objective that there is not.
    """
    weights = parse_weights(text, "--objectives")
    for name in weights:
        if name not in OBJECTIVES:
            raise ValueError(f"--objectives has no objective {name!r}; it has {', '.join(OBJECTIVES)}.")
    return weights


def embed(
    forward: Forward, input_ids: torch.Tensor, document_lengths: torch.Tensor, only_concepts: bool
) -> torch.Tensor:
    """Embeddings of documents `[rows, D]` of `input_ids` `[rows, N]`, as the model embeds: `[rows, D, H]`."""
    outputs = forward(input_ids=input_ids, document_lengths=document_lengths, only_concepts=only_concepts)
    # Sums of many concepts, and cosines that are divided by a small temperature, need float32.
    states, number = cast(torch.Tensor, outputs.concept_states).float(), document_lengths.shape[1]
    with torch.autocast(states.device.type, enabled=False):
        means = document_means(states, outputs.pooled_mask, outputs.concept_documents, number)
        return F.normalize(means, dim=-1)


def sum_of_info_nce(
    first: torch.Tensor, second: torch.Tensor, pairs: torch.Tensor, temperature: float
) -> torch.Tensor:
    """
    InfoNCE in both directions, halved, added up over the pairs of this process; those of all are negatives.

    As `infonce.info_nce`, for rows of which some are no pair: they are neither queries nor keys.

    Args:
        first, second: `[M, H]`, of length 1, row i of one belonging to row i of the other; M is the same on all
            processes.
        pairs: `[M]`, not 0 for rows that are a pair.
        temperature: what cosines are divided by.
    """
    with torch.autocast(first.device.type, enabled=False):
        everywhere = gather_rows(pairs) != 0
        offset = torch.distributed.get_rank() * len(pairs) if len(everywhere) > len(pairs) else 0
        own = torch.arange(len(pairs), device=pairs.device) + offset
        targets = own.masked_fill(pairs == 0, IGNORED_LABEL)
        total = first.new_zeros(())
        for queries, keys in ((first, second), (second, first)):
            scores = queries @ gather_rows(keys).T / temperature
            scores = scores.masked_fill(~everywhere, torch.finfo(scores.dtype).min / 2)
            total = total + F.cross_entropy(scores, targets, ignore_index=IGNORED_LABEL, reduction="sum") / 2
    return total


class ObjectiveCollator:
    """The batch of masked language modelling, and under `objectives` that of each other objective, by name."""

    def __init__(self, masking: Collator, others: Mapping[str, Collator]) -> None:
        self.masking = masking
        self.others = others

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate B rows."""
        return self.masking(rows) | {"objectives": {name: collate(rows) for name, collate in self.others.items()}}


def seed_of(name: str, seed: int) -> int:
    """A seed of its own for what is called `name`."""
    return seed ^ zlib.crc32(name.encode())


def shared_options(name: str, masking: MaskingCollator) -> dict[str, Any]:
    """What a collator of the objective called `name` has in common with that of masked language modelling."""
    return {
        "seed": seed_of(name, masking.seed),
        "length": masking.length,
        "vocab_size": masking.vocab_size,
        "max_documents": masking.max_documents,
    }


class HalvesCollator(RowCollator):
    """Cuts documents in halves; where they are odd, the first is longer. Arguments are those of `RowCollator`."""

    def continuation(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate B rows of N tokens, D documents each.

        Returns:
            `input_ids` [B, N'], first halves end to end; `document_lengths` [B, D], of these; `labels` [B, K], second
            halves, -100 behind the last; `decoded_positions` [B, K], the place of each label in its document, -1
            behind the last; for packed rows `decoded_documents` [B, K], its document. All int64.

        Raises:
            ValueError: as `MaskingCollator`, or a document of a single token.
        """
        ids, lengths, places, documents = self._locate(rows)
        half = np.take_along_axis((lengths + 1) // 2, documents, axis=1)
        begins, follows = (places >= 0) & (places < half), places >= half
        width = None if self.length is None else self.length // 2
        batch = {
            **self._halves(ids, begins, documents, lengths.shape[1]),
            "labels": gather_chosen(ids, follows, width, IGNORED_LABEL),
            "decoded_positions": gather_chosen(places, follows, width, NO_POSITION),
        }
        if lengths.shape[1] > 1:
            batch["decoded_documents"] = gather_chosen(documents, follows, width, 0)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def views(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate B rows of N tokens, D documents each, to two views of each document: its halves.

        Returns:
            See `stack_views`.

        Raises:
            ValueError: as `continuation`.
        """
        ids, lengths, places, documents = self._locate(rows)
        half = np.take_along_axis((lengths + 1) // 2, documents, axis=1)
        halves = (places >= 0) & (places < half), places >= half
        return stack_views([self._halves(ids, chosen, documents, lengths.shape[1]) for chosen in halves])

    def _locate(self, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Token ids [B, N], lengths of documents [B, D], places and documents of tokens [B, N]."""
        ids = self.pad(rows)
        in_use = ids != self.pad_token_id
        packed = self.documents(rows, ids)
        lengths = in_use.sum(axis=1, keepdims=True) if packed is None else packed
        if (lengths == 1).any():
            raise ValueError(f"row {(lengths == 1).any(axis=1).argmax()} of the batch has a document of one token")
        return ids, lengths, *places_in_documents(in_use, lengths)

    def _halves(
        self, ids: np.ndarray, chosen: np.ndarray, documents: np.ndarray, number: int
    ) -> dict[str, np.ndarray]:
        width = ((self.length or ids.shape[1]) + number) // 2
        return {
            "input_ids": gather_chosen(ids, chosen, width, self.pad_token_id),
            "document_lengths": count_in_documents(chosen, documents, number),
        }


class MaskedViewsCollator:
    """Masks rows twice, each time other tokens, as `masking` does: two views of each document."""

    def __init__(self, masking: MaskingCollator) -> None:
        self.copies = [copy(masking), copy(masking)]
        for number, masked in enumerate(self.copies):
            masked.seed = seed_of(f"view {number}", masking.seed)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate B rows of N tokens, D documents each. Returns and raises: see `stack_views`, `MaskingCollator`."""
        return stack_views([self._view(masked, masked(rows)) for masked in self.copies])

    def _view(self, masked: MaskingCollator, batch: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        ids = batch["input_ids"].numpy()
        lengths = batch.get("document_lengths")
        in_use = (ids != masked.pad_token_id).sum(axis=1, keepdims=True)
        return {"input_ids": ids, "document_lengths": in_use if lengths is None else lengths.numpy()}


def stack_views(views: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Two views of the documents of B rows, side by side.

    Args:
        views: each `input_ids` [B, N'] and `document_lengths` [B, D].

    Returns:
        `input_ids` [B, 2, N'], `document_lengths` [B, 2, D], and `pairs` [B, D], 1 for documents of which both views
        have `SHORTEST_SPAN` tokens or more. All int64.
    """
    batch = {name: np.stack([view[name] for view in views], axis=1) for name in ("input_ids", "document_lengths")}
    batch["pairs"] = (batch["document_lengths"] >= SHORTEST_SPAN).all(axis=1).astype(np.int64)
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def span_views(tokenizer: PreTrainedTokenizerBase, masking: MaskingCollator) -> Collator:
    """The halves of a document, which stood side by side (DeCLUTR, arXiv 2006.03659, has such pairs)."""
    return HalvesCollator(tokenizer, **shared_options("contrastive", masking)).views


def masked_views(tokenizer: PreTrainedTokenizerBase, masking: MaskingCollator) -> Collator:
    """A document with other tokens masked each time, and with dropout if the model has it (SimCSE, 2104.08821)."""
    return MaskedViewsCollator(masking)


VIEWS: dict[str, Callable[[PreTrainedTokenizerBase, MaskingCollator], Collator]] = {
    "spans": span_views,
    "masks": masked_views,
}
