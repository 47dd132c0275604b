# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Data that looks like GLUE's, checkpoints 32 wide, and runs of `run_glue.py` on both that take a second a task."""

import random
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import BertConfig, BertModel, PreTrainedModel

import run_glue
from evaluation_concept.glue import GLUE_TASKS
from evaluation_concept.tasks import Task
from modeling_concept import register_auto_classes
from tests.training.tiny_run import as_flags
from tests.training.tiny_trainer import VOCABULARY, build, tiny_tokenizer
from training_concept.finetuning.trainer import FineTuningTrainer

WORDS = ["a", "little", "text", "to", "learn", "letters", "from", "and", "more", "of", "it"]
TRAIN_ROWS, SCORED_ROWS = 24, 10


def rows(task: Task, number: int, labelled: bool = True, seed: int = 0) -> datasets.Dataset:
    """Rows of random words with the columns, types and label names of the task in `nyu-mll/glue`."""
    draw = random.Random(f"{task.name} {number} {seed}")
    columns: dict[str, list] = {
        name: [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(number)]
        for name in task.text_columns
    }
    if task.labels is None:
        kind, hidden = datasets.Value("float32"), -1.0
        columns["label"] = [round(draw.uniform(0, 5), 1) for _ in range(number)]
    else:
        kind, hidden = datasets.ClassLabel(names=list(task.labels)), -1
        columns["label"] = [index % len(task.labels) for index in range(number)]
    if not labelled:
        columns["label"] = [hidden] * number
    columns["idx"] = list(range(number))
    features = {name: datasets.Value("string") for name in task.text_columns}
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features(features | {"label": kind, "idx": datasets.Value("int32")})
    )


def write_glue(folder: Path, names: list[str] | None = None) -> Path:
    """Write the tasks of these names as parquet files, laid out as the repository on the Hub is."""
    for name in names or list(GLUE_TASKS):
        task = GLUE_TASKS[name]
        write_split(folder / name, "train", rows(task, TRAIN_ROWS))
        for split in task.evaluation_splits:
            write_split(folder / name, split, rows(task, SCORED_ROWS, seed=1))
        for seed, test in enumerate(task.test_splits, start=2):
            write_split(folder / (test.config or name), test.split, rows(task, SCORED_ROWS + seed, False, seed))
    return folder


def write_split(folder: Path, split: str, content: datasets.Dataset) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def write_checkpoint(folder: Path, model: PreTrainedModel | None = None, **changes: Any) -> Path:
    """Save a pretrained model, by default a concept encoder for masked tokens, and its tokenizer."""
    register_auto_classes()
    (model or build(**changes)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_bert() -> BertModel:
    widths = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **widths))


def arguments(model: Path | str, output: Path, **changes: Any) -> list[str]:
    """A run's settings as command-line arguments; a change to None leaves a setting out."""
    defaults = {
        "model_name_or_path": str(model),
        "output_dir": str(output),
        "do_train": True,
        "do_eval": True,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "random_init_baseline": False,
        "max_seq_length": 32,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return as_flags(defaults | changes)


def run(model: Path | str, output: Path, **changes: Any) -> dict[str, Any]:
    """Run the script in this process; returns what results.json holds."""
    return run_glue.main(arguments(model, output, **changes))


def scores(results: dict[str, Any], task: str, split: str = "validation", system: str = "model") -> list[float]:
    """The scores of all runs of a system."""
    return results["tasks"][task]["splits"][split]["systems"][system]["scores"]


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fill the list that is returned with the folders of what is trained."""
    trained: list[str] = []
    train = FineTuningTrainer.train

    def counted(self: FineTuningTrainer, *args: Any, **kwargs: Any) -> Any:
        trained.append(self.args.output_dir)
        return train(self, *args, **kwargs)

    monkeypatch.setattr(FineTuningTrainer, "train", counted)
    return trained
