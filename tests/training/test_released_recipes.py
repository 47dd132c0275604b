# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipes of the released checkpoints: they can be read, and what they make fits in a clone."""

from pathlib import Path

import pytest
import torch

from evaluation_concept.tasks import Task
from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder
from training_concept.arguments import ConceptTrainingArguments, parse_arguments, parse_dataclasses
from training_concept.build import build_config
from training_concept.finetuning.arguments import ClassifierArguments, ExperimentArguments, FineTuningArguments
from training_concept.finetuning.package_tasks import PACKAGE_TASKS
from training_concept.finetuning.task_arguments import TaskArguments
from training_concept.recipes import recipe_from_arguments
from training_concept.retrieval import RetrievalArguments

RECIPES = Path(__file__).parents[2] / "recipes"
PRETRAINING = RECIPES / "released_mini.yaml"
VOCABULARY = 16_384
LARGEST_MB = 30
HEADS = {"sentiment": "sst2", "nli": "vitaminc"}


def pretraining():
    return parse_arguments([str(PRETRAINING), "--use_cpu"])


def classifier(name: str):
    types = (ClassifierArguments, TaskArguments, ExperimentArguments, FineTuningArguments)
    flags = [str(RECIPES / "released" / f"{name}.yaml"), "--use_cpu", "--task_dir", "tasks"]
    return parse_dataclasses(flags, *types)


def megabytes(names, shapes: dict[str, torch.Size]) -> float:
    """Size in bfloat16."""
    return sum(2 * shapes[name].numel() for name in names) / 1e6


def shapes_of(model_class, config) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = model_class(config)
    return {name: weight.shape for name, weight in model.named_parameters()}


def test_all_released_weights_fit_in_a_clone():
    """Those of the language model, and of each head what it does not share."""
    config = build_config(pretraining()[0])
    config.vocab_size = VOCABULARY
    shapes = shapes_of(ConceptEncoderForMaskedLM, config)
    assert 11e6 < sum(shape.numel() for shape in shapes.values()) < 12e6
    size = megabytes(shapes, shapes)
    config.num_labels = 3
    head = shapes_of(ConceptEncoderForSequenceClassificationViaDecoder, config)
    for _ in HEADS:
        size += megabytes([name for name in head if "o_proj" in name or "classifier" in name], head)
    size += megabytes([name for name in shapes if name.startswith("model.") and "o_proj" in name], shapes)
    assert size < LARGEST_MB


def test_pretraining_reads_the_offline_corpus_and_can_be_stopped():
    _, data_args, training_args = pretraining()
    recipe = recipe_from_arguments(data_args)
    assert {source.split_of("validation") for source in recipe.sources} == {"test"}
    assert training_args.enable_jit_checkpoint
    assert training_args.muon
    decay = training_args.lr_scheduler_kwargs["num_decay_steps"]
    assert 0 < training_args.warmup_steps + decay < training_args.max_steps
    # Every row is as long as the longest document of the last part.
    assert data_args.document_length_schedule[-1] == data_args.max_seq_length


@pytest.mark.parametrize("name", HEADS)
def test_heads_train_what_they_do_not_share(name):
    model_args, task_args, options, training_args = classifier(name)
    assert task_args.task_name == [HEADS[name]]
    assert isinstance(PACKAGE_TASKS[HEADS[name]].task, Task)
    assert model_args.model_name_or_path == "model_cards/concept-encoder-mini"
    assert options.trained_weights == "o_proj|classifier"
    assert training_args.output_dir == f"outputs/concept-encoder-mini-{name}"


def test_the_embedding_version_trains_what_it_does_not_share():
    flags = [str(RECIPES / "released" / "embedding.yaml"), "--use_cpu", "--train_file", "pairs.parquet"]
    settings, args = parse_dataclasses(flags, RetrievalArguments, ConceptTrainingArguments)
    assert settings.trained_weights == "o_proj"
    assert args.output_dir == "outputs/concept-encoder-mini-embedding"
