# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables for people: drawn on a terminal, as Markdown into a file or a pipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Columns of what is no terminal: more than any line has, so that none is wrapped.
WIDE = 10_000


@dataclass(frozen=True)
class TextTable:
    """A title, names of columns, rows of numbers and words (`None` where there is nothing to say), a note below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


def make_console(file: IO[str] | None = None) -> Console:
    """A console on `file` (default: stdout), in colour on a terminal unless NO_COLOR is set."""
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=WIDE, soft_wrap=True)


def print_table(console: Console, table: TextTable) -> None:
    """Print a table, numbers aligned to the right."""
    on_terminal = console.is_terminal
    console.print(f"\n{table.title}\n", style="bold", markup=False)
    drawn = Table(box=box.SIMPLE_HEAD if on_terminal else box.MARKDOWN, show_edge=not on_terminal)
    cells = [[_cell(value, on_terminal) for value in row] for row in table.rows]
    for index, name in enumerate(table.columns):
        numeric = all(isinstance(row[index], int | float | None) for row in table.rows)
        width = max((len(row[index]) for row in cells), default=0)
        # Words may be broken over lines, numbers and names never.
        least = width if numeric or index == 0 else None
        drawn.add_column(name, justify="right" if numeric else "left", min_width=least)
    for row in cells:
        drawn.add_row(*map(Text, row))
    with console.capture() as capture:
        console.print(drawn, markup=False)
    console.file.write("\n".join(line for line in capture.get().splitlines() if line.strip()) + "\n")
    if table.note:
        console.print(f"\n{table.note}", markup=False)


def _cell(value: Any, on_terminal: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if on_terminal else str(value).replace("|", r"\|")
