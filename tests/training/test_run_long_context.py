# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`run_long_context.py` from settings to results: every kind of task, what continues a run, comparisons, errors."""

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

import run_long_context
import run_mlm
from evaluation_concept.errors import exit_code
from evaluation_concept.long_context.registry import TASKS, find_tasks
from evaluation_concept.long_context.ruler import ADJECTIVES, NOISE, NOUNS, VALUES
from evaluation_concept.long_context.tasks import Example, Sources
from tests.training.tiny_glue import count_trainings, tiny_bert, write_checkpoint
from tests.training.tiny_long import (
    CHOICES,
    arguments,
    longbench_row,
    passage,
    write_longbench,
    write_scrolls,
    write_speeches,
)
from tests.training.tiny_trainer import build
from training_concept.arguments import parse_arguments, parse_dataclasses
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.finetuning.trainer import FineTuningTrainer
from training_concept.long_context.arguments import LongContextArguments
from training_concept.long_context.corpus import PackageCorpus
from training_concept.long_context.experiment import split_parts
from training_concept.long_context.positions import (
    answer_loss,
    best_answers,
    selection_loss,
    single_selection_loss,
)
from training_concept.long_context.tuner import DocumentTuner
from training_concept.muon import MuonWithAdamW
from training_concept.tokenization import train_tokenizer

SCROLLS = ("contract_nli", "quality", "qasper", "narrative_qa", "gov_report", "summ_screen_fd", "qmsum")
ROOT = Path(__file__).parents[2]
KINDS = (ClassifierArguments, LongContextArguments, FineTuningArguments)
FEW = {"generated_sizes": [8, 2, 4]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scrolls(tmp_path_factory.mktemp("benchmarks"), SCROLLS)


def run(model: Path | str, output: Path, generator: Any = None, **changes: Any) -> dict[str, Any]:
    return run_long_context.main(arguments(model, output, **changes), generator)


@pytest.fixture(scope="module")
def scrolls(checkpoint: Path, benchmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("runs") / "scrolls"
    return output, run(checkpoint, output, task_name=["scrolls"], data_dir=benchmarks, do_predict=True)


def test_all_of_scrolls_runs_from_one_command(scrolls):
    output, results = scrolls
    assert {name.removeprefix("scrolls_") for name in results["tasks"]} == {
        *("contract_nli", "quality", "qasper", "narrative_qa"),
    }
    assert {name.removeprefix("scrolls_") for name in results["not_run"]} == {"gov_report", "summ_screen_fd", "qmsum"}
    for task in results["tasks"].values():
        assert task["examples"] == 6
        assert "validation is scored" in task["note"]
        assert task["facts"]["seconds_per_document"] > 0
    assert json.loads((output / "results.json").read_text()) == json.loads(json.dumps(results))
    assert "Not run: scrolls_qmsum" in (output / "results.md").read_text()


def test_a_document_with_a_row_for_each_choice_is_timed_as_one(tmp_path, checkpoint, benchmarks, monkeypatch):
    counted, measured = [], DocumentTuner._measured

    def count(tuner: DocumentTuner, trainer: Any, documents: int) -> Any:
        counted.append(documents)
        return measured(tuner, trainer, documents)

    monkeypatch.setattr(DocumentTuner, "_measured", count)
    run(checkpoint, tmp_path / "out", task_name=["scrolls_quality"], data_dir=benchmarks, max_steps=1)
    assert set(counted) == {6}


def test_memory_of_prediction_is_weights_and_what_comes_on_top(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    # Weights of 1 GiB and an optimizer of twice that are there; prediction takes half a GiB more.
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7 * 2**29)
    model = SimpleNamespace(get_memory_footprint=lambda: 2**30)
    tuner = DocumentTuner.__new__(DocumentTuner)
    tuner._cost = {}
    with tuner._measured(SimpleNamespace(model=model, args=SimpleNamespace(world_size=2)), 4):
        begun = time.perf_counter()
        while time.perf_counter() == begun:
            pass
    assert tuner._cost["predict_memory_gib"] == 1.5
    assert tuner._cost["seconds_per_document"] > 0


def test_the_leaderboard_gets_one_file_of_all_tasks(scrolls):
    output, _ = scrolls
    assert not (output / "submission" / "scrolls_predictions.csv").exists()
    with (output / "submission" / "scrolls_predictions.partial.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["Task", "ID", "Prediction"]
    found: dict[str, list] = {}
    for row in rows:
        found.setdefault(row["Task"], []).append(row["Prediction"])
    assert set(found) == {"contract_nli", "quality", "qasper", "narrative_qa"}
    assert all(len(answers) == 6 for answers in found.values())
    assert set(found["quality"]) <= set(CHOICES)
    texts = " ".join(passage(f"test {row}") + f" the needle text {passage(f'test {row}b')}" for row in range(6))
    assert all(answer and answer in texts for answer in found["narrative_qa"])
    assert {row["ID"] for row in rows} == {f"test{row}" for row in range(6)}
    missing = "scrolls_predictions.partial.csv lacks gov_report, summ_screen_fd, qmsum"
    assert missing in (output / "results.md").read_text()


def test_scores_are_those_of_the_predictions_that_are_kept(scrolls):
    output, results = scrolls
    kept = json.loads((output / "predictions" / "scrolls_contract_nli.json").read_text())
    right = [("Not mentioned", "Entailment", "Contradiction")[row % 3] for row in range(6)]
    (answers,) = kept["model"]
    hits = [answers[f"validation{row}"] == right[row] for row in range(6)]
    systems = results["tasks"]["scrolls_contract_nli"]["systems"]
    assert systems["model"]["scores"] == [pytest.approx(100 * sum(hits) / 6)]
    assert {"majority", "bag_of_words", "bag_of_words_first_512"} <= set(systems)


def test_the_file_for_the_leaderboard_has_its_name_when_all_seven_tasks_are_there(tmp_path, checkpoint, benchmarks):
    pytest.importorskip("rouge_score")
    folder, settings = tmp_path / "out" / "submission", {"data_dir": benchmarks, "do_predict": True, "max_steps": 1}
    settings |= {"baselines": False}
    run(checkpoint, tmp_path / "out", task_name=[f"scrolls_{name}" for name in SCROLLS[:4]], **settings)
    assert [path.name for path in folder.glob("*.csv")] == ["scrolls_predictions.partial.csv"]

    def generator(examples: Sequence[Example]) -> list[str]:
        return ["the needle text" for _ in examples]

    run(checkpoint, tmp_path / "out", generator, task_name=[f"scrolls_{name}" for name in SCROLLS[4:]], **settings)
    assert [path.name for path in folder.glob("*.csv")] == ["scrolls_predictions.csv"]
    with (folder / "scrolls_predictions.csv").open(newline="") as file:
        assert {row["Task"] for row in csv.DictReader(file)} == set(SCROLLS)
    assert "partial" not in (tmp_path / "out" / "results.md").read_text()


def test_written_answers_are_taken_from_a_generator(tmp_path, checkpoint, benchmarks):
    def generator(examples: Sequence[Example]) -> list[str]:
        return ["the needle text" for _ in examples]

    pytest.importorskip("rouge_score")
    settings = {"task_name": ["scrolls_gov_report"], "data_dir": benchmarks, "do_predict": True}
    results = run(checkpoint, tmp_path / "out", generator, **settings)
    assert results["tasks"]["scrolls_gov_report"]["systems"]["generator"]["mean"] == pytest.approx(100)
    assert (tmp_path / "out" / "submission" / "scrolls" / "gov_report.json").is_file()


def test_folds_seeds_and_the_first_512_tokens(tmp_path, checkpoint, monkeypatch):
    """A cross-validated task scores each document once for each seed; what is finished is not run again."""
    trained = count_trainings(monkeypatch)
    in_two_folds(monkeypatch, "sotu_eras")
    # Short, to be quick.
    monkeypatch.setattr(run_long_context, "FIRST_TOKENS", 48)
    packages = write_speeches(tmp_path / "packages")
    settings = {"task_name": ["sotu_eras"], "package_dir": packages, "max_steps": 1}
    results = run(checkpoint, tmp_path / "out", seeds=[1, 2], **settings)
    task = results["tasks"]["sotu_eras"]
    assert task["examples"] == 20
    assert len(task["trained_on"]) == 2
    assert task["systems"]["model"]["runs"] == task["systems"]["first_512"]["runs"] == 2
    gain = task["systems"]["model"]["mean"] - task["systems"]["first_512"]["mean"]
    assert task["gain_over_first_tokens"] == pytest.approx(gain)
    assert len(trained) == 2 * 2 * 2
    kept = json.loads((tmp_path / "out" / "predictions" / "sotu_eras.json").read_text())
    assert all(len(answers) == 20 for runs in kept.values() for answers in runs)
    again = run(checkpoint, tmp_path / "out", seeds=[1, 2], **settings)
    assert len(trained) == 2 * 2 * 2
    assert again == results


def test_a_run_that_broke_off_does_what_is_left(tmp_path, checkpoint, benchmarks, monkeypatch):
    settings = {"task_name": ["scrolls_contract_nli"], "data_dir": benchmarks}
    whole = run(checkpoint, tmp_path / "whole", max_steps=4, **settings)
    step = FineTuningTrainer.training_step

    def breaks(self: FineTuningTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    saving = settings | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(FineTuningTrainer, "training_step", breaks)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, tmp_path / "out", **saving)
    resumed = run(checkpoint, tmp_path / "out", **saving)
    name = "scrolls_contract_nli"
    assert resumed["tasks"][name]["systems"] == whole["tasks"][name]["systems"]
    # Nobody timed its first part, nor has the losses of it.
    assert "train_loss" in whole["tasks"][name]["facts"]
    assert set(resumed["tasks"][name]["facts"]) == {"steps", "seconds_per_document"}


def test_the_trained_model_scores_the_same_without_training(tmp_path, checkpoint, benchmarks):
    for name in ("scrolls_contract_nli", "scrolls_narrative_qa"):
        settings = {"task_name": [name], "data_dir": benchmarks}
        trained = run(checkpoint, tmp_path / name, **settings)
        model = tmp_path / name / "models" / name
        # More seeds would give the same once more.
        scored = run(model, tmp_path / f"{name} scored", do_train=None, seeds=[1, 2], **settings)
        assert scored["tasks"][name]["systems"]["model"] == trained["tasks"][name]["systems"]["model"]


@pytest.mark.parametrize("task", ["ruler_needle", "ruler_multi_key", "ruler_variable_tracking", "ruler_common_words"])
@pytest.mark.parametrize("kind", ["concept", "bert"])
def test_generated_tasks_run_with_any_model(tmp_path, task, kind):
    model = write_reader(tmp_path / "model", kind)
    results = run(model, tmp_path / "out", task_name=[task], max_seq_length=512, max_steps=1, **FEW)
    assert results["tasks"][task]["examples"] == 4
    assert {"model", "majority"} <= set(results["tasks"][task]["systems"])


def write_reader(folder: Path, kind: str = "concept") -> Path:
    """A checkpoint whose tokenizer knows the words of the generated tasks."""
    texts = [*NOISE, *(f" {word}" for word in (*ADJECTIVES, *NOUNS, *VALUES)), " . the a and of VAR"] * 3
    tokenizer = train_tokenizer(texts, 800)
    if kind == "bert":
        widths = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        BertModel(BertConfig(vocab_size=800, max_position_embeddings=512, **widths)).save_pretrained(folder)
    else:
        build(vocab_size=800).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_two_folds(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Cross-validate a task in two folds."""
    monkeypatch.setitem(TASKS, name, replace(TASKS[name], folds=2))


@pytest.mark.parametrize("muon", [False, True])
def test_a_selection_is_learned(tmp_path, checkpoint, monkeypatch, muon):
    """Which of two paragraphs is asked for, which a head on the wrong tokens could not tell."""
    in_two_folds(monkeypatch, "longbench_passage_retrieval_en")
    rows = [
        longbench_row(
            row,
            context=f"Paragraph 1: {passage(row, 4)}\n\nParagraph 2: letters {passage(row, 4)}",
            answers=[f"Paragraph {1 + row % 2}"],
            input=("a little", "more of it")[row % 2],
        )
        for row in range(10)
    ]
    folder = write_longbench(tmp_path, "passage_retrieval_en", rows)
    settings = {"task_name": ["longbench_passage_retrieval_en"], "data_dir": folder, "muon": muon or None}
    steps, step = [], MuonWithAdamW.step
    monkeypatch.setattr(MuonWithAdamW, "step", lambda *args: steps.append(args) or step(*args))
    results = run(checkpoint, tmp_path / "out", max_steps=20, learning_rate=1e-2, **settings)
    assert bool(steps) == muon
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cells").rglob("run.json")]
    assert {record["description"]["training"].get("muon") for record in records} == {muon or None}
    task = results["tasks"]["longbench_passage_retrieval_en"]
    assert task["systems"]["model"]["mean"] == 100
    assert "not comparable with zero-shot" in task["note"]
    path = tmp_path / "out" / "submission" / "longbench" / "passage_retrieval_en.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["_id"]: line["pred"] for line in lines} == {row["_id"]: row["answers"][0] for row in rows}
    assert set(lines[0]) == {"_id", "pred", "answers", "all_classes"}


def test_lengths_are_trained_in_turn(tmp_path, monkeypatch):
    """Each from the model of the one before, with documents of its own length, also for a new model."""
    trained = count_trainings(monkeypatch)
    new = {"model_name_or_path": None, "preset": "nano", "tokenizer_name": write_reader(tmp_path / "reader")}
    widths = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,local_attention=16"
    settings = {"task_name": ["ruler_needle"], "max_seq_length": 256, "length_curriculum": [64, 128], **FEW}
    run("", tmp_path / "out", config_overrides=widths, max_steps=1, **new, **settings)
    assert [Path(folder).name for folder in trained] == ["length-64", "length-128", "length-256"]
    cells = tmp_path / "out" / "cells" / "ruler_needle" / "model" / "seed-42"
    records = [json.loads((cells / f"length-{n}" / "run.json").read_text())["description"] for n in (64, 128, 256)]
    assert records[0]["model"] is None
    assert [Path(record["model"]).parent.name for record in records[1:]] == ["length-64", "length-128"]
    assert len({record["train"] for record in records}) == 3
    assert records[0]["configuration"]["hidden_size"] == 32


def test_each_length_has_its_number_of_documents_its_batches_and_its_score(tmp_path, monkeypatch):
    # Long enough for the question.
    monkeypatch.setattr(run_long_context, "FIRST_TOKENS", 100)
    lengths = {"length_curriculum": [128, 192], "max_seq_length": 256, "curriculum_examples": [6, 4, 3]}
    settings = {"task_name": ["ruler_multi_key"], "seeds": [1, 2], "batch_tokens": 384, "score_every_length": True}
    steps = {"max_steps": None, "num_train_epochs": 1, "generated_sizes": [8, 2, 5]}
    results = run(write_reader(tmp_path / "reader"), tmp_path / "out", **lengths, **settings, **steps)
    task = results["tasks"]["ruler_multi_key"]
    assert {length: found["runs"] for length, found in task["by_length"].items()} == {"128": 2, "192": 2}
    assert all(0 <= score <= 100 for found in task["by_length"].values() for score in found["scores"])
    assert task["trained_on"] == [3]
    # Six documents of 128 tokens in batches of three, four of 192 in pairs, three of 256 one by one; also where only
    # their first tokens are read, so that the one may be compared with the other.
    for system in ("model", "first_512"):
        cells = tmp_path / "out" / "cells" / "ruler_multi_key" / system / "seed-1"
        facts = [json.loads((cells / f"length-{length}" / "cell.json").read_text()) for length in (128, 192, 256)]
        assert [fact["steps"] for fact in facts] == [2, 2, 3]


def test_each_length_has_its_learning_rate(tmp_path):
    rates = {"length_curriculum": [64], "max_seq_length": 128, "curriculum_learning_rates": [1e-3, 0.0]}
    settings = {"task_name": ["ruler_needle"], "first_tokens_ablation": False, "seeds": [1], **FEW}
    run(write_reader(tmp_path / "reader"), tmp_path / "out", **rates, **settings)
    lengths = tmp_path / "out" / "cells" / "ruler_needle" / "model" / "seed-1"
    recorded = [json.loads((lengths / f"length-{n}" / "run.json").read_text())["description"] for n in (64, 128)]
    assert [each["training"]["learning_rate"] for each in recorded] == [1e-3, 0.0]
    # At a rate of zero nothing is learned.
    first, last = (
        load_file(folder / "model.safetensors")
        for folder in (lengths / "length-64" / "model", tmp_path / "out" / "models" / "ruler_needle")
    )
    assert all(torch.equal(value, last[name]) for name, value in first.items())


def test_each_length_has_positions_and_concepts_that_are_adapted_to_it(tmp_path):
    """Also where training goes on from a length before."""
    reader = write_reader(tmp_path / "reader")
    path = Path(reader) / "config.json"
    config = json.loads(path.read_text()) | {"max_position_embeddings": 64, "concept_ratio": 8, "max_concepts": 8}
    path.write_text(json.dumps(config))
    settings = {"task_name": ["ruler_needle"], "length_curriculum": [64, 128], "max_seq_length": 512, "seeds": [1]}
    run(reader, tmp_path / "out", adapt_to_length=True, first_tokens_ablation=False, **settings, **FEW)
    cells = tmp_path / "out" / "cells" / "ruler_needle" / "model" / "seed-1"
    models = [
        cells / "length-64" / "model",
        cells / "length-128" / "model",
        tmp_path / "out" / "models" / "ruler_needle",
    ]
    found = [json.loads((model / "config.json").read_text()) for model in models]
    assert [each["rope_parameters"].get("factor") for each in found] == [None, 2.0, 8.0]
    assert [each["max_concepts"] for each in found] == [8, 16, 64]
    assert {each["max_position_embeddings"] for each in found} == {64}


@pytest.mark.parametrize("task", ["scrolls_contract_nli", "scrolls_qasper"])
def test_all_batches_have_one_length_if_asked(tmp_path, checkpoint, benchmarks, monkeypatch, task):
    """As one graph of a compiler wants; whether classes or places are asked for."""
    lengths, take_step = [], FineTuningTrainer.training_step

    def watched(self, model, inputs, *args):
        lengths.append(inputs["input_ids"].shape[1])
        return take_step(self, model, inputs, *args)

    monkeypatch.setattr(FineTuningTrainer, "training_step", watched)
    settings = {"task_name": [task], "data_dir": benchmarks, "first_tokens_ablation": False, "max_steps": 3}
    run(checkpoint, tmp_path / "out", pad_to_max_length=True, max_seq_length=96, seeds=[1], **settings)
    assert lengths == [96] * 3


def test_what_is_trained_on_is_drawn_from_all(tmp_path, checkpoint):
    """The first messages are all of one era."""
    packages = write_speeches(tmp_path / "packages")
    examples = TASKS["sotu_eras"].load(Sources(corpus=PackageCorpus(packages)))
    parts = split_parts(TASKS["sotu_eras"], examples, 6, None)
    assert all(len(part.train) == 6 for part in parts)
    assert all(len({example.label for example in part.train}) > 1 for part in parts)
    assert parts == split_parts(TASKS["sotu_eras"], examples, 6, None)


def test_configurations_and_other_runs_are_compared(tmp_path, checkpoint, benchmarks):
    settings = {"task_name": ["scrolls_contract_nli"], "data_dir": benchmarks}
    control = write_checkpoint(tmp_path / "bert", tiny_bert())
    run(control, tmp_path / "control", **settings)
    ratios = ["concept_ratio=4", "concept_ratio=16"]
    compared = run(checkpoint, tmp_path / "out", compare=ratios, compare_with=[tmp_path / "control"], **settings)
    rows = compared["tasks"]["scrolls_contract_nli"]
    assert list(rows) == [*ratios, "control"]
    assert all(row["seconds_per_document"] > 0 and row["score"]["runs"] == 1 for row in rows.values())
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == compared
    assert (tmp_path / "out" / "comparison.md").read_text().count("| scrolls_contract_nli |") == 3
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    cell = "cells/scrolls_contract_nli/model/seed-42/run.json"
    for ratio in (4, 16):
        record = json.loads((tmp_path / "out" / "compare" / f"concept_ratio={ratio}" / cell).read_text())
        assert record["description"]["configuration"].get("concept_ratio", 16) == ratio


def test_long_documents_train_with_gradient_checkpointing(tmp_path, checkpoint, benchmarks):
    settings = {"task_name": ["scrolls_contract_nli"], "data_dir": benchmarks}
    results = [
        run(checkpoint, tmp_path / str(flag), gradient_checkpointing=flag, **settings)["tasks"]
        for flag in (True, False)
    ]
    losses = [task["scrolls_contract_nli"]["facts"]["train_loss"] for task in results]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_listops_learns_from_scratch_with_its_own_tokenizer(tmp_path):
    new = {"model_name_or_path": None, "preset": "nano", "tokenizer_name": "task"}
    widths = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,local_attention=16"
    settings = {"task_name": ["lra_listops"], "max_seq_length": 128, "first_tokens_ablation": False}
    results = run("", tmp_path / "out", config_overrides=widths, **new, **settings, **FEW)
    assert results["tasks"]["lra_listops"]["trained_on"] == [8]
    config = json.loads((tmp_path / "out" / "models" / "lra_listops" / "config.json").read_text())
    assert (config["vocab_size"], config["pad_token_id"], config["mask_token_id"]) == (20, 0, 4)


def test_texts_for_self_pretraining_are_exported(tmp_path):
    new = {"model_name_or_path": None, "preset": "nano", "tokenizer_name": "task"}
    run("", tmp_path / "out", task_name=["lra_listops"], export_texts=tmp_path / "texts", **new, **FEW)
    rows = [json.loads(line) for line in (tmp_path / "texts" / "texts.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert all(row["text"].startswith("[") for row in rows)
    assert (tmp_path / "texts" / "tokenizer" / "tokenizer.json").is_file()
    assert not (tmp_path / "out").exists()


def test_losses_and_answers_by_hand():
    logits = torch.zeros(1, 6, 2)
    logits[0, 2, 1], logits[0, 4, 1] = 2.0, 1.0
    candidates, targets = torch.tensor([[2, 4, -1]]), torch.tensor([[1, 0, 0]])
    exp = torch.exp
    single = -torch.log(exp(torch.tensor(2.0)) / (exp(torch.tensor(2.0)) + exp(torch.tensor(1.0))))
    torch.testing.assert_close(single_selection_loss(logits, candidates, targets), single)
    both = -torch.log(torch.sigmoid(torch.tensor(2.0))) - torch.log(1 - torch.sigmoid(torch.tensor(1.0)))
    torch.testing.assert_close(selection_loss(logits, candidates, targets), both / 2)
    spans = torch.zeros(1, 6, 2)
    spans[0, 3, 0], spans[0, 4, 1], spans[0, 0] = 3.0, 2.0, torch.tensor([9.0, 9.0])
    inside = torch.tensor([[1, 4]])
    assert best_answers(spans, inside).tolist() == [[3, 4, 5 - 18]]
    # Where 3 is white space no answer begins or ends there.
    assert best_answers(spans, torch.tensor([[1, 4, 3, -1]])).tolist() == [[4, 4, 2 - 18]]
    total = [torch.cat([spans[0, 0, side][None], spans[0, 1:5, side]]).logsumexp(0) for side in (0, 1)]
    expected = (total[0] - 3 + total[1] - 2) / 2
    torch.testing.assert_close(answer_loss(spans, inside, torch.tensor([[3, 4, -1, -1]])), expected)


def test_what_is_cut_off_is_learned_nothing_from():
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    for loss in (single_selection_loss, selection_loss):
        value = loss(logits, torch.tensor([[-1, -1]]), torch.tensor([[1, 0]]))
        value.backward()
        assert value == 0
        assert logits.grad is not None
        assert not logits.grad.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task_name": ["scroll"]}, "There is no task 'scroll'; families: documents, longbench, lra, ruler, scrolls"),
        ({"task_name": None}, "--task_name"),
        ({"max_seq_length": 70_000}, "--max_seq_length 70000 is more than 65536"),
        ({"length_curriculum": [64, 32]}, "--length_curriculum must ascend"),
        ({"curriculum_examples": [3, 4]}, "--curriculum_examples takes 1 numbers"),
        ({"curriculum_learning_rates": [1e-3, 1e-4]}, "--curriculum_learning_rates takes 1 numbers"),
        ({"score_every_length": True}, "--score_every_length goes with --length_curriculum"),
        (
            {"curriculum_examples": [3], "max_train_samples": 3},
            "--curriculum_examples and --max_train_samples exclude",
        ),
        ({"task_name": ["sotu_eras"], "do_predict": True}, "--do_predict: none of these tasks has a test split"),
        ({"task_name": ["scrolls_qasper"], "label_smoothing_factor": 0.1}, "--label_smoothing_factor is for classes"),
        (
            {"task_name": ["scrolls_qasper"], "readout": "concepts"},
            "--readout is for classes and choices, and",
        ),
        ({"scored_split": "train"}, "--scored_split train must be test or validation"),
        ({"scored_split": "validation", "do_predict": True}, "--do_predict is for what is reported"),
        ({"batch_tokens": 0}, "--batch_tokens 0"),
        ({"do_eval": None}, "Nothing to do"),
        ({"task_name": ["sotu_eras"], "do_train": None}, "sotu_eras is cross-validated"),
        ({"task_name": ["sotu_eras"]}, "--package_dir"),
        ({"data_dir": "nowhere"}, "There is neither nowhere/scrolls/contract_nli.zip nor"),
        ({"eval_strategy": "epoch"}, "--eval_strategy"),
        ({"generated_sizes": [1, 2]}, "--generated_sizes takes three numbers"),
        ({"compare": ["no_such_field=3"]}, "no_such_field"),
        ({"compare_with": ["nowhere"]}, "nowhere holds no results"),
        ({"do_train": None}, "has no classifier for this task"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(tmp_path, checkpoint, benchmarks, capsys, settings, message):
    defaults = {"task_name": ["scrolls_contract_nli"], "data_dir": benchmarks}
    flags = arguments(checkpoint, tmp_path / "out", **defaults | settings)
    assert exit_code(run_long_context.main, flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_a_folder_of_something_else_is_left_alone(tmp_path, checkpoint, benchmarks):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no run of this script"):
        run(checkpoint, tmp_path / "out", task_name=["scrolls_contract_nli"], data_dir=benchmarks)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_model_with_fewer_positions_is_refused(tmp_path, benchmarks):
    bert = write_checkpoint(tmp_path / "bert", tiny_bert())
    with pytest.raises(ValueError, match="64 positions"):
        run(bert, tmp_path / "out", task_name=["scrolls_contract_nli"], data_dir=benchmarks, max_seq_length=128)


def test_recipes_are_taken():
    """By this script, and by `run_mlm.py` what pretrains."""
    for path in sorted((ROOT / "recipes" / "long_context").glob("*.yaml")):
        if path.stem == "listops_self_pretraining":
            parse_arguments([str(path)])
            continue
        model_args, options, training_args = parse_dataclasses([str(path)], *KINDS)
        tasks = find_tasks(options.task_name)
        run_long_context._check(tasks, model_args, options, training_args)


def test_every_task_is_documented():
    text = (ROOT / "docs" / "long_context.md").read_text(encoding="utf-8")
    assert [name for name in TASKS if f"`{name}`" not in text] == []


def test_accumulated_batches_are_learned_from_like_one(tmp_path, checkpoint, benchmarks):
    """Of spans, whose loss is a mean of batches."""
    name = "scrolls_narrative_qa"
    weights = []
    for batch, steps in ((4, 1), (2, 2)):
        settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "optim": "sgd"}
        settings |= {"max_steps": 1, "learning_rate": 1.0, "max_grad_norm": 0, "baselines": False}
        run(checkpoint, tmp_path / str(batch), task_name=[name], data_dir=benchmarks, **settings)
        weights.append(load_file(tmp_path / str(batch) / "models" / name / "model.safetensors"))
    start = load_file(checkpoint / "model.safetensors")
    moved = [key for key in start if key in weights[0] and not torch.equal(start[key], weights[0][key])]
    assert len(moved) > 10
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], atol=1e-5, rtol=1e-4)


def test_a_model_that_was_pretrained_on_the_task_goes_on(tmp_path):
    """Texts and tokenizer go to `run_mlm.py`, its checkpoint comes back."""
    new = {"model_name_or_path": None, "preset": "nano", "tokenizer_name": "task"}
    run("", tmp_path / "out", task_name=["lra_listops"], export_texts=tmp_path / "texts", **new, **FEW)
    widths = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,local_attention=16"
    flags = {
        "preset": "nano",
        "config_overrides": widths,
        "tokenizer_name": tmp_path / "texts" / "tokenizer",
        "train_file": tmp_path / "texts" / "texts.jsonl",
        "max_seq_length": 64,
        "output_dir": tmp_path / "mlm",
        "do_train": True,
        "max_steps": 1,
        "use_cpu": True,
        "report_to": "none",
    }
    run_mlm.main([f"--{name}={value}" for name, value in flags.items()])
    results = run(tmp_path / "mlm", tmp_path / "out", task_name=["lra_listops"], **FEW)
    assert results["tasks"]["lra_listops"]["examples"] == 4
    config = json.loads((tmp_path / "out" / "models" / "lra_listops" / "config.json").read_text())
    assert config["vocab_size"] == 20
