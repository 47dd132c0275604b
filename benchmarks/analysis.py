# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Whether the analysis tells good concepts from bad ones, and what it says of checkpoints.

    python -m benchmarks.analysis                                          # encoders built by hand, a few seconds
    python -m benchmarks.analysis --reports outputs/analysis/nano ...      # folders that run_analysis.py wrote

Writes the tables `constructed` and `checkpoints` of benchmarks/results/analysis.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.results import RESULTS, Table, merge_results
from evaluation_concept.analysis_report import HEADLINE, REPORT
from evaluation_concept.constructed import Judgement, study
from evaluation_concept.errors import exit_code

SEEDS = range(3)
DIGITS = 3


def main(arguments: Sequence[str], path: Path = RESULTS / "analysis.json") -> None:
    """
    Run the command; the results file is at `path`.

    Raises:
        ValueError, OSError: for a report that cannot be read.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analysis", description="Tables about the analysis.")
    parser.add_argument("--reports", nargs="+", type=Path, metavar="FOLDER", help="what run_analysis.py wrote")
    folders = parser.parse_args(arguments).reports
    table = checkpoints_table(folders) if folders else constructed_table([study(seed) for seed in SEEDS])
    merge_results(path, {}, [table])


def constructed_table(studies: Sequence[dict[str, Judgement]]) -> Table:
    """Means over the studies of what is said of each encoder."""
    columns = list(asdict(next(iter(studies[0].values()))))
    rows = [[name, *(_mean(studies, name, column) for column in columns)] for name in studies[0]]
    note = f"Means over {len(studies)} seeds; 300 documents of 64 tokens, 16 concepts of width 48 each."
    return Table("constructed", ["encoder", *(column.replace("_", " ") for column in columns)], rows, note)


def checkpoints_table(folders: Sequence[Path]) -> Table:
    """
    The headlines of reports, one column for each.

    Raises:
        OSError: if there is no report in a folder.
        ValueError: if it is none of `run_analysis.py`.
    """
    headlines = {folder.name: _headline(folder / REPORT) for folder in folders}
    names = [name for name in HEADLINE if any(name in headline for headline in headlines.values())]
    rows = [
        [name.replace("_", " "), *(_cell(headline.get(name)) for headline in headlines.values())] for name in names
    ]
    return Table(
        "checkpoints", ["number", *headlines], rows, "Losses in nats per masked token, the rest in fractions."
    )


def _headline(path: Path) -> dict[str, float]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["headline"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report of run_analysis.py: {error!r}.") from error


def _mean(studies: Sequence[dict[str, Judgement]], name: str, column: str) -> float:
    return round(fmean(getattr(study[name], column) for study in studies), DIGITS)


def _cell(value: float | None) -> Any:
    return "-" if value is None else round(value, DIGITS)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
