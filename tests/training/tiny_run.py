# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A run of `run_mlm.py` so small that it takes a second: random words, a vocabulary of 300, a model 32 wide."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import run_mlm
from training_concept.trainer import ConceptTrainer

CONCEPT = {
    "preset": "nano",
    "config_overrides": "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,num_token_layers=1,"
    "local_attention=16",
}
BERT = {
    "model_type": "bert",
    "config_overrides": "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64,"
    "max_position_embeddings=64,hidden_dropout_prob=0,attention_probs_dropout_prob=0",
}
MODELS = {"concept_encoder": CONCEPT, "bert": BERT}


def write_text(path: Path, lines: int, seed: int = 0) -> Path:
    """Write lines of 30 words, drawn from 60 that are the same for every seed."""
    syllables = random.Random(0)
    words = ["".join(syllables.choices("abcdefghijklmnop", k=syllables.randint(2, 5))) for _ in range(60)]
    draw = random.Random(seed)
    path.write_text("".join(" ".join(draw.choices(words, k=30)) + "\n" for _ in range(lines)), encoding="utf-8")
    return path


def settings(folder: Path, model: str = "concept_encoder", **changes: Any) -> dict[str, Any]:
    """Settings of a run with texts in `folder` and output in `folder/out`: 26 training rows, 6 steps an epoch."""
    texts = {"train": folder / "train.txt", "validation": folder / "validation.txt"}
    for seed, (name, path) in enumerate(texts.items()):
        if not path.exists():
            write_text(path, lines={"train": 20, "validation": 8}[name], seed=seed)
    defaults = MODELS[model] | {
        "train_tokenizer_vocab_size": 300,
        "train_file": str(texts["train"]),
        "validation_file": str(texts["validation"]),
        "max_seq_length": 64,
        "packing": "stream",
        "output_dir": str(folder / "out"),
        "do_train": True,
        "do_eval": True,
        "max_steps": 3,
        "per_device_train_batch_size": 5,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return {name: value for name, value in (defaults | changes).items() if value is not None}


def arguments(folder: Path, model: str = "concept_encoder", **changes: Any) -> list[str]:
    """`settings` as command-line arguments; a change to None leaves a setting out."""
    return as_flags(settings(folder, model, **changes))


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line arguments, without those that are None."""
    flags = []
    for name, value in settings.items():
        if value is not None:
            flags += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return flags


def train(folder: Path, model: str = "concept_encoder", **changes: Any) -> dict[str, float]:
    """Run the script in this process and return its metrics."""
    return run_mlm.main(arguments(folder, model, **changes))


def record_batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Fill the list that is returned with the batches that are trained on."""
    batches: list[dict[str, torch.Tensor]] = []
    step = ConceptTrainer.training_step

    def recorded_step(self: ConceptTrainer, model: torch.nn.Module, inputs: dict, *rest: Any) -> torch.Tensor:
        batches.append(inputs)
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(ConceptTrainer, "training_step", recorded_step)
    return batches


def logged(output: Path, name: str = "loss") -> dict[int, float]:
    """What the run in `output` logged under `name`, by step."""
    history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {entry["step"]: entry[name] for entry in history if name in entry}
