# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder like a clone of this repository, for the code of documents to run in."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder
from tests.docs.markdown import ROOT
from tests.evaluation.checkpoints import save_checkpoint, small_model, small_tokenizer, write_texts

# Checkpoints that code may name, and what stands there.
STAND_INS = {
    "outputs/nano": ConceptEncoderForMaskedLM,
    "outputs/mini": ConceptEncoderForMaskedLM,
    "outputs/classifier": ConceptEncoderForSequenceClassificationViaDecoder,
}
SHARED = ("docs", "model_cards", "recipes", "README.md", "LICENSE", "benchmarks")


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone is after `make pretrain`, with checkpoints that take no time."""
    folder = tmp_path_factory.mktemp("clone")
    save_stand_ins(folder, STAND_INS)
    for name in SHARED:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "texts").mkdir()
    for number, text in enumerate(write_texts(4)):
        (folder / "texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def save_stand_ins(folder: Path, names: Iterable[str]) -> None:
    """Save those of `STAND_INS` that are named, in `folder`."""
    tokenizer = small_tokenizer()
    body = small_model(tokenizer)
    for name in names:
        model_class = STAND_INS[name]
        model = model_class(body.config) if model_class is not type(body) else body
        (folder / name).mkdir(parents=True)
        save_checkpoint(folder / name, model, tokenizer)
