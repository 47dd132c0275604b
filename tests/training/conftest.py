# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A small tokenizer, a small corpus, and a compiler without a past."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedTokenizerFast

from training_concept.tokenization import train_tokenizer

WORDS = ("red", "green", "blue", "river", "mountain", "house", "letter", "number", "seven", "night", "day", "window")


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """80 different documents of 1 to 40 words."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 41, size=80)
    return [f"{index}: {' '.join(generator.choice(WORDS, length))}." for index, length in enumerate(lengths)]


@pytest.fixture(scope="session")
def tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(documents, vocab_size=300)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing is compiled yet, or counted, and what a test compiles is gone behind it."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
