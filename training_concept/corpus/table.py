# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of a built corpus."""

import json
from pathlib import Path
from typing import Any

from training_concept.corpus.splits import SPLITS

COLUMNS = (
    "source",
    "group",
    "documents",
    "MB",
    "words (M)",
    *(f"{split} tokens (M)" for split in SPLITS),
    "not prose",
    "duplicates",
    "excluded",
    "licence",
)


def corpus_rows(corpus_json: Path) -> list[list[Any]]:
    """
    A row of `COLUMNS` for each source of a built corpus, and one for all of them.

    Sizes are those of what is left; "not prose", "duplicates" and "excluded" count removed paragraphs.

    Args:
        corpus_json: as the build wrote it.
    """
    content = json.loads(corpus_json.read_text(encoding="utf-8"))["sources"]
    sources = dict(sorted(content.items(), key=lambda item: (item[1]["group"], item[0])))
    rows = [_row(name, source["group"], source["license"], [source]) for name, source in sources.items()]
    return [*rows, _row("all", "", "", list(sources.values()))]


def corpus_table(corpus_json: Path) -> str:
    """The rows of `corpus_rows` as a Markdown table."""
    rows = corpus_rows(corpus_json)
    rules = ["---" if isinstance(cell, str) else "---:" for cell in rows[0]]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (COLUMNS, rules, *rows)) + "\n"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _row(name: str, group: str, license: str, sources: list[dict[str, Any]]) -> list[Any]:
    """Cells of one source, or of the sum of several."""
    splits = [source["splits"][split] for source in sources for split in SPLITS]
    tokens = [sum(source["splits"][split]["tokens"] for source in sources) for split in SPLITS]
    return [
        name,
        group,
        sum(split["documents"] for split in splits),
        round(sum(split["bytes"] for split in splits) / 1e6, 1),
        round(sum(split["words"] for split in splits) / 1e6, 2),
        *(round(count / 1e6, 2) for count in tokens),
        sum(source["filtered"] for source in sources),
        sum(source["duplicates"] for source in sources),
        sum(sum(source["excluded"].values()) for source in sources),
        license,
    ]
