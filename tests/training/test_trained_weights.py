# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""--trained_weights: fine-tuning changes the weights that are named, and no others."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evaluation_concept.errors import exit_code
from tests.training.test_retrieval import arguments as retrieval_arguments
from tests.training.test_retrieval import start  # noqa: F401 (a fixture)
from tests.training.tiny_glue import run, write_checkpoint, write_glue
from tests.training.tiny_trainer import build
from training_concept import retrieval
from training_concept.build import train_only


def changed(before: Path, after: Path) -> set[str]:
    """Names of the weights that are not the same in both checkpoints."""
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    return {name for name in old.keys() & new.keys() if not torch.equal(old[name], new[name])}


def test_a_classifier_trains_the_weights_that_are_named(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "start")
    settings = {"dataset_name": str(write_glue(tmp_path / "glue", ["sst2"])), "task_name": "sst2"}
    run(checkpoint, tmp_path / "out", **settings, trained_weights="o_proj|classifier")
    names = changed(checkpoint, tmp_path / "out")
    assert names
    assert all("o_proj" in name for name in names)


def test_another_choice_is_another_run(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "start")
    settings = {"dataset_name": str(write_glue(tmp_path / "glue", ["sst2"])), "task_name": "sst2", "max_steps": 1}
    run(checkpoint, tmp_path / "out", **settings, trained_weights="o_proj|classifier")
    with pytest.raises(ValueError, match=r"trained_weights is 'o_proj.classifier' there and 'classifier' here"):
        run(checkpoint, tmp_path / "out", **settings, trained_weights="classifier")


def test_an_encoder_trains_the_weights_that_are_named(tmp_path, start):  # noqa: F811
    retrieval.main(retrieval_arguments(start, tmp_path, trained_weights="o_proj"))
    names = changed(start, tmp_path / "out")
    assert names
    assert all("o_proj" in name for name in names)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| Trained weights | `o_proj` |" in card


@pytest.mark.parametrize(
    ("pattern", "words"), [("(", "is no regular expression"), ("attnetion", "finds none of the weights")]
)
def test_what_names_nothing_is_refused(pattern, words):
    with pytest.raises(ValueError, match=words):
        train_only(build(), pattern)


def test_without_a_choice_all_weights_are_trained():
    model = build()
    train_only(model, None)
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_script_refuses_in_one_line(tmp_path, start, capsys):  # noqa: F811
    assert exit_code(retrieval.main, retrieval_arguments(start, tmp_path, trained_weights="nothing")) == 2
    assert "--trained_weights nothing finds none of the weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
