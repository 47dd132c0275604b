# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables about the analysis: means over seeds, headlines of reports side by side, and reports that are none."""

import json

import pytest

from benchmarks import analysis
from benchmarks.analysis import checkpoints_table, constructed_table, main
from benchmarks.results import read_results
from evaluation_concept.constructed import ENCODERS, Judgement, study
from evaluation_concept.errors import exit_code


def write_report(folder, **headline) -> None:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"headline": headline}), encoding="utf-8")


def test_the_table_of_encoders_holds_means():
    first, second = Judgement(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), Judgement(0.3, 0.2, 0.3, 0.4, 0.5, 0.8)
    table = constructed_table([{"one": first}, {"one": second}])
    assert table.columns[:3] == ["encoder", "plan rank share", "entropy rank share"]
    assert table.rows == [["one", 0.2, 0.2, 0.3, 0.4, 0.5, 0.7]]
    assert "2 seeds" in table.note


def test_the_command_judges_the_encoders(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "SEEDS", [5])
    main([], tmp_path / "analysis.json")
    table = read_results(tmp_path / "analysis.json").tables["constructed"]
    assert [row[0] for row in table.rows] == list(ENCODERS)
    assert table.rows == constructed_table([study(5)]).rows


def test_reports_stand_side_by_side(tmp_path):
    write_report(tmp_path / "a", mlm_loss=4.21234, input_share=0.5)
    write_report(tmp_path / "b", mlm_loss=5.0)
    main(["--reports", str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "analysis.json")
    table = read_results(tmp_path / "analysis.json").tables["checkpoints"]
    assert table.columns == ["number", "a", "b"]
    assert table.rows == [["input share", 0.5, "-"], ["mlm loss", 4.212, 5.0]]


@pytest.mark.parametrize("content", ["{", "[]", '{"figures": {}}'])
def test_a_report_that_is_none_is_named(tmp_path, content):
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"report\.json is no report of run_analysis\.py"):
        checkpoints_table([tmp_path])


def test_a_report_that_is_not_there_is_named(tmp_path, capsys):
    assert exit_code(lambda arguments: main(arguments, tmp_path / "x.json"), ["--reports", str(tmp_path)]) == 2
    assert "report.json" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
