# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables for people: Markdown unless there is a terminal, and no number is ever cut."""

import io

from rich.console import Console

from training_concept.terminal import TextTable, make_console, print_table

TABLE = TextTable(
    "Sizes [of all]",
    ["source", "tokens", "share", "licence"],
    [["books", 1234567890, 0.98765432, "a|b [c]"], ["mail", 7, None, "to be copied unmodified " * 20]],
    "What it is [really].",
)


def test_a_file_gets_a_markdown_table():
    file = io.StringIO()
    print_table(make_console(file), TABLE)
    lines = file.getvalue().splitlines()
    assert lines[1] == "Sizes [of all]"
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["source", "tokens", "share", "licence"]
    assert set(lines[4]) == {"|", "-"}
    assert lines[5].startswith(r"| books  | 1,234,567,890 | 0.9877 | a\|b [c] ")
    assert lines[6].startswith("| mail   |             7 |      - | to be copied unmodified to be")
    assert lines[-1] == "What it is [really]."
    assert len(lines) == 9


def test_a_narrow_terminal_breaks_words_but_no_number():
    file = io.StringIO()
    print_table(Console(file=file, force_terminal=True, width=50, color_system=None), TABLE)
    printed = file.getvalue()
    assert "1,234,567,890" in printed
    assert "0.9877" in printed
    assert "a|b [c]" in printed
    assert max(map(len, printed.splitlines())) <= 50
