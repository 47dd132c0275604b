# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Pushing to a Hub, loading by repository name in a fresh process, and once more from its cache, offline."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import load_outside
from .conftest import ROOT, RunPython
from .fake_hub import FakeHub
from .test_save import SOURCES


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub: FakeHub, run_python: RunPython, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the samples that were pushed."""
    folder = tmp_path_factory.mktemp("push")
    arguments = ("-m", "tests.hub.samples", folder / "saved", "--push", hub.user)
    process = run_python(*arguments, cwd=ROOT, **hub.environment(folder / "cache"))
    assert process.returncode == 0, process.stdout
    assert hub.token not in process.stdout
    return folder / "saved"


@pytest.mark.parametrize("name", ["mlm", "classifier"])
def test_pushed_repository_holds_what_a_saved_folder_holds(hub: FakeHub, pushed: Path, name: str) -> None:
    files = hub.files(f"{hub.user}/{name}")
    assert {path: content for path, content in files.items() if path.endswith(".py")} == SOURCES
    local = {path.name: path.read_bytes() for path in (pushed / name).iterdir()}
    assert {path: content for path, content in files.items() if path in local} == local


def test_pushed_models_load_by_name_and_then_offline_from_the_cache(
    hub: FakeHub, pushed: Path, run_python: RunPython, tmp_path: Path
) -> None:
    script = ("-I", load_outside.__file__, pushed, "--user", hub.user)
    environment = hub.environment(tmp_path / "cache")
    online = run_python(*script, **environment)
    assert online.returncode == 0, online.stdout
    served = len(hub.requests)
    chosen = ("check_base_model", "check_masked_lm", "check_classifier", "check_tokenizer", "check_fill_mask")
    offline = run_python(*script, "--checks", *chosen, **environment | {"HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 0, offline.stdout
    assert len(hub.requests) == served
