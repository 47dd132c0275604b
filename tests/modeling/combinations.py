# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Combinations of switches in which every pair of values that fit together occurs."""

import itertools
import random
from typing import Any

from tests.modeling.tiny import tiny_config

FIELDS: dict[str, tuple[Any, ...]] = {
    "position_embedding": ("rope", "learned"),
    "token_mixer": ("local", "none", "shifted", "conv"),
    "num_token_layers": (0, 2),
    "num_interleaved_token_layers": (0, 1),
    "num_funnel_stages": (0, 1),
    "token_hidden_size": (32, 16),
    "embedding_size": (32, 12),
    "concept_init": ("anchored", "learned"),
    "concept_positions": (None, "none", "rope", "cope", "sinusoidal", "learned"),
    "num_global_concepts": (2, 0),
    "read_every": (1, 2),
    "read_attention": ("softmax", "slot"),
    "share_reads": (False, True),
    "num_iterations": (1, 2),
    "write_back": (True, False),
    "qk_norm": (True, False),
    "nested_dropout": (0.0, 0.5),
    "num_decoder_layers": (1, 2),
    "num_decoder_mixing_layers": (0, 1),
    "decoder_query": ("position", "token+position"),
    "decoder_token_residual": (True, False),
    "decoder_reads": ("perceiver", "weighted"),
    "decoder_tokens": ("window", "none"),
    "masked_tokens": ("drop", "mask"),
}
Pair = frozenset[tuple[str, Any]]


def is_possible(fields: dict[str, Any]) -> bool:
    try:
        tiny_config(**fields)
    except ValueError:
        return False
    return True


def pairs_of(fields: dict[str, Any]) -> set[Pair]:
    return {frozenset(pair) for pair in itertools.combinations(fields.items(), 2)}


def complete(start: dict[str, Any], generator: random.Random) -> dict[str, Any] | None:
    """`start` and, for every other field, a value that makes a possible configuration; `None` if chance finds none."""
    for _ in range(20):
        fields = {name: generator.choice(values) for name, values in FIELDS.items()} | start
        if is_possible(fields):
            return fields
    return None


def covering_combinations(least: int) -> tuple[list[dict[str, Any]], list[Pair]]:
    """
    At least `least` possible combinations that together have every pair of values that one can have, found greedily,
    and the pairs that none can. The same every time.
    """
    generator = random.Random(0)
    missing = {
        frozenset(((a, x), (b, y)))
        for (a, xs), (b, ys) in itertools.combinations(FIELDS.items(), 2)
        for x in xs
        for y in ys
    }
    order = sorted(missing, key=lambda pair: sorted(map(str, pair)))
    found, impossible = [], []
    for pair in order:
        if pair not in missing:
            continue
        candidates = [fields for _ in range(8) if (fields := complete(dict(pair), generator))]
        if not candidates:
            impossible.append(pair)
            missing.remove(pair)
            continue
        found.append(max(candidates, key=lambda fields: len(pairs_of(fields) & missing)))
        missing -= pairs_of(found[-1])
    while len(found) < least:
        found.append(complete({}, generator) or {})
    return found, impossible
