# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Stands for a script of a study: tells how its process would start others."""

import multiprocessing
import os
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> dict[str, str]:
    """How processes are started, and how many threads libraries were told to use."""
    return {"start_method": multiprocessing.get_start_method(), "threads": os.environ["OMP_NUM_THREADS"]}
