# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What every test gets: no network, caches of its own, a fixed number of threads and fixed seeds."""

import os
import tempfile

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


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seed Python, numpy and torch before each test, so that no test depends on the ones before it."""
    from transformers import set_seed

    set_seed(0)
