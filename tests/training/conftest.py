# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A small tokenizer and a small corpus."""

import numpy as np
import pytest
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
