# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A saved folder, moved, is all that a fresh process needs: the checks of `load_outside.py`, one test each."""

import json
from pathlib import Path

import pytest

from . import load_outside
from .conftest import RunPython


@pytest.fixture(scope="module")
def report(saved: Path, run_python: RunPython, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The traceback of every check, empty where it passed."""
    folder = tmp_path_factory.mktemp("outside")
    path = folder / "report.json"
    process = run_python("-I", load_outside.__file__, saved, "--report", path, HF_HOME=str(folder / "cache"))
    assert path.is_file(), process.stdout
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("check", load_outside.CHECKS)
def test_moved_checkpoint_loads_without_the_repository(report: dict[str, str], check: str) -> None:
    assert report[check] == ""
