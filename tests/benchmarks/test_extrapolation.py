# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Windows are whole and in order, and losses by position are those of the model."""

import numpy as np
import pytest
import torch

from benchmarks import extrapolation
from benchmarks.results import read_results
from modeling_concept import ConceptEncoderForMaskedLM, register_auto_classes
from tests.modeling.tiny import tiny_config
from training_concept.tokenization import train_tokenizer

TEXT = "red green blue river stone " * 60


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    register_auto_classes()
    torch.manual_seed(0)
    return ConceptEncoderForMaskedLM(tiny_config(vocab_size=len(tokenizer))).eval()


def test_windows_are_full_and_in_order(tokenizer):
    windows = extrapolation.full_windows(np.arange(10, 35), 12, tokenizer)
    assert [window[1:-1].tolist() for window in windows] == [list(range(10, 20)), list(range(20, 30))]
    assert {(int(window[0]), int(window[-1])) for window in windows} == {(2, 3)}


def test_losses_by_position_average_to_the_loss_of_the_model(model, tokenizer):
    windows = extrapolation.full_windows(np.arange(10, 110), 27, tokenizer)
    positions, losses = extrapolation.loss_by_position(model, windows, tokenizer, tokens=60)
    collator = extrapolation.MaskingCollator(tokenizer, mlm_probability=0.3, vocab_size=model.config.vocab_size)
    batch = collator([{"input_ids": window, "epoch": 0} for window in windows])
    assert losses.mean() == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    assert sorted(positions) == sorted(batch["masked_positions"].flatten().tolist())


def test_a_recipe_is_measured(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "train.txt").write_text("\n".join([TEXT] * 3), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"sources:\n  words:\n    data_files: {{train: {tmp_path}/train.txt, validation: {tmp_path}/train.txt}}\n",
        encoding="utf-8",
    )
    named = ["--model", str(tmp_path / "model"), "--recipe", str(recipe), "--trained_at", "16"]
    extrapolation.main([*named, "--lengths", "16", "64"], tmp_path / "results.json")
    rows = read_results(tmp_path / "results.json").tables["extrapolation"].rows
    assert [row[0] for row in rows] == [16, 64]
    assert rows[0][-1] == ""
    with pytest.raises(ValueError, match="has 100000 tokens"):
        extrapolation.main([*named, "--lengths", "100000"], tmp_path / "results.json")
    others = ["trained", "theta:10000", "yarn:4", "linear:1"]
    extrapolation.main([*named, "--lengths", "64", "--rotations", *others], tmp_path / "results.json")
    tables = read_results(tmp_path / "results.json").tables
    assert tables["extrapolation"].rows == rows
    losses = {row[0]: row[3] for row in tables["rotations"].rows}
    # The base is that of the tiny model, and positions are divided by one.
    assert losses["trained"] == losses["theta 10000"] == losses["linear 1"] == rows[1][2]
    assert losses["yarn 4"] != losses["trained"]
    with pytest.raises(ValueError, match="rope_type='some'"):
        extrapolation.main([*named, "--lengths", "64", "--rotations", "some:2"], tmp_path / "results.json")
