# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What masked-language-model loss rises to when concepts are taken away: single ones, random shares, all of them."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from evaluation_concept.baselines import IGNORED_LABEL, TokenStatistics, unigram_baseline
from evaluation_concept.errors import NotMeasurableError
from evaluation_concept.states import evenly, num_free_concepts

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
# Slots that are taken away one at a time, and documents' own spans that lose theirs.
MOST_SLOTS, SPAN_DRAWS = 16, 4
# What can be measured, by the names of `SlotAblation`; `own_span` comes with `own_span_without`.
MEASURES = ("full", "without_share", "without_slot", "own_span", "without_concepts", "tokens_alone", "unigram")

Batch = Mapping[str, torch.Tensor]
# From the mask of concepts in use, bool `[B, C]`, to the one of concepts that are kept.
Keep = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SlotAblation:
    """
    Masked-LM losses in nats per masked token; `None`, or nothing by share and slot, for what was not measured.

    Attributes:
        full: nothing is taken away.
        without_share: by share of each document's concepts, drawn at random, that the decoder does not see.
        without_slot: by slot, without this one in all documents: each free concept or, of a table, some slots.
        own_span: on the masked tokens of some spans only.
        own_span_without: the same without the concept of the span; `None`, as `own_span`, if no concept has one.
        without_concepts: the decoder sees no concept; in the hybrid family it still has the token window, with what
            concepts have written back to it.
        tokens_alone: nor was anything written back: all that is left is local. In the bottleneck family nothing is.
        unigram: the answer is always the frequency of words in the very text that is scored.
        num_tokens: masked tokens that were scored.
    """

    full: float
    without_share: dict[float, float]
    without_slot: dict[int, float]
    own_span: float | None
    own_span_without: float | None
    without_concepts: float | None
    tokens_alone: float | None
    unigram: float | None
    num_tokens: int


class Mean:
    """A mean of means, each over a number of items; scalars that stay on their device until they are asked for."""

    def __init__(self) -> None:
        self.means: list[torch.Tensor] = []
        self.counts: list[torch.Tensor] = []

    def add(self, mean: torch.Tensor, count: torch.Tensor) -> None:
        self.means.append(mean)
        self.counts.append(count)

    @property
    def count(self) -> int:
        return sum(_numbers(self.counts))

    @property
    def value(self) -> float | None:
        means, counts = _numbers(self.means), _numbers(self.counts)
        total = sum(mean * count for mean, count in zip(means, counts, strict=True))
        return total / sum(counts) if sum(counts) else None


def _numbers(scalars: list[torch.Tensor]) -> list[Any]:
    """The numbers of scalars, for which the host waits once."""
    return torch.stack(scalars).tolist() if scalars else []


@torch.no_grad()
def ablate_slots(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    special_token_ids: Sequence[int],
    seed: int = 0,
    measures: Collection[str] = MEASURES,
) -> SlotAblation:
    """
    Score masked tokens again and again, with fewer concepts each time.

    Args:
        model: a masked language model.
        batches: `input_ids`, `labels`, `masked_positions` and maybe `attention_mask`, one document a row.
        special_token_ids: of the tokenizer; they are not counted for the unigram.
        seed: of what is drawn, which also depends on whether both shares and spans are.
        measures: some of `MEASURES`; `full` is always measured. Each but the unigram costs one decode a batch or more.

    Raises:
        ValueError: no masked position in any batch, or a measure that there is not.
    """
    if unknown := sorted(set(measures) - set(MEASURES)):
        raise ValueError(f"There is no measure {unknown[0]!r}; there are {', '.join(MEASURES)}.")
    generator = torch.Generator().manual_seed(seed)
    shares = SHARES if "without_share" in measures else ()
    slots = _named_slots(model.config) if "without_slot" in measures else []
    keeps: dict[Any, Keep] = {"full": _all}
    keeps |= {"none": torch.zeros_like} if "without_concepts" in measures else {}
    keeps |= {share: _random_share(share, generator) for share in shares}
    keeps |= {("slot", slot): _all_but(slot) for slot in slots}
    means: dict[Any, Mean] = defaultdict(Mean)
    for batch in (_on_device(batch, model.device) for batch in batches):
        outputs = _encode(model, batch)
        for name, keep in keeps.items():
            means[name].add(*_loss(model, batch, outputs, keep))
        if "own_span" in measures:
            for keep, labels in _span_removals(model.config, batch, outputs.concept_mask.bool(), generator):
                means["own span"].add(*_loss(model, batch, outputs, _all, labels))
                means["own span without"].add(*_loss(model, batch, outputs, keep, labels))
        if "tokens_alone" in measures:
            with nothing_written_back(model.base_model):
                means["tokens alone"].add(*_loss(model, batch, _encode(model, batch), torch.zeros_like))
    values: dict[Any, Any] = {name: mean.value for name, mean in means.items()}
    if values.get("full") is None:
        raise NotMeasurableError("No batch has a masked position to score.")
    unigram = "unigram" in measures
    return SlotAblation(
        full=values["full"],
        without_share={share: values[share] for share in shares},
        without_slot={slot: values["slot", slot] for slot in slots},
        own_span=values.get("own span"),
        own_span_without=values.get("own span without"),
        without_concepts=values.get("none"),
        tokens_alone=values.get("tokens alone"),
        unigram=unigram_loss(batches, model.config.vocab_size, special_token_ids) if unigram else None,
        num_tokens=means["full"].count,
    )


def unigram_loss(batches: Iterable[Batch], vocab_size: int, special_token_ids: Sequence[int]) -> float:
    """Loss of the word frequencies of these very batches, masked words included, add-one smoothed."""
    batches = list(batches)
    whole = [torch.where(batch["labels"] == IGNORED_LABEL, batch["input_ids"], batch["labels"]) for batch in batches]
    rows = Dataset.from_dict({"input_ids": [row.tolist() for ids in whole for row in ids]})
    return unigram_baseline(TokenStatistics.from_chunks(rows, vocab_size, special_token_ids), batches).loss


@contextmanager
def nothing_written_back(encoder: nn.Module) -> Iterator[None]:
    """Let no token of `encoder` see a concept."""
    handles = [write.register_forward_hook(lambda module, states, output: states[0]) for write in encoder.writes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _answering(encoder: nn.Module, outputs: Any) -> Iterator[None]:
    """Let `encoder` give `outputs` whatever it is asked, so that only what lies behind it is computed."""
    encoder.forward = lambda *args, **kwargs: outputs
    try:
        yield
    finally:
        del encoder.forward


def _on_device(batch: Batch, device: torch.device) -> Batch:
    return {name: values.to(device) for name, values in batch.items()}


def _encode(model: PreTrainedModel, batch: Batch) -> Any:
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    return model.base_model(**inputs, output_token_states=True)


def _loss(
    model: PreTrainedModel, batch: Batch, outputs: Any, keep: Keep, labels: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of a batch and number of its labels (or of those given), with the concepts of `keep`: two scalars."""
    labels = batch["labels"] if labels is None else labels
    kept = keep(outputs.concept_mask.bool())
    states = outputs.last_hidden_state * kept.unsqueeze(2)
    fewer = type(outputs)(**(dict(outputs) | {"last_hidden_state": states, "concept_mask": kept.long()}))
    with _answering(model.base_model, fewer):
        # Told of a share, the decoder goes by the mask, although no row may have unused concepts.
        loss = model(**(dict(batch) | {"labels": labels}), kept_concepts=1.0, return_logits=False).loss
    return loss, (labels != IGNORED_LABEL).sum()


def _all(mask: torch.Tensor) -> torch.Tensor:
    return mask


def _random_share(share: float, generator: torch.Generator) -> Keep:
    """Without a share of each document's concepts, rounded down and at least one."""

    def keep(mask: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(mask.shape, generator=generator).to(mask.device).masked_fill(~mask, 2)
        removed = (share * mask.sum(dim=1, keepdim=True)).long().clamp(min=1)
        return mask & (drawn.argsort(dim=1).argsort(dim=1) >= removed)

    return keep


def _all_but(slot: int) -> Keep:
    return lambda mask: mask & (torch.arange(mask.shape[1], device=mask.device) != slot)


def _all_outside(gone: torch.Tensor) -> Keep:
    return lambda mask: mask & ~gone


def _named_slots(config: Any) -> list[int]:
    """Slots that are the same in every document: free ones, or some of a table, spread evenly."""
    free = num_free_concepts(config)
    if free is not None:
        return list(range(free))
    return evenly(config.num_concepts, MOST_SLOTS).tolist()


def _span_removals(
    config: Any, batch: Batch, mask: torch.Tensor, generator: torch.Generator
) -> Iterator[tuple[Keep, torch.Tensor]]:
    """Each time one anchored concept of every row, drawn at random, is taken away; with the labels of its span."""
    free = num_free_concepts(config)
    if free is None:
        return
    labels = batch["labels"]
    lengths = batch.get("attention_mask", torch.ones_like(labels)).sum(dim=1, keepdim=True)
    spans = mask.sum(dim=1, keepdim=True) - free
    places = torch.arange(labels.shape[1], device=labels.device) * spans // lengths
    for _ in range(SPAN_DRAWS):
        drawn = torch.rand(spans.shape, generator=generator).to(spans.device)
        span = (drawn * spans).long()
        gone = torch.zeros_like(mask).scatter(1, span + free, True)
        yield _all_outside(gone), labels.masked_fill(places != span, IGNORED_LABEL)
