# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Documents of tasks as they were read from packages, one parquet file a task, for machines that have no packages."""

from collections import Counter
from dataclasses import asdict, fields, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation_concept.long_context.tasks import CLASSIFICATION, Example, Examples, Sources, Task
from evaluation_concept.parquet import FOR_TRAVEL, write_table

SPLIT = "split"
STRINGS, PLACES = pa.list_(pa.string()), pa.list_(pa.int64())
TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("id", "text", "query", "label", "group"), pa.string()),
    **dict.fromkeys(("choices", "answers"), STRINGS),
    **dict.fromkeys(("candidates", "selected"), PLACES),
    "spans": pa.list_(PLACES),
}
# Pairs have the same document many times: all different ones are kept once, however many.
ONE_DICTIONARY = 2**31 - 1


def write_kept_documents(folder: Path, task: Task, examples: Examples, most_characters: int | None = None) -> Path:
    """
    Write the examples of a task to a file of `folder`, which `load_documents` reads; returns its path.

    Args:
        folder: of all such files.
        task: theirs.
        examples: by split.
        most_characters: where documents and queries of a classification are cut.

    Raises:
        ValueError: a task whose answers are places in the document is to be cut.
    """
    if most_characters and task.kind != CLASSIFICATION:
        raise ValueError(f"{task.name}: its answers are places in documents, which cannot be cut.")
    rows = [
        {SPLIT: split, **asdict(_cut(example, most_characters))}
        for split, some in examples.items()
        for example in some
    ]
    schema = pa.schema([(SPLIT, pa.string()), *((field.name, TYPES[field.name]) for field in fields(Example))])
    path = kept_file(folder, task)
    options = {"compression_level": FOR_TRAVEL, "dictionary_pagesize_limit": ONE_DICTIONARY}
    write_table(path, pa.Table.from_pylist(rows, schema), **options)
    return path


def load_documents(task: Task, sources: Sources) -> Examples:
    """
    The examples of a task by split: those kept in `sources.kept_dir`, else what the task loads.

    Raises:
        ValueError: a file that holds something else, an identity that two examples of a split have, by which their
            answers could not be told apart; and what loading the task raises.
        OSError: as loading the task does.
    """
    path = kept_file(sources.kept_dir, task) if sources.kept_dir else None
    found = task.load(sources) if path is None or not path.is_file() else _read(path, task)
    for split, examples in found.items():
        identity, times = max(Counter(each.id for each in examples).items(), key=itemgetter(1), default=("", 0))
        if times > 1:
            raise ValueError(f"{task.name}: {times} examples of its split {split} are called {identity!r}.")
    return found


def _read(path: Path, task: Task) -> Examples:
    try:
        return _by_split(pq.read_table(path).to_pylist())
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no documents of {task.name}: {error}") from error


def kept_file(folder: Path, task: Task) -> Path:
    """Where the documents of a task are kept."""
    return folder / f"{task.name}.parquet"


def _cut(example: Example, most: int | None) -> Example:
    return replace(example, text=example.text[:most], query=example.query[:most])


def _by_split(rows: list[dict[str, Any]]) -> Examples:
    splits: dict[str, list[Example]] = {}
    for row in rows:
        split = row.pop(SPLIT)
        spans = tuple((first, behind) for first, behind in row.pop("spans"))
        lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
        splits.setdefault(split, []).append(Example(**{**row, **lists, "spans": spans}))
    return splits
