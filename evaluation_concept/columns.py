# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Columns of a table: a JSON, CSV or Parquet file, or a dataset on the Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def reading_options(file_format: str) -> dict[str, Any]:
    """What `datasets` is told of files of a format: in CSV an empty cell is missing, but NA and None are words."""
    return {"keep_default_na": False, "na_values": [""]} if file_format == "csv" else {}


def read_columns(source: str, columns: Sequence[str], split: str = "train") -> Dataset:
    """
    The rows of `source`, with these columns in this order.

    Args:
        source: file, or name of a dataset on the Hub.
        columns: what each row needs to have.
        split: of a dataset on the Hub; a file has one.

    Raises:
        OSError: if there is no such file or dataset.
        ValueError: if a file is of another kind, is none of its kind, has no rows, or lacks a column.
    """
    rows = _read_file(Path(source)) if Path(source).suffix.lower() in FORMATS else _read_dataset(source, split)
    if missing := [column for column in columns if column not in rows.column_names]:
        there = ", ".join(map(repr, rows.column_names))
        raise ValueError(f"{source} has no column {', '.join(map(repr, missing))}; it has {there}.")
    if not len(rows):
        raise ValueError(f"{source} has no rows.")
    return rows.select_columns(list(columns))


def text_column(rows: Dataset, column: str, source: str) -> list[str]:
    """
    The values of a column.

    Raises:
        ValueError: for the first that is no text with something in it.
    """
    values = rows[column]
    for number, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{source}, row {number}: {column!r} is {value!r:.60}, and should be a text.")
    return list(values)


def _read_file(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if not path.stat().st_size:
        raise ValueError(f"{path} has no rows.")
    try:
        kind = FORMATS[path.suffix.lower()]
        return load_dataset(kind, data_files=str(path), split="train", **reading_options(kind))
    except DatasetGenerationError as error:
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    except ValueError as error:  # as for a CSV file that is its header alone
        raise ValueError(f"{path} has no rows ({error}).") from error


def _read_dataset(name: str, split: str) -> Dataset:
    try:
        return load_dataset(name, split=split)
    except (DatasetNotFoundError, ConnectionError) as error:
        kinds = ", ".join(FORMATS)
        raise FileNotFoundError(f"{name} is neither a file ({kinds}) nor a dataset in reach: {error}") from error
