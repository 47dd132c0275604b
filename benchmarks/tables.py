# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Write the tables of README.md and docs/*.md from the results files, so that no number is ever copied by hand.

    python -m benchmarks.tables            # rewrite what differs
    python -m benchmarks.tables --check    # only say what differs, and exit with 1 if anything does

Between the lines `<!-- table: FILE/NAME -->` and `<!-- /table -->` comes the table NAME of
`benchmarks/results/FILE.json`; the name `figures` stands for all figures of that file, and `all/glance` for a few of
several files, with what was asked of them.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, Figure, Table, brief, read_results

OPENING = re.compile(r"^<!-- table: .*$", re.MULTILINE)
TABLE = re.compile(r"^(<!-- table: ([\w-]+)/([\w-]+) -->\n)(?:(?!<!-- table: ).*\n)*?(<!-- /table -->)$", re.MULTILINE)
FIGURES = "figures"
GLANCE = "all", "glance"
# What a reader wants to know first: in words, and file and key of its figure.
AT_A_GLANCE = (
    ("nine classification tasks, average in points", "glue", "average_ours"),
    ("the same of a BERT-shaped control", "glue", "average_bert_shaped"),
    ("the same of a bag of words", "glue", "average_bag_of_words"),
    ("telling a wrong order of words, accuracy (bag of words: 50)", "glue", "swap_detection"),
    ("the same from concepts, without fine-tuning: the one of two sentences", "concepts", "order_probe"),
    ("masked-word loss in nats less that of a BERT shape, 512 tokens, 240 s", "ladder", "hybrid_512_minus_bert"),
    ("of the bottleneck, whose decoder sees concepts only", "ladder", "bottleneck_512_minus_bert"),
    ("less that of a ModernBERT shape, 4,096 tokens, 80 s", "ladder", "hybrid_4096_minus_modernbert"),
    ("the same with 8,192 tokens", "ladder", "hybrid_8192_minus_modernbert"),
    ("training speed over ModernBERT-base's, 512 tokens", "speed", "train_x_modernbert_512"),
    ("the same at 8,192 tokens", "speed", "train_x_modernbert_8192"),
    ("its memory over ModernBERT-base's, 8,192 tokens", "speed", "train_memory_x_modernbert_8192"),
    ("encoding speed over ModernBERT-base's, 512 tokens", "speed", "encode_x_modernbert_512"),
    ("the same at 8,192 tokens", "speed", "encode_x_modernbert_8192"),
    ("the same at 65,536 tokens", "speed", "encode_x_modernbert_65536"),
    ("share of the GPU's peak that training `base` reaches", "speed", "mfu_base"),
    ("training speed on two GPUs over one", "speed", "ddp_2"),
    ("seconds for one document of 16,384 tokens over ModernBERT's", "long_context", "seconds_16k_over_modernbert_gpu"),
    ("the same on a CPU", "long_context", "seconds_16k_over_modernbert_cpu"),
    ("one of 128 sentences found by its key, documents of 16,384 tokens", "long_context", "needle_16k"),
    ("one of 256, documents of 65,536 tokens", "long_context", "needle_64k"),
    ("value of nested lists (ListOps), from scratch, points", "long_context", "listops_scratch"),
    ("the same after self-pretraining, a smaller shape", "long_context", "listops_self_pretrained"),
    ("eras told by whole speeches, points", "long_context", "sotu_eras"),
    ("the same by a bag of words", "long_context", "sotu_bag_of_words"),
    ("gained by reading on after the first 512 tokens", "long_context", "sotu_gain_over_first_512"),
    ("tokens of the longest document encoded at full speed", "long_context", "longest_document_tokens"),
)
REQUIRED = re.compile(r"required: (.*)$")


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """
    Bring the documents of the repository at `root` up to date, or check that they are. Returns the exit status.

    Raises:
        ValueError: for a marker without its end, or a table that no results file has.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description="Write the tables of the docs.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if a document is out of date"
    )
    check = parser.parse_args(arguments).check
    stale = stale_documents(root)
    for path, text in stale.items():
        print(f"{path.relative_to(root)} is out of date: run make tables" if check else path.relative_to(root))
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


def stale_documents(root: Path) -> dict[Path, str]:
    """README.md and docs/*.md whose tables differ from the results, and what these documents should hold."""
    paths = [*root.glob("README.md"), *sorted(root.glob("docs/*.md"))]
    old = {path: path.read_text(encoding="utf-8") for path in paths}
    new = {path: _fill(path, text, root / "benchmarks" / "results") for path, text in old.items()}
    return {path: text for path, text in new.items() if text != old[path]}


def to_markdown(table: Table) -> str:
    """The table in Markdown, columns of numbers aligned to the right, its note in a paragraph below."""
    numeric = [all(isinstance(cell, int | float) for cell in column) for column in zip(*table.rows, strict=True)]
    rule = ["---:" if number else "---" for number in numeric]
    cells = [[_cell(value) for value in row] for row in table.rows]
    lines = [f"| {' | '.join(line)} |" for line in (table.columns, rule, *cells)]
    return "\n".join([*lines, *(["", table.note] if table.note else []), ""])


def figures_table(figures: dict[str, Figure]) -> Table:
    """All figures in one table, in alphabetical order."""
    columns = ["figure", "value", "unit", "what it is", "measured by", "on", "commit", "date"]
    rows = [
        [f"`{key}`", _value(it), it.unit, it.note, f"`{it.command}`", it.device, it.commit, it.date]
        for key, it in sorted(figures.items())
    ]
    return Table(FIGURES, columns, rows, "A value of several runs is their mean ± standard deviation.")


def _fill(path: Path, text: str, results: Path) -> str:
    filled, count = TABLE.subn(lambda match: match[1] + _lookup(path, results, match[2], match[3]) + match[4], text)
    if count != len(OPENING.findall(text)):
        raise ValueError(f"{path}: a line `<!-- table: FILE/NAME -->` is misspelt or has no line `<!-- /table -->`.")
    return filled


def glance_table(results: Path) -> Table:
    """
    Figures of several files of the folder `results`.

    Raises:
        ValueError: one of them is not there.
    """
    known = {file: read_results(results / f"{file}.json").figures for file in {file for _, file, _ in AT_A_GLANCE}}
    rows = []
    for words, file, key in AT_A_GLANCE:
        if key not in known[file]:
            raise ValueError(f"{results / file}.json has no figure {key!r}, which the table {GLANCE[1]!r} shows.")
        figure = known[file][key]
        required = REQUIRED.search(figure.note)
        device = figure.device.split(",")[0]
        rows.append([words, _value(figure), required[1] if required else "", device])
    return Table(GLANCE[1], ["what", "measured", "asked", "on"], rows)


def _lookup(path: Path, results: Path, file: str, name: str) -> str:
    if (file, name) == GLANCE:
        return to_markdown(glance_table(results))
    content = read_results(results / f"{file}.json")
    tables = content.tables | {FIGURES: figures_table(content.figures)}
    if name not in tables:
        raise ValueError(f"{path} wants the table {name!r} of {file}.json, which has {', '.join(sorted(tables))}.")
    return to_markdown(tables[name])


def _value(figure: Figure) -> str:
    runs = "" if figure.spread is None else f" ± {brief(figure.spread, 2)} ({figure.runs} runs)"
    return f"{brief(figure.value, 3)}{runs}"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
