# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From documents to rows: whole, joined or by line, map-style or streamed, and counted."""

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerFast

from training_concept import rows as rows_module
from training_concept.arguments import DataArguments
from training_concept.data import encode_texts
from training_concept.rows import (
    RowCounts,
    RowFormat,
    RowStream,
    build_rows,
    make_rows,
    resolve_sequence_length,
    row_format,
)

LENGTH = 16
PACKINGS = {"documents": {"packing": "documents"}, "stream": {"packing": "stream"}, "lines": {"line_by_line": True}}


def arguments(**values: Any) -> DataArguments:
    return DataArguments(**{"train_file": "unused.txt", "max_seq_length": LENGTH, **values})


def form(tokenizer: PreTrainedTokenizerFast, packing: str = "documents", **values: Any) -> RowFormat:
    return row_format(arguments(**PACKINGS[packing], **values), tokenizer, takes_documents=True)


def make(texts: list[str | None], tokenizer: PreTrainedTokenizerFast, packing: str, **values: Any) -> Dataset:
    return make_rows(Dataset.from_dict({"text": texts}), tokenizer, form(tokenizer, packing, **values))[0]


def ids(rows: Dataset | IterableDataset) -> list[list[int]]:
    return [list(row["input_ids"]) for row in rows]


def whole_rows(rows: Dataset | IterableDataset) -> list[dict[str, Any]]:
    return [{name: list(values) for name, values in row.items() if name != "epoch"} for row in rows]


# Documents


def test_packed_rows_hold_every_document(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    rows, counts = make_rows(Dataset.from_dict({"text": [*documents, None, " "]}), tokenizer, form(tokenizer))
    assert {name: feature.feature.dtype for name, feature in rows.features.items()} == {
        "input_ids": "uint16",
        "document_lengths": "int32",
    }
    pieces, windows = [], []
    for row in rows:
        start = 0
        for size in row["document_lengths"]:
            pieces.append(row["input_ids"][start : start + size])
            start += size
        assert start == len(row["input_ids"]) <= LENGTH
    encoded = [list(tokens) for tokens in encode_texts(documents, tokenizer)]
    for tokens in encoded:
        windows += [tokens[start : start + LENGTH - 2] for start in range(0, len(tokens), LENGTH - 2)]
    assert sorted(piece[1:-1] for piece in pieces) == sorted(windows)
    assert {(piece[0], piece[-1]) for piece in pieces} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    tokens = sum(map(len, windows)) + 2 * len(windows)
    assert counts == RowCounts(
        documents=80,
        blank=2,
        cut=sum(len(tokens) > LENGTH - 2 for tokens in encoded),
        tokens=tokens,
        rows=len(rows),
        room=len(rows) * LENGTH,
    )
    assert counts.efficiency == tokens / (len(rows) * LENGTH)


def test_documents_are_packed_in_groups(
    documents: list[str], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = make(documents, tokenizer, "documents", max_documents_per_row=9)
    monkeypatch.setattr(rows_module, "TOKENS_PACKED_TOGETHER", 1)
    monkeypatch.setattr(rows_module, "ROWS_PACKED_TOGETHER", 10)
    apart = make([*documents, ""], tokenizer, "documents", max_documents_per_row=9)
    assert len(together) < len(apart)
    assert sum(map(sum, ids(together))) == sum(map(sum, ids(apart)))


@pytest.mark.parametrize(("given", "most"), [(None, 1), (3, 3)])
def test_the_documents_of_a_row_are_limited(tokenizer: PreTrainedTokenizerFast, given: int | None, most: int) -> None:
    rows = make(["red"] * 10, tokenizer, "documents", max_documents_per_row=given)
    assert max(map(len, rows["document_lengths"])) == most
    assert form(tokenizer, max_seq_length=4096).max_documents == 64


# Streams of tokens and lines


def test_joined_rows_hold_every_token_of_the_documents(
    documents: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    chunks = make(documents, tokenizer, "stream")
    rows = ids(chunks)
    assert {len(row) for row in rows} == {LENGTH}
    assert chunks.features["input_ids"].feature.dtype == "uint16"
    stream = tokenizer(documents[0], add_special_tokens=False)["input_ids"]
    for text in documents[1:]:
        stream += [tokenizer.sep_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    whole = len(stream) // (LENGTH - 2)
    assert [token for row in rows[:whole] for token in row[1:-1]] == stream[: whole * (LENGTH - 2)]
    assert rows[-1][1:-1] == stream[-(LENGTH - 2) :]
    assert len(rows) == whole + 1


def test_text_shorter_than_a_row_makes_one_short_row(tokenizer: PreTrainedTokenizerFast) -> None:
    for packing in PACKINGS:
        assert ids(make([None, "red", "  "], tokenizer, packing)) == [tokenizer("red")["input_ids"]]


def test_long_lines_are_cut_off_and_counted(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["red", " ".join(["green"] * 30), "blue river", " ".join(["day"] * 40)]
    documents = Dataset.from_dict({"text": [f"{lines[0]}\n\n{lines[1]}", "", None, *lines[2:]]})
    with caplog.at_level(logging.WARNING, logger="training_concept.rows"):
        run = build({"train": documents}, tokenizer, "lines")
    whole = [tokenizer(line)["input_ids"] for line in lines]
    assert ids(run.train[0]["corpus"]) == [
        row if len(row) <= LENGTH else [*row[: LENGTH - 1], row[-1]] for row in whole
    ]
    assert run.counts["train"]["corpus"].truncated == 2
    assert "source corpus, train: 4 documents (2 cut off at a row's end)" in caplog.text


# Streams of documents


@pytest.mark.parametrize("packing", PACKINGS)
def test_streams_and_processes_make_the_same_rows(
    documents: list[str], tokenizer: PreTrainedTokenizerFast, packing: str
) -> None:
    whole, row_form = Dataset.from_dict({"text": [None, *documents, " "]}), form(tokenizer, packing)
    rows, _ = make_rows(whole, tokenizer, row_form)
    alike, _ = make_rows(whole, tokenizer, row_form, num_proc=2, overwrite_cache=True)
    streamed = RowStream(whole.to_iterable_dataset(), "corpus", tokenizer, row_form)
    assert len(rows) > 50
    assert whole_rows(rows) == whole_rows(alike) == whole_rows(streamed)


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_shard_of_a_stream_is_read_on_its_own(
    documents: list[str], tokenizer: PreTrainedTokenizerFast, packing: str
) -> None:
    whole, row_form = Dataset.from_dict({"text": documents}), form(tokenizer, packing)
    shards = whole.to_iterable_dataset(num_shards=2)
    rows = RowStream(shards, "corpus", tokenizer, row_form)
    halves = [make_rows(whole.shard(2, index), tokenizer, row_form)[0] for index in range(2)]
    assert rows.num_shards == 2
    assert whole_rows(rows) == whole_rows(halves[0]) + whole_rows(halves[1])


def test_an_endless_stream_passes_over_its_shards_in_other_orders(
    documents: list[str], tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="training_concept.rows")
    shards = Dataset.from_dict({"text": documents}).to_iterable_dataset(num_shards=5)
    once = whole_rows(RowStream(shards, "corpus", tokenizer, form(tokenizer)))
    endless = RowStream(shards, "corpus", tokenizer, form(tokenizer)).passes(seed=(1, 0))
    passes = [[next(endless) for _ in once] for _ in range(3)]
    assert [{row["epoch"] for row in rows} for rows in passes] == [{0}, {1}, {2}]
    orders = [whole_rows(rows) for rows in passes]
    assert all(sorted(map(str, order)) == sorted(map(str, once)) for order in orders)
    assert len({str(order) for order in orders}) > 1
    tokens = sum(len(row["input_ids"]) for row in once)
    assert "source corpus, reader 1 of 1, pass 2: 80 documents (70 cut in windows), " in caplog.text
    assert f"{tokens:,} tokens in {len(once)} rows" in caplog.text


def test_readers_of_a_stream_share_each_pass(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    shards = Dataset.from_dict({"text": documents}).to_iterable_dataset(num_shards=5)
    stream = RowStream(shards, "corpus", tokenizer, form(tokenizer))
    once = sorted(map(str, whole_rows(stream)))
    long_enough = [list(islice(stream.passes((1, 0), reader, 2), 3 * len(once))) for reader in range(2)]
    for epoch in range(3):
        parts = [[row for row in rows if row["epoch"] == epoch] for rows in long_enough]
        assert all(parts)
        assert sorted(str(row) for part in parts for row in whole_rows(part)) == once


def test_an_endless_stream_of_nothing_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    blank = Dataset.from_dict({"text": [" ", None]}).to_iterable_dataset()
    with pytest.raises(OSError, match="source corpus gives no rows"):
        next(RowStream(blank, "corpus", tokenizer, form(tokenizer)).passes(seed=(1, 0)))


# All rows of a run


def build(
    splits: dict[str, Any], tokenizer: PreTrainedTokenizerFast, packing: str = "documents", **values: Any
) -> rows_module.RunRows:
    args = arguments(**PACKINGS[packing], **values)
    return build_rows({"corpus": splits}, tokenizer, row_format(args, tokenizer, takes_documents=True), args)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("limit", "expected"), [(3, 3), (10_000, None)])
def test_sample_limits_count_rows(
    documents: list[str], tokenizer: PreTrainedTokenizerFast, streaming: bool, limit: int, expected: int | None
) -> None:
    whole = Dataset.from_dict({"text": documents})
    every = ids(make(documents, tokenizer, "documents"))
    split = whole.to_iterable_dataset() if streaming else whole
    run = build({"train": split, "validation": split}, tokenizer, max_train_samples=limit, max_eval_samples=2)
    assert ids(run.train[0]["corpus"]) == every[:expected]
    assert ids(run.validation["corpus"]) == every[:2]
    assert not run.streams
    if not streaming:
        assert run.counts["validation"]["corpus"].rows == 2


def test_what_a_stream_is_evaluated_on_is_read_before(
    documents: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    stream = Dataset.from_dict({"text": documents}).to_iterable_dataset()
    run = build({"train": stream, "validation": stream}, tokenizer)
    assert run.streams
    assert isinstance(run.validation["corpus"], Dataset)
    assert whole_rows(run.validation["corpus"]) == whole_rows(make(documents, tokenizer, "documents"))


def test_what_nothing_is_evaluated_on_is_not_read(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    def unread() -> Iterator[dict[str, str]]:
        raise AssertionError
        yield {}

    splits = {"train": Dataset.from_dict({"text": documents}), "validation": IterableDataset.from_generator(unread)}
    args = arguments()
    run = build_rows({"corpus": splits}, tokenizer, row_format(args, tokenizer, True), args, evaluates=False)
    assert not run.validation


def test_a_schedule_of_documents_packs_once_for_each_length(
    documents: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    whole = Dataset.from_dict({"text": documents})
    limits = {"max_seq_length": 64, "max_documents_per_row": 9}
    run = build({"train": whole, "validation": whole}, tokenizer, document_length_schedule=[8, 64], **limits)
    longest = [max(max(lengths) for lengths in stage["corpus"]["document_lengths"]) for stage in run.train]
    assert longest[0] == 8
    assert 8 < longest[1] <= 64
    assert max(len(row) for row in run.train[0]["corpus"]["input_ids"]) > 8
    assert whole_rows(run.validation["corpus"]) == whole_rows(run.train[1]["corpus"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_split_without_text_is_refused(tokenizer: PreTrainedTokenizerFast, packing: str, streaming: bool) -> None:
    blank = Dataset.from_dict({"text": ["", " \n"]})
    split = blank.to_iterable_dataset() if streaming else blank
    for role in ("train", "validation"):
        with pytest.raises(ValueError, match=f"the {role} split of source corpus holds no text"):
            build({role: split}, tokenizer, packing)


# Formats


@pytest.mark.parametrize("missing", ["cls_token", "sep_token"])
def test_a_tokenizer_without_ends_is_refused(tokenizer: PreTrainedTokenizerFast, missing: str) -> None:
    tokens = {"cls_token": "[CLS]", "sep_token": "[SEP]", missing: None}
    incomplete = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokens)
    with pytest.raises(ValueError, match=f"a tokenizer with a {missing}"):
        form(incomplete)


def test_a_model_that_tells_documents_apart_gets_them_packed(tokenizer: PreTrainedTokenizerFast) -> None:
    chosen = {takes: row_format(arguments(), tokenizer, takes).packing for takes in (False, True)}
    assert chosen == {False: "stream", True: "documents"}
    assert row_format(arguments(line_by_line=True), tokenizer, True).packing == "lines"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"packing": "documents"}, "cannot tell the documents of a row apart: use --packing stream"),
        ({"packing": "rows"}, "--packing rows is not one of documents, stream"),
        ({"packing": "stream", "line_by_line": True}, "--packing and --line_by_line exclude each other"),
        ({"max_documents_per_row": 0}, "--max_documents_per_row must be at least 1, got 0"),
        ({"max_seq_length": 2}, "max_seq_length must be at least 3"),
    ],
)
def test_a_format_is_checked(tokenizer: PreTrainedTokenizerFast, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row_format(arguments(**values), tokenizer, takes_documents=False)


@pytest.mark.parametrize(
    ("packing", "schedule", "streaming", "message"),
    [
        ("stream", [8], False, "--document_length_schedule 8 is for packed documents"),
        ("documents", [8, 16], True, "--document_length_schedule 8 16 is not for streams"),
        ("documents", [2, 16], False, "--document_length_schedule 2 16 must lie between 3 and --max_seq_length 16"),
        ("documents", [17], False, "--document_length_schedule 17 must lie between 3 and --max_seq_length 16"),
    ],
)
def test_a_schedule_is_checked(
    tokenizer: PreTrainedTokenizerFast, packing: str, schedule: list[int], streaming: bool, message: str
) -> None:
    split = Dataset.from_dict({"text": ["red", "green"]})
    with pytest.raises(ValueError, match=message):
        build(
            {"train": split.to_iterable_dataset() if streaming else split},
            tokenizer,
            packing,
            document_length_schedule=schedule,
        )


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


@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_are_cached(
    packing: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, documents: list[str]
) -> None:
    Dataset.from_dict({"text": documents}).save_to_disk(tmp_path / "documents")

    def build_again() -> dict[Path, int]:
        make_rows(Dataset.load_from_disk(str(tmp_path / "documents")), tokenizer, form(tokenizer, packing))
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "documents").glob("cache-*.arrow")}

    first = build_again()
    assert len(first) == 2
    assert build_again() == first
