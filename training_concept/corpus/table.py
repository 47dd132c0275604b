# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of a built corpus."""

import json
from collections.abc import Iterable
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


def corpus_table(corpus_json: Path) -> str:
    """
    The sources of a built corpus as a Markdown table, the total at its foot.

    Sizes are those of what is left; "not prose", "duplicates" and "excluded" count removed paragraphs.

    Args:
        corpus_json: as the build wrote it.
    """
    content = json.loads(corpus_json.read_text(encoding="utf-8"))["sources"]
    sources = dict(sorted(content.items(), key=lambda item: (item[1]["group"], item[0])))
    lines = [_line(COLUMNS), _line("---" if column in _WORDS else "---:" for column in COLUMNS)]
    lines += [_line(_row(name, [source])) for name, source in sources.items()]
    lines.append(_line(_row("all", list(sources.values()))))
    return "\n".join(lines) + "\n"


_WORDS = {"source", "group", "licence"}


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(name: str, sources: list[dict[str, Any]]) -> list[str]:
    """Cells of one source, or of the sum of several."""
    splits = [source["splits"][split] for source in sources for split in SPLITS]
    tokens = [sum(source["splits"][split]["tokens"] for source in sources) for split in SPLITS]
    group, license = (sources[0]["group"], sources[0]["license"]) if name != "all" else ("", "")
    return [
        name,
        group,
        f"{sum(split['documents'] for split in splits):,}",
        f"{sum(split['bytes'] for split in splits) / 1e6:.1f}",
        f"{sum(split['words'] for split in splits) / 1e6:.2f}",
        *(f"{count / 1e6:.2f}" for count in tokens),
        f"{sum(source['filtered'] for source in sources):,}",
        f"{sum(source['duplicates'] for source in sources):,}",
        f"{sum(sum(source['excluded'].values()) for source in sources):,}",
        license,
    ]
