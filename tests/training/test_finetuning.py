# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of fine-tuning: rows and batches, the loss, models with a classifier, and the sums behind the table."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from evaluation_concept.glue import GLUE_TASKS
from evaluation_concept.tasks import Examples, Task
from tests.training.tiny_glue import run, scores, tiny_bert, write_checkpoint, write_glue
from tests.training.tiny_trainer import tiny_tokenizer
from training_concept.arguments import parse_dataclasses
from training_concept.finetuning.arguments import ClassifierArguments, ExperimentArguments, FineTuningArguments
from training_concept.finetuning.data import collator, task_labels, task_logits, tokenize
from training_concept.finetuning.model import build_classifier, classifier_config
from training_concept.finetuning.results import averages, results_table, summary
from training_concept.finetuning.task_arguments import TaskArguments
from training_concept.finetuning.trainer import task_loss

RECIPES = Path(__file__).parents[2] / "recipes" / "glue"
INFERENCE = GLUE_TASKS["mnli"]
RATING = GLUE_TASKS["stsb"]


def pairs(first: list[str], second: list[str], labels: list[int] | None = None) -> Examples:
    return Examples((tuple(first), tuple(second)), None if labels is None else np.asarray(labels), ())


def test_of_a_pair_the_longer_text_is_cut_and_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny_tokenizer()
    examples = pairs(["a", "letters"], ["text " * 30, "a"], [0, 2])
    with caplog.at_level(logging.WARNING):
        rows = tokenize(examples, INFERENCE, tokenizer, max_length=12)
    assert "mnli: 1 of 2 examples fill or exceed the 12 tokens" in caplog.text
    cut = tokenizer.decode(rows[0]["input_ids"], skip_special_tokens=True)
    assert len(rows[0]["input_ids"]) == 12
    assert cut.startswith("a")
    assert rows[0]["token_type_ids"][-1] == 1
    assert rows["labels"][:] == [0, 2]
    assert "labels" not in tokenize(pairs(["a"], ["b"]), INFERENCE, tokenizer, 12).column_names


def test_a_model_may_number_the_labels_in_its_own_way() -> None:
    order = ("contradiction", "entailment", "neutral")
    rows = tokenize(pairs(["a"] * 3, ["b"] * 3, [0, 1, 2]), INFERENCE, tiny_tokenizer(), 12, order)
    assert rows["labels"][:] == [1, 2, 0]
    assert task_labels(np.array([1, 2, 0]), INFERENCE, order).tolist() == [0, 1, 2]
    assert task_logits(np.array([[0.1, 0.2, 0.3]]), INFERENCE, order)[0] == pytest.approx([0.2, 0.3, 0.1])
    assert task_logits(np.array([0.5, 1.5]), RATING, ()).shape == (2, 1)


@pytest.mark.parametrize(("longest", "pads", "width"), [(32, False, 8), (30, False, 5), (32, True, 32)])
def test_batches_are_padded_to_their_longest_row_in_steps_that_the_model_has(
    longest: int, pads: bool, width: int
) -> None:
    tokenizer = tiny_tokenizer()
    batch = collator(tokenizer, longest, pads)([{"input_ids": [2, 7, 3]}, {"input_ids": [2, 7, 8, 9, 3]}])
    assert batch["input_ids"].shape == (2, width)


def test_the_loss_of_parts_of_a_step_adds_up_to_that_of_the_step() -> None:
    config = classifier_config(ClassifierArguments(model_type="bert", tokenizer_name="x"), INFERENCE, 32)
    logits, labels = torch.randn(8, 3), torch.randint(3, (8,))
    for smoothing in (0.0, 0.2):
        expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        parts = [
            task_loss({"logits": logits[rows]}, labels[rows], 8, config=config, label_smoothing=smoothing)
            for rows in (slice(0, 3), slice(3, 8))
        ]
        assert sum(parts) == pytest.approx(expected)


def test_the_loss_of_a_regression_is_the_squared_error() -> None:
    config = classifier_config(ClassifierArguments(model_type="bert", tokenizer_name="x"), RATING, 32)
    values, labels = torch.randn(8, 1), torch.randn(8)
    loss = task_loss({"logits": values}, labels, config=config, label_smoothing=0.2)
    assert loss == pytest.approx(((values[:, 0] - labels) ** 2).mean())


def test_a_classifier_with_the_same_labels_keeps_their_order(tmp_path: Path) -> None:
    bert = write_checkpoint(tmp_path / "bert", tiny_bert())
    settings = json.loads((bert / "config.json").read_text())
    names = {"0": "contradiction", "1": "neutral", "2": "entailment"}
    (bert / "config.json").write_text(json.dumps(settings | {"id2label": names}))
    config = classifier_config(ClassifierArguments(model_name_or_path=str(bert)), INFERENCE, 32)
    assert list(config.id2label.values()) == list(names.values())
    other = classifier_config(ClassifierArguments(model_name_or_path=str(bert)), GLUE_TASKS["rte"], 32)
    assert list(other.id2label.values()) == ["entailment", "not_entailment"]


@pytest.mark.parametrize("kind", [{"preset": "nano"}, {"model_type": "bert"}])
def test_a_new_model_fits_its_tokenizer(kind: dict[str, str]) -> None:
    tokenizer = tiny_tokenizer()
    widths = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2"
    args = ClassifierArguments(**kind, config_overrides=widths, tokenizer_name="given")
    model = build_classifier(args, classifier_config(args, INFERENCE, 32), tokenizer)
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    assert model.config.pad_token_id == tokenizer.pad_token_id
    if "preset" in kind:
        # A word of that id would be left out as masked.
        assert model.config.mask_token_id == tokenizer.mask_token_id
    assert model.config.num_labels == 3


def test_a_checkpoint_of_a_smaller_vocabulary_grows_and_one_of_other_shapes_is_refused(tmp_path: Path) -> None:
    bert = write_checkpoint(tmp_path / "bert", tiny_bert())
    args = ClassifierArguments(model_name_or_path=str(bert))
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(400)])
    model = build_classifier(args, classifier_config(args, INFERENCE, 32), tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    wider = ClassifierArguments(model_name_or_path=str(bert), config_overrides="hidden_size=64")
    with pytest.raises(ValueError, match="--ignore_mismatched_sizes starts those anew"):
        build_classifier(wider, classifier_config(wider, INFERENCE, 32), tokenizer)


def test_fresh_weights_are_not_those_of_the_checkpoint(tmp_path: Path) -> None:
    bert = write_checkpoint(tmp_path / "bert", tiny_bert())
    args = ClassifierArguments(model_name_or_path=str(bert))
    config, tokenizer = classifier_config(args, INFERENCE, 32), tiny_tokenizer()
    loaded, fresh = (build_classifier(args, config, tokenizer, fresh=fresh) for fresh in (False, True))
    assert isinstance(fresh, BertForSequenceClassification)
    weights = [model.bert.encoder.layer[0].output.dense.weight for model in (loaded, fresh)]
    assert weights[0].shape == weights[1].shape
    assert not torch.equal(*weights)


def test_a_new_model_starts_rte_from_its_own_mnli(tmp_path: Path) -> None:
    glue = write_glue(tmp_path / "glue", ["mnli", "rte"])
    tokenizer = write_checkpoint(tmp_path / "tokenizer", tiny_bert())
    new = {
        "model_name_or_path": None,
        "preset": "nano",
        "config_overrides": "hidden_size=32,num_hidden_layers=2,num_attention_heads=2",
        "tokenizer_name": tokenizer,
    }
    settings = {"task_name": ["rte", "mnli"], "dataset_name": glue, "mnli_init": "mnli"}
    results = run("", tmp_path / "out", baselines=False, **settings | new)
    assert list(results["tasks"]) == ["mnli", "rte"]
    assert results["tasks"]["rte"]["started_from"]
    assert len(scores(results, "rte")) == 1


def test_mnli_comes_before_what_starts_from_it() -> None:
    asked = ["rte", "mnli", "cola", "rte"]
    assert TaskArguments(task_name=asked).ordered_names == ["rte", "mnli", "cola"]
    assert TaskArguments(task_name=asked, mnli_init="out/mnli").ordered_names == ["mnli", "rte", "cola"]


def test_a_score_is_logged_while_training_if_asked_for(tmp_path: Path) -> None:
    glue = write_glue(tmp_path / "glue", ["cola"])
    bert = write_checkpoint(tmp_path / "bert", tiny_bert())
    steps = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "report_to": "tensorboard",
    }
    results = run(bert, tmp_path / "out", task_name=["cola"], dataset_name=glue, baselines=False, **steps)
    assert results["tasks"]["cola"]["facts"]["steps"] == 2
    assert list((tmp_path / "out").rglob("events.out.tfevents*"))


def of(*found: float) -> dict[str, object]:
    return summary(found) | {"scores": list(found)}


def test_averages_are_over_tasks_and_their_spread_that_of_the_runs() -> None:
    tasks = {
        "mnli": {
            "splits": {"matched": {"systems": {"model": of(60, 70)}}, "mismatched": {"systems": {"model": of(70, 80)}}}
        },
        "rte": {"splits": {"validation": {"systems": {"model": of(50, 90), "majority": of(52.0)}}}},
    }
    found = averages(tasks)
    # Runs of 65 and 75 on the one, 50 and 90 on the other: 57.5 and 82.5.
    assert found == {"model": {"mean": 70, "spread": pytest.approx(np.std([57.5, 82.5], ddof=1)), "runs": 2}}
    assert summary([3.0]) == {"mean": 3.0, "spread": None, "runs": 1}


def test_the_table_shows_what_there_is_and_nothing_else() -> None:
    split = {"examples": 1234, "systems": {"model": of(60.0, 62.0), "majority": of(50.0)}}
    content = {
        "tasks": {"rte": {"title": "RTE", "metric": ["accuracy"], "splits": {"validation": split}}},
        "comparisons": {"bert": {"rte": {"validation": {"points": 1.5, "low": -0.25, "high": 3.0}}}},
    }
    assert results_table(content).splitlines() == [
        "| task | metric | examples | this model | majority | ahead of bert |",
        "|---|---|---:|---:|---:|---:|",
        "| RTE | accuracy | 1,234 | 61.0 ± 1.4 (2) | 50.0 | +1.5 [-0.2, +3.0] |",
    ]


def test_a_class_is_the_highest_logit_and_a_rating_the_only_one() -> None:
    assert Task("own", ("text",), ("a", "b")).decide(np.array([[0.0, 1.0], [2.0, 1.0]])).tolist() == [1, 0]
    assert RATING.decide(np.array([[0.5], [2.0]])).tolist() == [0.5, 2.0]


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_settings_that_exist(recipe: Path) -> None:
    kinds = (ClassifierArguments, TaskArguments, ExperimentArguments, FineTuningArguments)
    model, tasks, options, training = parse_dataclasses(
        [str(recipe), "--model_name_or_path", "x", "--use_cpu"], *kinds
    )
    assert model.model_name_or_path == "x"
    assert tasks.ordered_names
    assert (training.do_train, training.do_eval) == (True, True)
    assert len(options.seeds) > 1
    if options.sweep:
        assert len(options.settings) == 3
