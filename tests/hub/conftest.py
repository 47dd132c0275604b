# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Samples saved by this process, a Hub, and a way to run scripts in others."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from .fake_hub import FakeHub
from .samples import Samples, build_samples, save_samples

ROOT = Path(__file__).parents[2]
RunPython = Callable[..., CompletedProcess]


@pytest.fixture(scope="session")
def samples() -> Samples:
    """Models and tokenizer as they are before anything is saved. Do not change them."""
    return build_samples()


@pytest.fixture(scope="session")
def saved(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the saved samples, moved after it was written. Do not write to it."""
    folder = tmp_path_factory.mktemp("hub")
    save_samples(samples, folder / "saved")
    return Path(shutil.move(folder / "saved", folder / "moved"))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """Run Python with these arguments in a fresh process, by default outside the repository."""

    def run(*arguments: object, cwd: str | Path = "/", **environment: str) -> CompletedProcess:
        command = [sys.executable, *map(str, arguments)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.run(command, cwd=cwd, env=os.environ | environment, **streams)

    return run
