# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`run_glue.py` on files of one's own: what their labels mean, and checkpoints that are scored as they are."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import AutoConfig, BertForSequenceClassification
from transformers.trainer_utils import SchedulerType

from evaluation_concept.glue import write_submission
from tests.training.tiny_glue import WORDS, count_trainings, run, scores, tiny_bert, write_checkpoint, write_glue
from training_concept.finetuning.arguments import ExperimentArguments, FineTuningArguments
from training_concept.finetuning.task_arguments import TaskArguments
from training_concept.finetuning.tasks_data import load_files

NAMES = ("bad", "fine", "good")
QUICK: dict[str, Any] = {"baselines": False, "max_steps": 1}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bert"), tiny_bert())


@pytest.fixture(scope="module")
def trained(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A classifier of three classes, and the files that it was trained and scored on."""
    folder = tmp_path_factory.mktemp("trained")
    files = {"train_file": write(folder / "train.jsonl", rows(30)), "validation_file": write(folder / "dev.jsonl")}
    steps = {"max_steps": 60, "per_device_train_batch_size": 16, "learning_rate": 3e-3}
    run(bert, folder / "out", baselines=False, **steps, **files)
    assert len(set(predictions(folder / "out", "train"))) > 1
    return folder / "out", files


def rows(number: int = 20, labels: Any = NAMES) -> list[dict[str, Any]]:
    """The first words of `WORDS` over and over, one for each label."""
    return [
        {"text": f"{WORDS[n % len(labels)]} " * (1 + n % 5), "label": labels[n % len(labels)]} for n in range(number)
    ]


def write(path: Path, content: list[dict[str, Any]] | None = None) -> str:
    lines = rows() if content is None else content
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return str(path)


def predictions(output: Path, task: str = "dev") -> np.ndarray:
    with np.load(output / "predictions" / f"{task}.npz") as arrays:
        return arrays["model/validation"][0]


def test_the_card_names_the_file_and_no_folder_of_this_machine(trained, bert):
    model, _ = trained
    card = (model / "README.md").read_text(encoding="utf-8")
    assert f"\n`{bert.name}` (`bert`), fine-tuned on the file train.jsonl.\n" in card
    assert "- The file train.jsonl: trained on 30 examples." in card
    assert "base_model" not in card
    results = (model / "results.json").read_text(encoding="utf-8")
    assert json.loads(results)["model"] == bert.name
    assert not any(str(bert.parent) in text for text in (card, results))
    # Neither was asked for, so that neither is in the table.
    assert "Bag of words" not in card
    assert ("Random encoder" in card) == ("random encoder |" in card)
    assert "Differences" not in card


def test_the_hub_takes_the_card_whatever_the_file_is_called(tmp_path, bert):
    path = write(tmp_path / "my reviews (été).jsonl")
    run(bert, tmp_path / "out", train_file=path, validation_file=path, **QUICK)
    (result,) = ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    assert re.fullmatch(r"([a-zA-Z0-9_-]+/)?[a-zA-Z0-9_.-]+", result.dataset_type)
    assert result.dataset_name == "my reviews (été)"


def test_a_checkpoint_answers_for_texts_without_labels_by_name(tmp_path, trained):
    model, files = trained
    texts = [{"text": row["text"]} for row in rows()]
    settings = {"do_train": None, "do_eval": None, "do_predict": True}
    run(model, tmp_path / "out", test_file=write(tmp_path / "new.jsonl", texts), **settings)
    lines = (tmp_path / "out/submission/new.tsv").read_text().splitlines()
    run(model, tmp_path / "scored", do_train=None, validation_file=files["validation_file"])
    assert [line.split("\t")[1] for line in lines[1:]] == [NAMES[n] for n in predictions(tmp_path / "scored")]


def test_a_stock_checkpoint_with_one_output_gives_ratings(tmp_path, bert):
    """Those of cross-encoders name neither a problem nor a label."""
    rater = write_checkpoint(tmp_path / "rater", BertForSequenceClassification.from_pretrained(bert, num_labels=1))
    config = AutoConfig.from_pretrained(rater)
    assert (config.problem_type, config.id2label) == (None, {0: "LABEL_0"})
    files = {"validation_file": write(tmp_path / "dev.jsonl", rows(labels=[1, 2, 3]))}
    files["test_file"] = write(tmp_path / "new.jsonl", rows(labels=[0, 0, 0]))
    results = run(rater, tmp_path / "out", do_train=None, do_predict=True, **files)
    assert results["tasks"]["dev"]["metric"] == ["pearson", "spearmanr"]
    answers = (tmp_path / "out/submission/new.tsv").read_text().split()[3::2]
    assert [float(answer) for answer in answers] == pytest.approx(predictions(tmp_path / "out"), rel=1e-4)
    run(rater, tmp_path / "alone", do_train=None, do_eval=None, do_predict=True, test_file=files["test_file"])


def test_a_checkpoint_is_scored_on_fewer_classes_than_it_has(tmp_path, trained):
    model, files = trained
    run(model, tmp_path / "all", do_train=None, validation_file=files["validation_file"])
    only = write(tmp_path / "only.jsonl", [row for row in rows() if row["label"] == "good"])
    run(model, tmp_path / "some", do_train=None, validation_file=only)
    of_all = [
        answer for answer, row in zip(predictions(tmp_path / "all"), rows(), strict=True) if row["label"] == "good"
    ]
    assert predictions(tmp_path / "some", "only").tolist() == of_all


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["GOOD", "bad", "Fine"], None),
        (["LABEL_0", "LABEL_1", "LABEL_2"], None),
        (["joy", "fear", "love"], "joy, fear"),
    ],
)
def test_labels_are_known_by_their_names(tmp_path, trained, names, message):
    """Whatever their case; a checkpoint that names none has the task's order, one with other names is refused."""
    model, files = trained
    other = shutil.copytree(model, tmp_path / "other", ignore=shutil.ignore_patterns("cells"))
    config = json.loads((other / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    (other / "config.json").write_text(json.dumps(config))
    settings = {"do_train": None, "validation_file": files["validation_file"]}
    if message:
        with pytest.raises(ValueError, match=message):
            run(other, tmp_path / "out", **settings)
        return
    run(model, tmp_path / "as_trained", **settings)
    run(other, tmp_path / "out", **settings)
    order = [NAMES.index(name.lower()) if name.lower() in NAMES else n for n, name in enumerate(names)]
    assert predictions(tmp_path / "out").tolist() == [order[n] for n in predictions(tmp_path / "as_trained")]


def test_a_regression_stays_one_on_whole_numbers(tmp_path, bert):
    train = write(tmp_path / "train.jsonl", rows(labels=[0.5, 1.0, 2.5]))
    whole = write(tmp_path / "whole.jsonl", rows(labels=[1, 2, 3]))
    results = run(bert, tmp_path / "out", train_file=train, validation_file=whole, **QUICK)
    assert results["tasks"]["train"]["metric"] == ["pearson", "spearmanr"]
    scored = run(tmp_path / "out", tmp_path / "scored", do_train=None, validation_file=whole)
    assert scores(scored, "whole") == scores(results, "train")


def test_numbers_and_their_digits_are_one_class(tmp_path, bert):
    files = {"train": rows(labels=[1, 2]), "validation": rows(labels=["1", "2"])}
    paths = {f"{split}_file": write(tmp_path / f"{split}.jsonl", some) for split, some in files.items()}
    run(bert, tmp_path / "out", **paths, **QUICK)
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "1", 1: "2"}


def test_numbers_that_are_text_are_no_classes(tmp_path):
    path = write(tmp_path / "train.jsonl", rows(labels=["0.5", "1.5", "2.0"]))
    with pytest.raises(ValueError, match=r"holds numbers as text, such as '0\.5'"):
        load_files({"train": path}, None, None, "label")


def test_lists_are_no_labels(tmp_path):
    path = write(tmp_path / "train.jsonl", rows(labels=[[0], [1]]))
    with pytest.raises(ValueError, match=r"holds \[0\], which is no name and no number"):
        load_files({"train": path}, None, None, "label")


@pytest.mark.parametrize("labels", [("Bad", "Good"), (0, 1)])
def test_classes_none_of_which_is_trained_on_are_refused(tmp_path, labels):
    scored = write(tmp_path / "dev.jsonl", rows(labels=labels))
    message = rf"the labels to train on \(bad, fine, good\) are none of those to score \({labels[0]}, {labels[1]}\)"
    with pytest.raises(ValueError, match=message):
        load_files({"train": write(tmp_path / "train.jsonl"), "validation": scored}, None, None, "label")


def test_classes_that_are_scored_and_not_trained_on_are_counted(tmp_path, caplog):
    some = write(tmp_path / "dev.jsonl", rows(4, labels=["bad", "Good", "fine", "unknown"]))
    with caplog.at_level(logging.WARNING):
        load_files({"train": write(tmp_path / "train.jsonl"), "validation": some}, None, None, "label")
    assert "train: 2 of 4 scored examples have labels that no training example has: Good, unknown." in caplog.text


def test_na_and_none_are_labels_in_a_csv_file(tmp_path):
    lines = [f"We are {word},{word}\n" for word in ("NA", "None", "null") * 4]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
    data = load_files({"train": str(tmp_path / "train.csv")}, None, None, "label")
    assert data.task.labels == ("NA", "None", "null")


def test_an_empty_cell_of_a_csv_file_is_no_label(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,good\nb,\nc,bad\n", encoding="utf-8")
    with pytest.raises(ValueError, match="row 1"):
        load_files({"train": str(tmp_path / "train.csv")}, None, None, "label")


def test_columns_are_named_for_a_task_of_glue_too(tmp_path, bert):
    own = [{"review": row["text"], "stars": row["label"]} for row in rows(labels=["negative", "positive"])]
    files = dict.fromkeys(("train_file", "validation_file"), write(tmp_path / "own.jsonl", own))
    columns = {"text_columns": ["review"], "label_column": "stars"}
    assert scores(run(bert, tmp_path / "out", task_name=["sst2"], **columns, **files, **QUICK), "sst2")
    (result,) = ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    assert (result.dataset_name, result.dataset_type) == ("SST-2 (own files)", "own.jsonl")
    with pytest.raises(ValueError, match="sst2 has 1 columns of text"):
        run(bert, tmp_path / "out", task_name=["sst2"], text_columns=["review", "stars"], **files, **QUICK)


def test_ratings_of_a_file_that_is_called_as_a_task_have_no_range(tmp_path):
    data = load_files({"train": write(tmp_path / "stsb.jsonl", rows(labels=[10.5, 99.5]))}, None, None, "label")
    assert write_submission(tmp_path, data.task, "new", [72.5]).read_text().split()[-1] == "72.5"


def test_what_is_trained_on_and_scored_is_counted(tmp_path, caplog):
    files = {"train": write(tmp_path / "train.jsonl"), "validation": write(tmp_path / "dev.jsonl", rows(3))}
    with caplog.at_level(logging.WARNING):
        data = load_files(files, None, None, "label")
    assert len(data.train) == 20
    assert "train: 6 of 20 training examples are scored, too" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_length": 2}, "--max_seq_length 2 leaves no room for text: 2 tokens are special"),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 64}, "drops all 20 training examples"),
    ],
)
def test_what_would_train_on_nothing_is_refused(tmp_path, bert, changes, message):
    files = dict.fromkeys(("train_file", "validation_file"), write(tmp_path / "train.jsonl"))
    with pytest.raises(ValueError, match=message):
        run(bert, tmp_path / "out", **files, **QUICK | changes)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TaskArguments, {"task_name": ["sst2"], "text_columns": ["a"]}, "--text_columns goes with --train_file"),
        (TaskArguments, {"train_file": "a.csv", "text_columns": ["label"]}, "different columns: label, label"),
        (TaskArguments, {"train_file": "a.csv", "text_columns": ["a", "a"]}, "different columns: a, a, label"),
        (TaskArguments, {"train_file": "a.csv", "dataset_name": "mine"}, "--dataset_name has GLUE's own tasks"),
        (TaskArguments, {"task_name": ["sst2"], "mnli_init": "x"}, "--mnli_init is for rte, mrpc, stsb"),
        (ExperimentArguments, {"sweep_folds": 5}, "--sweep_folds goes with --sweep only"),
        (FineTuningArguments, {"resume_from_checkpoint": "x"}, "would start every seed and fold from one checkpoint"),
        (FineTuningArguments, {"prediction_loss_only": True}, "--prediction_loss_only has no meaning here"),
        (FineTuningArguments, {"lr_scheduler_type": "greedy"}, "by examples whose score is reported"),
        (
            FineTuningArguments,
            {"lr_scheduler_type": SchedulerType.REDUCE_ON_PLATEAU, "eval_strategy": "epoch"},
            "--lr_scheduler_type reduce_lr_on_plateau would set the learning rate by",
        ),
        (FineTuningArguments, {"eval_do_concat_batches": False}, "--eval_do_concat_batches False"),
    ],
)
def test_a_flag_that_does_nothing_or_harm_is_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_every_example_is_scored_in_its_place(tmp_path, trained):
    """Whatever is said of batches to train on: stock would group what it predicts by length, and drop the rest."""
    model, files = trained
    settings = {"do_train": None, "validation_file": files["validation_file"], "per_device_eval_batch_size": 3}
    run(model, tmp_path / "plain", **settings)
    batches = {"train_sampling_strategy": "group_by_length", "dataloader_drop_last": True}
    run(model, tmp_path / "grouped", **settings, **batches)
    assert np.array_equal(predictions(tmp_path / "plain"), predictions(tmp_path / "grouped"))


def test_nothing_is_trained_to_stand_beside_no_score(tmp_path, bert, monkeypatch):
    folders = count_trainings(monkeypatch)
    train = write(tmp_path / "train.jsonl")
    results = run(bert, tmp_path / "out", train_file=train, do_eval=None, random_init_baseline=True, **QUICK)
    assert [Path(folder).parent.name for folder in folders] == ["model"]
    assert results["tasks"]["train"]["trained_on"] == [20]


def test_mnli_of_another_run_is_not_started_from_by_oversight(tmp_path, bert):
    glue = write_glue(tmp_path / "glue", ["mnli", "rte"])
    settings = {"dataset_name": glue, "task_name": ["mnli", "rte"], "mnli_init": tmp_path / "other" / "mnli"}
    with pytest.raises(ValueError, match="this run trains on mnli, say --mnli_init mnli"):
        run(bert, tmp_path / "out", **settings, **QUICK)
