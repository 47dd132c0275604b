# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Every block of Python in README, guides and model cards runs, offline, those of a document one after the other.

Checkpoints that are named there are stood in for by tiny ones; those in `model_cards/` are the real ones. A block that
cannot run has the line `<!-- not run: REASON -->` before it, and is listed here.
"""

import linecache
import re

import pytest

from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder
from tests.docs.markdown import ROOT, blocks, documents, name_of
from tests.evaluation.checkpoints import save_checkpoint, small_model, small_tokenizer, write_texts

PYTHON = {name_of(path): [block for block in blocks(path) if block.kind == "python"] for path in documents()}
PYTHON = {name: found for name, found in PYTHON.items() if found}
# Blocks that cannot run, by document and reason.
NOT_RUN = {
    "SECURITY.md": ["a repository on the Hub"],
    "docs/publishing.md": ["a repository on the Hub"],
    "docs/upgrading.md": ["a repository on the Hub"],
}
# Checkpoints that blocks may name, and what stands there.
STAND_INS = {
    "outputs/nano": ConceptEncoderForMaskedLM,
    "outputs/mini": ConceptEncoderForMaskedLM,
    "outputs/classifier": ConceptEncoderForSequenceClassificationViaDecoder,
}
SHARED = ("docs", "model_cards", "recipes", "README.md", "LICENSE", "benchmarks")
PACKAGES = {"docs/embedding.md": "sentence_transformers", "docs/training_at_scale.md": "peft"}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """A folder like a clone of this repository after `make pretrain`, with checkpoints that take no time."""
    folder = tmp_path_factory.mktemp("clone")
    tokenizer = small_tokenizer()
    body = small_model(tokenizer)
    for name, model_class in STAND_INS.items():
        model = model_class(body.config) if model_class is not type(body) else body
        (folder / name).mkdir(parents=True)
        save_checkpoint(folder / name, model, tokenizer)
    for name in SHARED:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "texts").mkdir()
    for number, text in enumerate(write_texts(4)):
        (folder / "texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def run(name, found):
    """Run blocks in one namespace; an error names document and line."""
    namespace = {"__name__": "__document__"}
    for block in found:
        # Lines are counted as in the document, which tracebacks then quote.
        source = "\n" * block.line + block.code
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), namespace)


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
    not_run = {name: [block.reason for block in found if block.reason] for name, found in PYTHON.items()}
    assert {name: reasons for name, reasons in not_run.items() if reasons} == NOT_RUN
    assert sum(map(len, NOT_RUN.values())) <= 4


def test_an_error_is_found_and_its_line_named(tmp_path, monkeypatch):
    document = tmp_path / "page.md"
    document.write_text("# Page\n\n```python\nx = 1\n```\n\nand\n\n```python\nx.missing\n```\n", encoding="utf-8")
    with pytest.raises(AttributeError) as caught:
        run("page.md", blocks(document))
    assert caught.traceback[-1].lineno + 1 == 10
