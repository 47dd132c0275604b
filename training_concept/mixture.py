# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Which row comes when: mixtures of sources by weight, passes over each of them, and curricula.

Map-style, everything follows from the seed and the number of the visit: a run resumed anywhere sees exactly the rows,
masks and stages that it would have seen, for any number of workers; several processes see disjoint parts of every
global batch, which together are the batch that one process would see.

Streamed, the rows and their order follow from the seed and the number of workers, so that `Trainer`'s replay (it reads
up to where it stopped) is exact too, across passes and through the shuffle buffer. Other numbers of workers give
another order. One process reads and hands out each batch, so the number of processes changes nothing.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import fsspec.asyn
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets
from transformers.trainer_pt_utils import LengthGroupedSampler

from training_concept.rows import RowStream, list_lengths, list_values

logger = logging.getLogger(__name__)


class Visit(NamedTuple):
    """One visit to a row.

    Attributes:
        row: its number, among the rows of the stage.
        epoch: how often its source was passed over before.
        stage: of the curriculum.
    """

    row: int
    epoch: int
    stage: int


class MixtureDataset(torch.utils.data.Dataset):
    """Rows of several sources, one source behind the other, each row with what `MaskingCollator` draws its mask from.

    Asked for a `Visit` it gives the row with the visit's epoch and stage; asked for a plain number, as in evaluation,
    the row with its own epoch (0 unless it was told) and the last stage.

    Args:
        packings: rows by source, once for each longest document of the curriculum.
        weights: by source, for `MixtureSampler`; `None`: sources count by their size.
        num_stages: of the curriculum, a multiple of the number of packings.

    Attributes:
        sizes: number of rows by source, for each packing.
        counts: how many rows each source gives in an epoch, for each packing.

    Raises:
        ValueError: a weight so small that its source gives no row.
    """

    def __init__(
        self,
        packings: Sequence[Mapping[str, Dataset]],
        weights: Mapping[str, float] | None = None,
        num_stages: int = 1,
    ) -> None:
        self.weights = weights
        self.sizes = [{label: len(rows) for label, rows in sources.items()} for sources in packings]
        self.counts = [_shares(sizes, weights) for sizes in self.sizes]
        self.rows = [concatenate_datasets(list(sources.values())).with_format("arrow") for sources in packings]
        self.num_stages = num_stages
        # In shared memory, so that workers which outlive an epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Called by `accelerate`, `Trainer` or `MixtureSampler` when an epoch begins."""
        self._epoch.fill_(epoch)

    def packing_of(self, stage: int) -> int:
        """Which of the packings a stage visits."""
        return stage * len(self.rows) // self.num_stages

    def __len__(self) -> int:
        return len(self.rows[-1])

    def __getitem__(self, index: int | Visit) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | Visit]) -> list[dict[str, Any]]:
        """Rows `{"input_ids": [<= N], "epoch": int, "stage": int}`, packed ones with `document_lengths`.

        PyTorch's loader asks for a whole batch at once.
        """
        here = (self.epoch, self.num_stages - 1)
        visits = [index if isinstance(index, Visit) else Visit(index, *here) for index in indices]
        items: list[dict[str, Any]] = [{"epoch": visit.epoch, "stage": visit.stage} for visit in visits]
        for packing in sorted({self.packing_of(visit.stage) for visit in visits}):
            chosen = [number for number, visit in enumerate(visits) if self.packing_of(visit.stage) == packing]
            table: pa.Table = self.rows[packing][[visits[number].row for number in chosen]]
            for column in table.column_names:
                for number, values in zip(chosen, list_values(table, column), strict=True):
                    items[number][column] = values
        return items


class MixtureSampler(torch.utils.data.Sampler[Visit]):
    """Draws the rows of several sources in proportion to their weights.

    An epoch has as many visits as there are rows in all. In every epoch a source gives the same number of them, its
    share by weight (by largest remainder), or without weights its size. Each source is passed over again and again,
    across epochs, every pass in another order; how the sources take turns in an epoch is shuffled as well. With a
    curriculum of longest documents, a new pass starts where another packing begins. It counts as one more, since a row
    of short documents can be the same in both.

    accelerate tells a sampler or a dataset of a new epoch, depending on how many batch samplers it has wrapped
    (one for several processes, one to resume in mid-epoch). A sampler that passes the epoch on to the dataset, and
    takes its own from there, hears of it in every case.

    Args:
        dataset: what is sampled, and where the epoch is kept.
        seed: another seed, other orders.
        starts: first visit of each stage of the curriculum.
    """

    def __init__(self, dataset: MixtureDataset, seed: int, starts: Sequence[int] = (0,)) -> None:
        self.dataset = dataset
        self.seed = seed
        self.starts = starts
        # First visit of each packing, and the number of each source's first pass over it.
        self.begins = list(starts)[:: dataset.num_stages // len(dataset.rows)]
        self.first_passes = self._count_passes()
        # Two blocks: one is left while the next is entered.
        self._block = lru_cache(maxsize=2)(self._draw_block)

    def set_epoch(self, epoch: int) -> None:
        """Called by `accelerate` when an epoch begins."""
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Visit]:
        first = self.dataset.epoch * len(self)
        for number in range(first, first + len(self)):
            yield self.visit(number)

    def visit(self, number: int) -> Visit:
        """The visit with this number in the run."""
        stage = max(stage for stage, start in enumerate(self.starts) if start <= number)
        packing = self.dataset.packing_of(stage)
        block, place = divmod(number - self.begins[packing], len(self.dataset.rows[packing]))
        rows, epochs = self._block(packing, block)
        return Visit(int(rows[place]), int(epochs[place]), stage)

    def _count_passes(self) -> np.ndarray:
        """How many passes over each source are begun before each packing, at most: int64 [packings, sources]."""
        passes: list[np.ndarray] = [np.zeros(len(self.dataset.counts[0]), dtype=np.int64)]
        for packing, visits in enumerate(np.diff(self.begins)):
            sizes, counts = list(self.dataset.sizes[packing].values()), np.array(self.dataset.counts[packing])
            blocks = -(-visits // sum(sizes))
            passes.append(passes[-1] - (-blocks * counts // sizes))
        return np.stack(passes)

    def _draw_block(self, packing: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and epochs of as many visits as a packing has rows, [n] each."""
        sizes, counts = list(self.dataset.sizes[packing].values()), self.dataset.counts[packing]
        turns: np.ndarray = np.repeat(np.arange(len(sizes)), counts)
        np.random.default_rng((self.seed, block)).shuffle(turns)
        rows: np.ndarray = np.empty(len(turns), dtype=np.int64)
        epochs = np.empty_like(rows)
        firsts = np.cumsum(sizes) - sizes
        for source, (size, share) in enumerate(zip(sizes, counts, strict=True)):
            first_pass = int(self.first_passes[packing][source])
            numbers, passes = self._draw(source, block, size, share, first_pass)
            rows[turns == source], epochs[turns == source] = numbers + firsts[source], passes
        return rows, epochs

    def _draw(self, source: int, block: int, size: int, share: int, first_pass: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of a source's passes that a block takes: rows of the source, and passes before; [share] each."""
        passes, places = np.divmod(np.arange(block * share, (block + 1) * share), size)
        passes += first_pass
        rows: np.ndarray = np.empty(share, dtype=np.int64)
        for number in np.unique(passes):
            # Zeros at the end of a seed change nothing: a single source is shuffled as it would be on its own.
            order = np.random.default_rng((self.seed, int(number), source)).permutation(size)
            rows[passes == number] = order[places[passes == number]]
        return rows, passes


class GroupedSampler(LengthGroupedSampler):
    """Stock's grouping by length, in an order that follows from the seed and the epoch (see `MixtureSampler`).

    Stock draws it from the global state, which is another one after an interruption.

    Args:
        dataset: what is sampled, and where the epoch is kept.
        seed: another seed, other orders.
        batch_size: rows that are of roughly the same length.
    """

    def __init__(self, dataset: MixtureDataset, seed: int, batch_size: int) -> None:
        super().__init__(batch_size, lengths=list_lengths(dataset.rows[-1]).tolist(), generator=torch.Generator())
        self.dataset = dataset
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Called by `accelerate` when an epoch begins."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(int(np.random.default_rng((self.seed, self.dataset.epoch)).integers(2**63)))
        return super().__iter__()


def _shares(sizes: Mapping[str, int], weights: Mapping[str, float] | None) -> list[int]:
    """How many of all rows each source gives in an epoch: by largest remainder of its weight, else its size."""
    if weights is None:
        return list(sizes.values())
    wanted = np.array([weights[label] for label in sizes])
    exact = wanted / wanted.sum() * sum(sizes.values())
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: sum(sizes.values()) - counts.sum()]] += 1
    for label, share in zip(sizes, counts, strict=True):
        if share == 0:
            raise ValueError(f"the weight of source {label} is so small that it gives none of the rows")
    return counts.tolist()


class MixtureStream(torch.utils.data.IterableDataset):
    """Rows of streams, drawn in proportion to their weights, without end.

    Each source is passed over again and again. The workers of a loader share its shards between them; no more of them
    work than the source with the fewest shards has.

    Args:
        sources: by name.
        weights: by source; `None` for a single one.
        seed: another seed, other draws.
        buffer_size: rows of which the next is drawn at random; 0 keeps the order. A row is moved by no more than some
            times this: beyond, what lies together in a shard stays together.
    """

    def __init__(
        self, sources: Mapping[str, RowStream], weights: Mapping[str, float] | None, seed: int, buffer_size: int
    ) -> None:
        self.sources = list(sources.values())
        self.weights = [1.0] if weights is None else [weights[label] for label in sources]
        self.seed = seed
        self.buffer_size = buffer_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        reader, wanted = (worker.id, worker.num_workers) if worker else (0, 1)
        # A lock of a file system that was copied with the process is never released.
        fsspec.asyn.reset_lock()
        readers = min(wanted, *(source.num_shards for source in self.sources))
        if reader >= readers:
            logger.warning("worker %d has nothing to do: a source has %d shards", reader + 1, readers)
            return
        generator = np.random.default_rng((self.seed, reader))
        streams = [source.passes((self.seed, number), reader, readers) for number, source in enumerate(self.sources)]
        yield from _shuffled(_drawn(streams, self.weights, generator), generator, self.buffer_size)


def _drawn(
    streams: Sequence[Iterator[dict[str, Any]]], weights: Sequence[float], generator: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """The next row of a stream that is drawn by weight, again and again."""
    borders = np.cumsum(weights) / sum(weights)
    while True:
        yield next(streams[int(np.searchsorted(borders[:-1], generator.random(), side="right"))])


def _shuffled(
    rows: Iterator[dict[str, Any]], generator: np.random.Generator, buffer_size: int
) -> Iterator[dict[str, Any]]:
    """Rows of an endless stream, each drawn from a buffer that the one behind it refills."""
    buffer = list(islice(rows, buffer_size))
    for row in rows:
        if buffer:
            place = int(generator.integers(len(buffer)))
            buffer[place], row = row, buffer[place]
        yield row


class EvenCollator:
    """Lets a collator give every batch of rows that are not packed an `attention_mask`, even if none is padded.

    Where one process reads a stream and hands its batches out, it joins them first, and an entry that the first of
    them lacks would be lost.

    Args:
        collator: any that pads on the right.
        pad_token_id: what it pads with.
    """

    def __init__(self, collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]], pad_token_id: int):
        self.collator = collator
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate B rows."""
        batch = self.collator(rows)
        if "document_lengths" in batch or "attention_mask" in batch:
            return batch
        return batch | {"attention_mask": batch["input_ids"].ne(self.pad_token_id).long()}


def rates_by_stage(rates: Sequence[float], num_packings: int) -> list[float]:
    """Masking rate of each stage of a curriculum of rates and one of longest documents, run side by side.

    The stages are the fewest of equal length that fit both.
    """
    num_stages = math.lcm(len(rates), max(num_packings, 1))
    return [rates[stage * len(rates) // num_stages] for stage in range(num_stages)]


def with_epochs(rows: Dataset) -> MixtureDataset:
    """Wrap the rows of a single source for `MaskingCollator`."""
    return MixtureDataset([{"rows": rows}])
