# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Studies of fine-tuning: cells of a file, processes that run them, records, and what is left to do."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from benchmarks.studies import __main__ as command
from benchmarks.studies import scheduler
from benchmarks.studies.cells import Cell, as_flags, read_study, resolve
from benchmarks.studies.records import Predictions, make_record, read_records, write_records
from benchmarks.studies.scheduler import run_study
from benchmarks.studies.worker import Places, perform
from evaluation_concept.files import locked, weights_digest
from evaluation_concept.tasks import Examples, TaskData
from tests.training.tiny_glue import write_checkpoint
from training_concept.finetuning.kept import write_kept_task
from training_concept.finetuning.package_tasks import PACKAGE_TASKS

WORDS = ["good", "bad", "little", "text", "to", "learn", "letters", "from"]
ARGUMENTS: dict[str, Any] = {
    "task_dir": "TASKS",
    "do_train": True,
    "do_eval": True,
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "max_seq_length": 32,
    "baselines": False,
    "random_init_baseline": False,
    "use_cpu": True,
}


def examples(number: int, columns: int, seed: int) -> Examples:
    draw = np.random.default_rng(seed)
    texts = tuple(
        tuple(" ".join(draw.choice(WORDS, 6)) + f" {seed} {row}" for row in range(number)) for _ in range(columns)
    )
    return Examples(texts, np.arange(number) % 2, tuple(f"{seed} {row}" for row in range(number)))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("study")
    write_checkpoint(folder / "models" / "ours")
    sst2, mrpc = PACKAGE_TASKS["sst2"].task, PACKAGE_TASKS["mrpc"].task
    write_kept_task(folder / "tasks", TaskData(sst2, examples(12, 1, 0), {"validation": examples(8, 1, 1)}))
    write_kept_task(folder / "tasks", TaskData(mrpc, None, {"validation": examples(10, 2, 2)}))
    return Places(folder / "models", folder / "tasks", folder / "work")


def write_study(folder: Path, **changes: Any) -> Path:
    study = {
        "script": "run_glue",
        "arguments": ARGUMENTS,
        "models": {
            "ours": {"model_name_or_path": "MODELS/ours"},
            "absent": {"model_name_or_path": "MODELS/absent"},
            "fresh": {"config_name": "MODELS/ours", "tokenizer_name": "MODELS/ours"},
        },
        "groups": {
            "main": {
                "models": ["ours", "fresh"],
                "tasks": {"sst2": {"seeds": [1, 2]}, "mrpc": None},
                "arguments": {"learning_rate": 1e-3},
            },
            "readouts": {
                "models": ["ours"],
                "tasks": {"sst2": None},
                "variants": {"concepts": {"readout": "concepts"}},
            },
        },
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study | changes, sort_keys=False), encoding="utf-8")
    return path


def test_cells_come_task_by_task_with_the_settings_of_all_levels(tmp_path):
    cells = read_study(write_study(tmp_path))
    assert [cell.name for cell in cells] == [
        "main-ours-sst2",
        "main-fresh-sst2",
        "main-ours-mrpc",
        "main-fresh-mrpc",
        "readouts-ours-concepts-sst2",
    ]
    assert cells[0].arguments["seeds"] == [1, 2]
    assert cells[0].arguments["learning_rate"] == 1e-3
    assert "seeds" not in cells[2].arguments
    assert cells[4].arguments["readout"] == "concepts"
    assert cells[4].variant == "concepts"
    assert [cell.name for cell in read_study(write_study(tmp_path), ["readouts"])] == ["readouts-ours-concepts-sst2"]


def test_commands_name_places_and_no_folder_of_a_machine(tmp_path):
    cell = read_study(write_study(tmp_path))[0]
    assert "--model_name_or_path MODELS/ours" in cell.command
    assert "--seeds 1 2" in cell.command
    flags = cell.flags({"MODELS": Path("/m"), "TASKS": Path("/t"), "CELLS": Path("/c")})
    assert flags[flags.index("--model_name_or_path") + 1] == "/m/ours"
    assert flags[flags.index("--task_dir") + 1] == "/t"
    assert flags[flags.index("--output_dir") + 1] == "/c/main-ours-sst2"
    assert resolve("outputs/MODELS", {"MODELS": Path("/m")}) == "outputs/MODELS"
    assert as_flags({"a": [1, 2], "b": True}) == ["--a", "1", "2", "--b", "True"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scripts": "run_glue"}, "'scripts'"),
        ({"script": "run_all"}, "'run_all'"),
        ({"models": {"ours": {}}}, "no model 'fresh'"),
        ({"groups": None}, "no groups"),
        ({"groups": {"main": {"models": ["ours"], "task": {}}}}, "'task'"),
        ({"groups": {"main": {"models": ["ours", "ours"], "tasks": {"sst2": {}}}}}, "twice"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_study(write_study(tmp_path, **changes))


def test_a_group_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no group 'other'"):
        read_study(write_study(tmp_path), ["other"])


def test_a_cell_leaves_a_record_that_holds_all(places, tmp_path):
    cell = read_study(write_study(tmp_path))[0]
    torch.backends.cuda.enable_cudnn_sdp(True)
    record = perform(cell, places)
    # Whose gradients are not always numbers.
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert read_records([places.record(cell)])[cell.name]["results"]["trained_on"] == [12]
    assert record["command"] == cell.command
    assert record["weights"] == {"ours": weights_digest(places.models / "ours")}
    found = Predictions.unpack(record["predictions"])
    assert found.references.tolist() == [0, 1] * 4
    assert found.systems["model"].shape == (2, 8)
    accuracies = 100 * np.mean(found.systems["model"] == found.references, axis=1)
    assert np.allclose(accuracies, record["results"]["splits"]["validation"]["systems"]["model"]["scores"])


def test_a_study_runs_what_it_can_and_goes_on_where_it_was(places, tmp_path, capsys):
    broken = {"ours": {"model_name_or_path": "MODELS/ours"}, "absent": {"model_name_or_path": "MODELS/absent"}}
    groups = {
        "main": {"models": ["ours", "absent"], "tasks": {"sst2": {"seeds": [1]}}},
        "odd": {"models": ["ours"], "tasks": {"sst2": {"learning_rate": "fast"}}},
    }
    work, output = Places(places.models, places.tasks, tmp_path / "work"), tmp_path / "out.jsonl"
    cells = read_study(write_study(tmp_path, models=broken, groups=groups))
    assert run_study(cells, work, output) == {"odd-ours-sst2"}
    text = capsys.readouterr().out
    assert "main-absent-sst2: left out, there is no absent" in text
    assert "odd-ours-sst2: failed" in text
    assert set(read_records([output])) == {"main-ours-sst2"}
    run_study(cells[:1], work, output)
    assert "0 cells to do, 1 are done" in capsys.readouterr().out
    # Elsewhere nothing is left of it but its record.
    elsewhere = Places(places.models, places.tasks, tmp_path / "elsewhere")
    run_study(cells[:1], elsewhere, tmp_path / "more.jsonl", known=read_records([output]))
    assert "0 cells to do, 1 are done" in capsys.readouterr().out


def test_records_that_the_output_has_stay_but_for_cells_that_are_begun_anew(tmp_path):
    output, work = tmp_path / "out.jsonl", Places(tmp_path, tmp_path, tmp_path / "work")
    elsewhere = Cell("main", "theirs", "", "", "tests.benchmarks.start_method", {})
    again = Cell("main", "ours", "", "", "tests.benchmarks.start_method", {"learning_rate": 2})
    broken = Cell("main", "broken", "", "", "tests.benchmarks.no_such_script", {"learning_rate": 2})
    old = {cell.name: make_record(replace(cell, arguments={}), {}, None) for cell in (elsewhere, again, broken)}
    write_records(output, old)
    # As on a machine that goes on with what another one did.
    failed = run_study([elsewhere, again, broken], work, output, known=read_records([output]))
    assert failed == {"main-broken"}
    found = read_records([output])
    assert found.keys() == {"main-theirs", "main-ours"}
    assert found["main-theirs"] == old["main-theirs"]
    assert found["main-ours"]["command"] == again.command


def test_a_cell_waits_for_the_one_that_it_reads(tmp_path):
    cell = Cell(
        "late", "ours", "", "sst2", "run_glue", {"model_name_or_path": "CELLS/early-ours", "task_dir": "TASKS"}
    )
    assert cell.needs == {"early-ours"}
    assert cell.needs_models == set()


def tell_gpu(connection, places):
    """In place of `work`: leaves as a record which GPU this process was to see, and waits for all others."""
    while (cell := connection.recv()) is not None:
        places.record(cell).write_text(json.dumps({"gpu": os.environ["CUDA_VISIBLE_DEVICES"]}), encoding="utf-8")
        while len(list(places.record_folder.iterdir())) < 4:
            time.sleep(0.05)
        connection.send(None)


def test_processes_share_out_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "work", tell_gpu)
    monkeypatch.setattr(scheduler.Study, "gather", lambda study: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    cells = [Cell("main", "ours", "", f"task_{number}", "run_glue", {}) for number in range(4)]
    places = Places(tmp_path, tmp_path, tmp_path / "work")
    assert run_study(cells, places, tmp_path / "out.jsonl", gpus=2, side_by_side=2) == set()
    seen = [json.loads(path.read_text(encoding="utf-8"))["gpu"] for path in places.record_folder.iterdir()]
    assert sorted(seen) == ["4", "4", "6", "6"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
    with pytest.raises(ValueError, match="allows 2 GPUs"):
        run_study(cells, places, tmp_path / "out.jsonl", gpus=3)


def hang(connection, places):
    """In place of `work`: takes a cell, asks for the end of the process that gave it, and goes on for minutes."""
    cell = connection.recv()
    places.record(cell).with_suffix(".pid").write_text(str(os.getpid()), encoding="utf-8")
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)


def test_a_study_that_is_stopped_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "work", hang)
    monkeypatch.setattr(scheduler.Study, "gather", lambda study: None)
    places = Places(tmp_path, tmp_path, tmp_path / "work")
    with pytest.raises(SystemExit, match="143"):
        run_study([Cell("main", "ours", "", "", "run_glue", {})], places, tmp_path / "out.jsonl")
    (path,) = places.record_folder.iterdir()
    assert not psutil.pid_exists(int(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("cores", "threads"), [(4, 2), (64, 8)])
def test_a_process_starts_others_as_this_platform_does(tmp_path, monkeypatch, cores, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    places = Places(tmp_path, tmp_path, tmp_path / "work")
    cells = [Cell("main", "ours", "", "", "tests.benchmarks.start_method", {})]
    assert run_study(cells, places, tmp_path / "out.jsonl", side_by_side=2) == set()
    found = read_records([tmp_path / "out.jsonl"])["main-ours"]["results"]
    assert found["start_method"] == multiprocessing.get_start_method()
    assert int(found["threads"]) == threads


def test_a_lost_cell_drops_those_that_read_it(places, tmp_path, capsys):
    cells = [Cell("late", "ours", "", "sst2", "run_glue", {"model_name_or_path": "CELLS/early-ours"})]
    run_study(cells, Places(places.models, places.tasks, tmp_path / "work"), tmp_path / "out.jsonl")
    assert "late-ours-sst2: left out, there is no early-ours" in capsys.readouterr().out


def test_packed_predictions_come_back():
    classes = Predictions(np.array([0, 1, 2]), {"model": np.array([[0, 1, 1], [2, 1, 0]])})
    values = Predictions(np.array([0.25, -1.5]), {"model": np.array([[0.1234567, 3.0]])})
    for predictions in (classes, values):
        found = Predictions.unpack(predictions.pack())
        assert np.allclose(found.references, predictions.references)
        assert np.allclose(found.systems["model"], predictions.systems["model"], atol=1e-4)


def test_records_are_kept_as_lines_and_later_ones_count(tmp_path):
    cell = Cell("main", "ours", "", "sst2", "run_glue", {})
    first, second = make_record(cell, {"a": 1.23456789}, None), make_record(cell, {"a": 2}, None)
    write_records(tmp_path / "first.jsonl", {cell.name: first})
    write_records(tmp_path / "second.jsonl", {cell.name: second})
    assert read_records([tmp_path / "first.jsonl"])[cell.name]["results"] == {"a": 1.23457}
    assert read_records([tmp_path / "first.jsonl", tmp_path / "second.jsonl"])[cell.name]["results"] == {"a": 2}
    (tmp_path / "bad.jsonl").write_text('{"cell": "x"}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 1"):
        read_records([tmp_path / "bad.jsonl"])


def test_commands_list_and_run_cells(places, tmp_path, capsys):
    study = write_study(tmp_path)
    command.main(["cells", str(study), "--only", "readouts"])
    assert "python run_glue.py" in capsys.readouterr().out
    (cell,) = read_study(study, ["readouts"])
    output = tmp_path / "records.jsonl"
    write_records(places.record(cell), {cell.name: make_record(cell, {}, None)})
    folders = ["--models", str(places.models), "--tasks", str(places.tasks), "--work", str(places.work)]
    command.main(["run", str(study), *folders, "--only", "readouts", "--output", str(output)])
    assert read_records([output])[cell.name]["task"] == "sst2"
    with locked(places.work, "--work"), pytest.raises(ValueError, match="choose another --work"):
        command.main(["run", str(study), *folders, "--only", "readouts", "--output", str(output)])
