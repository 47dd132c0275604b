# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Which row comes when: shares of sources, passes over them, curricula, workers, processes and resumption."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Dataset, Features, IterableDataset, List, Value
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from training_concept.arguments import DataArguments
from training_concept.masking import MaskingCollator
from training_concept.mixture import (
    EvenCollator,
    MixtureDataset,
    MixtureSampler,
    MixtureStream,
    Visit,
    rates_by_stage,
    with_epochs,
)
from training_concept.rows import RowStream, row_format

LENGTH = 16
FEATURES = Features({"input_ids": List(Value("uint16"))})


def numbered(count: int, first: int = 10) -> Dataset:
    """Rows `[CLS] number number ... [SEP]`, each with another number."""
    rows = [[2, *[first + number] * (LENGTH - 2), 3] for number in range(count)]
    return Dataset.from_dict({"input_ids": rows}, features=FEATURES)


def packed(count: int, first: int = 10) -> Dataset:
    """Rows of two documents."""
    rows = numbered(count, first).add_column("document_lengths", [[4, LENGTH - 4]] * count)
    return rows.cast_column("document_lengths", List(Value("int32")))


def visits(sampler: MixtureSampler, epochs: int) -> list[list[Visit]]:
    drawn = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    return drawn


# Items


def test_items_carry_what_masks_are_drawn_from() -> None:
    dataset = with_epochs(numbered(6))
    assert len(dataset) == 6
    assert dataset[3]["input_ids"].dtype == np.uint16
    assert [row["input_ids"][1] for row in dataset] == list(range(10, 16))
    dataset.set_epoch(6)
    assert (dataset[3]["epoch"], dataset[3]["stage"]) == (6, 0)
    items = dataset.__getitems__([4, Visit(1, 9, 0)])
    assert [(item["input_ids"][1], item["epoch"]) for item in items] == [(14, 6), (11, 9)]
    with pytest.raises(IndexError):
        dataset[6]


def test_items_of_packed_rows_carry_their_documents() -> None:
    items = with_epochs(packed(3)).__getitems__([2, 0])
    assert [item["document_lengths"].tolist() for item in items] == [[4, 12], [4, 12]]
    assert items[0]["document_lengths"].dtype == np.int32


def test_a_stage_takes_its_rows_from_its_packing() -> None:
    dataset = MixtureDataset([{"a": numbered(3, first=100)}, {"a": numbered(5, first=200)}], num_stages=4)
    assert len(dataset) == 5
    items = dataset.__getitems__([Visit(2, 0, 0), Visit(2, 0, 2), Visit(0, 7, 1), 4])
    assert [item["input_ids"][1] for item in items] == [102, 202, 100, 204]
    assert [(item["epoch"], item["stage"]) for item in items] == [(0, 0), (0, 2), (7, 1), (0, 3)]


# Mixtures


def test_a_single_source_is_visited_once_an_epoch_in_an_order_of_its_own() -> None:
    dataset = with_epochs(numbered(50))
    epochs = visits(MixtureSampler(dataset, seed=5), 3)
    assert [[visit.row for visit in epoch] for epoch in epochs] == [
        np.random.default_rng((5, epoch)).permutation(50).tolist() for epoch in range(3)
    ]
    assert [{visit.epoch for visit in epoch} for epoch in epochs] == [{0}, {1}, {2}]
    assert visits(MixtureSampler(dataset, seed=6), 1)[0] != epochs[0]


def test_sources_without_weights_give_every_row_once_an_epoch() -> None:
    dataset = MixtureDataset([{"a": numbered(30), "b": numbered(10)}])
    for epoch, drawn in enumerate(visits(MixtureSampler(dataset, seed=0), 2)):
        assert sorted(visit.row for visit in drawn) == list(range(40))
        assert {visit.epoch for visit in drawn} == {epoch}
        assert 2 < sum(visit.row >= 30 for visit in drawn[:20]) < 9


def test_sources_come_by_weight_and_are_passed_over_again_and_again() -> None:
    sizes = {"a": 30, "b": 10, "c": 7}
    dataset = MixtureDataset([{label: numbered(size) for label, size in sizes.items()}], {"a": 1, "b": 2, "c": 0.5})
    drawn = visits(MixtureSampler(dataset, seed=0), 4)
    firsts, places = {"a": 0, "b": 30, "c": 40}, {}
    for label, first in firsts.items():
        rows = [[visit for visit in epoch if first <= visit.row < first + sizes[label]] for epoch in drawn]
        # 47 rows by largest remainder: 13.43, 26.86 and 6.71.
        assert [len(epoch) for epoch in rows] == [{"a": 13, "b": 27, "c": 7}[label]] * 4
        places[label] = [visit for epoch in rows for visit in epoch]
        passes = [places[label][start : start + sizes[label]] for start in range(0, len(places[label]), sizes[label])]
        assert [{visit.epoch for visit in whole} for whole in passes] == [{number} for number in range(len(passes))]
        assert all(len({visit.row for visit in whole}) == len(whole) for whole in passes)
        orders = [[visit.row for visit in whole] for whole in passes if len(whole) == sizes[label]]
        assert len({tuple(order) for order in orders}) == len(orders)


def test_a_weight_that_gives_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="the weight of source b is so small that it gives none of the rows"):
        MixtureDataset([{"a": numbered(9), "b": numbered(1)}], {"a": 100, "b": 1})


# Curricula


def test_rates_and_documents_share_the_coarsest_stages_that_fit_both() -> None:
    assert rates_by_stage([0.3], 1) == [0.3]
    assert rates_by_stage([0.3], 0) == [0.3]
    assert rates_by_stage([0.5, 0.4, 0.3], 1) == [0.5, 0.4, 0.3]
    assert rates_by_stage([0.5, 0.3], 3) == [0.5] * 3 + [0.3] * 3
    assert rates_by_stage([0.5, 0.4, 0.3], 2) == [0.5, 0.5, 0.4, 0.4, 0.3, 0.3]


def test_stages_begin_where_they_are_told_to_across_epochs() -> None:
    dataset = MixtureDataset([{"a": numbered(10)}], num_stages=3)
    drawn = [visit for epoch in visits(MixtureSampler(dataset, seed=0, starts=[0, 8, 16]), 3) for visit in epoch]
    assert [visit.stage for visit in drawn] == [0] * 8 + [1] * 8 + [2] * 14
    # The order of the rows is that without stages.
    plain = visits(MixtureSampler(with_epochs(numbered(10)), seed=0), 3)
    assert [visit.row for visit in drawn] == [visit.row for epoch in plain for visit in epoch]


def test_another_packing_starts_a_new_pass() -> None:
    packings = [{"a": numbered(8), "b": numbered(4)}, {"a": numbered(5), "b": numbered(2)}]
    dataset = MixtureDataset(packings, num_stages=4)
    drawn = [visit for epoch in visits(MixtureSampler(dataset, seed=0, starts=[0, 15, 30, 45]), 9) for visit in epoch]
    first, second = drawn[:30], drawn[30:]
    assert [visit.stage for visit in drawn[:60]] == [stage for stage in range(4) for _ in range(15)]
    for part, size, first_pass in ((first, 12, 0), (second, 7, 3)):
        for number, start in enumerate(range(0, len(part) - size, size), start=first_pass):
            assert sorted(visit.row for visit in part[start : start + size]) == list(range(size))
            assert {visit.epoch for visit in part[start : start + size]} == {number}


@pytest.mark.parametrize("weights", [None, {"a": 1, "b": 3}])
def test_a_row_that_is_in_two_packings_gets_another_mask_in_each(weights: dict[str, float] | None) -> None:
    sources = {"a": numbered(8), "b": numbered(4)}
    dataset = MixtureDataset([sources, sources], weights, num_stages=2)
    drawn = [visit for epoch in visits(MixtureSampler(dataset, seed=0, starts=[0, 20]), 4) for visit in epoch]
    assert {visit.stage for visit in drawn} == {0, 1}
    assert set(Counter((visit.row, visit.epoch) for visit in drawn).values()) == {1}


# Loaders


def collate(rows: list[dict[str, Any]], collator: MaskingCollator) -> dict[str, Any]:
    return {**collator(rows), "epoch": torch.tensor([row["epoch"] for row in rows])}


def prepared_loader(
    dataset: MixtureDataset | MixtureStream,
    tokenizer: PreTrainedTokenizerFast,
    processes: int = 1,
    process: int = 0,
    starts: Sequence[int] = (0,),
    **options: Any,
) -> DataLoader:
    """A loader of batches of 4 as Trainer makes it, for one of some processes."""
    sampler = MixtureSampler(dataset, seed=5, starts=starts) if isinstance(dataset, MixtureDataset) else None
    collator = MaskingCollator(tokenizer, mlm_probability=[0.3, 0.6], length=LENGTH)
    loader = DataLoader(
        dataset, batch_size=4, sampler=sampler, collate_fn=partial(collate, collator=collator), **options
    )
    return prepare_data_loader(
        loader, num_processes=processes, process_index=process, use_seedable_sampler=True, dispatch_batches=False
    )


def mixture() -> MixtureDataset:
    packings = [{"a": packed(14), "b": packed(8, first=50)}, {"a": packed(12, first=100), "b": packed(7, first=150)}]
    return MixtureDataset(packings, {"a": 1, "b": 1.5}, num_stages=2)


def contents(batches: Iterator[dict[str, Any]]) -> list[list]:
    return [[batch[name].tolist() for name in ("epoch", "input_ids", "labels")] for batch in batches]


def original(batch: dict[str, Any]) -> torch.Tensor:
    """The rows as they were before masking."""
    return torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])


WORKERS = [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]


@pytest.mark.parametrize("options", WORKERS, ids=["0", "2", "persistent"])
def test_any_number_of_workers_gives_the_same_batches(
    tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    dataset, collator = mixture(), MaskingCollator(tokenizer, mlm_probability=[0.3, 0.6], length=LENGTH)
    loader = prepared_loader(mixture(), tokenizer, starts=[0, 20], **options)
    for drawn in visits(MixtureSampler(dataset, seed=5, starts=[0, 20]), 3):
        rows = dataset.__getitems__(drawn)
        wanted = [collate(rows[start : start + 4], collator) for start in range(0, len(rows), 4)]
        assert contents(loader) == contents(wanted)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_resumed_in_mid_epoch_sees_what_it_would_have_seen(
    tokenizer: PreTrainedTokenizerFast, processes: int, num_workers: int
) -> None:
    through = prepared_loader(mixture(), tokenizer, processes, starts=[0, 25])
    uninterrupted = [contents(through) for _ in range(4)]
    # As Trainer resumes in the third epoch, after 2 batches.
    loader = prepared_loader(mixture(), tokenizer, processes, starts=[0, 25], num_workers=num_workers)
    rest = skip_first_batches(loader, 2)
    rest.set_epoch(2)
    assert contents(rest) == uninterrupted[2][2:]
    loader.set_epoch(3)
    assert contents(loader) == uninterrupted[3]


def test_two_processes_share_what_one_sees(tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = MixtureDataset([{"a": numbered(14), "b": numbered(10, first=50)}], {"a": 1, "b": 2})
    single = prepared_loader(dataset, tokenizer)
    pair = [prepared_loader(dataset, tokenizer, 2, process) for process in range(2)]
    for _ in range(2):
        parts, whole = [contents(loader) for loader in pair], contents(single)
        assert [batch for turn in zip(*parts, strict=True) for batch in turn] == whole


# Streams


def streamed(
    tokenizer: PreTrainedTokenizerFast, sizes: dict[str, int], shards: int = 3, packing: str = "documents"
) -> dict[str, RowStream]:
    """Documents of the name of their source and a number."""
    args = DataArguments(train_file="unused.txt", max_seq_length=LENGTH, packing=packing)
    form = row_format(args, tokenizer, takes_documents=True)
    texts = {
        label: [f"{label} {number} red green blue day" for number in range(size)] for label, size in sizes.items()
    }
    documents = {
        label: Dataset.from_dict({"text": rows}).to_iterable_dataset(num_shards=shards)
        for label, rows in texts.items()
    }
    return {label: RowStream(rows, label, tokenizer, form) for label, rows in documents.items()}


def rows_of(stream: RowStream) -> list[tuple[int, ...]]:
    return [tuple(row["input_ids"].tolist()) for row in stream]


def test_a_stream_is_shuffled_within_its_buffer(tokenizer: PreTrainedTokenizerFast) -> None:
    sources = streamed(tokenizer, {"a": 60}, shards=1)
    once = rows_of(sources["a"])
    in_order = islice(MixtureStream(sources, None, seed=0, buffer_size=0), 2 * len(once))
    assert [tuple(row["input_ids"]) for row in in_order] == 2 * once
    shuffled = list(islice(MixtureStream(sources, None, seed=0, buffer_size=10), 2 * len(once)))
    places = [once.index(tuple(row["input_ids"])) for row in shuffled]
    assert sorted(places[: len(once) - 10])[0] == 0
    assert places[:20] != sorted(places[:20])
    assert all(place <= number + 10 for number, place in enumerate(places[: len(once) - 10]))
    counts = Counter((place, row["epoch"]) for place, row in zip(places, shuffled, strict=True))
    assert set(counts.values()) == {1}


def test_streams_come_by_weight_each_with_its_own_passes(tokenizer: PreTrainedTokenizerFast) -> None:
    sources = streamed(tokenizer, {"a": 20, "b": 60})
    owners = {row: label for label, stream in sources.items() for row in rows_of(stream)}
    drawn = list(islice(MixtureStream(sources, {"a": 3, "b": 1}, seed=0, buffer_size=16), 1000))
    by_source = {label: [row for row in drawn if owners[tuple(row["input_ids"])] == label] for label in sources}
    assert len(by_source["a"]) == pytest.approx(750, abs=60)
    assert max(row["epoch"] for row in by_source["a"]) > 5 * max(row["epoch"] for row in by_source["b"])
    for rows in by_source.values():
        visited = Counter((tuple(row["input_ids"]), row["epoch"]) for row in rows)
        assert set(visited.values()) == {1}


@pytest.mark.parametrize("num_workers", [2, 5])
def test_workers_share_a_stream(tokenizer: PreTrainedTokenizerFast, num_workers: int) -> None:
    sources = streamed(tokenizer, {"a": 30, "b": 30})
    loader = DataLoader(
        MixtureStream(sources, {"a": 1, "b": 1}, seed=0, buffer_size=8),
        batch_size=None, num_workers=num_workers, multiprocessing_context="fork",
    )  # fmt: skip
    drawn = list(islice(loader, 600))
    visited = Counter((tuple(row["input_ids"].tolist()), row["epoch"]) for row in drawn)
    assert set(visited.values()) == {1}
    first_pass = {row for row, epoch in visited if epoch == 0}
    assert first_pass == {row for stream in sources.values() for row in rows_of(stream)}


@pytest.mark.parametrize("packing", ["documents", "stream"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_resumes_by_replay_beyond_its_first_pass(
    tokenizer: PreTrainedTokenizerFast, num_workers: int, packing: str
) -> None:
    def loader() -> DataLoader:
        sources = streamed(tokenizer, {"a": 12, "b": 20}, packing=packing)
        stream = MixtureStream(sources, {"a": 3, "b": 1}, seed=0, buffer_size=8)
        return prepared_loader(stream, tokenizer, num_workers=num_workers)

    uninterrupted = contents(islice(loader(), 25))
    assert max(max(epochs) for epochs, *_ in uninterrupted) > 3
    assert contents(islice(skip_first_batches(loader(), 15), 10)) == uninterrupted[15:]


def test_two_processes_share_what_one_reads(tokenizer: PreTrainedTokenizerFast) -> None:
    # As with dispatch_batches=False; by default the first process reads and hands out (tests/training/test_resume.py).
    def batches(processes: int, process: int) -> list[list]:
        stream = MixtureStream(streamed(tokenizer, {"a": 12, "b": 20}), {"a": 3, "b": 1}, seed=0, buffer_size=8)
        return contents(islice(prepared_loader(stream, tokenizer, processes, process), 20 // processes))

    parts = [batches(2, process) for process in range(2)]
    assert [batch for turn in zip(*parts, strict=True) for batch in turn] == batches(1, 0)


def test_batches_that_are_joined_have_the_same_entries(tokenizer: PreTrainedTokenizerFast) -> None:
    collator = MaskingCollator(tokenizer, length=LENGTH)
    even = EvenCollator(collator, tokenizer.pad_token_id)
    full, short = with_epochs(numbered(1))[0], {"input_ids": [2, 9, 9, 3], "epoch": 0}
    for rows in ([full], [full, short]):
        batch = even(rows)
        assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]
        assert all(torch.equal(batch[name], values) for name, values in collator(rows).items())
    assert "attention_mask" not in even([with_epochs(packed(1))[0]])


def test_a_broken_stream_says_which_source_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "red green"}
        raise ValueError("damaged")

    sources = streamed(tokenizer, {"a": 4})
    broken = RowStream(IterableDataset.from_generator(rows), "b", tokenizer, sources["a"].row_format)
    with pytest.raises(OSError, match="source b broke off after 1 documents: damaged"):
        list(islice(MixtureStream(sources | {"b": broken}, {"a": 1, "b": 1}, seed=0, buffer_size=4), 100))
