# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a saved folder holds, whoever saves it."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

import configuration_concept
import modeling_concept
from configuration_concept import AUTO_MAP, export_code

from .conftest import ROOT
from .samples import Samples

SOURCES = {
    path.name: path.read_bytes()
    for package in ("configuration_concept", "modeling_concept")
    for path in (ROOT / package).glob("*.py")
    if path.name != "__init__.py"
}


def code_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.py")}


def auto_map_in(folder: Path) -> dict[str, str]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["auto_map"]


@pytest.mark.parametrize("name", ["mlm", "classifier"])
def test_code_travels_byte_for_byte(saved: Path, name: str) -> None:
    assert code_in(saved / name) == SOURCES


@pytest.mark.parametrize("name", ["mlm", "classifier"])
def test_every_auto_class_is_named_whichever_head_was_saved(saved: Path, name: str) -> None:
    assert auto_map_in(saved / name) == AUTO_MAP


def test_auto_map_names_existing_classes() -> None:
    modules = {"configuration_concept": configuration_concept, "modeling_concept": modeling_concept}
    for reference in AUTO_MAP.values():
        module, name = reference.split(".")
        assert getattr(modules[module], name).__name__ == name


def test_weights_are_safetensors_and_nothing_else_is_binary(saved: Path) -> None:
    suffixes = {path.suffix for path in (saved / "mlm").iterdir()}
    assert suffixes == {".py", ".json", ".safetensors"}


def test_tied_weights_are_stored_once(saved: Path) -> None:
    with safe_open(saved / "mlm" / "model.safetensors", framework="pt") as weights:
        stored = set(weights.keys())
    assert "model.embed_tokens.weight" in stored
    assert "lm_head.weight" not in stored


def test_export_code_alone_makes_the_folder_and_reports_what_it_wrote(tmp_path: Path) -> None:
    written = export_code(tmp_path / "new" / "folder")
    assert {path.name: path.read_bytes() for path in written} == SOURCES
    assert code_in(tmp_path / "new" / "folder") == SOURCES


def test_saving_replaces_older_code_and_leaves_other_files(samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "modeling_concept.py").write_text("raise RuntimeError('an older version')\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("A card.\n", encoding="utf-8")
    samples.mlm.config.save_pretrained(tmp_path)
    assert code_in(tmp_path) == SOURCES
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "A card.\n"


def test_trainer_checkpoints_are_complete(samples: Samples, tmp_path: Path) -> None:
    inputs = samples.encode()
    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(2)]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    arguments = TrainingArguments(tmp_path, max_steps=1, save_steps=1, use_cpu=True, disable_tqdm=True)
    trainer = Trainer(deepcopy(samples.mlm), arguments, train_dataset=rows, processing_class=samples.tokenizer)
    trainer.train()
    trainer.save_model(tmp_path / "final")
    for folder in (tmp_path / "checkpoint-1", tmp_path / "final"):
        assert code_in(folder) == SOURCES
        assert auto_map_in(folder) == AUTO_MAP


@pytest.mark.parametrize(
    ("auto_class", "expected"),
    [
        (AutoModel, modeling_concept.ConceptEncoder),
        (AutoModelForMaskedLM, modeling_concept.ConceptEncoderForMaskedLM),
        (AutoModelForSequenceClassification, modeling_concept.ConceptEncoderForSequenceClassificationViaDecoder),
    ],
)
def test_registered_classes_need_no_trust_and_win_over_the_code_of_a_checkpoint(
    saved: Path, auto_class: type, expected: type
) -> None:
    modeling_concept.register_auto_classes()
    assert type(auto_class.from_pretrained(saved / "mlm")) is expected
