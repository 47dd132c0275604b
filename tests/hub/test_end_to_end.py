# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From an empty folder and back: pretrain, push, load elsewhere, fine-tune from the repository, push, load again."""

import json
import random
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.training import tiny_glue, tiny_run

from .conftest import ROOT, RunPython
from .fake_hub import FakeHub

# Run with -I in an empty folder: nothing but pip packages and what the Hub has.
LOAD = """
import json, sys
from importlib.abc import MetaPathFinder

class NoRepository(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("configuration_concept", "modeling_concept"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoRepository())
from transformers import pipeline
task, repo_id, text = sys.argv[1:]
pipe = pipeline(task, model=repo_id, trust_remote_code=True)
assert type(pipe.model).__module__.startswith("transformers_modules.someone.")
print(json.dumps(pipe(text)))
"""


def write_examples(path: Path, number: int, seed: int) -> str:
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for row in range(number):
            text = " ".join(draw.choices(tiny_glue.WORDS, k=8))
            file.write(json.dumps({"text": text, "label": ("no", "yes")[row % 2]}) + "\n")
    return str(path)


@pytest.mark.slow
def test_from_an_empty_folder_to_a_fine_tuned_model_on_the_hub(hub: FakeHub, run_python: RunPython, tmp_path: Path):
    def run(*arguments: object, machine: str) -> str:
        folder = tmp_path / machine
        folder.mkdir(exist_ok=True)
        ended = run_python(*arguments, cwd=folder, **hub.environment(folder / "cache"))
        assert ended.returncode == 0, ended.stdout
        assert hub.token not in ended.stdout
        return ended.stdout

    pretrained = {"push_to_hub": True, "output_dir": "nano", "hub_model_id": "someone/nano"}
    run(ROOT / "run_mlm.py", *tiny_run.arguments(tmp_path, **pretrained), machine="first")
    guesses = run("-I", "-c", LOAD, "fill-mask", "someone/nano", "fafa [MASK] gobo.", machine="second")
    assert len(json.loads(guesses.splitlines()[-1])) == 5

    data = {
        "train_file": write_examples(tmp_path / "train.jsonl", 24, seed=0),
        "validation_file": write_examples(tmp_path / "validation.jsonl", 10, seed=1),
    }
    tuned = {"push_to_hub": True, "hub_model_id": "someone/tuned", "trust_remote_code": True}
    arguments = tiny_glue.arguments("someone/nano", Path("tuned"), **data | tuned)
    run(ROOT / "run_glue.py", *arguments, machine="third")
    answers = run("-I", "-c", LOAD, "text-classification", "someone/tuned", "a little text", machine="fourth")
    (answer,) = json.loads(answers.splitlines()[-1])
    assert answer["label"] in ("no", "yes")
    assert 0.5 <= answer["score"] <= 1

    card = ModelCard(hub.files("someone/tuned")["README.md"].decode())
    assert card.data.base_model == "someone/nano"
    assert {"results.json", "model.safetensors", "modeling_concept.py"} <= hub.files("someone/tuned").keys()
