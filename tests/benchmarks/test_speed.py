# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The speed benchmark: what is measured is written at once, a failure is written too, ratios stay inside a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cells, speed
from benchmarks.cells import Cell, Measurement, Setting, describe, measure_cell
from benchmarks.contenders import CONTENDERS, REFERENCE, with_shape
from benchmarks.results import read_results
from benchmarks.scaling import run_processes
from benchmarks.timing import measure_ceilings, time_limit, time_steps
from benchmarks.workload import make_documents
from evaluation_concept.errors import exit_code

CPU = torch.device("cpu")
VOCABULARY = 99
NARROW = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
TOY = {
    "mini": with_shape(CONTENDERS["mini"], **NARROW, num_hidden_layers=2, embedding_size=16),
    "modernbert_256x9": with_shape(CONTENDERS["modernbert_256x9"], **NARROW, num_hidden_layers=3),
    "longformer_768x12": CONTENDERS["longformer_768x12"],
}
FACTS = {
    "commit": "abc1234",
    "date": "2026-01-31",
    "device": "NVIDIA H100",
    "device_type": "cuda",
    "peak_flops": 1000.0,
    "command": "python -m benchmarks.speed gpu",
    "reference": REFERENCE,
    "dtype": "bfloat16",
    "tokens": 65536,
    "ceilings": {"matmul_flops": [7e14, 7.2e14], "copy_bytes": [3e12, 3e12]},
}


def cell(contender: str, mode: str, length: int, seconds: list[float], **fields: Any) -> dict[str, Any]:
    described = {"variable": False, "attention": "varlen", "compiled": "regions", "tokens": 100, "parameters": 10}
    described |= {"contender": contender, "mode": mode, "length": length, "seconds": tuple(seconds)} | fields
    return describe(Measurement(**described))


CELLS = [
    cell("base", "train", 512, [1.0, 1.0], flops=500),
    cell("base", "train", 512, [9.0, 9.0], flops=500, attention="sdpa"),
    cell("base", "train", 1024, [1.0, 2.0], flops=400),
    cell("small", "train", 512, [1.0, 1.0], flops=300),
    cell("small", "train", 1024, [1.0, 1.0], flops=350),
    cell(REFERENCE, "train", 512, [2.0, 4.0], flops=100),
    cell("base", "train", 8192, [1.0, 1.0], peak_bytes=20),
    cell(REFERENCE, "train", 8192, [3.0, 3.0], peak_bytes=80),
    *(cell("base", "encode", length, [1.0]) for length in (512, 8192)),
    cell("base", "encode", 65536, [1.1]),
    cell("base_1024", "encode", 8192, [1.0]),
    cell("base_1024", "encode", 65536, [1.05]),
    *(cell(REFERENCE, "encode", length, [length / 256]) for length in (512, 8192, 65536)),
    *(cell("base", "encode", length, [1.25], variable=True) for length in (512, 8192)),
    cell("perceiver_v1", "train", 1024, [], error="ValueError: 1024 tokens in /home/someone/model.py are too many"),
]
OTHERS = [
    {"first_steps": [{"contender": "base", "seconds": 50.0}, {"contender": "small", "seconds": 9.0}]},
    {"ddp": [{"processes": number, "tokens": 100 * number, "seconds": [1.0, 1.25]} for number in (1, 2, 4)]},
]


def write(folder: Path, *contents: dict[str, Any]) -> list[str]:
    paths = [folder / f"{number}.json" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(FACTS | content), encoding="utf-8")
    return [str(path) for path in paths]


def merged(folder: Path, *contents: dict[str, Any]) -> Any:
    speed.main(["merge", *write(folder, *contents)], folder / "speed.json")
    return read_results(folder / "speed.json")


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Options of a run of toys, by command line."""
    monkeypatch.setattr(cells, "make_documents", lambda *args: make_documents(*args, vocabulary=VOCABULARY))
    monkeypatch.setitem(speed.measure_ceilings.__globals__, "COPIED_BYTES", {"cpu": 2**16})
    monkeypatch.setitem(speed.measure_ceilings.__globals__, "MATRIX_EDGE", {"cpu": 16})

    def parse(*arguments: str) -> Any:
        small = ["--tokens", "128", "--lengths", "64", "--seconds", "0", "--repeats", "2"]
        parsed = speed._parse(["cpu", "--output", str(tmp_path / "record.json"), *small, *arguments])
        parsed.command = "python -m benchmarks.speed cpu"
        return parsed

    return parse


def test_cells_are_measured_beside_the_reference(options, tmp_path):
    arguments = ["--contenders", "mini", "--layouts", "fixed", "variable"]
    record = speed.measure_cells(options(*arguments), tmp_path, TOY)
    assert [(it["mode"], it["variable"], it["contender"]) for it in record["cells"]] == [
        (mode, variable, name)
        for variable in (False, True)
        for mode in ("train", "encode")
        for name in ("modernbert_256x9", "mini")
    ]
    assert not any(it["error"] for it in record["cells"])
    assert all(it["tokens"] == 128 and len(it["seconds"]) == 2 for it in record["cells"])
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) == json.loads(json.dumps(record))

    speed.main(["merge", str(tmp_path / "record.json")], tmp_path / "speed.json")
    results = read_results(tmp_path / "speed.json")
    assert not results.figures
    names = {"cpu_train_fixed", "cpu_train_variable", "cpu_encode_fixed", "cpu_encode_variable", "cpu_ceilings"}
    assert set(results.tables) == names
    assert [row[0] for row in results.tables["cpu_train_fixed"].rows] == ["mini", "modernbert_256x9"]


def test_a_contender_that_fails_is_recorded_and_the_rest_goes_on(options, tmp_path):
    # Its attention needs a multiple of its window of 512 tokens.
    contenders = ["--contenders", "longformer_768x12", "mini", "--modes", "encode"]
    record = speed.measure_cells(options(*contenders), tmp_path, TOY)
    failed, fine = record["cells"][1:]
    assert (failed["contender"], failed["seconds"]) == ("longformer_768x12", [])
    assert failed["error"]
    assert (fine["contender"], fine["error"]) == ("mini", None)


def test_nothing_begins_when_the_budget_is_spent(options, tmp_path):
    record = speed.measure_cells(options("--contenders", "mini", "--budget", "1e-9"), tmp_path, TOY)
    assert record["cells"] == []
    assert len(record["skipped"]) == 4


def test_an_unknown_contender_is_refused(options, tmp_path):
    with pytest.raises(ValueError, match="there is no contender 'tiny'; choose among mini, "):
        speed.measure_cells(options("--contenders", "tiny"), tmp_path, TOY)


def test_where_compiling_fails_the_cell_is_timed_without(monkeypatch):
    def compile_model(model: torch.nn.Module, contender: Any, how: str) -> None:
        if how != "none":
            raise RuntimeError("does not compile")

    monkeypatch.setattr(cells, "compile_model", compile_model)
    monkeypatch.setattr(cells, "make_documents", lambda *args: make_documents(*args, vocabulary=VOCABULARY))
    setting = Setting(CPU, torch.float32, 128, 0, 1)
    compiled, plain = measure_cell(Cell("mini", "encode", 64, False, "sdpa", "whole"), TOY, setting)
    assert compiled.error == "RuntimeError: does not compile"
    assert (plain.compiled, plain.error, len(plain.seconds)) == ("none", None, 1)


def test_regions_of_a_model_are_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append(type(module).__name__))
    for name in ("mini", "modernbert_256x9"):
        cells.compile_model(TOY[name].build("sdpa", 64, "train"), TOY[name], "regions")
    assert compiled.count("ModernBertEncoderLayer") == 3
    assert compiled.count("PredictionLoss") == 1
    assert "ConceptBlock" in compiled


def test_a_cell_that_takes_too_long_is_broken_off_once(monkeypatch):
    def endless(*args: Any) -> None:
        while True:
            pass

    monkeypatch.setattr(cells, "time_steps", endless)
    monkeypatch.setattr(cells, "make_documents", lambda *args: make_documents(*args, vocabulary=VOCABULARY))
    setting = Setting(CPU, torch.float32, 128, 0, 1, max_seconds=2)
    (measured,) = measure_cell(Cell("mini", "encode", 64, False, "sdpa", "whole"), TOY, setting)
    assert measured.error == "TimeoutError: took more than 2 seconds"


def test_the_time_limit_leaves_what_is_quick_alone():
    with time_limit(0.5):
        pass
    with time_limit(0):
        pass


def test_steps_are_counted():
    calls: list[int] = []
    timing = time_steps(lambda: calls.append(0), CPU, seconds=0, repeats=3, warm_up=2, steps=4)
    assert len(calls) == 2 + 3 * 4
    assert (len(timing.seconds), timing.steps, timing.peak_bytes) == (3, 4, None)


def test_ceilings_are_measured(monkeypatch):
    monkeypatch.setitem(measure_ceilings.__globals__, "MATRIX_EDGE", {"cpu": 16})
    monkeypatch.setitem(measure_ceilings.__globals__, "COPIED_BYTES", {"cpu": 2**16})
    ceilings = measure_ceilings(CPU, torch.float32, repeats=2, seconds=0)
    assert len(ceilings.matmul_flops) == len(ceilings.copy_bytes) == 2
    assert min(*ceilings.matmul_flops, *ceilings.copy_bytes) > 0


def test_merging_makes_the_figures(tmp_path):
    results = merged(tmp_path, {"cells": CELLS}, *OTHERS)
    values = {key: figure.value for key, figure in results.figures.items()}
    assert values == {
        "mfu_base": pytest.approx((0.4 + 0.2) / 2),
        "mfu_small": pytest.approx(0.3),
        "train_x_modernbert_512": pytest.approx(3.0),
        "train_x_modernbert_8192": pytest.approx(3.0),
        "encode_x_modernbert_512": pytest.approx(2.0),
        "encode_x_modernbert_8192": pytest.approx(32.0),
        "encode_x_modernbert_65536": pytest.approx(256.0 / 1.1),
        "variable_over_fixed_512": pytest.approx(0.8),
        "variable_over_fixed_8192": pytest.approx(0.8),
        "train_memory_x_modernbert_8192": pytest.approx(0.25),
        "time_per_token_64k_over_8k": pytest.approx(1.05),
        "ddp_2": pytest.approx(2.0),
        "ddp_4": pytest.approx(4.0),
        "first_step_s": pytest.approx(50.0),
    }
    ratio = results.figures["train_x_modernbert_512"]
    assert (ratio.runs, ratio.spread, ratio.device) == (2, pytest.approx(2**0.5), "NVIDIA H100")


def test_tables_show_the_fastest_way_and_what_failed_without_paths(tmp_path):
    tables = merged(tmp_path, {"cells": CELLS}).tables
    rows = {(row[0], row[2]): row for row in tables["train_fixed"].rows}
    assert rows["base", 512][4] == "varlen"
    assert rows["base", 512][8] == 3.0
    assert rows[REFERENCE, 512][8] == 1.0
    (failure,) = tables["failures"].rows
    assert failure[-1] == "ValueError: 1024 tokens in model.py are too many"


def test_a_ratio_needs_both_numbers_from_one_run(tmp_path):
    ours = {"cells": [cell("base", "encode", 512, [1.0])]}
    theirs = {"cells": [cell(REFERENCE, "encode", 512, [2.0])]}
    assert merged(tmp_path, ours, theirs).figures == {}
    both = merged(tmp_path, ours, {"cells": ours["cells"] + [cell(REFERENCE, "encode", 512, [4.0])]}, theirs)
    assert both.figures["encode_x_modernbert_512"].value == 4.0


def test_a_table_has_ratios_to_one_reference(tmp_path):
    alone = {"cells": [cell(name, "train", 512, [1.0]) for name in ("mini", "base")], "reference": "mini"}
    table = merged(tmp_path, {"cells": CELLS}, alone).tables["train_fixed"]
    ratios = {row[0]: row[8] for row in table.rows if row[2] == 512}
    assert ratios == {"base": 3.0, REFERENCE: 1.0, "small": 3.0, "mini": ""}
    assert f"against {REFERENCE} in" in table.note


def test_presets_stand_beside_the_modernbert_of_their_size_in_the_same_run(tmp_path):
    beside = {"cells": [cell("small", "train", 512, [1.0, 1.0]), cell("modernbert_512x19", "train", 512, [2.0, 4.0])]}
    elsewhere = {"cells": [cell("mini", "train", 512, [1.0])]}
    table = merged(tmp_path, {"cells": CELLS}, beside | {"reference": "modernbert_512x19"}, elsewhere).tables["sizes"]
    rows = {(row[0], row[2], row[4], row[5]): row[6:] for row in table.rows if row[5] == 512}
    assert rows[("small", "modernbert_512x19", "train", 512)] == [3.0, 1.41]
    assert rows[("base", REFERENCE, "train", 512)] == [3.0, 1.41]
    assert "mini" not in {row[0] for row in table.rows}


def test_steps_of_other_sizes_have_rows_of_their_own(tmp_path):
    larger = {"cells": [cell("base", "train", 512, [1.0])], "tokens": 131072}
    table = merged(tmp_path, {"cells": CELLS}, larger).tables["train_fixed"]
    rows = [row for row in table.rows if row[:1] + row[2:3] == ["base", 512]]
    assert [(row[3], row[8]) for row in rows] == [(65536, 3.0), (131072, "")]


def test_what_is_measured_later_replaces_its_own_rows_and_figures_alone(tmp_path):
    before = merged(tmp_path, {"cells": CELLS})
    again = [cell("base", "train", 512, [0.5], flops=500), cell(REFERENCE, "train", 512, [2.0])]
    alone = {"cells": [cell("base", "train", 512, [9.0])], "reference": "base"}
    after = merged(tmp_path, {"cells": again}, alone | {"command": "python -m benchmarks.speed gpu --reference base"})
    assert after.figures["train_x_modernbert_512"].value == 4.0
    assert after.figures["mfu_small"] == before.figures["mfu_small"]
    ratios = {row[0]: row[8] for row in after.tables["train_fixed"].rows if row[2] == 512}
    assert ratios == {"base": 4.0, REFERENCE: 1.0, "small": 3.0}
    assert after.tables["encode_fixed"] == before.tables["encode_fixed"]
    assert [row[:3] for row in after.tables["train_fixed"].rows] == [
        row[:3] for row in before.tables["train_fixed"].rows
    ]
    assert len(after.tables["ceilings"].rows) == 2
    last = merged(tmp_path, alone).tables["train_fixed"]
    assert {row[0]: row[8] for row in last.rows if row[2] == 512} == ratios


def test_a_failure_is_listed_until_that_way_runs(tmp_path):
    merged(tmp_path, {"cells": CELLS})
    others = merged(tmp_path, {"cells": [cell("base", "train", 512, [1.0])]})
    assert [row[0] for row in others.tables["failures"].rows] == ["perceiver_v1"]
    assert not merged(tmp_path, {"cells": [cell("perceiver_v1", "train", 1024, [1.0])]}).tables["failures"].rows


def test_figures_are_those_of_a_gpu(tmp_path):
    assert merged(tmp_path, {"cells": CELLS, "device_type": "cpu"}).figures == {}


@pytest.mark.parametrize("content", [{"cells": [{"contender": "base"}]}, {"cells": [1]}])
def test_what_is_no_record_is_refused(tmp_path, content, capsys):
    paths = write(tmp_path, content)
    assert exit_code(lambda arguments: speed.main(arguments, tmp_path / "speed.json"), ["merge", *paths]) == 2
    assert "is no record of the speed benchmark" in capsys.readouterr().err
    assert not (tmp_path / "speed.json").exists()


def test_records_without_measurements_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing was measured"):
        merged(tmp_path, {"cells": []})


def test_a_plot_is_drawn_of_what_was_merged(tmp_path):
    merged(tmp_path, {"cells": CELLS})
    speed.main(["plot", "--output", str(tmp_path / "speed.png")], tmp_path / "speed.json")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no table train_fixed or encode_fixed"):
        speed.main(["plot", "--output", str(tmp_path / "speed.png")], tmp_path / "none.json")


def test_a_first_step_finds_nothing_compiled(tmp_path, capsys):
    (tmp_path / "kernel").write_text("compiled before")
    assert (
        exit_code(speed.main, ["first_step", "--cache", str(tmp_path), "--output", str(tmp_path / "first.json")]) == 2
    )
    assert "is not empty" in capsys.readouterr().err
    assert not (tmp_path / "first.json").exists()


def test_processes_time_their_steps_and_what_they_send():
    case = {"contender": "mini", "length": 32, "attention": "sdpa", "compile": "none", "tokens": 64}
    case |= {"dtype": "float32", "steps": 1, "repeats": 2, "gradients": "float32"}
    entry = run_processes(case, 2)
    assert entry["tokens"] == 2 * 64
    assert len(entry["seconds"]) == len(entry["all_reduce_seconds"]) == 2
    assert min(*entry["seconds"], *entry["all_reduce_seconds"]) > 0
