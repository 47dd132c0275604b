# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A tokenised corpus in parts that travel: reading them needs NumPy and nothing else.

`python -m training_concept.export` writes a folder with `index.json`, the tokenizer's files, and parts
`part-000.npz`, `part-001.npz`, ... Each part holds whole documents: `tokens` (uint16 [T], one document after the
other, no special tokens), and for each document `lengths` (int32 [D], in tokens), `source` and `split` (uint8 [D],
places in the lists `sources` and `splits` of the index).
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INDEX_FILE = "index.json"
ARRAYS = {"tokens": np.uint16, "lengths": np.int32, "source": np.uint8, "split": np.uint8}


@dataclass(frozen=True)
class TokenParts:
    """
    Documents of token ids.

    Attributes:
        tokens: uint16 [T], all documents in a row.
        offsets: int64 [D + 1], where each begins; the last is T.
        source: uint8 [D], place of each document's source in `sources`.
        split: uint8 [D], place of its split in `splits`.
        sources: names.
        splits: names.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    source: np.ndarray
    split: np.ndarray
    sources: tuple[str, ...]
    splits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Token ids of one document, uint16, without a copy."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        index %= len(self)
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def load_parts(folder: str | Path, split: str | None = None, sources: Collection[str] | None = None) -> TokenParts:
    """
    Read an exported corpus, or a part of it.

    Args:
        folder: as the export wrote it.
        split: this one alone.
        sources: these alone.

    Raises:
        FileNotFoundError: no index, or a part that is missing, named.
        ValueError: a part that is not as it was written, named; a split or source that the corpus does not have.
    """
    folder = Path(folder)
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    splits = _places([split] if split else None, index["splits"], "split", folder)
    wanted = _places(sources, index["sources"], "source", folder)
    parts = [_select(_read_part(folder, part), wanted, splits) for part in index["parts"]]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in ARRAYS}
    offsets = np.concatenate([[0], np.cumsum(joined["lengths"], dtype=np.int64)])
    return TokenParts(
        joined["tokens"],
        offsets,
        joined["source"],
        joined["split"],
        tuple(index["sources"]),
        tuple(index["splits"]),
    )


def _places(wanted: Collection[str] | None, known: Sequence[str], kind: str, folder: Path) -> list[int]:
    if unknown := sorted(set(wanted or ()) - set(known)):
        raise ValueError(f"{folder} has no {kind} {unknown[0]!r}; it has: {', '.join(known)}")
    return [place for place, name in enumerate(known) if wanted is None or name in wanted]


def _read_part(folder: Path, part: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a part, after a look at its checksum."""
    path = folder / part["file"]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: copy it, or export again")
    if checksum(path) != part["sha256"]:
        raise ValueError(f"{path} is damaged or of another export (its checksum is not the index's): copy it again")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ARRAYS}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no part of a corpus: {error}") from error


def _select(part: dict[str, np.ndarray], sources: list[int], splits: list[int]) -> dict[str, np.ndarray]:
    """The documents of these sources and splits."""
    kept = np.isin(part["source"], sources) & np.isin(part["split"], splits)
    tokens = part["tokens"][np.repeat(kept, part["lengths"])]
    return {"tokens": tokens} | {name: part[name][kept] for name in ARRAYS if name != "tokens"}


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
