# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast batches come, and how long training steps wait for them. Needs neither `datasets` nor a network."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training_concept.masking import MaskingCollator
from training_concept.packing import default_max_documents, pack_documents
from training_concept.schemes import SCHEMES

LOADER_LENGTHS = (512, 8192)

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class LoaderSpeed:
    """
    Tokens a second of a loader, without padding; one entry for each run.

    Attributes:
        length: tokens in a row.
        scheme: of masking.
    """

    length: int
    scheme: str
    tokens_per_second: list[float]


@dataclass(frozen=True)
class Waiting:
    """
    How long training steps take, in seconds a step; one entry for each round.

    Attributes:
        length: tokens in a row.
        scheme: of masking.
        tokens: in a step, without padding.
        loaded: with batches from the loader.
        cached: with one batch over and over, everything else alike.
        in_next: of `loaded`, the time in which the host waited for the loader. The device may have had work meanwhile.
    """

    length: int
    scheme: str
    tokens: int
    loaded: list[float]
    cached: list[float]
    in_next: list[float]

    @property
    def shares(self) -> list[float]:
        """Fraction of a step for which the device waits, by round: what batches from the loader add to the time."""
        return [1 - cached / loaded for loaded, cached in zip(self.loaded, self.cached, strict=True)]

    @property
    def next_shares(self) -> list[float]:
        """Fraction of a step that the host spends in `next`, by round."""
        return [in_next / loaded for loaded, in_next in zip(self.loaded, self.in_next, strict=True)]


class PackedRows(Dataset):
    """
    Packed documents in memory, as training reads them from disk.

    Args:
        documents: token ids without special tokens.
        length: N, tokens in a row.
        tokenizer: names the special tokens.
    """

    def __init__(self, documents: Sequence[np.ndarray], length: int, tokenizer: PreTrainedTokenizerBase) -> None:
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
        self.rows, self.lengths = pack_documents(documents, length, length, ends, default_max_documents(length))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Rows as `MaskingCollator` takes them."""
        return [
            {"input_ids": self.rows[index], "document_lengths": self.lengths[index], "epoch": 0} for index in indices
        ]


class ShuffledPasses:
    """
    Tells which row is visited when: all of them pass after pass, each pass in an order of its own.

    Args:
        size: number of rows.
        seed: another seed, other orders.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self._order = lru_cache(maxsize=1)(self._draw_order)

    def __call__(self, number: int) -> int:
        """The row of the visit with this number."""
        number_of_pass, place = divmod(number, self.size)
        return int(self._order(number_of_pass)[place])

    def _draw_order(self, number_of_pass: int) -> np.ndarray:
        return np.random.default_rng((self.seed, number_of_pass)).permutation(self.size)


class EndlessBatches(Sampler[list[Any]]):
    """
    Batches of visits, without end.

    Args:
        visit: what to ask a dataset for, by the number of the visit.
        batch_size: visits in a batch.
    """

    def __init__(self, visit: Callable[[int], Any], batch_size: int) -> None:
        self.visit = visit
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[Any]]:
        for start in itertools.count(0, self.batch_size):
            yield [self.visit(number) for number in range(start, start + self.batch_size)]


def make_loader(
    rows: Dataset, visit: Callable[[int], Any], collator: MaskingCollator, batch_size: int, workers: int
) -> DataLoader:
    """A loader of batches without end, in pinned memory where there is a device to copy them to."""
    return DataLoader(
        rows,
        batch_sampler=EndlessBatches(visit, batch_size),
        collate_fn=collator,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.accelerator.is_available(),
    )


def known_schemes(pmi_vocabulary: str | None) -> list[str]:
    """All schemes of masking that can be had: n-grams need their vocabulary."""
    return [scheme for scheme in SCHEMES if scheme != "pmi" or pmi_vocabulary]


def make_collators(
    tokenizer: PreTrainedTokenizerBase, length: int, schemes: Sequence[str], **options: Any
) -> dict[str, MaskingCollator]:
    """By scheme, collators of packed rows padded to `length` tokens, so that all batches have the same shapes."""
    options |= {"length": length, "max_documents": default_max_documents(length)}
    return {scheme: MaskingCollator(tokenizer, scheme, **options) for scheme in schemes}


def num_tokens(batch: Batch) -> int:
    """Tokens of a batch that are not padding."""
    for name in ("document_lengths", "attention_mask"):
        if name in batch:
            return int(batch[name].sum())
    return batch["input_ids"].numel()


def tokens_per_second(batches: Iterable[Batch], seconds: float, warm_up: int) -> float:
    """
    Measure for about `seconds` how many tokens a second endless `batches` have, padding left out.

    `warm_up` batches are taken before, so that what workers prepared while they started does not count.
    """
    iterator = iter(batches)
    for _ in range(warm_up):
        next(iterator)
    tokens, passed, begin = 0, 0.0, time.perf_counter()
    while passed < seconds:
        tokens += num_tokens(next(iterator))
        passed = time.perf_counter() - begin
    return tokens / passed


def time_waiting(
    step: Callable[[Batch], None], batches: Iterable[Batch], steps: int, rounds: int, warm_up: int
) -> tuple[int, list[float], list[float], list[float]]:
    """
    Time `rounds` times `steps` training steps on endless `batches`, and as many on the first batch of them.

    The host is only made to wait for the device at the end of a round, so that work is always queued, as in training.

    Returns:
        The tokens of the first batch, and `loaded`, `cached` and `in_next` of `Waiting`.
    """
    iterator = iter(batches)
    first = next(iterator)
    for _ in range(warm_up):
        step(next(iterator))
    loaded, cached, in_next = [], [], []
    for _ in range(rounds):
        total, _ = _time_steps(step, itertools.repeat(first), steps)
        cached.append(total / steps)
        total, waited = _time_steps(step, iterator, steps)
        loaded.append(total / steps)
        in_next.append(waited / steps)
    return num_tokens(first), loaded, cached, in_next


def training_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, device: torch.device
) -> Callable[[Batch], None]:
    """A step of training on a batch in host memory: bfloat16 mixed precision, gradients clipped as by default."""

    def step(batch: Batch) -> None:
        inputs = {name: values.to(device, non_blocking=True) for name, values in batch.items()}
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _time_steps(step: Callable[[Batch], None], batches: Iterator[Batch], steps: int) -> tuple[float, float]:
    """Seconds that `steps` steps take together, and those of them in `next`."""
    _synchronise()
    waited, begin = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(batch)
    _synchronise()
    return time.perf_counter() - begin, waited


def _synchronise() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
