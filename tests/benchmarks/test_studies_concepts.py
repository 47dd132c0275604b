# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The study of objectives and losses on concepts: equal time, weights, pretraining with analysis, and its figures."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks.results import read_results
from benchmarks.studies import __main__ as command
from benchmarks.studies import concepts, pretraining
from benchmarks.studies.cells import Cell, as_flags, read_study
from benchmarks.studies.records import Record, device_name, make_record, read_records, write_records
from benchmarks.studies.settling import settle
from benchmarks.studies.text import Selection, keep_text
from benchmarks.studies.worker import Places, perform
from evaluation_concept.tasks import Examples, TaskData
from tests.training.tiny_run import CONCEPT
from training_concept.finetuning.kept import write_kept_task
from training_concept.finetuning.package_tasks import PACKAGE_TASKS
from training_concept.tokenization import train_tokenizer

SENTENCE = "The {} {} saw that the {} {} went over to some {} {} of {} there."
DEVICE = "one GPU, torch 2"
MEASURED = {"held_out": "TASKS/held_out.parquet", "pairs": "TASKS/pairs.parquet"}
TRAINING: dict[str, Any] = {
    "preset": CONCEPT["preset"],
    "config_overrides": dict(pair.split("=") for pair in CONCEPT["config_overrides"].split(",")),
    "tokenizer_name": "TASKS/tokenizer",
    "train_file": "TASKS/train.parquet",
    "validation_file": "TASKS/validation.parquet",
    "max_seq_length": 64,
    "do_train": True,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "use_cpu": True,
}
FEW = {"rows": 8, "sentences": 60, "neighbours": 20, "ablated_batches": 1}
VARIANTS = {"mlm": {}, "vicreg": {"concept_losses": "vicreg@centred:WEIGHT"}}
GROUPS: dict[str, Any] = {
    "pace": {"models": ["hybrid"], "weights": [0.1], "arguments": {"max_steps": 3}, "variants": VARIANTS},
    "sweep": {
        "models": ["hybrid"],
        "seeds": [11],
        "weights": [0.01, 1.0],
        "arguments": {"seconds": 10} | MEASURED,
        "variants": VARIANTS,
    },
    "main": {
        "models": ["hybrid", "bottleneck"],
        "seeds": [1, 2],
        "weights": "sweep",
        "arguments": {"seconds": 20} | MEASURED,
        "variants": VARIANTS | {"nested_dropout": {"config_overrides": {"nested_dropout": 0.5}}},
    },
}


def write_study(folder: Path, groups: dict[str, Any] | None = None, **changes: Any) -> Path:
    study = {
        "script": "benchmarks.studies.pretraining",
        "arguments": TRAINING | changes,
        "models": {"hybrid": {}, "bottleneck": {"config_overrides": {"decoder_tokens": "none"}}},
        "groups": groups or GROUPS,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def results(loss: float, rank: float = 0.3, order: float = 0.6, likeness: float = 0.7, pace: float = 0.5) -> dict:
    """As `pretraining.main` gives them."""
    kinds = dict.fromkeys(concepts.LIKENESSES, likeness)
    return {
        "steps": 40,
        "tokens": 4_000_000,
        "seconds_per_step": pace,
        "mlm_loss": loss,
        "geometry": dict.fromkeys((*concepts.GEOMETRY, *concepts.SLOTS), rank),
        "order": {"paired_accuracy": order, "single_accuracy": 0.5, "num_pairs": 100},
        "similarity": {"neighbours": kinds, "paraphrases": kinds},
        "tfidf": {"neighbours": 0.8, "paraphrases": 0.75},
        "ablation": {"full": 4.0, "without_concepts": 4.5, "tokens_alone": 5.0},
    }


def record(cell: Cell, found: dict[str, Any]) -> Record:
    calibration = {"calibration": dict(cell.calibration)} if cell.calibration else {}
    return make_record(cell, found, None, **calibration) | {"device": DEVICE}


def settled(cells: Sequence[Cell], study: Sequence[Cell], records: Sequence[Record], device: str = DEVICE) -> Any:
    return settle(cells, study, {each["cell"]: each for each in records}, device, concepts.choose_weight)


def group(study: Sequence[Cell], name: str) -> list[Cell]:
    return [cell for cell in study if cell.group == name]


def timed(study: Sequence[Cell]) -> list[Record]:
    """Records of pace: a step of MLM alone takes half a second, with VICReg a whole one."""
    return [record(cell, {"seconds_per_step": 0.5 if cell.variant == "mlm" else 1.0}) for cell in group(study, "pace")]


def test_cells_have_seeds_weights_and_settings_that_are_merged(tmp_path):
    study = read_study(write_study(tmp_path))
    names = [cell.name for cell in study]
    assert names[:2] == ["pace-hybrid-mlm", "pace-hybrid-vicreg-0.1"]
    assert names[2:5] == [
        "sweep-hybrid-mlm-seed_11",
        "sweep-hybrid-vicreg-0.01-seed_11",
        "sweep-hybrid-vicreg-1-seed_11",
    ]
    # Seed by seed, so that an early end leaves whole comparisons.
    assert [cell.seed for cell in group(study, "main")] == [1] * 6 + [2] * 6
    nested = next(cell for cell in study if cell.name == "main-bottleneck-nested_dropout-seed_2")
    assert nested.arguments["seed"] == 2
    assert "hidden_size=32" in nested.command
    assert "decoder_tokens=none,nested_dropout=0.5" in nested.command
    assert nested.command.startswith("python -m benchmarks.studies.pretraining --")
    assert "vicreg@centred:0.01" in study[3].command


def test_a_setting_that_is_nothing_is_left_out(tmp_path):
    groups = {"main": {"models": ["hybrid"], "arguments": {"learning_rate": None}}}
    (cell,) = read_study(write_study(tmp_path, groups))
    assert "--learning_rate" not in as_flags(cell.arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"weights": "swept"}, "'swept', which is no group"), ({"weights": []}, "the group no weights")],
)
def test_weights_that_are_not_there_are_refused(tmp_path, changes, message):
    groups = {"main": {"models": ["hybrid"], "variants": VARIANTS} | changes}
    with pytest.raises(ValueError, match=message):
        read_study(write_study(tmp_path, groups))


def test_equal_time_is_as_many_steps_as_fit_into_it_alone(tmp_path):
    study = read_study(write_study(tmp_path))
    ready, missing = settled(group(study, "sweep"), study, timed(study))
    assert not missing
    assert [cell.arguments["max_steps"] for cell in ready] == [20, 10, 10]
    assert all("seconds" not in cell.arguments for cell in ready)
    assert ready[1].calibration == {
        "seconds": 10.0,
        "seconds_per_step": 1.0,
        "of": "pace-hybrid-vicreg-0.1",
        "device": DEVICE,
    }


def test_equal_steps_are_those_of_another_variant(tmp_path):
    arguments = {"seconds": 10, "paced_as": "mlm"} | MEASURED
    groups = GROUPS | {"equal_steps": GROUPS["sweep"] | {"arguments": arguments}}
    study = read_study(write_study(tmp_path, groups))
    ready, _ = settled(group(study, "equal_steps"), study, timed(study))
    assert [cell.arguments["max_steps"] for cell in ready] == [20, 20, 20]
    assert "paced_as" not in ready[1].arguments


def test_cells_wait_for_their_pace_on_this_device_and_of_these_settings(tmp_path):
    study = read_study(write_study(tmp_path))
    sweep, paces = group(study, "sweep"), timed(study)
    assert "no record of its pace" in settled(sweep, study, [])[1]["sweep-hybrid-mlm-seed_11"]
    assert "another device" in settled(sweep, study, paces, "another GPU")[1]["sweep-hybrid-mlm-seed_11"]
    larger = read_study(write_study(tmp_path, per_device_train_batch_size=8))
    assert len(settled(group(larger, "sweep"), larger, paces)[1]) == 3


def test_a_pace_of_another_device_is_timed_again(tmp_path, monkeypatch):
    study = read_study(write_study(tmp_path))
    records = [*timed(study), main_record("mlm", 1, results(4.0))]
    write_records(tmp_path / "known.jsonl", {each["cell"]: each for each in records})
    known: dict[str, Record] = {}

    def run(cells: Sequence[Cell], places: Places, output: Path, **options: Any) -> set[str]:
        known.update(options["known"])
        return set()

    monkeypatch.setattr(command, "run_study", run)
    folders = [f"--{name}={tmp_path / name}" for name in ("tasks", "work", "output")]
    arguments = ["run", str(tmp_path / "study.yaml"), "--only", "pace", *folders]
    command.main([*arguments, "--known", str(tmp_path / "known.jsonl")])
    assert known.keys() == {"main-hybrid-mlm-seed_1"}
    monkeypatch.setattr(command, "device_name", lambda: DEVICE)
    command.main([*arguments, "--known", str(tmp_path / "known.jsonl")])
    assert known.keys() == {each["cell"] for each in records}


def swept(study: Sequence[Cell], paces: list[Record], losses: list[float], ranks: list[float]) -> list[Record]:
    cells = settled(group(study, "sweep"), study, paces)[0]
    return [record(cell, results(*pair)) for cell, *pair in zip(cells, losses, ranks, strict=True)]


@pytest.mark.parametrize(
    ("losses", "ranks", "weight"),
    [
        # Both cost little: the one with the higher rank.
        ([4.0, 4.001, 4.009], [0.3, 0.4, 0.6], 1.0),
        ([4.0, 4.001, 4.009], [0.3, 0.6, 0.4], 0.01),
        # The higher rank costs too much.
        ([4.0, 4.001, 4.02], [0.3, 0.4, 0.9], 0.01),
        # Both do: the one that costs less.
        ([4.0, 4.3, 4.2], [0.3, 0.9, 0.4], 1.0),
    ],
)
def test_a_weight_is_chosen_by_what_it_costs_and_then_by_rank(tmp_path, losses, ranks, weight):
    study = read_study(write_study(tmp_path))
    paces = timed(study)
    ready, missing = settled(group(study, "main"), study, paces + swept(study, paces, losses, ranks))
    chosen = {cell.weight for cell in ready if cell.variant == "vicreg"}
    assert chosen == {weight}
    assert f"vicreg@centred:{weight:g}" in ready[1].command
    assert ready[1].name == "main-hybrid-vicreg-seed_1"
    # Nobody has timed the bottleneck, nor nested dropout.
    assert {name.split("-")[1] for name in missing} == {"hybrid", "bottleneck"}
    assert len(missing) == 8


def test_a_high_rank_of_what_does_not_depend_on_the_text_is_not_chosen():
    cell = Cell("sweep", "hybrid", "vicreg", "", "benchmarks.studies.pretraining", {}, 11)
    noise, true = results(4.0, 0.9), results(4.0, 0.5)
    noise["geometry"]["input_share"] = 0.1
    by_weight = {1.0: [record(cell, noise)], 0.1: [record(cell, true)]}
    assert concepts.choose_weight([record(cell, results(4.0))], by_weight) == 0.1


def test_a_weight_is_not_chosen_without_records(tmp_path):
    study = read_study(write_study(tmp_path))
    _, missing = settled(group(study, "main"), study, timed(study))
    assert "no record of sweep-hybrid-mlm-seed_11" in missing["main-hybrid-vicreg-seed_1"]


def test_a_weight_is_not_chosen_from_half_a_sweep(tmp_path):
    study = read_study(write_study(tmp_path))
    paces = timed(study)
    # The best one has failed, or the time was over before it.
    *begun, _ = swept(study, paces, [4.0, 4.001, 4.0], [0.3, 0.4, 0.9])
    ready, missing = settled(group(study, "main"), study, paces + begun)
    assert {cell.variant for cell in ready} == {"mlm"}
    assert "no record of sweep-hybrid-vicreg-1-seed_11" in missing["main-hybrid-vicreg-seed_1"]


def main_record(variant: str, seed: int, found: dict[str, Any], model: str = "hybrid", **changes: Any) -> Record:
    cell = Cell("main", model, variant, "", "benchmarks.studies.pretraining", {}, seed)
    return record(replace(cell, **changes), found)


@pytest.fixture
def records() -> dict[str, Record]:
    calibration = {"seconds": 30.0, "seconds_per_step": 0.5}
    found = []
    for seed, base in ((1, 4.0), (2, 4.4), (3, 4.2)):
        found.append(main_record("mlm", seed, results(base, 0.3), calibration=calibration))
        found.append(main_record("vicreg", seed, results(base + 0.004 + seed / 1000, 0.55), weight=0.1))
        found.append(main_record("t_regs", seed, results(base + 0.2, 0.9, 0.7), weight=1.0))
        found.append(main_record("contrastive", seed, results(base - 0.1, 0.2, likeness=0.9)))
    # A seed that the baseline does not have is no pair.
    found.append(main_record("contrastive", 4, results(9.0, 0.2, likeness=0.9)))
    found += [main_record("mlm", seed, results(5.0, 0.4, 0.96 + seed / 100), "bottleneck") for seed in (1, 2)]
    cell = Cell("sweep", "hybrid", "mlm", "", "benchmarks.studies.pretraining", {}, 11)
    found.append(record(cell, results(4.0)))
    found += [
        record(replace(cell, variant="vicreg", weight=weight), results(loss, rank))
        for weight, loss, rank in ((0.01, 4.0, 0.3), (0.1, 4.005, 0.5), (1.0, 4.5, 0.9))
    ]
    pace = Cell("pace", "hybrid", "mlm", "", "benchmarks.studies.pretraining", {})
    found += [
        record(replace(pace, variant=name), results(4.0, pace=s)) for name, s in (("mlm", 0.5), ("t_regs", 0.75))
    ]
    return {each["cell"]: each for each in found}


def test_figures_are_of_the_best_that_costs_little_paired_by_seed(records):
    figures, _ = concepts.summarise(records)
    assert figures["entropy_rank_share_512"].value == pytest.approx(0.55)
    assert "vicreg (0.1)" in figures["entropy_rank_share_512"].note
    cost = figures["mlm_cost_nats"]
    assert cost.value == pytest.approx(0.006)
    # The seeds' own losses differ by .2; the differences by .001.
    assert cost.spread == pytest.approx(0.001)
    assert cost.runs == 3
    assert figures["order_probe"].value == pytest.approx(0.975)
    assert "bottleneck, mlm" in figures["order_probe"].note
    assert figures["zero_shot_similarity"].value == pytest.approx(0.9)
    assert figures["zero_shot_similarity"].device == DEVICE


def test_the_figure_says_what_mlm_alone_and_random_weights_have(records):
    untrained = main_record("untrained", 1, results(9.0, 0.75), group="untrained")
    ready = record(Cell("prepare", "hybrid", "", "", "benchmarks.studies.pretraining", {}), results(9.0))
    figures, tables = concepts.summarise(records | {each["cell"]: each for each in (untrained, ready)})
    note = figures["entropy_rank_share_512"].note
    assert "vicreg (0.1) 0.550, 0.500" in note
    assert "untrained 0.750, 0.500" in note
    assert "mlm 0.300, 0.500" in note
    assert len({table.name: table for table in tables}["hybrid_concepts"].rows) == 5


def test_where_all_cost_too_much_the_figure_is_of_mlm_alone(records):
    dear = {name: each for name, each in records.items() if each["variant"] in ("mlm", "t_regs")}
    figures, _ = concepts.summarise(dear)
    assert figures["mlm_cost_nats"].value == 0
    assert figures["entropy_rank_share_512"].value == pytest.approx(0.3)
    note = figures["entropy_rank_share_512"].note
    assert "of 2 variants the best that costs so little: hybrid, mlm;" in note
    assert note.count("mlm 0.300") == 1


def test_tables_show_variants_differences_sweep_and_pace(records):
    tables = {table.name: table for table in concepts.summarise(records)[1]}
    names = {"hybrid_concepts", "hybrid_meaning", "bottleneck_concepts", "bottleneck_meaning", "sweep", "pace"}
    assert set(tables) == names
    rows = {row[0]: row for row in tables["hybrid_concepts"].rows}
    assert next(iter(rows)) == "mlm"
    assert rows["mlm"][4:6] == ["4.2000 ± 0.2000", ""]
    assert rows["vicreg (0.1)"][5] == "+0.0060 ± 0.0010"
    assert rows["contrastive"][1] == 4
    assert rows["contrastive"][5] == "-0.1000 ± 0.0000"
    assert "30 s of training" in tables["hybrid_concepts"].note
    assert {row[1]: row[-1] for row in tables["sweep"].rows} == {0.01: "", 0.1: "yes", 1.0: ""}
    assert [row[3] for row in tables["pace"].rows] == ["1.00", "1.50"]


def test_equal_steps_stand_beside_equal_time(records):
    for seed, base in ((1, 4.0), (2, 4.4), (3, 4.2)):
        each = main_record("vicreg", seed, results(base - 0.01, 0.6), weight=0.1, group="equal_steps")
        records[each["cell"]] = each
    figures, tables = concepts.summarise(records)
    rows = {table.name: table.rows for table in tables}
    cells = ["hybrid", "vicreg (0.1)", 3, "-0.0100 ± 0.0000", "+0.0060 ± 0.0010", "0.600 ± 0.000", "0.550 ± 0.000"]
    assert rows["equal_steps"] == [cells]
    assert len(rows["hybrid_concepts"]) == 4
    assert figures["mlm_cost_nats"].value == pytest.approx(0.006)


def test_collecting_writes_figures_tables_and_the_archive(records, tmp_path):
    write_records(tmp_path / "new.jsonl", records)
    command.main(["collect", "concepts", str(tmp_path / "new.jsonl")], tmp_path)
    found = read_results(tmp_path / "concepts.json")
    assert set(found.figures) == {"entropy_rank_share_512", "mlm_cost_nats", "order_probe", "zero_shot_similarity"}
    command.main(["collect", "concepts"], tmp_path)
    assert read_results(tmp_path / "concepts.json") == found


def test_costs_and_gains_are_drawn(records, tmp_path):
    write_records(tmp_path / "concepts_runs.jsonl", records)
    command.main(["draw", "--output", str(tmp_path / "concepts.png")], tmp_path)
    assert (tmp_path / "concepts.png").read_bytes().startswith(b"\x89PNG")
    alone = {name: each for name, each in records.items() if each["variant"] == "mlm"}
    write_records(tmp_path / "concepts_runs.jsonl", alone)
    with pytest.raises(ValueError, match="no variant to draw"):
        command.main(["draw", "--output", str(tmp_path / "none.png")], tmp_path)


def texts(number: int, seed: int, sentences: int = 8) -> list[str]:
    """Documents of sentences in which two words that follow one another can be swapped."""
    draw = random.Random(seed)
    syllables = random.Random(0)
    words = ["".join(syllables.choices("abcdefghijklmnop", k=syllables.randint(3, 6))) for _ in range(60)]
    return [" ".join(SENTENCE.format(*draw.choices(words, k=7)) for _ in range(sentences)) for _ in range(number)]


def write_texts(path: Path, content: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": content}), path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `keep_text` makes of a corpus of two sources."""
    folder = tmp_path_factory.mktemp("kept")
    trained, held = texts(60, 1), texts(24, 2)
    for source in ("books", "mail"):
        write_texts(folder / "corpus" / source / "train.parquet", trained)
        write_texts(folder / "corpus" / source / "validation.parquet", texts(10, 3))
        # One of these is trained on as well.
        write_texts(folder / "corpus" / source / "test.parquet", [*held, trained[0]])
    train_tokenizer(trained, 400).save_pretrained(folder / "tokenizer")
    pairs = Examples((tuple(held[:8]), tuple(held[1:9])), np.arange(8) % 2, tuple(map(str, range(8))))
    write_kept_task(folder / "tasks", TaskData(PACKAGE_TASKS["mrpc"].task, None, {"validation": pairs}))
    selection = Selection(folder / "corpus", ["books", "mail"], folder / "tokenizer", folder / "tasks", 10**6, 10**6)
    keep_text(selection, folder / "text")
    return folder


def test_kept_texts_are_not_trained_on_where_they_are_held_out(kept):
    found = {
        name: pq.read_table(kept / "text" / f"{name}.parquet")["text"].to_pylist() for name in ("train", "held_out")
    }
    assert len(found["held_out"]) == 48
    assert not set(found["held_out"]) & set(found["train"])
    about = json.loads((kept / "text" / "text.json").read_text())
    assert about["train"]["documents"] == 120
    assert about["pairs"] == {"pairs": 8}


def test_texts_are_kept_to_a_number_of_tokens(kept, tmp_path, capsys):
    folders = [
        "--corpus",
        str(kept / "corpus"),
        "--tokenizer_name",
        str(kept / "tokenizer"),
        "--tasks",
        str(kept / "tasks"),
    ]
    limit = ["--most_tokens", "5000", "--output", str(tmp_path)]
    command.main(["keep_text", "books", "mail", *folders, *limit])
    about = json.loads((tmp_path / "text.json").read_text())
    assert 4000 < about["train"]["tokens"] < 6000
    assert "train" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no source 'novels'"):
        command.main(["keep_text", "novels", *folders, *limit])


def test_a_study_is_paced_swept_run_and_collected(kept, tmp_path, capsys, caplog):
    """From nothing to the results file; a cell that is done is not done again."""
    measured = MEASURED | FEW | {"seconds": 1e-6}
    shared = {"models": ["hybrid"], "arguments": measured, "variants": VARIANTS}
    groups = {
        "pace": shared | {"weights": [0.1], "arguments": {"max_steps": 2}},
        "sweep": shared | {"seeds": [11], "weights": [0.1]},
        "main": shared | {"seeds": [1], "weights": "sweep"},
    }
    path, output = write_study(tmp_path, groups), tmp_path / "records.jsonl"
    places = Places(tmp_path, kept / "text", tmp_path / "work")
    run = ["run", str(path), "--tasks", str(places.tasks), "--work", str(places.work), "--output", str(output)]
    command.main([*run, "--only", "main"])
    assert "main-hybrid-mlm-seed_1: left out, it has seconds" in capsys.readouterr().out
    study, done = read_study(path), []
    for name in groups:
        cells, missing = settled(group(study, name), study, done, device_name())
        assert not missing
        done += [perform(cell, places) for cell in cells]
    capsys.readouterr()
    command.main(run)
    assert "0 cells to do, 6 are done" in capsys.readouterr().out
    last = read_records([output])["main-hybrid-vicreg-seed_1"]
    assert last["weight"] == 0.1
    assert last["calibration"]["of"] == "pace-hybrid-vicreg-0.1"
    assert last["calibration"]["device"] == device_name()
    assert str(tmp_path) not in last["command"]
    assert last["results"]["steps"] == 1
    assert last["results"]["order"]["num_pairs"] > 0
    assert set(last["results"]["similarity"]) == {"neighbours", "paraphrases"}
    assert 0 < last["results"]["geometry"]["entropy_rank_share"] <= 1
    # Killed behind its training, a cell is only measured.
    again = perform(settled(group(study, "main"), study, done, device_name())[0][1], places)
    assert "trained already" in caplog.text
    assert again["results"]["mlm_loss"] == pytest.approx(last["results"]["mlm_loss"])
    command.main(["collect", "concepts", str(output)], tmp_path)
    assert read_results(tmp_path / "concepts.json").figures["mlm_cost_nats"].runs == 1


def flags(kept: Path, folder: Path, **changes: Any) -> list[str]:
    settings = TRAINING | {"max_steps": 2, "report_to": "none", "save_strategy": "no"} | changes
    given = {name: value for name, value in settings.items() if value is not None}
    return Cell("", "", "", "", "", given).flags({"TASKS": kept / "text", "CELLS": folder})


def test_what_texts_alone_decide_is_made_once_for_all_models(kept, monkeypatch):
    made: list[str] = []

    def count(name: str) -> None:
        function = getattr(pretraining, name)
        monkeypatch.setattr(pretraining, name, lambda *args: made.append(name) or function(*args))

    names = ("swap_pairs", "same_bags", "pairs_of_texts", "read_text_pairs", "tfidf_likeness")
    for name in names:
        count(name)
    text, tokenizer = str(kept / "text" / "held_out.parquet"), str(kept / "tokenizer")
    scored = str(kept / "text" / "pairs.parquet")
    for _ in range(2):
        order = pretraining.order_task(text, tokenizer, 64, 59)
        tasks = pretraining.likeness_tasks(text, tokenizer, scored, 19)
    assert sorted(made) == sorted((*names, "tfidf_likeness"))
    texts_of_file = pq.read_table(text)["text"].to_pylist()
    loaded = pretraining.load_tokenizer(tokenizer)
    pairs = pretraining.same_bags(loaded, pretraining.swap_pairs(texts_of_file, 59, pretraining.SEED), 64)
    assert [ids.tolist() for ids in order.swapped] == [ids.tolist() for _, _, ids in pairs]
    assert set(tasks) == {"neighbours", "paraphrases"}
    likeness = pretraining.tfidf_likeness(tasks["neighbours"].pairs)
    assert tasks["neighbours"].tfidf == pretraining.agreement(likeness, tasks["neighbours"].pairs)["auc"]
    # Other settings are another task.
    assert len(pretraining.order_task(text, tokenizer, 64, 30).original) < len(order.original)


def test_the_loss_has_the_same_masks_whatever_the_seed(kept, tmp_path):
    evaluated = pretraining.evaluation_flags(flags(kept, tmp_path, seed=3, dataloader_num_workers=2), tmp_path)
    assert evaluated[evaluated.index("--seed") + 1] == str(pretraining.SEED)
    assert evaluated[evaluated.index("--max_seq_length") + 1] == "64"
    assert "--do_train" not in evaluated
    assert evaluated[evaluated.index("--dataloader_num_workers") + 1] == "0"


def test_rows_of_full_length_are_wanted(kept, tmp_path):
    with pytest.raises(ValueError, match="--max_seq_length"):
        pretraining.main(flags(kept, tmp_path, max_seq_length=None, **MEASURED))
    with pytest.raises(ValueError, match="windows of 4096 tokens"):
        pretraining.main(flags(kept, tmp_path, max_seq_length=4096, per_device_train_batch_size=1, **MEASURED))


def test_a_training_that_logged_nothing_tells_no_pace(tmp_path):
    (tmp_path / pretraining.STATE_FILE).write_text(json.dumps({"log_history": [], "global_step": 3}))
    with pytest.raises(ValueError, match="--logging_steps"):
        pretraining.read_training(tmp_path)


def test_what_a_step_takes_leaves_out_the_first_line(tmp_path):
    lines = [
        {"masked_tokens_per_step": 30, "masked_tokens_per_second": 30 / seconds, "tokens_per_second": 100 / seconds}
        for seconds in (9.0, 1.0, 3.0)
    ]
    state = {"log_history": [line | {"loss": 4.0} for line in lines], "global_step": 6}
    (tmp_path / pretraining.STATE_FILE).write_text(json.dumps(state))
    found = pretraining.read_training(tmp_path)
    assert found["seconds_per_step"] == pytest.approx(1)
    assert found["tokens"] == 600


def test_of_several_paces_the_fastest_counts(tmp_path):
    groups = {
        "pace": {"models": ["hybrid"], "seeds": [1, 2], "variants": {"mlm": {}}},
        "main": {"models": ["hybrid"], "arguments": {"seconds": 10}, "variants": {"mlm": {}}},
    }
    study = read_study(write_study(tmp_path, groups))
    for paces in ((0.75, 0.5), (0.5, 0.75)):
        timed_twice = [record(*pair) for pair in zip(study, (results(4.0, pace=pace) for pace in paces), strict=False)]
        (ready,), missing = settled(group(study, "main"), study, timed_twice)
        assert not missing
        assert ready.arguments["max_steps"] == 20
        _, tables = concepts.summarise({each["cell"]: each for each in timed_twice})
        assert [table.rows[0][2] for table in tables if table.name == "pace"] == ["500.0"]
