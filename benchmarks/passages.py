# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pairs for retrieval, made from the documents of a data recipe: a sentence, and the three sentences that follow it.

    python -m benchmarks.passages --recipe recipes/data/sotu.yaml --output PAIRS
    python -m benchmarks.passages --recipe data/offline/recipe.yaml --task_dir TASKS --train 60000 --output PAIRS

writes `train.jsonl` and `test.jsonl`, whose documents are different ones, for `training_concept.retrieval`
(docs/embedding.md). With --task_dir, the folder that `python -m benchmarks.studies keep` wrote for vitaminc and
hotpotqa_support, it adds claims and the evidence that proves them, and questions and the sentences that answer them.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evaluation_concept.errors import exit_code
from evaluation_concept.files import draft
from training_concept.data import load_documents
from training_concept.finetuning.kept import read_kept_task
from training_concept.recipes import read_recipe
from training_concept.sources import AnyDataset

FEWEST_WORDS = 5
SENTENCES = 4
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# Tasks in which one text answers another: which column is the query, which the passage, and the label that says so.
ANSWERED = {"vitaminc": ("claim", "evidence", "supports"), "hotpotqa_support": ("question", "sentence", "support")}
Pair = dict[str, str]


def main(arguments: Sequence[str]) -> None:
    """
    Write the pairs of both splits.

    Raises:
        OSError, ValueError: as `load_documents` and `read_kept_task`.
    """
    options = _parse(arguments)
    recipe = read_recipe(options.recipe)
    sources = load_documents(recipe)
    options.output.mkdir(parents=True, exist_ok=True)
    for split, number in (("train", options.train), ("test", options.test)):
        documents = {label: roles[split] for label, roles in sources.items() if split in roles}
        pairs = draw_pairs(documents, recipe.weights, number, options.seed)
        answers = answered_pairs(options.task_dir, split) if options.task_dir else []
        lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in [*pairs, *answers])
        with draft(options.output / f"{split}.jsonl") as path:
            path.write_text(lines, encoding="utf-8")
        print(f"{split}: {len(pairs):,} pairs of passages, {len(answers):,} of tasks")


def draw_pairs(
    documents: Mapping[str, AnyDataset], weights: Mapping[str, float] | None, number: int, seed: int
) -> list[Pair]:
    """
    At most `number` pairs of documents.

    Args:
        documents: by source.
        weights: of the sources, whose shares are rounded; a source that has fewer gives what it has. `None` draws from
            all pairs alike.
    """
    pairs = {
        label: [pair for text in texts["text"] for pair in make_pairs(text)] for label, texts in documents.items()
    }
    if weights is None:
        pairs, weights = {"": [pair for some in pairs.values() for pair in some]}, {"": 1.0}
    total = sum(weights[label] for label in pairs)
    drawn: list[Pair] = []
    for label, some in pairs.items():
        random.Random(seed).shuffle(some)
        drawn += some[: round(number * weights[label] / total)]
    return drawn


def answered_pairs(task_dir: Path, split: str) -> list[Pair]:
    """
    Queries of the tasks in `ANSWERED`, each with a passage that answers it.

    Raises:
        OSError, ValueError: as `read_kept_task`.
    """
    pairs = []
    for name, (query, passage, answers) in ANSWERED.items():
        data = read_kept_task(task_dir, name)
        examples = data.evaluation["test"] if split == "test" else data.train
        # As all kept tasks with classes have them.
        assert examples is not None
        assert examples.labels is not None
        assert data.task.labels is not None
        columns = dict(zip(data.task.text_columns, examples.texts, strict=True))
        label = data.task.labels.index(answers)
        pairs += [
            {"query": asked, "passage": found}
            for asked, found, said in zip(columns[query], columns[passage], examples.labels, strict=True)
            if said == label
        ]
    return pairs


def make_pairs(text: str) -> Iterator[Pair]:
    """A `query` and the `passage` behind it for every four sentences of five words or more; none overlap."""
    sentences = [it for it in SENTENCE_END.split(" ".join(text.split())) if len(it.split()) >= FEWEST_WORDS]
    for start in range(0, len(sentences) - SENTENCES + 1, SENTENCES):
        query, *passage = sentences[start : start + SENTENCES]
        yield {"query": query, "passage": " ".join(passage)}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passages", description="Make pairs for retrieval.")
    parser.add_argument("--recipe", type=Path, required=True, help="YAML file of documents")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--task_dir", type=Path, help="folder of kept tasks, whose answered queries are added")
    parser.add_argument("--train", type=int, default=8000, help="pairs of documents at most (default: %(default)s)")
    parser.add_argument("--test", type=int, default=1000, help="pairs of documents at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of which pairs (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
