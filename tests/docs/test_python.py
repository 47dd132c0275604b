# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Every block of Python in README, guides and model cards runs, offline, those of a document one after the other.

Checkpoints that are named there are stood in for by tiny ones; those in `model_cards/` are the real ones. A block that
cannot run here has the line `<!-- not run: REASON -->` before it, and is listed here; where the reason is
`a repository on the Hub`, `test_hub.py` runs it.
"""

import re

import pytest

from tests.docs.conftest import STAND_INS
from tests.docs.markdown import NEEDS_HUB, blocks, documents, name_of
from tests.docs.running import run

PYTHON = {name_of(path): [block for block in blocks(path) if block.kind == "python"] for path in documents()}
PYTHON = {name: found for name, found in PYTHON.items() if found}
# Blocks that cannot run, by document and reason.
NOT_RUN: dict[str, list[str]] = {}
PACKAGES = {"docs/embedding.md": "sentence_transformers", "docs/training_at_scale.md": "peft"}


@pytest.mark.parametrize("name", PYTHON)
def test_the_code_of_a_document_runs(name, layout, monkeypatch):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    monkeypatch.chdir(layout)
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "n")
    run(name, [block for block in PYTHON[name] if block.reason is None])
    assert not asked, f"{name} leaves out what keeps transformers from asking at the terminal: {asked[0]}"


@pytest.mark.parametrize("name", PYTHON)
def test_every_block_can_be_read(name):
    """Those too that cannot run."""
    for block in PYTHON[name]:
        compile(block.code, f"{name}:{block.line}", "exec")


@pytest.mark.parametrize("name", PYTHON)
def test_checkpoints_that_are_named_have_a_stand_in(name):
    written = r"(?<!save_pretrained\()[\"'](outputs/[\w/-]+)[\"']"
    named = {path for block in PYTHON[name] for path in re.findall(written, block.code)}
    assert named <= STAND_INS.keys()


def test_few_blocks_are_not_run_and_all_are_known():
    not_run = {
        name: [block.reason for block in found if block.reason not in (None, NEEDS_HUB)]
        for name, found in PYTHON.items()
    }
    assert {name: reasons for name, reasons in not_run.items() if reasons} == NOT_RUN
    assert sum(map(len, NOT_RUN.values())) <= 2


def test_an_error_is_found_and_its_line_named(tmp_path, monkeypatch):
    document = tmp_path / "page.md"
    document.write_text("# Page\n\n```python\nx = 1\n```\n\nand\n\n```python\nx.missing\n```\n", encoding="utf-8")
    with pytest.raises(AttributeError) as caught:
        run("page.md", blocks(document))
    assert caught.traceback[-1].lineno + 1 == 10


SHAPES = ["x  # [2, 3]", "x  # [rows, 3]: of numbers", "y = x[0]  # [3], a row", "x  # [0.5, 3]", "# [1, 1, 1]"]


@pytest.mark.parametrize("line", SHAPES)
def test_a_shape_that_is_stated_and_right_passes(line, tmp_path):
    run_page(tmp_path, line)


@pytest.mark.parametrize("line", ["x  # [2, 2]", "x  # [rows]", "y = x  # [1, rows, 3]", "len(\n    x\n)  # [2]"])
def test_a_shape_that_is_stated_and_wrong_is_found(line, tmp_path):
    with pytest.raises(AssertionError, match=r"the document says \["):
        run_page(tmp_path, line)


def run_page(folder, line):
    """Run a document with an array of 2 rows and 3 columns, and this line."""
    document = folder / "page.md"
    document.write_text(f"```python\nimport numpy as np\nx = np.ones((2, 3))\n{line}\n```\n", encoding="utf-8")
    run("page.md", blocks(document))
