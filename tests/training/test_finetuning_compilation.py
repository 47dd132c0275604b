# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiled fine-tuning: the same answers, graphs that seeds share, and nothing compiled for odd batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from tests.training.tiny_glue import run, tiny_bert, write_checkpoint, write_glue
from tests.training.tiny_trainer import ONE_OF_EACH
from training_concept.finetuning.arguments import FineTuningArguments
from training_concept.finetuning.trainer import FineTuningTrainer

pytestmark = pytest.mark.usefixtures("fresh_compiler")

KINDS = {"concept_encoder": 16, "bert": 2}
REGIONS = {"torch_compile_backend": "eager", "torch_compile_regions": True}
TASK = "sst2"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    write_glue(folder / "glue", [TASK])
    write_checkpoint(folder / "concept_encoder", **ONE_OF_EACH)
    write_checkpoint(folder / "bert", tiny_bert())
    return folder


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows of the batch of every step, and the graphs that were compiled by its end."""
    seen: list[tuple[int, int]] = []
    take_step = FineTuningTrainer.training_step

    def watched(self: FineTuningTrainer, model: Any, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        rows, loss = len(inputs["input_ids"]), take_step(self, model, inputs, *args)
        seen.append((rows, counters["stats"]["unique_graphs"]))
        return loss

    monkeypatch.setattr(FineTuningTrainer, "training_step", watched)
    return seen


def finetune(places: Path, output: Path, model: str = "concept_encoder", **changes: Any) -> np.ndarray:
    """An epoch of 24 rows in batches of 5; answers `[seeds, examples]`."""
    settings = {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 5, "baselines": False}
    run(places / model, output, task_name=[TASK], dataset_name=places / "glue", **settings | changes)
    with np.load(output / "cells" / TASK / "model" / "seed-1" / "logits.npz") as arrays:
        return arrays["validation"]


@pytest.mark.parametrize("model", ["concept_encoder", "bert"])
def test_answers_are_the_same_and_a_smaller_batch_is_not_compiled_for(places, tmp_path, steps, model):
    plain = finetune(places, tmp_path / "plain", model, pad_to_max_length=True, seeds=[1])
    assert [graphs for _, graphs in steps] == [0] * 5
    compiled = finetune(places, tmp_path / "compiled", model, pad_to_max_length=True, seeds=[1], **REGIONS)

    assert steps[5:] == [(rows, KINDS[model]) for rows in (5, 5, 5, 5, 4)]
    np.testing.assert_allclose(compiled, plain, atol=1e-5)


def test_seeds_and_lengths_share_graphs(places, tmp_path, steps):
    """Once for the first length, and once for any other."""
    finetune(places, tmp_path / "out", seeds=[1, 2, 3], **REGIONS)
    counts = [graphs for _, graphs in steps]
    assert counts[0] == KINDS["concept_encoder"]
    assert KINDS["concept_encoder"] < counts[-1] <= 2 * KINDS["concept_encoder"]
    assert counts[10:] == [counts[-1]] * 5


def test_a_launcher_that_compiles_compiles_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "True")
    args = FineTuningArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.torch_compile, args.torch_compile_backend, args.torch_compile_regions) == (True, "inductor", True)


def test_cuda_graphs_need_batches_of_one_shape(places, tmp_path):
    graphs = {"torch_compile_mode": "reduce-overhead", **REGIONS}
    with pytest.raises(ValueError, match=r"reduce-overhead replays one shape.*add --pad_to_max_length"):
        finetune(places, tmp_path / "out", **graphs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_on_cuda_the_answers_are_the_same(places, tmp_path, mode):
    settings = {"use_cpu": False, "pad_to_max_length": True, "seeds": [1]}
    plain = finetune(places, tmp_path / "plain", **settings)
    compiler = {"torch_compile_mode": mode, "torch_compile_regions": True}
    np.testing.assert_allclose(finetune(places, tmp_path / "compiled", **settings, **compiler), plain, atol=1e-3)
