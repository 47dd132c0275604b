# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
From an empty folder and back: pretrain, push, load elsewhere, fine-tune from the repository, push, load again.

Every step is a process of its own with another cache, isolated (`python -I`): its working folder is empty, and neither
that nor the folder of the script is searched for modules, so that the packages are those that pip has installed.
"""

import json
import random
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoConfig, pipeline

from configuration_concept import ConceptEncoderConfig
from modeling_concept import register_auto_classes
from tests.training import tiny_glue, tiny_run

from .conftest import ROOT, RunPython
from .fake_hub import FakeHub

TEXT = "a little [MASK] to learn from"
STEPS, LEARNING_RATE = 2, 1e-3
# What a stranger runs, who has nothing but transformers and what the Hub has.
LOAD = """
import json, sys
from importlib.abc import MetaPathFinder

class NoRepository(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("configuration_concept", "modeling_concept", "training_concept", "evaluation_concept"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoRepository())
from safetensors.torch import save_file
from transformers import pipeline
task, name, text, logits = sys.argv[1:]
pipe = pipeline(task, model=name, trust_remote_code=True)
module = type(pipe.model).__module__
assert module.startswith("transformers_modules.someone."), module
save_file({"logits": pipe.model(**pipe.tokenizer(text, return_tensors="pt")).logits.detach()}, logits)
print(json.dumps(pipe(text)))
"""


class Machines:
    """Fresh processes, each in a new and empty working folder, with a cache of its own and `hub` as their Hub."""

    def __init__(self, hub: FakeHub, run_python: RunPython, folder: Path) -> None:
        self.hub, self.run_python, self.folder = hub, run_python, folder

    def run(self, name: str, *arguments: object, leaves: list[str]) -> str:
        """Run isolated Python on the machine of this name; return what it printed. It leaves only these behind."""
        working = self.folder / name
        working.mkdir()
        environment = self.hub.environment(self.folder / f"{name}-cache")
        ended = self.run_python("-I", *arguments, cwd=working, **environment)
        assert ended.returncode == 0, ended.stdout
        assert self.hub.token not in ended.stdout
        assert sorted(path.name for path in working.iterdir()) == leaves
        return ended.stdout

    def load(self, name: str, task: str, repo_id: str) -> tuple[torch.Tensor, list[dict]]:
        """The logits and the answers to `TEXT` of a repository's model, by the repository's code."""
        logits = self.folder / f"{name}.safetensors"
        printed = self.run(name, "-c", LOAD, task, repo_id, TEXT, logits, leaves=[])
        return load_file(logits)["logits"], json.loads(printed.splitlines()[-1])


def load_here(task: str, folder: Path) -> tuple[torch.Tensor, list[dict]]:
    """The same of a folder, by the code that is tested."""
    pipe = pipeline(task, model=str(folder))
    assert type(pipe.model).__module__.startswith("modeling_concept.")
    return pipe.model(**pipe.tokenizer(TEXT, return_tensors="pt")).logits.detach(), pipe(TEXT)


def assert_same(found: tuple[torch.Tensor, list[dict]], expected: tuple[torch.Tensor, list[dict]]) -> None:
    """Bit by bit, and not because all is zero."""
    assert expected[0].std() > 1e-3
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


def assert_is_nano(folder: Path) -> None:
    """The configuration has the sizes of the preset, whatever the vocabulary."""
    config = AutoConfig.from_pretrained(folder)
    preset = ConceptEncoderConfig.from_preset("nano")
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_decoder_layers", "token_hidden_size")
    assert [getattr(config, name) for name in sizes] == [getattr(preset, name) for name in sizes]


def write_examples(path: Path, number: int, seed: int) -> str:
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for row in range(number):
            text = " ".join(draw.choices(tiny_glue.WORDS, k=8))
            file.write(json.dumps({"text": text, "label": ("no", "yes")[row % 2]}) + "\n")
    return str(path)


def farthest_move(folder: Path, start: Path) -> float:
    """By how much the weight that differs most between two checkpoints does, of those that both have."""
    weights, first = load_file(folder / "model.safetensors"), load_file(start / "model.safetensors")
    shared = weights.keys() & first.keys()
    assert len(shared) > 0.9 * len(first)
    return max((weights[name] - first[name]).abs().max().item() for name in shared)


@pytest.fixture
def machines(hub: FakeHub, run_python: RunPython, tmp_path: Path) -> Machines:
    return Machines(hub, run_python, tmp_path)


def test_from_an_empty_folder_to_a_fine_tuned_model_on_the_hub(hub: FakeHub, machines: Machines, tmp_path: Path):
    register_auto_classes()
    common = {"push_to_hub": True, "max_steps": STEPS, "learning_rate": LEARNING_RATE}
    # Of another seed than fine-tuning, which could otherwise begin with the same random weights.
    nano = {
        "preset": "nano",
        "config_overrides": None,
        "seed": 7,
        "output_dir": "nano",
        "hub_model_id": "someone/nano",
    }
    arguments = tiny_run.arguments(tmp_path, **common | nano)
    machines.run("first", ROOT / "run_mlm.py", *arguments, leaves=["nano"])
    pretrained = tmp_path / "first" / "nano"
    assert_is_nano(pretrained)
    assert_same(machines.load("second", "fill-mask", "someone/nano"), load_here("fill-mask", pretrained))

    data = {
        "train_file": write_examples(tmp_path / "train.jsonl", 24, seed=0),
        "validation_file": write_examples(tmp_path / "dev.jsonl", 10, seed=1),
    }
    arguments = tiny_glue.arguments("someone/nano", Path("tuned"), hub_model_id="someone/tuned", **common | data)
    machines.run("third", ROOT / "run_glue.py", *arguments, leaves=["tuned"])
    tuned = tmp_path / "third" / "tuned"
    # A step of AdamW moves no weight farther than about the learning rate; other random weights would be .05 away.
    assert 0 < farthest_move(tuned, pretrained) < 2 * STEPS * LEARNING_RATE
    answers = load_here("text-classification", tuned)
    assert answers[1][0]["label"] in ("no", "yes")
    assert_same(machines.load("fourth", "text-classification", "someone/tuned"), answers)

    card = ModelCard(hub.files("someone/tuned")["README.md"].decode())
    assert card.data.base_model == "someone/nano"
    assert {"results.json", "model.safetensors", "modeling_concept.py"} <= hub.files("someone/tuned").keys()
