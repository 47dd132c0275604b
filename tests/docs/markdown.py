# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The documents of this repository, and the code, commands and links in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`((?:python3? |accelerate launch |run_\w+\.py )[^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Why a block is run not with the others of its document but against a Hub.
NEEDS_HUB = "a repository on the Hub"
# A template of a model card; what it makes is run where cards are made.
TEMPLATE = "{{"


class Block(NamedTuple):
    """
    Fenced code.

    Attributes:
        line: of the document where it begins.
        kind: `python`, `bash` and so on.
        code: its text.
        reason: why it is not run, where a comment before it says so.
    """

    line: int
    kind: str
    code: str
    reason: str | None


def documents() -> list[Path]:
    """Markdown for readers, model cards included, templates not."""
    folders = ("docs", "model_cards", "recipes")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path for path in found if TEMPLATE not in path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """All fenced code of a document."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, match.start("code")), match["kind"], match["code"], match["reason"])
        for match in FENCE.finditer(text)
    ]


def commands(path: Path) -> Iterator[list[str]]:
    """Commands in blocks for the shell and in single lines of text, split into words, without comments."""
    shell = [block.code.replace("\\\n", " ") for block in blocks(path) if block.kind in ("bash", "sh", "shell")]
    outside = FENCE.sub("", path.read_text(encoding="utf-8"))
    lines = [line for code in shell for line in code.splitlines()]
    for line in [*lines, *(" ".join(match.split()) for match in INLINE.findall(outside))]:
        words = shlex.split(line, comments=True)
        while words:
            end = next((place for place, word in enumerate(words) if word in ("|", "&&", ";", "||")), len(words))
            if words[:end]:
                yield words[:end]
            words = words[end + 1 :]


def links(path: Path) -> list[str]:
    """Targets of links and pictures that are not on the web."""
    targets = LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
