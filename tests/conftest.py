# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What every test gets: no network, caches of its own, a fixed number of threads, little garbage and fixed seeds."""

import gc
import os
import tempfile
from collections.abc import Iterator

import pytest

# transformers, datasets and torch read these once, when first imported, hence at the top of the first conftest.
CACHE = tempfile.TemporaryDirectory(prefix="concept-encoder-tests-")
for variable in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
    del os.environ[variable]
os.environ.update(
    HF_HOME=CACHE.name,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models here are too small to share between threads


def pytest_collection_finish() -> None:
    """
    Spare the collector of garbage what importing has made and nothing ever frees: half a million objects.

    accelerate collects garbage by hand in every training, which took as long as the training of a tiny model.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let it all be freed at the end, since extension modules report what is not."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seed Python, numpy and torch before each test, so that no test depends on the ones before it."""
    from transformers import set_seed

    set_seed(0)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing is compiled yet, or counted, and what a test compiles is gone behind it."""
    import torch
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
