# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The plan's experiments: every file is what its table says, trains a model of the size given there, and runs."""

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

import run_mlm
from modeling_concept import ConceptEncoderForMaskedLM
from tests.training.tiny_run import write_text
from training_concept import pmi
from training_concept.arguments import (
    ConceptTrainingArguments,
    DataArguments,
    ModelArguments,
    computes_in_bf16,
    parse_arguments,
)
from training_concept.build import build_config, check_length
from training_concept.recipes import read_recipe

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "experiments"
ROW = re.compile(r"^\| \[(\w+)\]\((\w+)\.yaml\) \| (.+) \| (\S+) \| (.+) \| ([\d,]+) \|$", re.MULTILINE)
VOCABULARY = 30522  # words of google-bert/bert-base-uncased
TINY = "hidden_size=32,num_attention_heads=2,intermediate_size=64,num_concepts=8,max_position_embeddings=64"
SHORT = {
    "max_seq_length": 64,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "dataloader_num_workers": 0,
    "preprocessing_num_workers": 1,
    "torch_compile": False,
    "auto_bf16": False,
    "use_cpu": True,
    "eval_strategy": "no",
    "save_strategy": "no",
}


@dataclass(frozen=True)
class Experiment:
    """A row of the table in README.md."""

    name: str
    link: str
    section: str
    baseline: str
    changes: str
    parameters: str


EXPERIMENTS = [Experiment(*row) for row in ROW.findall((FOLDER / "README.md").read_text(encoding="utf-8"))]
NAMES = [experiment.name for experiment in EXPERIMENTS]
every_experiment = pytest.mark.parametrize("experiment", EXPERIMENTS, ids=NAMES)


def settings(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def header(name: str) -> str:
    """The comment at the top, as one line."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return " ".join(line.removeprefix("# ") for line in text.split("\npreset:")[0].splitlines())


def parsed(name: str) -> tuple[ModelArguments, DataArguments, ConceptTrainingArguments]:
    return parse_arguments([str(FOLDER / f"{name}.yaml")])


def test_the_table_lists_every_file_once():
    assert sorted(NAMES) == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert [experiment.link for experiment in EXPERIMENTS] == NAMES


@every_experiment
def test_the_script_takes_it_and_its_text_and_model_exist(experiment):
    model_args, data_args, training_args = parsed(experiment.name)
    recipe = read_recipe(str(ROOT / data_args.data_recipe))
    assert training_args.max_steps > 0 if recipe.streaming else training_args.num_train_epochs >= 10
    config = build_config(model_args)
    check_length(config, data_args.max_seq_length)
    assert config.vocab_size == VOCABULARY
    assert config.initializer_range == 0.02
    with torch.device("meta"):
        model = ConceptEncoderForMaskedLM(config)
    assert f"{model.num_parameters():,}" == experiment.parameters


@every_experiment
def test_it_follows_the_protocol(experiment):
    _, data_args, training_args = parsed(experiment.name)
    assert training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps == 512
    assert (training_args.learning_rate, training_args.lr_scheduler_type) == (3e-4, "cosine")
    assert training_args.output_dir == f"outputs/experiments/{experiment.name}"
    assert training_args.bf16 == computes_in_bf16(on_cpu=not torch.accelerator.is_available())
    assert data_args.max_seq_length == 512


@every_experiment
def test_it_changes_what_the_table_says_and_nothing_else(experiment):
    own = settings(experiment.name)
    base = own if experiment.baseline == "-" else settings(experiment.baseline)
    changes = [f"{key}: {value}" for key, value in own.items() if base.get(key) != value and key != "output_dir"]
    changes += [f"no {key}" for key in base.keys() - own.keys()]
    assert sorted(re.findall("`([^`]+)`", experiment.changes)) == sorted(changes)


@every_experiment
def test_its_header_places_it(experiment):
    text = header(experiment.name)
    # "2.3, 4" is a section and a phase, "3.2 A" an option.
    assert re.split("[, ]", experiment.section.removeprefix("step "))[0] in text
    assert "Hypothesis: " in text
    assert "Evidence: " in text
    assert experiment.baseline == "-" or f"Against {experiment.baseline}.yaml: " in text


def test_the_grid_of_widths_is_the_plans():
    grid = [name for name in NAMES if name.startswith("inversion_")]
    configs = [build_config(parsed(name)[0]) for name in grid]
    widths = [f"inversion_{config.token_hidden_size}_{config.hidden_size}" for config in configs]
    assert widths == grid
    assert widths == [f"inversion_{tokens}" for tokens in ("512_512", "128_512", "64_512", "64_1024")]


def test_the_commands_of_the_readme_are_taken(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```bash\n(.+?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    runs = [parse_arguments(command[command.index("run_mlm.py") + 1 :]) for command in commands]
    assert len(runs) == 3
    assert runs[1][2].gradient_accumulation_steps * 64 * 4 == 512
    protocol, scored = parsed("protocol")[1], runs[2][1]
    assert vars(scored) == vars(protocol) | {"preprocessing_num_workers": None}


def write_inputs(folder: Path, tokenizer: PreTrainedTokenizerFast, streaming: bool) -> dict[str, str]:
    """Save a tokenizer, a recipe of one small text, and collocations; return the settings that name them."""
    text = write_text(folder / "text.txt", lines=60)
    source = {"sources": {"text": {"path": str(text), "weight": 1}}, "validation_split_percentage": 20}
    (folder / "data.yaml").write_text(yaml.safe_dump(source | {"streaming": streaming}))
    tokenizer.save_pretrained(folder / "words")
    names = {"tokenizer_name": str(folder / "words"), "data_recipe": str(folder / "data.yaml")}
    output = str(folder / "pmi.tsv")
    pmi.main(
        [names["data_recipe"], f"--tokenizer_name={names['tokenizer_name']}", f"--output={output}", "--min_count=2"]
    )
    return names | {"pmi_vocabulary": output}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data_fineweb_edu", "funnel", "masking_pmi"])
def test_it_runs_on_other_text_with_a_smaller_model(tmp_path, name, tokenizer):
    flags = write_inputs(tmp_path, tokenizer, streaming=name == "data_fineweb_edu") | SHORT
    flags["output_dir"] = str(tmp_path / "out")
    flags["config_overrides"] = ",".join(filter(None, [settings(name).get("config_overrides"), TINY]))
    metrics = run_mlm.main([str(FOLDER / f"{name}.yaml"), *(f"--{key}={value}" for key, value in flags.items())])
    assert math.isfinite(metrics["eval_loss"])
    assert metrics["epoch"] > 0
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["hidden_size"] == 32
    assert saved["concept_init"] == ("anchored" if name == "funnel" else "learned")
    assert saved["num_funnel_stages"] == (2 if name == "funnel" else 0)
