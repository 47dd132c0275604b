# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads tasks from packages into files that travel, without scored examples that the pretraining corpus holds."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from evaluation_concept.files import write_json
from evaluation_concept.long_context.kept import load_documents, write_kept_documents
from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.tasks import CLASSIFICATION, Sources
from evaluation_concept.tasks import TaskData
from training_concept.corpus.exclusions import MIN_RUN_LENGTH, RUN_LENGTH, OverlapIndex, find_overlaps, normalise
from training_concept.corpus.fetch import PackageCache
from training_concept.finetuning.kept import write_kept_task
from training_concept.finetuning.package_tasks import PACKAGE_TASKS, load_package_task
from training_concept.long_context.corpus import PackageCorpus

# How many scored examples of a task are not in its file.
LEFT_OUT_FILE = "left_out.json"
TRAINED_ON = "*/train.parquet"


def keep_tasks(
    names: Sequence[str], package_dir: Path | None, output: Path, corpus: Path | None, most_characters: int | None
) -> dict[str, int]:
    """
    Write the files of tasks that `--task_dir` of the scripts takes.

    Args:
        names: of tasks of either script; documents are not searched for overlaps, since the corpus is built without
            those that are scored.
        package_dir: of fetched packages; `None` if the tasks need none.
        output: folder that gets the files.
        corpus: folder that `python -m training_concept.corpus` built; scored examples that share a run of 13 words
            with what it trains on are left out. `None` leaves all in.
        most_characters: where documents and queries of classifications are cut.

    Returns:
        By task of sentences and pairs, how many scored examples were left out.

    Raises:
        ValueError: a task that there is not, or no packages for one that needs them.
        OSError: packages or a corpus that are not there.
    """
    if unknown := [name for name in names if name not in PACKAGE_TASKS and name not in TASKS]:
        raise ValueError(f"there is no task {unknown[0]!r} to keep")
    if package_dir is None and (wanting := [name for name in names if name in PACKAGE_TASKS]):
        raise ValueError(f"{wanting[0]} is in packages: say where they are (--package_dir)")
    texts = {name: load_package_task(name, PackageCache(package_dir)) for name in names if name in PACKAGE_TASKS}  # type: ignore[arg-type]
    kept = without_overlaps(list(texts.values()), trained_paragraphs(corpus)) if corpus else list(texts.values())
    left_out = read_left_out(output)
    for before, after in zip(texts.values(), kept, strict=True):
        left_out[after.task.name] = number_scored(before) - number_scored(after)
        print(f"{write_kept_task(output, after)}: {left_out[after.task.name]} scored examples left out", flush=True)
    write_json(output / LEFT_OUT_FILE, dict(left_out))
    sources = Sources(corpus=PackageCorpus(package_dir) if package_dir else None)
    for task in (TASKS[name] for name in names if name not in PACKAGE_TASKS):
        most = most_characters if task.kind == CLASSIFICATION else None
        print(write_kept_documents(output, task, load_documents(task, sources), most), flush=True)
    return left_out


def read_left_out(folder: Path) -> dict[str, int]:
    """What `keep_tasks` has left out of the tasks in `folder`."""
    path = folder / LEFT_OUT_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def number_scored(data: TaskData) -> int:
    """Of examples that scores are of."""
    return sum(map(len, data.evaluation.values()))


def trained_paragraphs(corpus: Path) -> Iterator[str]:
    """
    The paragraphs that a corpus trains on.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(corpus.glob(TRAINED_ON))
    if not files:
        raise FileNotFoundError(f"{corpus} holds no {TRAINED_ON}: build it by `python -m training_concept.corpus`.")
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
            for text in batch["text"].to_pylist():
                yield from text.splitlines()


def without_overlaps(tasks: Sequence[TaskData], paragraphs: Iterable[str]) -> list[TaskData]:
    """
    Tasks without the scored examples of which a text shares a run of 13 words with a paragraph, or is in one as a
    whole if it has 8 words to 12.
    """
    scored = (text for task in tasks for some in task.evaluation.values() for column in some.texts for text in column)
    runs = shared_runs(scored, paragraphs)
    return [_without(task, runs) for task in tasks]


def shared_runs(texts: Iterable[str], paragraphs: Iterable[str]) -> dict[int, set[bytes]]:
    """By length, the runs of words of those paragraphs that overlap with a text; see `shares_run`."""
    index = OverlapIndex(("scored", text) for text in texts)
    found = [normalise(paragraph) for paragraph, _ in find_overlaps(paragraphs, index)]
    return {length: _runs(found, length) for length in range(MIN_RUN_LENGTH, RUN_LENGTH + 1)}


def _runs(texts: Iterable[list[bytes]], length: int) -> set[bytes]:
    return {run for words in texts for run in _runs_of(words, length)}


def _runs_of(words: list[bytes], length: int) -> Iterator[bytes]:
    return (b" ".join(words[place : place + length]) for place in range(len(words) - length + 1))


def _without(data: TaskData, runs: dict[int, set[bytes]]) -> TaskData:
    evaluation = {}
    for split, examples in data.evaluation.items():
        overlaps: np.ndarray = np.zeros(len(examples), dtype=bool)
        for column in examples.texts:
            overlaps |= [shares_run(text, runs) for text in column]
        evaluation[split] = examples.take(np.flatnonzero(~overlaps))
    return replace(data, evaluation=evaluation)


def shares_run(text: str, runs: dict[int, set[bytes]]) -> bool:
    """Whether 13 words in a row of a text, or all of one of 8 to 12, are among `shared_runs`."""
    words = normalise(text)
    length = min(len(words), RUN_LENGTH)
    return length >= MIN_RUN_LENGTH and any(run in runs[length] for run in _runs_of(words, length))
