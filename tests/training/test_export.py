# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A recipe's documents in parts that travel: what goes out comes in, whole or by split and source, or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training_concept.export import export, main
from training_concept.parts import ARRAYS, INDEX_FILE, checksum, load_parts

ROOT = Path(__file__).resolve().parents[2]
PART_MB = 0.006


@pytest.fixture
def texts(documents: list[str]) -> dict[str, dict[str, list[str]]]:
    """Documents by source and split; one source is held out of training."""
    return {
        "plain": {"train": documents[:50], "validation": documents[50:55], "test": documents[55:60]},
        "held_out": {"validation": documents[60:70], "test": documents[70:]},
    }


@pytest.fixture
def recipe(tmp_path: Path, texts: dict[str, dict[str, list[str]]]) -> Path:
    sources = {}
    for source, splits in texts.items():
        folder = tmp_path / "data" / source
        folder.mkdir(parents=True)
        for split, rows in splits.items():
            Dataset.from_dict({"text": rows, "id": [str(index) for index in range(len(rows))]}).to_parquet(
                folder / f"{split}.parquet"
            )
        sources[source] = {"path": str(folder), "weight": 1}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"sources": sources}, sort_keys=False))
    return path


@pytest.fixture
def tokenizer_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def parts(tmp_path: Path, recipe: Path, tokenizer_folder: str) -> Path:
    """A corpus exported in several parts."""
    folder = tmp_path / "parts"
    export(recipe, tokenizer_folder, folder, part_mb=PART_MB, cache_dir=str(tmp_path / "cache"))
    assert len(list(folder.glob("part-*.npz"))) > 1
    return folder


def encode(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_what_was_exported_is_loaded(
    parts: Path, texts: dict[str, dict[str, list[str]]], tokenizer: PreTrainedTokenizerFast
) -> None:
    loaded = load_parts(parts)
    expected = [
        (source, split, ids)
        for source, splits in texts.items()
        for split, rows in splits.items()
        for ids in encode(rows, tokenizer)
    ]
    found = [
        (loaded.sources[loaded.source[index]], loaded.splits[loaded.split[index]], loaded[index].tolist())
        for index in range(len(loaded))
    ]
    assert found == expected
    assert loaded.tokens.dtype == np.uint16
    assert loaded[-1].tolist() == expected[-1][2]
    with pytest.raises(IndexError, match=f"document {len(loaded)} of {len(loaded)}"):
        loaded[len(loaded)]


@pytest.mark.parametrize(
    ("split", "sources", "rows"),
    [
        ("train", None, slice(0, 50)),
        ("validation", None, [*range(50, 55), *range(60, 70)]),
        (None, ["held_out"], slice(60, 80)),
        ("test", ["plain"], slice(55, 60)),
        ("train", ["held_out"], slice(0, 0)),
    ],
)
def test_a_split_or_a_source_alone(
    split: str | None,
    sources: list[str] | None,
    rows: slice | list[int],
    parts: Path,
    documents: list[str],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    loaded = load_parts(parts, split=split, sources=sources)
    wanted = documents[rows] if isinstance(rows, slice) else [documents[row] for row in rows]
    assert [ids.tolist() for ids in loaded] == (encode(wanted, tokenizer) if wanted else [])


def test_the_index_says_what_is_in_the_folder(parts: Path, texts: dict[str, dict[str, list[str]]]) -> None:
    index = json.loads((parts / INDEX_FILE).read_text())
    for source, splits in texts.items():
        assert {split: count["documents"] for split, count in index["counts"][source].items()} == {
            split: len(rows) for split, rows in splits.items()
        }
    tokens = [count["tokens"] for splits in index["counts"].values() for count in splits.values()]
    assert sum(tokens) == sum(part["tokens"] for part in index["parts"]) == len(load_parts(parts).tokens)
    for part in index["parts"]:
        path = parts / part["file"]
        assert path.stat().st_size == part["bytes"] <= PART_MB * 1e6
        assert checksum(path) == part["sha256"]


def test_the_tokenizer_travels_along(parts: Path, tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> None:
    index = json.loads((parts / INDEX_FILE).read_text())["tokenizer"]
    copy = AutoTokenizer.from_pretrained(parts / index["folder"])
    assert copy(documents[0])["input_ids"] == tokenizer(documents[0])["input_ids"]
    assert len(copy) == index["vocabulary"]
    assert {name: checksum(parts / index["folder"] / name) for name in index["sha256"]} == index["sha256"]


def test_exporting_again_gives_the_same_bytes_and_removes_what_is_stale(
    parts: Path, recipe: Path, tokenizer_folder: str, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in parts.rglob("*") if path.is_file()}
    (parts / "part-099.npz").write_bytes(b"stale")
    (parts / "notes.txt").write_text("mine")
    export(recipe, tokenizer_folder, parts, part_mb=PART_MB, cache_dir=str(tmp_path / "cache"))
    after = {path: path.read_bytes() for path in parts.rglob("*") if path.is_file()}
    assert after.pop(parts / "notes.txt") == b"mine"
    assert after == before


def test_loading_needs_numpy_alone(parts: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('datasets', 'transformers', 'tokenizers', 'pyarrow', 'torch', 'yaml', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from training_concept.parts import load_parts\n"
        f"print(len(load_parts({str(parts)!r}, split='train')))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "50"


def test_a_missing_part_is_named(parts: Path) -> None:
    (parts / "part-001.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-001\.npz is missing: copy it, or export again"):
        load_parts(parts)


def test_an_export_that_breaks_off_early_leaves_no_index(
    parts: Path, recipe: Path, tokenizer_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        export(recipe, tokenizer_folder, parts, part_mb=PART_MB, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError):
        load_parts(parts)


def test_a_part_that_breaks_off_leaves_no_draft(
    recipe: Path, tokenizer_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(file: object, **arrays: np.ndarray) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        export(recipe, tokenizer_folder, tmp_path / "parts", cache_dir=str(tmp_path / "cache"))
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["tokenizer"]


def test_code_that_lies_beside_a_tokenizer_is_not_run(recipe: Path, tokenizer_folder: str, tmp_path: Path) -> None:
    folder, marker = Path(tokenizer_folder), tmp_path / "was_run"
    auto_map = {"AutoConfig": "configuration_concept.ConceptEncoderConfig"}
    (folder / "config.json").write_text(json.dumps({"model_type": "concept_encoder", "auto_map": auto_map}))
    (folder / "configuration_concept.py").write_text(f"open({str(marker)!r}, 'w')\n")
    command = [sys.executable, "-m", "training_concept.export", str(recipe)]
    command += ["--tokenizer_name", tokenizer_folder, "--output_dir", str(tmp_path / "parts")]
    done = subprocess.run(command, cwd=ROOT, input="y\n", capture_output=True, text=True, check=True, timeout=300)
    assert "custom code" not in done.stdout
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_part_is_named(keep: int, parts: Path) -> None:
    path = parts / "part-001.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"part-001\.npz is damaged or of another export"):
        load_parts(parts)


def test_a_file_that_is_no_part_is_refused_without_running_what_it_holds(parts: Path) -> None:
    path = parts / "part-000.npz"
    np.savez(path, **dict.fromkeys(ARRAYS, np.array([{"a": "pickle"}], dtype=object)))
    index = json.loads((parts / INDEX_FILE).read_text())
    index["parts"][0]["sha256"] = checksum(path)
    (parts / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"part-000\.npz is no part of a corpus: Object arrays cannot be loaded"):
        load_parts(parts)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"split": "dev"}, "has no split 'dev'; it has: train, validation, test"),
        ({"sources": ["plain", "novels"]}, "has no source 'novels'; it has: plain, held_out"),
    ],
)
def test_what_is_not_in_the_corpus_is_refused(wanted: dict, message: str, parts: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_parts(parts, **wanted)


def test_a_document_that_no_part_can_hold_is_refused_and_leaves_no_index(
    parts: Path, recipe: Path, tokenizer_folder: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"a document of \d+ tokens fits in no part: raise --part_mb"):
        export(recipe, tokenizer_folder, parts, part_mb=0.0042, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError):
        load_parts(parts)


def test_a_streamed_recipe_is_refused(recipe: Path, tokenizer_folder: str, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text() + "streaming: true\n")
    with pytest.raises(ValueError, match="is streamed: an export needs all documents at once"):
        export(recipe, tokenizer_folder, tmp_path / "parts")


def test_a_vocabulary_that_needs_more_than_16_bits_is_refused(
    recipe: Path, tokenizer_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training_concept.export.LARGEST_UINT16", 299)
    with pytest.raises(ValueError, match="has 300 tokens; parts hold at most 299"):
        export(recipe, tokenizer_folder, tmp_path / "parts")


def test_the_command_says_what_it_wrote(
    recipe: Path, tokenizer_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(recipe), "--tokenizer_name", tokenizer_folder, "--output_dir", str(tmp_path / "parts")])
    tokens = len(load_parts(tmp_path / "parts").tokens)
    assert capsys.readouterr().out.startswith(f"{tokens:,} tokens in 1 parts, 0.0 MB, in {tmp_path / 'parts'}")
