# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
ListOps as Long Range Arena has it (arXiv 2011.04006, section 2.2.1): nested lists of digits under MIN, MAX, MED
(median, rounded down) and SM (sum modulo 10); the value of the whole is one of ten classes.

The published settings: a node is an operator with probability 1/4 above depth 10 and else a digit, has 2 to 10
arguments, and expressions of 501 to 1999 tokens are kept, each once: 96,000 / 2,000 / 2,000. Brackets that
group arguments two by two, which its readers remove, are not written here.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from evaluation_concept.long_context.tasks import CLASSIFICATION, Example, Examples, Sources, Task
from evaluation_concept.parquet import write_table

logger = logging.getLogger(__name__)

OPERATOR_PROBABILITY = 0.25
MAX_DEPTH, MAX_ARGUMENTS = 10, 10
MIN_LENGTH, MAX_LENGTH = 500, 2000  # both excluded
SIZES = (96_000, 2_000, 2_000)
SPLITS = ("train", "validation", "test")
END = "]"
DIGITS = tuple("0123456789")


def _median(values: Sequence[int]) -> int:
    ordered, half = sorted(values), len(values) // 2
    return (ordered[half] + ordered[~half]) // 2


OPERATORS: dict[str, Callable[[Sequence[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": _median,
    "[SM": lambda values: sum(values) % 10,
}
NAMES = tuple(OPERATORS)
TOKENS = (*DIGITS, *NAMES, END)


class TooLongError(Exception):
    """An expression has more tokens than are kept."""


@dataclass(frozen=True)
class ListOpsSettings:
    """
    How expressions are drawn.

    Attributes:
        max_depth: at this depth there are digits only; the root is at depth 1.
        max_arguments: most arguments of an operator; the fewest are 2.
        min_length, max_length: lengths in tokens between which expressions are kept, both excluded.
    """

    max_depth: int = MAX_DEPTH
    max_arguments: int = MAX_ARGUMENTS
    min_length: int = MIN_LENGTH
    max_length: int = MAX_LENGTH

    def draw(self, generator: random.Random) -> tuple[list[str], int]:
        """Tokens and value of one expression that is kept."""
        while True:
            tokens: list[str] = []
            try:
                value = self._grow(generator, 1, tokens)
            except TooLongError:
                continue
            if len(tokens) > self.min_length:
                return tokens, value

    def _grow(self, generator: random.Random, depth: int, tokens: list[str]) -> int:
        """Append the tokens of a node at `depth` to `tokens`; returns its value."""
        if depth >= self.max_depth or generator.random() > OPERATOR_PROBABILITY:
            tokens.append(generator.choice(DIGITS))
            return int(tokens[-1])
        arguments = generator.randint(2, self.max_arguments)
        place = len(tokens)
        tokens.append("")
        values = [self._grow(generator, depth + 1, tokens) for _ in range(arguments)]
        tokens[place] = generator.choice(NAMES)
        tokens.append(END)
        # What is too long already cannot be kept, so the rest of it need not be drawn.
        if len(tokens) >= self.max_length:
            raise TooLongError
        return OPERATORS[tokens[place]](values)


def evaluate(tokens: Sequence[str]) -> int:
    """
    The value of an expression.

    Raises:
        ValueError: the brackets do not match.
    """
    stack: list[tuple[str, list[int]]] = [("", [])]
    for token in tokens:
        if token in OPERATORS:
            stack.append((token, []))
        elif token == END and len(stack) > 1:
            name, values = stack.pop()
            stack[-1][1].append(OPERATORS[name](values))
        else:
            stack[-1][1].append(int(token))
    if len(stack) != 1 or len(stack[0][1]) != 1:
        raise ValueError("the brackets of the expression do not match")
    return stack[0][1][0]


def generate(
    sizes: Sequence[int], seed: int, settings: ListOpsSettings | None = None
) -> dict[str, list[tuple[str, str]]]:
    """
    Draw different expressions.

    Args:
        sizes: of the splits train, validation and test.
        seed: of all of them.
        settings: how they are drawn; the published ones by default.

    Returns:
        For each split pairs of an expression, its tokens joined by spaces, and its value.
    """
    settings, generator = settings or ListOpsSettings(), random.Random(seed)
    drawn: dict[str, str] = {}
    with tqdm(total=sum(sizes), desc="ListOps", unit="expression", disable=sum(sizes) < 1000) as progress:
        while len(drawn) < sum(sizes):
            tokens, value = settings.draw(generator)
            drawn[" ".join(tokens)] = str(value)
            progress.update(len(drawn) - progress.n)
    pairs = iter(drawn.items())
    return {split: [next(pairs) for _ in range(size)] for split, size in zip(SPLITS, sizes, strict=True)}


def load(sources: Sources) -> Examples:
    """The examples by split; drawn once for a seed and sizes if there is a folder to keep them in."""
    sizes = sources.sizes or SIZES
    path = None
    if sources.cache_dir is not None:
        path = sources.cache_dir / f"listops-{'-'.join(map(str, sizes))}-seed{sources.seed}.parquet"
    if path is not None and path.is_file():
        splits = _read(path)
    else:
        splits = generate(sizes, sources.seed)
        if path is not None:
            _write(path, splits)
    return {
        split: [Example(f"{split}-{index}", text, label=value) for index, (text, value) in enumerate(pairs)]
        for split, pairs in splits.items()
    }


def _read(path: Path) -> dict[str, list[tuple[str, str]]]:
    splits: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for row in pq.read_table(path).to_pylist():
        splits[row["split"]].append((row["text"], row["value"]))
    return splits


def _write(path: Path, splits: dict[str, list[tuple[str, str]]]) -> None:
    rows = [{"split": split, "text": text, "value": value} for split, pairs in splits.items() for text, value in pairs]
    write_table(path, pa.Table.from_pylist(rows))


TASKS = (Task("lra_listops", "lra", CLASSIFICATION, "accuracy", load, labels=DIGITS, tokenizer="listops"),)
