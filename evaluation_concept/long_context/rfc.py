# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
RFCs, the longest labelled documents of the packages: the working group that a document is from, and whether one
document obsoletes or updates another.

What names the answer is taken out: the block in front of the title and the lines at head and foot of the pages, every
paragraph that speaks of a working group or a mailing list, and for pairs the numbers of RFCs. Documents of the test
split are kept out of pretraining by the rule that the corpus is split by.
"""

import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evaluation_concept.long_context.splitting import with_validation
from evaluation_concept.long_context.tasks import CLASSIFICATION, Example, Examples, Sources, Task

FAMILY, SOURCE = "documents", "rfc"
PARTS = ("std", "std-proposed", "old-std", "informational", "experimental", "fyi-bcp", "misc", "others")
PACKAGES = tuple(f"debian:doc-rfc-{part}" for part in PARTS)
# What `source` says of documents that are of no working group.
NO_GROUP = ("Legacy", "INDEPENDENT", "IAB", "IRTF", "IETF - NON WORKING GROUP", "")
FEWEST_DOCUMENTS = 60
RELATED, UNRELATED = "related", "unrelated"

_PAGE_BREAK = re.compile(r"\n[^\n]*\[Page\s+\w+\][ \t]*\n\s*(?:RFC\s+\d+[^\n]*\n)?")
_LEAK = re.compile(r"working\s+group|mailing\s+list", re.IGNORECASE)
_NUMBER = re.compile(r"\b(RFC)[\s#-]*\d+", re.IGNORECASE)
_FIRST_HEADING = re.compile(
    r"(?:\d+\.?\s+)?(?:abstract|introduction|summary|overview|purpose)\b.{0,40}", re.IGNORECASE
)


@dataclass(frozen=True)
class Rfc:
    """
    A document.

    Attributes:
        name: such as "rfc2119".
        path: of its text.
        group: the working group, or what stands in its place.
        older: names of the documents that it obsoletes or updates.
    """

    name: str
    path: Path
    group: str
    older: tuple[str, ...]

    @property
    def number(self) -> int:
        return int(self.name.removeprefix("rfc"))


def find_rfcs(sources: Sources) -> dict[str, Rfc]:
    """
    The documents of the packages by name, in the order of their numbers.

    Raises:
        FileNotFoundError: none of the packages holds one.
    """
    found = {}
    for package in PACKAGES:
        folder = sources.packages.package(package) / "usr/share/doc/RFC"
        for path in folder.glob("**/rfc[0-9]*.json"):
            text = path.with_suffix(".txt.gz")
            if not path.is_symlink() and text.is_file():
                facts = json.loads(path.read_text(encoding="utf-8"))
                older = (_name(label) for label in (*facts["obsoletes"], *facts["updates"]))
                found[path.stem] = Rfc(path.stem, text, facts["source"].strip(), tuple(dict.fromkeys(older)))
    if not found:
        raise FileNotFoundError(f"None of the packages {', '.join(PACKAGES)} holds an RFC.")
    return {rfc.name: rfc for rfc in sorted(found.values(), key=lambda rfc: rfc.number)}


def _name(label: str) -> str:
    return f"rfc{int(re.sub(r'[^0-9]', '', label) or 0)}"


def body(text: str) -> str:
    """A document without what names its group, paragraphs parted by blank lines."""
    text = _PAGE_BREAK.sub("\n", text.replace("\r", "").replace("\f", ""))
    paragraphs = [paragraph.strip("\n") for paragraph in re.split(r"\n[ \t]*(?:\n[ \t]*)+", text)]
    paragraphs = [paragraph for paragraph in paragraphs if paragraph.strip()]
    heads = (
        index for index, paragraph in enumerate(paragraphs[:40]) if _FIRST_HEADING.fullmatch(_first_line(paragraph))
    )
    start = next(heads, min(2, len(paragraphs) - 1))
    return "\n\n".join(paragraph for paragraph in paragraphs[start:] if not _LEAK.search(paragraph))


def _first_line(paragraph: str) -> str:
    return paragraph.strip().partition("\n")[0].strip()


@lru_cache(maxsize=20_000)
def _read(path: Path) -> str:
    with gzip.open(path) as file:
        return body(file.read().decode("utf-8", "replace"))


def load_groups(sources: Sources) -> Examples:
    """Documents of the working groups that have at least 60, and their groups."""
    rfcs = [rfc for rfc in find_rfcs(sources).values() if rfc.group not in NO_GROUP]
    sizes = Counter(rfc.group for rfc in rfcs)
    splits: dict[str, list[Example]] = {"train": [], "test": []}
    for rfc in rfcs:
        if sizes[rfc.group] >= FEWEST_DOCUMENTS:
            splits[_split(sources, rfc.name)].append(Example(rfc.name, _read(rfc.path), label=rfc.group))
    return with_validation(splits)


def load_pairs(sources: Sources) -> Examples:
    """
    Pairs of documents of which the newer one obsoletes or updates the older one, and as many where it does not.

    The wrong older document is drawn from the group of the right one, among those that the newer one does not name. A
    pair is test if its newer document is; nothing is trained on a test document.
    """
    rfcs = find_rfcs(sources)
    others = defaultdict(list)
    for rfc in rfcs.values():
        others[rfc.group].append(rfc)
    splits: dict[str, list[Example]] = {"train": [], "test": []}
    for newer, older, label in _pairs(rfcs, others):
        split = _split(sources, newer.name)
        if split == "test" or _split(sources, older.name) == "train":
            text, query = (_NUMBER.sub(r"\1", _read(rfc.path)) for rfc in (newer, older))
            splits[split].append(Example(f"{newer.name}-{older.name}", text, query, label=label, group=newer.name))
    return with_validation(splits)


def _pairs(rfcs: Mapping[str, Rfc], others: Mapping[str, list[Rfc]]) -> Iterator[tuple[Rfc, Rfc, str]]:
    for newer in rfcs.values():
        taken = {newer.name, *newer.older}
        for name in newer.older:
            if name not in rfcs:
                continue
            right = rfcs[name]
            wrong = [rfc for rfc in others[right.group] if rfc.name not in taken and rfc.number < newer.number]
            if not wrong:
                continue
            chosen = random.Random(f"{newer.name}/{name}").choice(wrong)
            taken.add(chosen.name)
            yield newer, right, RELATED
            yield newer, chosen, UNRELATED


def _split(sources: Sources, name: str) -> str:
    return "test" if sources.packages.split(SOURCE, name) == "test" else "train"


TASKS = (
    Task("rfc_groups", FAMILY, CLASSIFICATION, "accuracy", load_groups),
    Task("rfc_pairs", FAMILY, CLASSIFICATION, "accuracy", load_pairs, labels=(UNRELATED, RELATED)),
)
