# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`run_glue.py` from settings to results: all nine tasks, what continues a run, and the settings it honours."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, TrainerCallback, pipeline
from transformers.trainer import DEFAULT_CALLBACKS

import run_glue
from evaluation_concept.glue import GLUE_TASKS
from evaluation_concept.metrics import measure
from tests.training.tiny_glue import arguments, count_trainings, run, scores, tiny_bert, write_checkpoint, write_glue
from training_concept.finetuning.arguments import ExperimentArguments, parse_sweep
from training_concept.finetuning.cell import read_cell

SERVER_FILES = {
    "AX", "CoLA", "MNLI-m", "MNLI-mm", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI",
}  # fmt: skip


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bert"), tiny_bert())


@pytest.fixture(scope="module")
def all_nine(checkpoint: Path, glue: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("runs") / "all"
    settings = {"task_name": ["all"], "dataset_name": glue, "do_predict": True, "mnli_init": output / "mnli"}
    return output, run(checkpoint, output, **settings)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def own_rows(number: int, **changes: Any) -> list[dict[str, Any]]:
    draw = random.Random(number)
    words = ["good", "bad", "text"]
    return [
        {"review": " ".join(draw.choices(words, k=5)) + f" {n}", "label": ["no", "yes"][n % 2]} | changes
        for n in range(number)
    ]


def test_all_nine_tasks_run_from_one_command(all_nine):
    output, results = all_nine
    assert set(results["tasks"]) == set(GLUE_TASKS)
    assert set(results["tasks"]["mnli"]["splits"]) == {"validation_matched", "validation_mismatched"}
    for task in results["tasks"].values():
        for split in task["splits"].values():
            assert {"model", "bag_of_words", "majority"} == set(split["systems"])
            assert split["examples"] == 10
    assert results["average"]["model"]["runs"] == 1
    assert json.loads((output / "results.json").read_text()) == json.loads(json.dumps(results))


def test_a_copy_without_test_sets_is_enough_to_train_and_score(tmp_path, bert, glue):
    """Under the names that transformers' example takes for tasks, in capitals too."""
    shutil.copytree(glue / "mnli", tmp_path / "glue" / "mnli", ignore=shutil.ignore_patterns("test*"))
    settings = {"task_name": ["MNLI"], "dataset_name": tmp_path / "glue", "baselines": False, "max_steps": 1}
    assert scores(run(bert, tmp_path / "out", **settings), "mnli", "validation_mismatched")
    with pytest.raises(FileNotFoundError, match=r"mnli has no file test_matched-\*\.parquet"):
        run(bert, tmp_path / "predicted", do_predict=True, **settings)


def test_the_server_gets_a_file_for_each_test_set(all_nine):
    output, _ = all_nine
    files = {path.stem: path.read_text().splitlines() for path in (output / "submission").iterdir()}
    assert set(files) == SERVER_FILES
    answers = {}
    for name, lines in files.items():
        assert lines[0] == "index\tprediction"
        rows = [line.split("\t") for line in lines[1:]]
        assert [row[0] for row in rows] == [str(number) for number in range(len(rows))]
        answers[name] = {row[1] for row in rows}
    assert (len(files["MNLI-m"]), len(files["MNLI-mm"]), len(files["AX"])) == (13, 14, 15)
    assert answers["CoLA"] | answers["WNLI"] | answers["SST-2"] | answers["QQP"] | answers["MRPC"] <= {"0", "1"}
    assert answers["RTE"] | answers["QNLI"] <= {"entailment", "not_entailment"}
    assert answers["AX"] | answers["MNLI-m"] <= {"entailment", "neutral", "contradiction"}
    assert all(0 <= float(answer) <= 5 for answer in answers["STS-B"])


def test_scores_are_those_of_the_predictions_that_are_kept(all_nine):
    output, results = all_nine
    for name, metric in (("cola", "matthews"), ("mrpc", "accuracy_f1"), ("stsb", "correlation")):
        with np.load(output / "predictions" / f"{name}.npz") as arrays:
            values = measure(metric, arrays["model/validation"][0], arrays["references/validation"])
        kept = results["tasks"][name]["splits"]["validation"]["systems"]["model"]["values"]
        assert {metric: value["mean"] for metric, value in kept.items()} == values
        assert scores(results, name) == pytest.approx([100 * np.mean(list(values.values()))])


def test_the_card_holds_every_score(all_nine):
    output, results = all_nine
    loaded = ModelCard.load(output / "README.md")
    found = {
        (result.dataset_config, result.dataset_split, result.metric_type): result.metric_value
        for result in loaded.data.eval_results
    }
    assert len(found) == 13  # two for MRPC, QQP, STS-B and MNLI
    values = results["tasks"]["mrpc"]["splits"]["validation"]["systems"]["model"]["values"]
    assert found["mrpc", "validation", "f1"] == round(values["f1"]["mean"], 4)
    assert {result.dataset_type for result in loaded.data.eval_results} == {"nyu-mll/glue"}
    assert (output / "results.md").read_text().strip() in loaded.text
    assert "RTE: trained on 24 examples, from a model of MNLI." in loaded.text
    assert "{" not in loaded.text.partition("## Results")[2]


def test_rte_mrpc_and_stsb_start_from_mnli(tmp_path, checkpoint, glue, all_nine):
    output, results = all_nine
    assert {name for name, task in results["tasks"].items() if task["started_from"]} == {"rte", "mrpc", "stsb"}
    settings = {"task_name": ["rte"], "dataset_name": glue, "mnli_init": output / "mnli", "learning_rate": 0}
    run(checkpoint, tmp_path / "rte", **settings)
    weights, of_mnli = (load_file(folder / "model.safetensors") for folder in (tmp_path / "rte", output / "mnli"))
    assert {name for name in weights if not torch.equal(weights[name], of_mnli[name])} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_a_stock_model_runs_as_control_with_several_seeds(tmp_path, bert, glue, capsys):
    settings = {"task_name": ["sst2", "stsb"], "dataset_name": glue, "seeds": [1, 2, 3]}
    results = run(bert, tmp_path / "out", random_init_baseline=True, **settings)
    for system in ("model", "random_init"):
        assert len(scores(results, "stsb", system=system)) == 3
    assert len(set(scores(results, "stsb"))) == 3
    summary = results["tasks"]["stsb"]["splits"]["validation"]["systems"]["model"]
    assert summary["mean"] == pytest.approx(np.mean(summary["scores"]))
    assert summary["spread"] == pytest.approx(np.std(summary["scores"], ddof=1))
    by_run = np.mean([scores(results, "sst2"), scores(results, "stsb")], axis=0)
    assert results["average"]["model"]["spread"] == pytest.approx(np.std(by_run, ddof=1))
    printed = capsys.readouterr().out
    assert "| this model | random encoder | bag of words | majority |" in printed
    assert f"{summary['mean']:.1f} ± {summary['spread']:.1f} (3)" in printed
    named = [result.metric_name for result in ModelCard.load(tmp_path / "out" / "README.md").data.eval_results]
    spread = summary["values"]["pearson"]["spread"]
    assert f"pearson, mean of 3 runs (standard deviation {spread:.4f})" in named


def test_own_files_make_a_task_and_a_model_that_loads(tmp_path, checkpoint):
    files = {
        "train_file": write_rows(tmp_path / "train.jsonl", own_rows(20)),
        "validation_file": write_rows(tmp_path / "dev.jsonl", own_rows(9)),
        "test_file": write_rows(tmp_path / "unlabelled.jsonl", [{"review": "good text"}, {"review": "bad text"}]),
    }
    run(checkpoint, tmp_path / "out", do_predict=True, config_overrides="max_position_embeddings=2", **files)
    lines = (tmp_path / "out" / "submission" / "unlabelled.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["index", "0", "1"]
    classify = pipeline("text-classification", model=str(tmp_path / "out"))
    assert classify("good text")[0]["label"] in ("no", "yes")
    longest = max(len(classify.tokenizer(row["review"])["input_ids"]) for row in own_rows(20))
    assert classify.model.config.max_position_embeddings == longest


def test_numbers_with_a_fraction_make_a_regression(tmp_path, bert):
    rows = "a,b,label\n" + "".join(f"text {n},letters {n % 3},{n / 4}\n" for n in range(12))
    (tmp_path / "rows.csv").write_text(rows)
    files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "rows.csv"))
    results = run(bert, tmp_path / "out", **files)
    assert results["tasks"]["rows"]["metric"] == ["pearson", "spearmanr"]
    assert AutoConfig.from_pretrained(tmp_path / "out").problem_type == "regression"


def test_numbers_of_classes_are_names_of_classes(tmp_path, bert):
    train = write_rows(tmp_path / "train.jsonl", [{"text": f"text {n % 2}", "label": 1 + n % 2} for n in range(8)])
    results = run(bert, tmp_path / "out", train_file=train, validation_file=train, text_columns=["text"])
    assert scores(results, "train", system="bag_of_words") == [100]
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "1", 1: "2"}


@pytest.mark.parametrize("readout", ["concepts", "cls_query", "tokens"])
def test_readouts_are_settings(tmp_path, checkpoint, glue, readout):
    settings = {"task_name": ["sst2"], "dataset_name": glue, "baselines": False}
    run(checkpoint, tmp_path / "out", readout=readout, **settings)
    assert AutoConfig.from_pretrained(tmp_path / "out").readout == readout


def test_the_ways_around_the_concepts_are_settings(tmp_path, checkpoint, glue):
    settings = {"task_name": ["sst2"], "dataset_name": glue, "baselines": False, "max_steps": 1}
    overrides = "decoder_query=token+position"
    changes = {"decoder_tokens": "none", "classifier_token_residual": True, "config_overrides": overrides}
    run(checkpoint, tmp_path / "out", **settings, **changes)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.family, config.classifier_token_residual) == ("bottleneck", True)


def test_padding_to_one_length_changes_no_score(tmp_path, bert, glue):
    logits = []
    for pads in (False, True):
        output = tmp_path / str(pads)
        run(bert, output, task_name=["sst2"], dataset_name=glue, pad_to_max_length=pads, learning_rate=0)
        logits.append(read_cell(output / "cells" / "sst2" / "model" / "seed-42").logits["validation"])
    assert np.allclose(*logits, atol=1e-5)


def test_a_checkpoint_is_scored_as_it_is_whatever_the_order_of_its_labels(tmp_path, checkpoint, glue):
    settings = {"task_name": ["mnli"], "dataset_name": glue, "learning_rate": 1e-2, "max_steps": 6}
    trained = run(checkpoint, tmp_path / "trained", **settings)
    config = json.loads((tmp_path / "trained" / "config.json").read_text())
    weights = load_file(tmp_path / "trained" / "model.safetensors")
    order = [2, 0, 1]
    config["id2label"] = {number: config["id2label"][str(old)] for number, old in enumerate(order)}
    config["label2id"] = {name: number for number, name in config["id2label"].items()}
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].contiguous()
    (tmp_path / "trained" / "config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "trained" / "model.safetensors", metadata={"format": "pt"})
    scored = run(tmp_path / "trained", tmp_path / "scored", do_train=None, task_name=["mnli"], dataset_name=glue)
    for split in ("validation_matched", "validation_mismatched"):
        assert scores(scored, "mnli", split) == scores(trained, "mnli", split)
    assert not (tmp_path / "scored" / "model.safetensors").exists()


SWEEP = "learning_rate=1e-3,1e-2 weight_decay=0"


def test_a_sweep_chooses_inside_the_training_examples(tmp_path, checkpoint, glue, monkeypatch):
    trained = count_trainings(monkeypatch)
    settings = {"task_name": ["sst2"], "dataset_name": glue, "seeds": [1, 2], "muon": True}
    results = run(checkpoint, tmp_path / "out", sweep=SWEEP, sweep_folds=2, **settings)["tasks"]["sst2"]
    assert results["chosen_by"] == "cross-validation in 2 folds inside the training examples"
    (trials,) = results["sweep"]
    best = max(trials, key=lambda trial: trial["score"])
    assert results["chosen"] == [best["settings"]]
    assert [trial["settings"]["learning_rate"] for trial in trials] == [1e-3, 1e-2]
    assert len(trained) == 2 * 2 + 2
    logits = read_cell(next((tmp_path / "out" / "cells" / "sst2" / "sweep").glob("*/part-0"))).logits
    assert {name: len(values) for name, values in logits.items()} == {"selection": 12}
    card = ModelCard.load(tmp_path / "out" / "README.md").text
    rate = best["settings"]["learning_rate"]
    assert f"learning_rate={rate:g}, weight_decay=0 chosen on cross-validation" in card
    assert f"| Learning rate | {rate:g} (chosen by the sweep) |" in card
    assert "| Weight decay | 0 (chosen by the sweep) |" in card
    assert "| Optimizer | Muon for matrices of linear layers, adamw_torch" in card
    assert "| Examples a step | " in card
    assert "| Length |" not in card


def test_sweeps_are_combinations():
    assert parse_sweep("learning_rate=1e-5,3e-5 num_train_epochs=3") == [
        {"learning_rate": 1e-5, "num_train_epochs": 3.0},
        {"learning_rate": 3e-5, "num_train_epochs": 3.0},
    ]
    assert ExperimentArguments().settings == [{}]


INTERRUPTIBLE = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "task_name": ["sst2"], "seeds": [3, 4]}


class _Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if args.seed == 4 and state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.17"),
    reason="transformers 5.4 saves BERT's layer norms under names that its Trainer does not find when it resumes",
)
def test_a_run_that_broke_off_ends_as_if_it_had_not(tmp_path, bert, glue, monkeypatch):
    whole = run(bert, tmp_path / "whole", dataset_name=glue, **INTERRUPTIBLE)
    with monkeypatch.context() as context:
        context.setattr("transformers.trainer.DEFAULT_CALLBACKS", [*DEFAULT_CALLBACKS, _Interrupt])
        with pytest.raises(KeyboardInterrupt):
            run(bert, tmp_path / "parts", dataset_name=glue, **INTERRUPTIBLE)
    assert (tmp_path / "parts" / "cells/sst2/model/seed-4/checkpoint-4").is_dir()
    trained = count_trainings(monkeypatch)
    parts = run(bert, tmp_path / "parts", dataset_name=glue, **INTERRUPTIBLE)
    assert [Path(folder).name for folder in trained] == ["seed-4"]
    for seed in (3, 4):
        ends = [read_cell(tmp_path / name / f"cells/sst2/model/seed-{seed}") for name in ("whole", "parts")]
        assert np.array_equal(*(end.logits["validation"] for end in ends))
    assert scores(parts, "sst2") == scores(whole, "sst2")
    assert not list((tmp_path / "parts" / "cells").rglob("checkpoint-*"))


def test_a_finished_run_is_read_and_extended_but_not_mixed_with_another(tmp_path, bert, glue, monkeypatch):
    settings = {"task_name": ["sst2"], "dataset_name": glue}
    first = run(bert, tmp_path / "out", **settings)
    trained = count_trainings(monkeypatch)
    assert run(bert, tmp_path / "out", **settings) == first
    assert not trained
    more = run(bert, tmp_path / "out", seeds=[42, 43], **settings)
    assert len(trained) == 1
    assert scores(more, "sst2")[:1] == scores(first, "sst2")
    with pytest.raises(ValueError, match=r"holds another run \(training.learning_rate is 0.001 there and 0.5 here\)"):
        run(bert, tmp_path / "out", learning_rate=0.5, **settings)
    repeated = run(bert, tmp_path / "out", learning_rate=0, overwrite_output_dir=True, **settings)
    assert len(trained) == 2
    assert len(scores(repeated, "sst2")) == 1


def test_runs_are_compared_example_by_example(tmp_path, bert, glue, capsys):
    settings = {"task_name": ["sst2"], "dataset_name": glue, "baselines": False}
    run(bert, tmp_path / "theirs", seeds=[1, 2], **settings)
    results = run(bert, tmp_path / "ours", compare_with=[str(tmp_path / "theirs")], **settings)
    difference = results["comparisons"]["theirs"]["sst2"]["validation"]
    theirs = json.loads((tmp_path / "theirs" / "results.json").read_text())
    expected = np.mean(scores(results, "sst2")) - np.mean(scores(theirs, "sst2"))
    assert difference["points"] == pytest.approx(expected)
    assert difference["low"] <= difference["points"] <= difference["high"]
    assert "ahead of theirs" in capsys.readouterr().out
    with pytest.raises(ValueError, match="the validation split is not the one that is scored here"):
        run(bert, tmp_path / "less", compare_with=[str(tmp_path / "theirs")], max_eval_samples=5, **settings)


@pytest.mark.parametrize("task", ["sst2", "stsb"])
@pytest.mark.parametrize("model", ["checkpoint", "bert"])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, glue, model, task, request):
    settings = {"task_name": [task], "dataset_name": glue, "baselines": False, "optim": "sgd", "max_steps": 1}
    overrides = {"bert": "hidden_dropout_prob=0,attention_probs_dropout_prob=0"}.get(model)
    ends = []
    for size, steps in ((12, 1), (3, 4)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        output = tmp_path / str(size)
        run(request.getfixturevalue(model), output, config_overrides=overrides, learning_rate=1, **settings, **sizes)
        ends.append(load_file(output / "model.safetensors"))
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-4) for name in ends[0])


def order_rows(number: int, seed: int) -> list[dict[str, Any]]:
    """Sentences with "it" and "of" side by side, in either order: as bags of words they are the same two by two."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number // 2):
        rest = draw.choices(["text", "letters", "little", "more"], k=6)
        place = draw.randint(0, 6)
        for label, pair in enumerate((["it", "of"], ["of", "it"])):
            rows.append({"sentence": " ".join(rest[:place] + pair + rest[place:]), "label": str(label)})
    return rows


def test_a_fine_tuned_model_knows_what_a_bag_of_words_cannot(tmp_path, checkpoint):
    files = {
        "train_file": write_rows(tmp_path / "train.jsonl", order_rows(600, seed=0)),
        "validation_file": write_rows(tmp_path / "dev.jsonl", order_rows(100, seed=1)),
    }
    settings = {"max_steps": 100, "per_device_train_batch_size": 32, "learning_rate": 1e-3}
    results = run(checkpoint, tmp_path / "out", text_columns=["sentence"], **files, **settings)
    split = results["tasks"]["train"]["splits"]["validation"]
    assert split["systems"]["bag_of_words"]["mean"] == split["systems"]["majority"]["mean"] == 50
    assert split["systems"]["model"]["mean"] > 90
    assert split["ahead_of_bag_of_words"]["low"] > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_name": ["glue"]}, "--task_name glue is not one of cola, sst2"),
        ({"task_name": ["ax"]}, "--task_name ax is not one of"),
        ({"task_name": None}, "Name a task"),
        ({"task_name": ["sst2", "rte"], "train_file": "x.csv"}, "hold one task"),
        ({"dataset_name": "{glue}/nothing"}, "nothing"),
        ({"task_name": ["sst2"], "dataset_name": "{glue}/sst2"}, "has no folder 'sst2'"),
        ({"do_train": None, "do_eval": None}, "Nothing to do"),
        ({"sweep": "learning_rat=1"}, "--sweep cannot vary 'learning_rat'"),
        ({"sweep": "learning_rate=high"}, "write learning_rate=VALUE"),
        ({"sweep": "learning_rate=1 learning_rate=2"}, "sets learning_rate twice"),
        ({"sweep": "gradient_accumulation_steps=0,2"}, "sets gradient_accumulation_steps to 0, which no training has"),
        ({"sweep": "learning_rate=-1,nan"}, "sets learning_rate to -1, which no training has"),
        ({"sweep": "max_steps=1,2 num_train_epochs=1,2"}, "beside which num_train_epochs does nothing"),
        ({"sweep": "num_train_epochs=1,2"}, "num_train_epochs, which does nothing beside --max_steps 2"),
        (
            {"sweep": "learning_rate=1,2", "max_train_samples": 9},
            "sst2: --sweep chooses by a held-out tenth of the training examples, of which 10 have to differ, and 9 do",
        ),
        ({"sweep_folds": 0}, "--sweep_folds 0 must be at least 1"),
        ({"seeds": [1, 1]}, "--seeds must name different seeds"),
        ({"max_seq_length": 0}, "--max_seq_length 0 must be at least 1"),
        ({"load_best_model_at_end": True}, "choose by the examples whose score is reported"),
        ({"push_to_hub": True, "task_name": ["sst2", "rte"]}, "--push_to_hub uploads one model"),
        ({"mnli_init": "nowhere", "task_name": ["rte"]}, "--mnli_init nowhere is not there"),
        ({"readout": "median"}, "readout='median'"),
        ({"compare_with": ["nowhere"]}, "nowhere holds no results.json"),
        ({"compare_with": ["nowhere"], "do_eval": None}, "--compare_with goes with --do_eval only"),
        ({"do_train": None}, "has no classifier for this task"),
        ({"do_train": None, "model_name_or_path": None, "preset": "nano", "tokenizer_name": "{model}"}, "A new model"),
        ({"do_train": None, "push_to_hub": True}, "--push_to_hub uploads one model: ask for --do_train"),
        ({"learning_rat": 1}, "learning_rat"),
    ],
)
def test_one_error_says_what_is_wrong(tmp_path, checkpoint, glue, change, message):
    settings = {"task_name": ["sst2"], "dataset_name": "{glue}"} | change
    settings |= {
        name: settings[name].format(glue=glue, model=checkpoint)
        for name in ("dataset_name", "tokenizer_name")
        if name in settings
    }
    with pytest.raises((ValueError, OSError), match=message):
        run(checkpoint, tmp_path / "out", **settings)
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_switch_of_concept_encoders_is_refused_for_others(tmp_path, bert, glue):
    with pytest.raises(ValueError, match="--readout is for concept encoders, and this is a bert model"):
        run(bert, tmp_path / "out", task_name=["sst2"], dataset_name=glue, readout="tokens")


def test_a_model_of_few_positions_refuses_longer_texts(tmp_path, glue):
    from configuration_concept import ConceptEncoderConfig
    from modeling_concept import ConceptEncoderForMaskedLM

    widths = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
    config = ConceptEncoderConfig.from_preset("perceiver_v1", max_position_embeddings=24, **widths)
    folder = write_checkpoint(tmp_path / "perceiver", ConceptEncoderForMaskedLM(config))
    with pytest.raises(ValueError, match="--max_seq_length 32 is more than the 24 positions"):
        run(folder, tmp_path / "out", task_name=["sst2"], dataset_name=glue)


def test_a_folder_of_something_else_is_left_alone(tmp_path, bert, glue):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no run of this script"):
        run(bert, tmp_path, task_name=["sst2"], dataset_name=glue, overwrite_output_dir=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


OWN = {"review": "good text", "label": "yes"}


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([OWN, OWN | {"label": "no"}], {"text_columns": ["text"]}, "has no column 'text'; it has: review, label"),
        ([OWN, OWN | {"label": "no"}], {"label_column": "class"}, "no column 'class' .*there are: review, label"),
        ([OWN, OWN | {"label": None}, OWN | {"label": "no"}], {}, "row 1 has no label"),
        ([OWN, OWN], {}, "1 different labels"),
        ([OWN | {"review": None}, OWN | {"label": "no"}], {}, "row 0 holds None, which is no text"),
        ([OWN | {"a": "x", "b": "y"}], {}, "name one or two columns of text .* review, a, b"),
        ([{"sentence1": "a", "sentence2": "b", "label": "up"}], {"task_name": ["stsb"]}, "'up'; a regression needs"),
        ([{"sentence": "a", "label": 2}], {"task_name": ["sst2"]}, "the label 2; known: negative, positive"),
        ([{"sentence": "a", "label": -1}], {"task_name": ["sst2"]}, r"row 0 has no label \(-1\)"),
        ([{"text": "a", "label": 1}], {"task_name": ["sst2"]}, "has no column 'sentence'; it has: text, label"),
    ],
)
def test_data_of_another_kind_is_refused_by_name(tmp_path, checkpoint, rows, changes, message):
    path = write_rows(tmp_path / "train.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        run(checkpoint, tmp_path / "out", train_file=path, validation_file=path, **changes)
    assert not (tmp_path / "out").exists()


def test_a_test_set_without_labels_is_not_scored(tmp_path, checkpoint):
    train = write_rows(tmp_path / "train.jsonl", own_rows(8))
    with pytest.raises(ValueError, match="--do_eval needs --validation_file"):
        run(checkpoint, tmp_path / "out", train_file=train, test_file=train)
    with pytest.raises(ValueError, match="--do_predict needs --test_file"):
        run(checkpoint, tmp_path / "out", train_file=train, validation_file=train, do_predict=True)


def test_settings_come_from_a_file(tmp_path, bert, glue):
    lines = [f"dataset_name: {glue}", "task_name: [sst2]", "max_steps: 1", "learning_rate: 1e-3"]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    results = run_glue.main([str(tmp_path / "run.yaml"), *arguments(bert, tmp_path / "out", max_steps=None)])
    assert set(results["tasks"]) == {"sst2"}
    assert results["tasks"]["sst2"]["facts"]["steps"] == 1
