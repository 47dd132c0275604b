# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The text tasks of Long Range Arena (arXiv 2011.04006) byte by byte: the sentiment of a film review, and whether one
paper cites another. ListOps has a file of its own.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from datasets import load_dataset

from evaluation_concept.long_context.tasks import CLASSIFICATION, Example, Examples, Sources, Task

FAMILY = "lra"
IMDB = "stanfordnlp/imdb"
SENTIMENTS = ("negative", "positive")
MATCHES = ("0", "1")
AAN_FILES = {
    split: f"new_aan_pairs.{name}.tsv"
    for split, name in (("train", "train"), ("validation", "eval"), ("test", "test"))
}
# A paper of AAN can have hundreds of thousands of characters.
MAX_FIELD = 10**8


def load_imdb(sources: Sources) -> Examples:
    """
    Reviews of IMDb, the halves that it is published in.

    Args:
        sources: a folder `lra/imdb` with the Hub's parquet files, or the Hub.

    Raises:
        OSError: it is not there.
    """
    path, token = IMDB, sources.token
    if sources.data_dir is not None:
        path = str(sources.data_dir / FAMILY / "imdb")
        if not Path(path).is_dir():
            raise FileNotFoundError(f"There is no folder {path}.")
    cache_dir = None if sources.cache_dir is None else str(sources.cache_dir)
    splits = load_dataset(path, cache_dir=cache_dir, token=token)
    return {
        split: [
            Example(f"{split}-{index}", row["text"].replace("<br />", "\n"), label=SENTIMENTS[row["label"]])
            for index, row in enumerate(splits[split])
        ]
        for split in ("train", "test")
    }


def load_aan(sources: Sources) -> Examples:
    """
    Pairs of papers of the ACL Anthology Network, from the files of Long Range Arena's release.

    Args:
        sources: a folder `lra` with `new_aan_pairs.train.tsv`, `.eval.tsv` and `.test.tsv`.

    Raises:
        ValueError: nobody said where they are, or a row has other columns.
        OSError: a file is not there.
    """
    if sources.data_dir is None:
        raise ValueError("lra_retrieval reads files of Long Range Arena's release, which no hub has: give --data_dir.")
    return {split: list(_pairs(sources.data_dir / FAMILY / name)) for split, name in AAN_FILES.items()}


def _pairs(path: Path) -> Iterator[Example]:
    csv.field_size_limit(MAX_FIELD)
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if len(row) != 5:
                raise ValueError(
                    f"{path}, line {number}: {len(row)} columns instead of label, two names and two texts"
                )
            label, first, second, text, other = row
            yield Example(f"{first}-{second}", text, other, label=str(int(float(label))))


TASKS = (
    Task("lra_text", FAMILY, CLASSIFICATION, "accuracy", load_imdb, labels=SENTIMENTS, tokenizer="bytes"),
    Task(
        "lra_retrieval",
        FAMILY,
        CLASSIFICATION,
        "accuracy",
        load_aan,
        labels=MATCHES,
        tokenizer="bytes",
        note="both papers are read together, where Long Range Arena encodes each alone",
    ),
)
