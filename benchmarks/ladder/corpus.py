# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The texts of the ladder: a selection of an exported corpus, small enough to travel, and rows of it.

`training_concept.export` writes all documents of a recipe; `select_corpus` keeps so many training tokens, in the
recipe's shares, and of each source a bounded number of held-out ones. Reading needs NumPy and a tokenizer's file.
"""

import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.loading import PackedRows, ShuffledPasses
from evaluation_concept.files import write_json
from training_concept.parts import ARRAYS, INDEX_FILE, TokenParts, checksum, load_parts

TOKENIZER_FOLDER = "tokenizer"
TRAIN = "train"
HELD_OUT = ("validation", "test")
# What a token takes in a compressed part, at most; measured 0.9 bytes.
BYTES_PER_TOKEN = 1.2
# Documents are drawn in an order of their own, the same for every selection.
DRAW_SEED = 0


@dataclass(frozen=True)
class Corpus:
    """
    Documents of token ids, without special tokens.

    Attributes:
        tokenizer: of these ids.
        train: documents.
        held_out: by split and source, documents that nothing is trained on.
        counts: int64 `[V]`, how often each token occurs in training.
        widths: int64 `[V]`, bytes of text that each token stands for; `None` if the tokenizer does not tell.
    """

    tokenizer: PreTrainedTokenizerBase
    train: list[np.ndarray]
    held_out: Mapping[str, Mapping[str, list[np.ndarray]]]
    counts: np.ndarray
    widths: np.ndarray | None

    @property
    def train_tokens(self) -> int:
        """Tokens to train on, special ones not counted."""
        return int(self.counts.sum())


def load_corpus(folder: str | Path) -> Corpus:
    """
    Read a selection (or a whole export).

    Raises:
        OSError, ValueError: what `load_parts` raises, or no training documents.
    """
    folder = Path(folder)
    parts = load_parts(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDER)
    train = [parts[int(index)] for index in _members(parts, TRAIN)]
    if not train:
        raise ValueError(f"{folder} has no documents to train on")
    counts: np.ndarray = np.zeros(len(tokenizer), dtype=np.int64)
    for document in _pieces(train):
        counts += np.bincount(document, minlength=len(tokenizer))
    held_out = {split: _by_source(parts, split) for split in HELD_OUT}
    return Corpus(tokenizer, train, held_out, counts, token_widths(tokenizer))


def token_widths(tokenizer: PreTrainedTokenizerBase) -> np.ndarray | None:
    """Bytes that each token of a byte-level tokenizer stands for, 0 for special ones, int64 `[V]`; else `None`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or "ByteLevel" not in str(backend.decoder):
        return None
    # A byte-level vocabulary writes every byte as one character.
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    widths = np.fromiter(map(len, names), dtype=np.int64, count=len(names))
    widths[tokenizer.all_special_ids] = 0
    return widths


class LadderRows(PackedRows):
    """
    Packed training rows that are asked for by the number of the visit; every pass has its own order and masks.

    Args:
        documents, length, tokenizer: as `PackedRows`.
        seed: of the order.
    """

    def __init__(
        self, documents: Sequence[np.ndarray], length: int, tokenizer: PreTrainedTokenizerBase, seed: int = 0
    ) -> None:
        super().__init__(documents, length, tokenizer)
        self.order = ShuffledPasses(len(self.rows), seed)

    def __getitems__(self, visits: Sequence[int]) -> list[dict[str, Any]]:
        """Rows as `MaskingCollator` takes them; the pass is their epoch."""
        rows = super().__getitems__([self.order(visit) for visit in visits])
        return [row | {"epoch": visit // len(self.rows)} for row, visit in zip(rows, visits, strict=True)]

    @property
    def num_documents(self) -> np.ndarray:
        """Documents in each row, int64 `[R]`."""
        return np.fromiter(map(len, self.lengths), dtype=np.int64, count=len(self.lengths))


def select_corpus(
    export: str | Path,
    weights: Mapping[str, float],
    output: Path,
    *,
    train_tokens: float,
    held_out_tokens: float,
    part_mb: float,
) -> dict[str, Any]:
    """
    Write a selection of an exported corpus, in parts of their own.

    Args:
        export: folder that `training_concept.export` wrote.
        weights: share of each source in training; sources that are not named have none.
        output: gets parts, index and tokenizer; must not exist.
        train_tokens: in all, less where a source has too few for its share.
        held_out_tokens: of each source and held-out split, until the document that reaches the bound.
        part_mb: most megabytes (10**6 bytes) of a part.

    Returns:
        The index.

    Raises:
        ValueError: `output` exists, or no source of the export has a weight.
    """
    if output.exists():
        raise ValueError(f"{output} exists: remove it, or name another folder")
    parts = load_parts(export)
    shares = {name: weights[name] for name in parts.sources if weights.get(name)}
    if not shares:
        raise ValueError(f"no source of {export} has a weight in the recipe")
    total = sum(shares[name] for name in shares if _members(parts, TRAIN, name).size)
    limits = {(TRAIN, name): train_tokens * share / total for name, share in shares.items()}
    limits |= {(split, name): held_out_tokens for split in HELD_OUT for name in parts.sources}
    chosen = {key: _draw(parts, *key, limit) for key, limit in limits.items()}
    output.mkdir(parents=True)
    shutil.copytree(Path(export) / TOKENIZER_FOLDER, output / TOKENIZER_FOLDER)
    indices = np.concatenate(list(chosen.values()))
    index = {
        "sources": list(parts.sources),
        "splits": list(parts.splits),
        "counts": {f"{split}/{name}": _tokens(parts, members) for (split, name), members in chosen.items()},
        "parts": [_write_part(parts, members, output, number) for number, members in _cut(parts, indices, part_mb)],
    }
    write_json(output / INDEX_FILE, index)
    return index


def _members(parts: TokenParts, split: str, source: str | None = None) -> np.ndarray:
    """Indices of the documents of a split, int64, and of one source if it is named."""
    kept = parts.split == parts.splits.index(split)
    if source is not None:
        kept &= parts.source == parts.sources.index(source)
    return np.flatnonzero(kept)


def _by_source(parts: TokenParts, split: str) -> dict[str, list[np.ndarray]]:
    found = {name: _members(parts, split, name) for name in parts.sources}
    return {name: [parts[int(index)] for index in members] for name, members in found.items() if members.size}


def _pieces(documents: Sequence[np.ndarray], size: int = 1000) -> Iterator[np.ndarray]:
    """The tokens of so many documents at a time."""
    for start in range(0, len(documents), size):
        yield np.concatenate(documents[start : start + size])


def _draw(parts: TokenParts, split: str, source: str, limit: float) -> np.ndarray:
    """Documents of a split and source, drawn until they hold `limit` tokens, in their order in the corpus."""
    members = np.random.default_rng(DRAW_SEED).permutation(_members(parts, split, source))
    tokens = np.cumsum(np.diff(parts.offsets)[members])
    return np.sort(members[: np.searchsorted(tokens, limit) + 1])


def _tokens(parts: TokenParts, members: np.ndarray) -> int:
    return int(np.diff(parts.offsets)[members].sum())


def _cut(parts: TokenParts, indices: np.ndarray, part_mb: float) -> Iterator[tuple[int, np.ndarray]]:
    """Numbered groups of documents, each of so many megabytes at most unless it is a single document."""
    ends = np.cumsum(np.diff(parts.offsets)[indices])
    group = (ends * BYTES_PER_TOKEN // (part_mb * 1e6)).astype(int)
    yield from enumerate(np.split(indices, np.flatnonzero(np.diff(group)) + 1))


def _write_part(parts: TokenParts, members: np.ndarray, folder: Path, number: int) -> dict[str, Any]:
    """Write a part as `training_concept.export` does, and describe it."""
    arrays = {
        "tokens": np.concatenate([parts[int(index)] for index in members]),
        "lengths": np.diff(parts.offsets)[members],
        "source": parts.source[members],
        "split": parts.split[members],
    }
    path = folder / f"part-{number:03d}.npz"
    # A fifth smaller than what NumPy writes by itself, and read by it all the same.
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_LZMA) as archive:
        for name, kind in ARRAYS.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(arrays[name], dtype=kind), allow_pickle=False)
    facts = {"documents": len(members), "tokens": len(arrays["tokens"]), "bytes": path.stat().st_size}
    return {"file": path.name, "sha256": checksum(path)} | facts
