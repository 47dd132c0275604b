# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Text to pretrain on and texts to measure concepts on, as files that travel, from a corpus that was built."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.studies.keep import shared_runs, shares_run
from evaluation_concept.files import write_json
from evaluation_concept.parquet import FOR_TRAVEL, write_table
from evaluation_concept.states import evenly
from training_concept.data import encode_texts
from training_concept.finetuning.kept import read_kept_task

PAIRS_TASK = "mrpc"
TRAIN, VALIDATION, HELD_OUT = "train", "validation", "held_out"
# Files, and the split of the corpus that each is of.
SPLITS = {TRAIN: "train", VALIDATION: "validation", HELD_OUT: "test"}
TOKENIZER, PAIRS_FILE, ABOUT_FILE = "tokenizer", "pairs.parquet", "text.json"


@dataclass(frozen=True)
class Selection:
    """
    What to take.

    Attributes:
        corpus: folder that `python -m training_concept.corpus` built.
        sources: of it.
        tokenizer: folder; counts tokens, and is copied.
        tasks: folder with the kept task that pairs are of.
        most_tokens: to train on; each source gives the same share of its documents, evenly.
        most_held_out: tokens of each of the other two files, the same number of each source.
    """

    corpus: Path
    sources: Sequence[str]
    tokenizer: Path
    tasks: Path
    most_tokens: int
    most_held_out: int


def keep_text(selection: Selection, output: Path) -> dict[str, dict[str, int]]:
    """
    Write `train.parquet`, `validation.parquet` and `held_out.parquet` (column `text`), of the splits train, validation
    and test of the corpus, `pairs.parquet` (paraphrases or not) and the tokenizer.

    Documents held out that share 13 words in a row with what is trained on are left out.

    Args:
        selection: what to take.
        output: folder that gets all.

    Returns:
        Documents and tokens of each file, which are written to `text.json` too.

    Raises:
        OSError, ValueError: what is named is not there, or there is nothing left to hold out.
    """
    tokenizer = AutoTokenizer.from_pretrained(selection.tokenizer)
    found = {name: _select(selection, tokenizer, name) for name in SPLITS}
    runs = shared_runs(_paragraphs(found[VALIDATION] + found[HELD_OUT]), _paragraphs(found[TRAIN]))
    for name in (VALIDATION, HELD_OUT):
        found[name] = [text for text in found[name] if not any(shares_run(line, runs) for line in text.splitlines())]
        if not found[name]:
            raise ValueError(f"{selection.corpus}: no texts are left to hold out that are not trained on too")
    about = {}
    for name, texts in found.items():
        write_table(output / f"{name}.parquet", pa.table({"text": texts}), compression_level=FOR_TRAVEL)
        about[name] = {"documents": len(texts), "tokens": sum(map(len, encode_texts(texts, tokenizer)))}
    about["pairs"] = {"pairs": _keep_pairs(selection.tasks, output)}
    shutil.copytree(selection.tokenizer, output / TOKENIZER, dirs_exist_ok=True)
    write_json(output / ABOUT_FILE, about | {"sources": list(selection.sources)})
    return about


def _select(selection: Selection, tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """The texts of a file, before overlaps are left out."""
    texts = [_read(selection.corpus, source, SPLITS[name]) for source in selection.sources]
    sizes = [sum(map(len, encode_texts(some, tokenizer))) for some in texts]
    if name == TRAIN:
        most = [selection.most_tokens * size / max(sum(sizes), 1) for size in sizes]
    else:
        most = [selection.most_held_out / len(texts)] * len(texts)
    parts = (_share_of(some, limit / max(size, 1)) for some, limit, size in zip(texts, most, sizes, strict=True))
    return [text for part in parts for text in part]


def _read(corpus: Path, source: str, split: str) -> list[str]:
    path = corpus / source / f"{split}.parquet"
    if not (corpus / source).is_dir():
        raise FileNotFoundError(f"{corpus} has no source {source!r}")
    return pq.read_table(path, columns=["text"])["text"].to_pylist() if path.is_file() else []


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    return (line for text in texts for line in text.splitlines())


def _share_of(texts: Sequence[str], share: float) -> list[str]:
    """A share of texts, spread evenly; all, if it is more than 1."""
    return [texts[place] for place in evenly(len(texts), round(len(texts) * min(share, 1.0)))]


def _keep_pairs(tasks: Path, output: Path) -> int:
    ((_, examples),) = read_kept_task(tasks, PAIRS_TASK).evaluation.items()
    assert examples.labels is not None
    first, second = ([*column] for column in examples.texts)
    scores = [float(label) for label in examples.labels]
    table = pa.table({"sentence1": first, "sentence2": second, "score": scores})
    write_table(output / PAIRS_FILE, table, compression_level=FOR_TRAVEL)
    return len(scores)
