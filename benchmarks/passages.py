# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pairs for retrieval, made from the documents of a data recipe: a sentence, and the three sentences that follow it.

    python -m benchmarks.passages --recipe recipes/data/sotu.yaml --output PAIRS

writes `train.jsonl` and `test.jsonl`, whose documents are different ones, for `training_concept.retrieval`
(docs/embedding.md).
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluation_concept.errors import exit_code
from evaluation_concept.files import draft
from training_concept.data import load_documents
from training_concept.recipes import read_recipe

FEWEST_WORDS = 5
SENTENCES = 4
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def main(arguments: Sequence[str]) -> None:
    """
    Write the pairs of both splits.

    Raises:
        OSError, ValueError: as `load_documents`.
    """
    options = _parse(arguments)
    sources = load_documents(read_recipe(options.recipe))
    options.output.mkdir(parents=True, exist_ok=True)
    for split, number in (("train", options.train), ("test", options.test)):
        texts = [text for roles in sources.values() if split in roles for text in roles[split]["text"]]
        pairs = [pair for text in texts for pair in make_pairs(text)]
        random.Random(options.seed).shuffle(pairs)
        lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs[:number])
        with draft(options.output / f"{split}.jsonl") as path:
            path.write_text(lines, encoding="utf-8")
        print(f"{split}: {min(number, len(pairs)):,} of {len(pairs):,} pairs")


def make_pairs(text: str) -> Iterator[dict[str, str]]:
    """A `query` and the `passage` behind it for every four sentences of five words or more; none overlap."""
    sentences = [it for it in SENTENCE_END.split(" ".join(text.split())) if len(it.split()) >= FEWEST_WORDS]
    for start in range(0, len(sentences) - SENTENCES + 1, SENTENCES):
        query, *passage = sentences[start : start + SENTENCES]
        yield {"query": query, "passage": " ".join(passage)}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passages", description="Make pairs for retrieval.")
    parser.add_argument("--recipe", type=Path, required=True, help="YAML file of documents")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--train", type=int, default=8000, help="pairs at most (default: %(default)s)")
    parser.add_argument("--test", type=int, default=1000, help="pairs at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of which pairs (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
