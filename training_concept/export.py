# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m training_concept.export RECIPE`: a recipe's documents as token ids, in parts small enough to travel.

`training_concept.parts.load_parts` reads them on a machine with NumPy alone.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from evaluation_concept.encode import load_tokenizer
from evaluation_concept.errors import exit_code
from evaluation_concept.files import draft, write_json
from training_concept.data import LARGEST_UINT16, load_documents, tokenize_documents
from training_concept.parts import ARRAYS, INDEX_FILE, checksum
from training_concept.recipes import ROLES, read_recipe

TOKENIZER_FOLDER = "tokenizer"
DOCUMENTS_PER_BATCH = 1000
BYTES_PER_TOKEN = np.dtype(ARRAYS["tokens"]).itemsize
BYTES_PER_DOCUMENT = sum(np.dtype(ARRAYS[name]).itemsize for name in ("lengths", "source", "split"))
# Of the archive and of its four arrays.
BYTES_OF_HEADERS = 4096
# What compression may add where it saves nothing.
WORST_COMPRESSION = 1.001


class TokenDocument(NamedTuple):
    """Token ids of a document, uint16, and the places of its source and split in the index."""

    tokens: np.ndarray
    source: int
    split: int


def export(
    recipe: str | Path,
    tokenizer_name: str,
    output_dir: Path,
    *,
    part_mb: float = 30,
    num_proc: int | None = None,
    cache_dir: str | None = None,
) -> dict[str, Any]:
    """
    Tokenise the documents of a recipe and write them in parts.

    Args:
        recipe: YAML file.
        tokenizer_name: folder or name of a tokenizer of at most 65,536 tokens.
        output_dir: gets the parts, their index and the tokenizer. Parts that lie there are replaced.
        part_mb: most megabytes (10**6 bytes) of a part; it holds whole documents.
        num_proc: processes that tokenise.
        cache_dir: where `datasets` keeps its Arrow files.

    Returns:
        The index: sources, splits, tokenizer, counts by source and split, files with their checksums.

    Raises:
        ValueError: a recipe that is streamed, a tokenizer that is too large, a document that no part can hold.
    """
    sources = read_recipe(recipe)
    if sources.streaming:
        raise ValueError(f"{recipe} is streamed: an export needs all documents at once")
    tokenizer = load_tokenizer(tokenizer_name)
    if len(tokenizer) > LARGEST_UINT16:
        raise ValueError(f"{tokenizer_name} has {len(tokenizer):,} tokens; parts hold at most {LARGEST_UINT16:,}")
    documents = load_documents(sources, cache_dir=cache_dir, num_proc=num_proc)
    tokenised = {
        label: {role: tokenize_documents(split, tokenizer, num_proc=num_proc) for role, split in roles.items()}
        for label, roles in documents.items()
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    _remove_export(output_dir)
    index = {
        "sources": list(tokenised),
        "splits": list(ROLES),
        "counts": _count(tokenised),
        "tokenizer": _save_tokenizer(tokenizer, output_dir / TOKENIZER_FOLDER),
        "parts": _write_parts(_iterate(tokenised), output_dir, int(part_mb * 1e6 / WORST_COMPRESSION)),
    }
    write_json(output_dir / INDEX_FILE, index)
    return index


def _count(tokenised: dict[str, dict[str, Dataset]]) -> dict[str, dict[str, dict[str, int]]]:
    return {
        label: {role: {"documents": len(split), "tokens": _tokens(split)} for role, split in roles.items()}
        for label, roles in tokenised.items()
    }


def _tokens(split: Dataset) -> int:
    return sum(len(document) for document in _documents(split))


def _documents(split: Dataset) -> Iterator[np.ndarray]:
    for batch in split.with_format("numpy").iter(DOCUMENTS_PER_BATCH):
        yield from batch["input_ids"]


def _iterate(tokenised: dict[str, dict[str, Dataset]]) -> Iterator[TokenDocument]:
    for source, roles in enumerate(tokenised.values()):
        for role, split in roles.items():
            for tokens in _documents(split):
                yield TokenDocument(tokens, source, ROLES.index(role))


def _remove_export(folder: Path) -> None:
    """Remove what an older export wrote, its index first: one that is broken off is without."""
    for stale in (folder / INDEX_FILE, *folder.glob("part-*.npz")):
        stale.unlink(missing_ok=True)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    tokenizer.save_pretrained(folder)
    files = {path.name: checksum(path) for path in sorted(folder.iterdir())}
    return {"folder": folder.name, "vocabulary": len(tokenizer), "sha256": files}


def _write_parts(documents: Iterable[TokenDocument], folder: Path, limit: int) -> list[dict[str, Any]]:
    return [
        _write_part(folder / f"part-{number:03d}.npz", part)
        for number, part in enumerate(_fill_parts(documents, limit))
    ]


def _fill_parts(documents: Iterable[TokenDocument], limit: int) -> Iterator[list[TokenDocument]]:
    """Group documents so that no part is larger than `limit` bytes, even if nothing can be compressed."""
    part: list[TokenDocument] = []
    size = BYTES_OF_HEADERS
    for document in documents:
        bytes_more = BYTES_PER_TOKEN * len(document.tokens) + BYTES_PER_DOCUMENT
        if BYTES_OF_HEADERS + bytes_more > limit:
            raise ValueError(f"a document of {len(document.tokens):,} tokens fits in no part: raise --part_mb")
        if size + bytes_more > limit:
            yield part
            part, size = [], BYTES_OF_HEADERS
        part.append(document)
        size += bytes_more
    if part:
        yield part


def _write_part(path: Path, documents: Sequence[TokenDocument]) -> dict[str, Any]:
    """Write a part as a whole or not at all, and describe it."""
    arrays = {
        "tokens": np.concatenate([document.tokens for document in documents]),
        "lengths": [len(document.tokens) for document in documents],
        "source": [document.source for document in documents],
        "split": [document.split for document in documents],
    }
    with draft(path) as draft_path, draft_path.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(arrays[name], dtype=kind) for name, kind in ARRAYS.items()})
    facts = {"documents": len(documents), "tokens": len(arrays["tokens"]), "bytes": path.stat().st_size}
    return {"file": path.name, "sha256": checksum(path)} | facts


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, export, say what was written."""
    parser = argparse.ArgumentParser(prog="python -m training_concept.export", description=__doc__)
    parser.add_argument("recipe", help="YAML file of sources")
    parser.add_argument("--tokenizer_name", required=True, help="folder or name of the tokenizer")
    parser.add_argument("--output_dir", required=True, help="gets the parts, their index and the tokenizer")
    parser.add_argument("--part_mb", type=float, default=30, help="most megabytes of a part (default: %(default)g)")
    parser.add_argument("--num_proc", type=int, help="processes that tokenise (default: one)")
    options = parser.parse_args(arguments)
    index = export(
        options.recipe,
        options.tokenizer_name,
        Path(options.output_dir),
        part_mb=options.part_mb,
        num_proc=options.num_proc,
    )
    parts = index["parts"]
    tokens, megabytes = sum(part["tokens"] for part in parts), sum(part["bytes"] for part in parts) / 1e6
    print(f"{tokens:,} tokens in {len(parts)} parts, {megabytes:.1f} MB, in {options.output_dir}")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
