# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Models on a Hub that refuses, stumbles or is slow: what can be had is had, what cannot is an error of one line."""

import json
import re
from pathlib import Path

import pytest

from .conftest import RunPython
from .fake_hub import Account, FakeHub, Fault, Repository, StoredFile

# Every attempt in the same process, since what these cost is the import.
LOAD = """
import json, sys
from transformers import AutoModelForMaskedLM
for attempt in json.loads(sys.argv[1]):
    try:
        model = AutoModelForMaskedLM.from_pretrained(trust_remote_code=True, **attempt)
        print("LOADED", model.num_parameters())
    except Exception as error:
        print("REFUSED", type(error).__name__, " ".join(str(error).split()))
"""


@pytest.fixture
def repository(hub: FakeHub, saved: Path) -> Repository:
    hub.repositories["someone/mlm"] = repository = Repository()
    files = {
        path.name: StoredFile(path.read_bytes(), path.suffix == ".safetensors") for path in (saved / "mlm").iterdir()
    }
    hub.uploads |= {file.sha256: file.content for file in files.values() if file.lfs}
    repository.commit("main", "A model", files)
    return repository


def load(run_python: RunPython, hub: FakeHub, cache: Path, *attempts: dict, token: str = "") -> list[str]:
    code = (
        "-I",
        "-c",
        LOAD,
        json.dumps([{"pretrained_model_name_or_path": "someone/mlm"} | each for each in attempts]),
    )
    ended = run_python(*code, **hub.environment(cache, token))
    return [line for line in ended.stdout.splitlines() if re.match("LOADED|REFUSED", line)]


def test_who_may_not_read_is_told_why(hub, repository, run_python, tmp_path):
    hub.accounts["hf_reader"] = Account("reader", writes=False)
    hub.repositories["someone/private"] = Repository(True, commits=repository.commits, branches=repository.branches)
    hub.repositories["someone/gated"] = Repository(
        gated=True, commits=repository.commits, branches=repository.branches
    )
    names = ("someone/private", "someone/gated", "someone/nothing")
    attempts = [{"pretrained_model_name_or_path": name} for name in names]
    attempts += [
        {"revision": "v9"},
        {"code_revision": "v9"},
        {"pretrained_model_name_or_path": names[0], "token": hub.token},
    ]
    private, gated, nothing, revision, code_revision, mine = load(
        run_python, hub, tmp_path, *attempts, token="hf_reader"
    )
    assert "is not a local folder and is not a valid model identifier" in private
    assert "gated repo" in gated
    assert "is not a valid model identifier" in nothing
    assert "v9 is not a valid git identifier" in revision
    assert "v9 is not a valid git identifier" in code_revision
    assert mine.startswith("LOADED")


@pytest.mark.slow
def test_what_breaks_is_an_error_and_the_next_attempt_loads(hub, repository, run_python, tmp_path):
    """Clients wait for slow answers and connect anew, but take an error of the server for its last word."""
    hub.inject(
        Fault("GET /someone/mlm/resolve/.*/modeling_concept.py", status=500),
        Fault("GET /lfs/", status=503),
        Fault("GET /lfs/", cut_after=0),
        Fault("GET /lfs/", delay=1),
    )
    *refused, loaded = load(run_python, hub, tmp_path, {}, {}, {})
    assert [line.split(" There was")[0] for line in refused] == ["REFUSED OSError"] * 2
    assert loaded.startswith("LOADED")
    assert not any(fault.times for fault in hub.faults)
