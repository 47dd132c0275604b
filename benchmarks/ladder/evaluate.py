# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The loss of a model on held-out documents: nats per masked token, by source and by place, and nats per byte."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from benchmarks.contenders import ConceptContender, Contender
from benchmarks.ladder.batches import IGNORED, FlatBatch, FlatCollator, LadderBatch, inputs_of
from benchmarks.ladder.corpus import Corpus
from benchmarks.loading import PackedRows
from training_concept.masking import MaskingCollator

# Held-out masks are the same for all runs.
MASK_SEED = 0
FIRST_PLACES = 8


@dataclass(frozen=True)
class Scores:
    """
    Masked tokens of held-out documents, one entry for each.

    Attributes:
        nats: float64, the model's loss.
        unigram: float64, the loss of guessing by frequency in training.
        widths: int64, bytes of text that each stands for; `None` if the tokenizer does not tell.
        places: int64, in its document (or window of one).
        sources: int64, index of its source in `names`.
        names: of the sources.
    """

    nats: np.ndarray
    unigram: np.ndarray
    widths: np.ndarray | None
    places: np.ndarray
    sources: np.ndarray
    names: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Means over all masked tokens, by source, and by place in octaves; nats per byte beside them."""
        everything: np.ndarray = np.ones(len(self.nats), dtype=bool)
        present = [(index, name) for index, name in enumerate(self.names) if (self.sources == index).any()]
        by_source = {name: self._mean(self.sources == index) for index, name in present}
        octaves = octaves_of(self.places)
        edges = sorted(set(octaves.tolist()))
        by_position = {str(edge): self._mean(octaves == edge) for edge in edges}
        return {**self._mean(everything), "by_source": by_source, "by_position": by_position}

    def _mean(self, chosen: np.ndarray) -> dict[str, Any]:
        mean = {
            "tokens": int(chosen.sum()),
            "loss": float(self.nats[chosen].mean()),
            "unigram": float(self.unigram[chosen].mean()),
        }
        if self.widths is not None:
            mean["nats_per_byte"] = float(self.nats[chosen].sum() / max(int(self.widths[chosen].sum()), 1))
        return mean


class HeldOut:
    """
    Rows of a held-out split, in batches that all models get alike.

    Args:
        corpus: whose split it is.
        split: `validation` or `test`.
        length: N, tokens of a row.
        rows: of a batch.
        masked_share: of the tokens of a row.
        vocabulary: token ids of the model.

    Raises:
        ValueError: the corpus has no such documents.
    """

    def __init__(
        self, corpus: Corpus, split: str, length: int, rows: int, masked_share: float, vocabulary: int
    ) -> None:
        sources = corpus.held_out[split]
        if not sources:
            raise ValueError(f"the corpus has no {split} documents")
        self.corpus, self.batch_size, self.names = corpus, rows, tuple(sources)
        packed = [PackedRows(documents, length, corpus.tokenizer) for documents in sources.values()]
        self.rows = [row for it in packed for row in it.__getitems__(range(len(it)))]
        self.row_sources: np.ndarray = np.repeat(np.arange(len(packed)), list(map(len, packed)))
        collator = masking_collator(corpus.tokenizer, length, masked_share, MASK_SEED, vocabulary)
        most = max(len(row["document_lengths"]) for row in self.rows)
        # Nothing is left out: each row may have padding beside its documents.
        self.collator = FlatCollator(collator, (most + 1) * rows)

    def batches(self) -> Iterator[tuple[FlatBatch, np.ndarray]]:
        """All rows once, with the source of each masked token `[K]`."""
        for start in range(0, len(self.rows), self.batch_size):
            batch = self.collator(self.rows[start : start + self.batch_size])
            yield batch, self.row_sources[start + batch.rows[batch.masked >= 0]]

    def score(self, model: nn.Module, contender: Contender, device: torch.device, dtype: torch.dtype) -> Scores:
        """Score all rows without compiling anything; `model` is left in the mode that it was in."""
        to_inputs, training = inputs_of(contender), model.training
        log_p = -np.log((self.corpus.counts + 1) / (self.corpus.counts + 1).sum())
        columns: list[tuple[np.ndarray, ...]] = []
        model.eval()
        # Evaluation has few batches, and its code would be compiled anew for other shapes and without gradients.
        with torch.compiler.set_stance("force_eager"), torch.inference_mode():
            for batch, sources in self.batches():
                inputs = LadderBatch(to_inputs(batch), 0).to(device)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    nats = token_losses(model, contender, inputs)
                kept = batch.masked >= 0
                places = batch.positions[batch.masked[kept]]
                columns.append((nats.double().cpu().numpy()[kept], batch.targets[kept], places, sources))
        model.train(training)
        losses, targets, places, sources = (np.concatenate(column) for column in zip(*columns, strict=True))
        widths = None if self.corpus.widths is None else self.corpus.widths[targets]
        return Scores(losses, log_p[targets], widths, places, sources, self.names)


def masking_collator(
    tokenizer: PreTrainedTokenizerBase, length: int, share: float, seed: int, vocabulary: int
) -> MaskingCollator:
    """Masks single tokens, exactly K of every row; the documents of a row are not bounded."""
    return MaskingCollator(tokenizer, mlm_probability=share, seed=seed, length=length, vocab_size=vocabulary)


def token_losses(model: nn.Module, contender: Contender, inputs: Mapping[str, Any]) -> torch.Tensor:
    """The loss of every masked token in nats, float32 `[K]`, 0 where there is none (see `FlatBatch`)."""
    states, output, targets = (_concept_states if isinstance(contender, ConceptContender) else _control_states)(
        model, inputs
    )
    logits = nn.functional.linear(states, output.weight, output.bias).float()
    return nn.functional.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)


def octaves_of(places: np.ndarray) -> np.ndarray:
    """The last place of the octave that each place lies in: 7, 15, 31, 63 and so on."""
    exponents = np.ceil(np.log2(np.maximum(places + 1, FIRST_PLACES))).astype(int)
    return 2**exponents - 1


def _concept_states(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, nn.Module, torch.Tensor]:
    """States that the output layer takes `[K, width]`, the output layer, and the targets `[K]`."""
    ours, inputs = model.model, dict(inputs)
    labels, positions = inputs.pop("labels")[0], inputs["masked_positions"][0]
    caught: list[torch.Tensor] = []
    # The model would hold all logits; it is asked for their mean loss alone.
    hook = ours.head.register_forward_hook(lambda module, args, output: caught.append(output))
    try:
        ours(**inputs, labels=labels[None], return_logits=False)
    finally:
        hook.remove()
    targets = labels[positions.clamp(min=0)].masked_fill(positions < 0, IGNORED)
    return caught[0].flatten(0, 1), ours.lm_head, targets


def _control_states(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, nn.Module, torch.Tensor]:
    body = {name: it for name, it in inputs.items() if name not in ("masked", "targets")}
    states = model.body(**body).flatten(0, -2)[inputs["masked"]]
    return model.loss.head(states), model.loss.output, inputs["targets"]
