# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with an upload: files here stay as they are, the repository is whole, the next attempt ends it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, Popen

import pytest

from .conftest import ROOT
from .fake_hub import PIECE, Account, FakeHub, Fault

Start = Callable[..., Popen]
Commit = Callable[..., CompletedProcess]
FILES = {"model-1.safetensors": 40_000, "model-2.safetensors": 50_000, "config.json": 300, "README.md": 20}
REPO = "someone/model"


def write_files(folder: Path, content: str = "x", names: dict[str, int] = FILES) -> Path:
    """A folder as large as a tiny checkpoint; different `content` makes different files."""
    folder.mkdir()
    for name, size in names.items():
        (folder / name).write_bytes((name + content).encode() * (size // len(name + content)))
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def start(hub: FakeHub, tmp_path: Path) -> Start:
    """Begin to commit a folder in another process."""

    def start(folder: Path, *rest: str, token: str | None = None, repo_id: str = REPO) -> Popen:
        command = [sys.executable, "-m", "tests.hub.commit_files", str(folder), repo_id, *rest]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return Popen(command, cwd=ROOT, env=os.environ | hub.environment(tmp_path / "cache", token), **streams)

    return start


@pytest.fixture
def commit(start: Start) -> Commit:
    """Commit a folder in another process and wait for its end."""

    def commit(*arguments: object, **options: str) -> CompletedProcess:
        process = start(*arguments, **options)
        output, errors = process.communicate(timeout=120)
        return CompletedProcess(process.args, process.returncode, output, errors)

    return commit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "checkpoint")


PASSING = {
    "overloaded": [Fault("PUT /lfs/", status=503), Fault("POST .*/preupload/", status=500)],
    "cut in mid-file": [Fault("PUT /lfs/", cut_after=10_000)],
    "slow": [Fault("PUT /lfs/", delay=1.5), Fault("POST .*/commit/", delay=1.5)],
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_waited_for(hub, commit, folder, name):
    hub.inject(*PASSING[name])
    ended = commit(folder)
    assert ended.returncode == 0, ended.stderr
    assert hub.files(REPO) == read(folder)
    assert len(hub.repositories[REPO].commits) == 2


@pytest.mark.parametrize(
    "place",
    ["GET /api/whoami", "POST /api/repos/create", "GET /api/models/", "POST .*/commit/", "POST .*/tag/"],
)
def test_a_hub_that_never_answers_is_given_up(hub, commit, folder, place):
    hub.inject(Fault(place, times=99, delay=300))
    begin = time.monotonic()
    ended = commit(folder, "v1", "", "1")
    assert time.monotonic() - begin < 60
    assert ended.returncode == 2
    assert "someone/model: the Hub at http://127.0.0.1" in ended.stderr.splitlines()[-1]
    assert "does not answer as it should" in ended.stderr.splitlines()[-1]


def test_a_slow_upload_that_goes_on_is_not_given_up(hub, commit, folder):
    (folder / "model-1.safetensors").write_bytes(os.urandom(40 * PIECE))
    hub.inject(Fault("PUT /lfs/", pause=0.2, times=2))
    begin = time.monotonic()
    ended = commit(folder, "", "", "3")
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - begin > 8
    assert hub.count("PUT /lfs/") == 2
    assert hub.files(REPO) == read(folder)


def test_a_hub_that_has_had_enough_is_waited_for(hub, commit, folder):
    hub.inject(Fault("GET /api/whoami", status=429), Fault("POST .*/commit/", status=429, retry_after=2, times=2))
    begin = time.monotonic()
    ended = commit(folder)
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - begin > 4
    assert hub.files(REPO) == read(folder)


@pytest.mark.parametrize(("seconds", "waits"), [(1, 3), (100_000, 0)])
def test_but_not_for_ever(hub, commit, folder, seconds, waits):
    refused = Fault("POST .*/commit/", status=429, retry_after=seconds, times=99)
    hub.inject(refused)
    ended = commit(folder)
    assert ended.returncode == 2
    assert "there were too many requests of late; wait some minutes" in ended.stderr.splitlines()[-1]
    assert refused.times == 98 - waits
    assert hub.files(REPO) == {}


# And whether the commit is made.
BREAKING = {
    "error at the commit": (Fault("POST .*/commit/", status=500), False),
    "server dies at the commit": (Fault("POST .*/commit/", cut_after=100, dies=True), False),
    "answer to the commit is lost": (Fault("POST .*/commit/", loses_answer=True), True),
    "server dies after the commit": (Fault("POST .*/commit/", dies=True), True),
    "server dies before the tag": (Fault("POST .*/tag/", cut_after=0, dies=True), True),
    "answer to large files is refused": (Fault("PUT /lfs/", status=400, times=2), False),
}


@pytest.mark.parametrize("name", BREAKING)
def test_what_breaks_an_upload_loses_nothing_and_it_goes_on_where_it_stopped(hub, commit, folder, tmp_path, name):
    earlier, before = read(write_files(tmp_path / "earlier", "earlier")), read(folder)
    assert commit(tmp_path / "earlier", "v0").returncode == 0
    fault, is_made = BREAKING[name]
    hub.inject(fault)
    broken = commit(folder, "v1")
    assert broken.returncode == 2
    assert broken.stderr.splitlines()[-1].startswith("commit_files.py: error: someone/model: the Hub")
    assert read(folder) == before
    repository = hub.repositories[REPO]
    assert hub.files(REPO) == (before if is_made else earlier)
    assert len(repository.commits) == 2 + is_made
    assert repository.tags.keys() == {"v0"}
    if hub.is_down:
        hub.restart()
    there = len(hub.uploads) - 2
    sent = hub.count("PUT /lfs/")
    again = commit(folder, "v1")
    assert again.returncode == 0, again.stderr
    assert hub.files(REPO, "v1") == hub.files(REPO) == before
    assert hub.files(REPO, "v0") == earlier
    assert hub.count("PUT /lfs/") - sent == 2 - there
    assert len(repository.commits) == 3


@pytest.mark.slow
def test_a_server_that_dies_in_mid_file_leaves_the_files_before_it(hub, commit, folder):
    """The client asks for half a minute before it gives up."""
    hub.inject(Fault("PUT /lfs/"), Fault("PUT /lfs/", cut_after=10_000, dies=True))
    broken = commit(folder)
    assert broken.returncode == 2
    assert "does not answer" in broken.stderr.splitlines()[-1]
    hub.restart()
    there = len(hub.uploads)
    sent = hub.count("PUT /lfs/")
    assert commit(folder).returncode == 0
    assert hub.count("PUT /lfs/") - sent == 2 - there
    assert hub.files(REPO) == read(folder)


def test_a_token_that_is_revoked_in_mid_upload_is_named_and_not_shown(hub, commit, folder):
    hub.inject(Fault("POST .*/commit/", revokes=True))
    broken = commit(folder)
    assert broken.returncode == 2
    assert "does not accept your access token" in broken.stderr
    assert "hf auth login" in broken.stderr
    assert hub.token not in broken.stdout + broken.stderr
    assert hub.files(REPO) == {}
    hub.accounts["hf_new"] = Account(hub.user)
    assert commit(folder, token="hf_new").returncode == 0
    assert hub.count("PUT /lfs/") == 2
    assert hub.files(REPO) == read(folder)


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        ("", REPO, "there is no access token: run `hf auth login` or set HF_TOKEN"),
        ("hf_wrong", REPO, "does not accept your access token"),
        ("hf_reader", REPO, "has to be one that writes"),
        ("hf_fake", "another/model", "the namespace one of yours"),
    ],
)
def test_who_may_not_write_is_told_so(hub, commit, folder, token, repo_id, message):
    hub.accounts["hf_reader"] = Account(hub.user, writes=False)
    refused = commit(folder, token=token, repo_id=repo_id)
    assert refused.returncode == 2
    assert message in refused.stderr.splitlines()[-1]
    assert not token or token not in refused.stderr
    assert not hub.repositories


def test_of_two_uploads_at_once_each_commit_is_whole(hub, start, commit, tmp_path):
    first = write_files(tmp_path / "first", "a")
    second = write_files(tmp_path / "second", "b", {"model.safetensors": 30_000, "config.json": 300})
    assert commit(first).returncode == 0
    (first / "config.json").write_text("{}")
    slow = Fault("POST .*/commit/", delay=4)
    hub.inject(slow)
    waiting = start(first)
    deadline = time.monotonic() + 60
    while slow.times and time.monotonic() < deadline:
        time.sleep(0.02)
    assert commit(second).returncode == 0
    # The one that came late was made for a repository that is no more: it has to be made anew.
    output, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, errors
    repository = hub.repositories[REPO]
    _, _, then, last = repository.commits.values()
    assert {name: file.content for name, file in then.items()} == {"README.md": read(first)["README.md"]} | read(
        second
    )
    assert {name: file.content for name, file in last.items()} == read(first)
    assert repository.branches["main"] == output.split()[0]


def test_of_two_that_make_the_same_repository_and_version_at_once_both_succeed(hub, start, folder):
    hub.inject(*(Fault(place, delay=1.5, times=2) for place in ("POST /api/repos/create", "POST .*/tag/")))
    ended = [process.communicate(timeout=60) for process in (start(folder, "v1"), start(folder, "v1"))]
    repository = hub.repositories[REPO]
    assert [output.split()[:1] for output, _ in ended] == [[repository.tags["v1"]]] * 2, ended
    assert hub.count("POST /api/repos/create") == hub.count("POST .*/tag/") == len(ended)
    assert len(repository.commits) == 2
    assert hub.files(REPO, "v1") == read(folder)


def test_of_two_that_give_one_version_to_different_files_the_first_has_it(hub, start, folder, tmp_path):
    other = write_files(tmp_path / "other", "other")
    hub.inject(Fault("POST .*/tag/", delay=2, times=2))
    processes = start(folder, "v1"), start(other, "v1")
    errors = [process.communicate(timeout=60)[1].strip().splitlines() for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], errors
    assert "someone/model has another version v1, which stays" in errors[codes.index(2)][-1]
    assert hub.files(REPO, "v1") == read((folder, other)[codes.index(0)])


def test_the_weights_of_an_earlier_model_do_not_stay(hub, commit, folder, tmp_path):
    assert commit(folder).returncode == 0
    smaller = write_files(tmp_path / "smaller", "b", {"model.safetensors": 30_000, "config.json": 300})
    assert commit(smaller).returncode == 0
    assert set(hub.files(REPO)) == {"model.safetensors", "config.json", "README.md"}


def test_what_is_there_already_makes_no_commit(hub, commit, folder):
    first, second = commit(folder), commit(folder)
    assert (first.stdout.split()[1], second.stdout.split()[1]) == ("True", "False")
    assert first.stdout.split()[0] == second.stdout.split()[0]
    assert len(hub.repositories[REPO].commits) == 2


def test_a_version_is_neither_repeated_nor_moved(hub, commit, folder):
    assert commit(folder, "v1").returncode == 0
    again = commit(folder, "v1")
    assert again.stdout.split() == [hub.repositories[REPO].tags["v1"], "False"]
    for name in ("config.json", "model-1.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b"x")
        other = commit(folder, "v1")
        (folder / name).write_bytes(content)
        assert other.returncode == 2
        assert "someone/model has another version v1" in other.stderr
    assert len(hub.repositories[REPO].commits) == 2


def test_a_version_of_more_files_is_another_one(hub, commit, folder):
    """What a commit would have removed counts, and what it leaves alone does not."""
    assert commit(folder).returncode == 0
    repository = hub.repositories[REPO]
    files = repository.commits[repository.branches["main"]]
    small = files["config.json"]
    more = {"v1": ".gitattributes", "v2": "onnx/model.onnx", "v3": "LICENSE", "v4": "adapter_config.json"}
    for tag, name in more.items():
        repository.tags[tag] = repository.commit("other", tag, files | {name: small})
        again = commit(folder, tag)
        assert again.returncode == (2 if tag == "v4" else 0), tag
    assert "someone/model has another version v4" in again.stderr


def test_a_branch_is_made_and_main_left_alone(hub, commit, folder):
    assert commit(folder, "v1", "next").returncode == 0
    assert hub.files(REPO, "next") == hub.files(REPO, "v1") == read(folder)
    assert hub.files(REPO) == {}
