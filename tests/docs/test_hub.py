# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Blocks of Python marked `<!-- not run: a repository on the Hub -->`, in any document, run against a Hub that is local.

There the repositories that they name are published: checkpoints of this repository where the names are those of
`model_cards/`, else tiny ones. Placeholders for the hash of a commit get that of the published one. Where a document
pins that, its owner has since replaced the code on `main` by some that must not run.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import NEEDS_HUB, ROOT, Block, blocks, documents, name_of
from tests.hub.fake_hub import LFS_SUFFIXES, FakeHub, Repository, StoredFile

MARKED = {
    name_of(path): found
    for path in documents()
    if (found := [block for block in blocks(path) if (block.kind, block.reason) == ("python", NEEDS_HUB)])
}
REPO_ID = re.compile(r"[\"']([\w-]+/[\w.-]+)[\"']")
TAG = re.compile(r"[\"'](v\d[\w.]*)[\"']")
# What stands for the hash of a commit.
COMMIT = re.compile(r"(?<=[\"'])(?:<commit hash>|COMMIT|[0-9a-f]{40})(?=[\"'])")
UNREAD = b"raise RuntimeError('the code of main has run, not that of the commit')\n"


def checkpoint(repo_id: str, code: str, layout: Path) -> Path:
    """What is published under a name: a checkpoint of `model_cards/`, or a tiny one that fits the code."""
    if (released := ROOT / "model_cards" / repo_id.partition("/")[2]).is_dir():
        return released
    classifies = re.search(r"SequenceClassification|text-classification", code)
    return layout / ("outputs/classifier" if classifies else "outputs/nano")


def publish(hub: FakeHub, repo_id: str, folder: Path, users: list[Block]) -> str:
    """Publish a folder, with the tags that its users name, and return the hash of its commit."""
    files = {
        path.name: StoredFile(path.read_bytes(), path.name.endswith(LFS_SUFFIXES))
        for path in folder.iterdir()
        if path.is_file()
    }
    hub.uploads |= {file.sha256: file.content for file in files.values() if file.lfs}
    repository = hub.repositories[repo_id] = Repository()
    commit = repository.commit("main", "published", files)
    repository.tags = {tag: commit for block in users for tag in TAG.findall(block.code)}
    if all(COMMIT.search(block.code) for block in users):
        unread = {name: StoredFile(UNREAD, False) for name in files if name.endswith(".py")}
        repository.commit("main", "changed", files | unread)
    return commit


def prepare(hub: FakeHub, pages: dict[str, list[Block]], layout: Path) -> dict[str, list[Block]]:
    """Publish the repositories that are named, and return the pages with the hashes put in."""
    users: dict[str, list[Block]] = {}
    for block in (block for found in pages.values() for block in found):
        for repo_id in set(REPO_ID.findall(block.code)):
            users.setdefault(repo_id, []).append(block)
    commits = {
        publish(hub, repo_id, checkpoint(repo_id, "".join(block.code for block in named), layout), named)
        for repo_id, named in users.items()
    }
    assert len(commits) == 1  # this Hub hashes what came before and the message, which are the same for all
    return {
        name: [block._replace(code=COMMIT.sub(*commits, block.code)) for block in found]
        for name, found in pages.items()
    }


def run_on_hub(pages: dict[str, list[Block]], layout: Path, folder: Path) -> dict[str, tuple[str | None, list[str]]]:
    """The traceback of each page, if any, and where its encoders' code is from: all run in a process of their own."""
    with FakeHub() as hub:
        listed = prepare(hub, pages, layout)
        (folder / "blocks.json").write_text(json.dumps(listed), encoding="utf-8")
        (folder / "empty").mkdir()
        command = [sys.executable, "-m", "tests.docs.running", folder / "blocks.json", folder / "report.json"]
        environment = os.environ | hub.environment(folder / "cache", token="") | {"PYTHONPATH": str(ROOT)}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        ended = subprocess.run(command, cwd=folder / "empty", env=environment, **streams)
    assert ended.returncode == 0, ended.stdout
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


PAGES = {
    "moved.md": 'load("user/moved", revision="COMMIT", code_revision="main")',
    "pinned.md": 'model = load("user/pinned", revision="COMMIT")',
    "wrong.md": 'load("user/wrong", revision="v2").no_such_method()',
}
LOAD = "from functools import partial\nfrom transformers import AutoModel\n"
LOAD += "load = partial(AutoModel.from_pretrained, trust_remote_code=True)\n"


@pytest.fixture(scope="module")
def report(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, list[str]]]:
    """The report of all documents, and of the pages above."""
    pages = {name: [Block(0, "python", f"{LOAD}{code}\n", NEEDS_HUB)] for name, code in PAGES.items()}
    return run_on_hub(MARKED | pages, layout, tmp_path_factory.mktemp("hub"))


@pytest.mark.parametrize("name", MARKED)
def test_a_block_runs_with_the_code_of_the_repository(name, report):
    failure, modules = report[name]
    assert not failure, failure
    assert modules, f"{name} loads no concept encoder"
    assert all(module.startswith("transformers_modules.") for module in modules)


def test_what_goes_wrong_is_found(report):
    assert "the code of main has run" in report["moved.md"][0]
    assert "no_such_method" in report["wrong.md"][0]
    assert report["pinned.md"][0] is None


def test_every_marked_block_names_a_repository():
    assert {"SECURITY.md", "docs/publishing.md", "docs/upgrading.md"} <= MARKED.keys()
    for name, found in MARKED.items():
        assert all(REPO_ID.search(block.code) for block in found), name
