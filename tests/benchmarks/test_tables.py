# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables in documents: written from the results, found out when stale, and everything around them left alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.results import Figure, Table, merge_results

FIGURE = Figure(0.5, 0.25, 3, "GB", "make it", "abc1234", "a CPU", "2026-01-31", "a | b")
SPEED = Table("speed", ["tokens", "name"], [[1024, "a|b"], [2, "c"]], "What it is.")
SPEED_MARKDOWN = """\
| tokens | name |
| ---: | --- |
| 1,024 | a\\|b |
| 2 | c |

What it is.
"""
BEFORE, AFTER = "# Title\n\n<!-- table: core/speed -->\n", "<!-- /table -->\n\nText.\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a results file, and a README and a document that hold its table."""
    merge_results(tmp_path / "benchmarks" / "results" / "core.json", {"peak": FIGURE}, [SPEED])
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/cost.md"):
        (tmp_path / name).write_text(BEFORE + SPEED_MARKDOWN + AFTER, encoding="utf-8")
    return tmp_path


def test_the_documents_of_this_repository_are_up_to_date():
    assert tables.main(["--check"]) == 0


def test_a_glance_shows_what_was_asked_of_figures_of_several_files(root, monkeypatch):
    asked = Figure(
        0.25, None, 1, "ratio", "make it", "abc1234", "a CPU, 2 cores", "2026-01-31", "of it; required: at most 1"
    )
    merge_results(
        root / "benchmarks" / "results" / "speed.json", {"time": asked, "tokens": replace(asked, value=2**21)}
    )
    shown = (("peak memory", "core", "peak"), ("time", "speed", "time"), ("tokens", "speed", "tokens"))
    monkeypatch.setattr(tables, "AT_A_GLANCE", shown)
    table = tables.glance_table(root / "benchmarks" / "results")
    assert table.rows == [
        ["peak memory", "0.5 ± 0.25 (3 runs)", "", "a CPU"],
        ["time", "0.25", "at most 1", "a CPU"],
        ["tokens", "2,097,152", "at most 1", "a CPU"],
    ]
    monkeypatch.setattr(tables, "AT_A_GLANCE", [("memory", "speed", "peak")])
    with pytest.raises(ValueError, match=r"speed\.json has no figure 'peak'"):
        tables.glance_table(root / "benchmarks" / "results")


def test_fresh_tables_pass(root):
    assert tables.main(["--check"], root) == 0


@pytest.mark.parametrize("name", ["README.md", "docs/cost.md"])
@pytest.mark.parametrize("stale", ["", SPEED_MARKDOWN.replace("1,024", "1,025"), "| a |\n\n\nremark\n"])
def test_a_stale_table_is_found_then_rewritten(root, capsys, name, stale):
    path = root / name
    path.write_text(BEFORE + stale + AFTER, encoding="utf-8")
    assert tables.main(["--check"], root) == 1
    assert f"{name} is out of date" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == BEFORE + stale + AFTER

    assert tables.main([], root) == 0
    assert path.read_text(encoding="utf-8") == BEFORE + SPEED_MARKDOWN + AFTER
    assert tables.main(["--check"], root) == 0


def test_new_results_make_a_table_stale(root):
    merge_results(root / "benchmarks" / "results" / "core.json", {}, [Table("speed", ["tokens"], [[7]])])
    assert tables.main(["--check"], root) == 1
    assert tables.main([], root) == 0
    assert "| 7 |" in (root / "README.md").read_text(encoding="utf-8")


def test_figures_are_listed_with_all_that_is_known_of_them(root):
    path = root / "README.md"
    path.write_text("<!-- table: core/figures -->\n<!-- /table -->\n", encoding="utf-8")
    tables.main([], root)
    row = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| `peak`"))
    cells = ["`peak`", "0.5 ± 0.25 (3 runs)", "GB", r"a \| b", "`make it`", "a CPU", "abc1234", "2026-01-31"]
    assert row == f"| {' | '.join(cells)} |"


@pytest.mark.parametrize(
    ("value", "spread", "shown"),
    [
        (10336.4, 402.6, "10,336 ± 403 (3 runs)"),
        (999.7, 99.6, "1,000 ± 100 (3 runs)"),
        (512.0, 12.34, "512 ± 12 (3 runs)"),
        (0.12345, 0.00678, "0.123 ± 0.0068 (3 runs)"),
    ],
)
def test_figures_have_all_digits_before_the_point(value, spread, shown):
    table = tables.figures_table({"peak": replace(FIGURE, value=value, spread=spread)})
    assert table.column("value") == [shown]


def test_two_tables_in_one_document_do_not_mix(root):
    path = root / "README.md"
    marks = "<!-- table: core/figures -->\n<!-- /table -->\n"
    path.write_text(marks + "between\n" + BEFORE + AFTER, encoding="utf-8")
    tables.main([], root)
    text = path.read_text(encoding="utf-8")
    assert text.index("`peak`") < text.index("between") < text.index("1,024")
    assert text.endswith(SPEED_MARKDOWN + AFTER)


@pytest.mark.parametrize(
    "text",
    [
        "<!-- table: core/speed -->\nno end\n",
        "<!-- table: core/speed -->\n<!-- table: core/figures -->\n<!-- /table -->\n",
        "<!-- table: speed -->\n<!-- /table -->\n",
    ],
)
def test_a_broken_marker_is_an_error_and_nothing_is_written(root, text):
    path = root / "docs" / "cost.md"
    path.write_text(text, encoding="utf-8")
    (root / "README.md").write_text(BEFORE + AFTER, encoding="utf-8")
    with pytest.raises(ValueError, match=r"cost\.md.*misspelt"):
        tables.main([], root)
    assert path.read_text(encoding="utf-8") == text
    assert (root / "README.md").read_text(encoding="utf-8") == BEFORE + AFTER


@pytest.mark.parametrize("wanted", ["core/sped", "cor/speed"])
def test_a_table_that_is_not_there_is_named(root, wanted):
    (root / "README.md").write_text(f"<!-- table: {wanted} -->\n<!-- /table -->\n", encoding="utf-8")
    file, name = wanted.split("/")
    with pytest.raises(ValueError, match=rf"README\.md wants the table '{name}' of {file}\.json"):
        tables.main(["--check"], root)
