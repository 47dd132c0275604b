# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Results files: what is written is read back, nothing else is touched, and a crash leaves the old file."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks.results import Figure, Table, current_commit, describe_device, merge_results, read_results

TABLE = Table("speed", ["tokens", "name"], [[1, "a"], [2, "b"]], "a note")


def figure(*values: float) -> Figure:
    return Figure.of_runs(values, unit="GB", command="make it")


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "core.json"
    merge_results(path, {"peak": figure(1.0)}, [TABLE])
    results = read_results(path)
    assert results.figures == {"peak": figure(1.0)}
    assert results.tables == {"speed": TABLE}


def test_a_figure_holds_all_the_fields_of_the_format(tmp_path):
    path = tmp_path / "core.json"
    merge_results(path, {"peak": figure(1.0, 3.0)})
    written = json.loads(path.read_text(encoding="utf-8"))["figures"]["peak"]
    assert set(written) == {"value", "spread", "runs", "unit", "command", "commit", "device", "date", "note"}
    assert (written["value"], written["spread"], written["runs"]) == (2.0, statistics.stdev([1.0, 3.0]), 2)
    assert (written["commit"], written["device"]) == (current_commit(), describe_device())


def test_one_run_has_no_spread():
    assert figure(1.0).spread is None


def test_merging_replaces_what_has_the_same_name_and_keeps_the_rest(tmp_path):
    path = tmp_path / "core.json"
    merge_results(path, {"peak": figure(1.0), "other": figure(5.0)}, [TABLE, Table("kept", ["x"], [[1]])])
    merge_results(path, {"peak": figure(2.0)}, [Table("speed", ["y"], [[3]])])
    results = read_results(path)
    assert {key: it.value for key, it in results.figures.items()} == {"peak": 2.0, "other": 5.0}
    assert {name: table.columns for name, table in results.tables.items()} == {"speed": ["y"], "kept": ["x"]}


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "core.json"
    merge_results(path, {"peak": figure(1.0)})
    before = path.read_bytes()
    write_text = Path.write_text

    def full_disk(target: Path, text: str, **kwargs) -> int:
        write_text(target, text[: len(text) // 2], **kwargs)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        merge_results(path, {"peak": figure(2.0)})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["{", '{"figures": {}}', '{"figures": {"peak": {"value": 1}}, "tables": []}'])
def test_a_file_that_is_none_is_named_and_kept(tmp_path, content):
    path = tmp_path / "core.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"core\.json is no results file"):
        merge_results(path, {"peak": figure(1.0)})
    assert path.read_text(encoding="utf-8") == content


def test_outside_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.results.ROOT", tmp_path)
    assert current_commit() == "unknown"


def test_a_mean_that_is_just_what_is_required_is_not_below_it():
    assert figure(1.0, 0.995, 0.975).value >= 0.99
