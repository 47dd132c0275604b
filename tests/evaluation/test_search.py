# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Passages, their index, and what is found in it: exactly what comparing every passage would find."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from evaluation_concept.encode import load_encoder
from evaluation_concept.errors import exit_code
from evaluation_concept.late_interaction import max_sim, max_sim_ragged, mutual_max_sim, pad_concepts
from evaluation_concept.passages import split_texts
from evaluation_concept.search import main
from evaluation_concept.search_index import SearchIndex
from modeling_concept import ConceptEncoderForTextEncoding
from modeling_concept.encoding import TextEncoder, encode
from tests.modeling.tiny import tiny_config
from training_concept.tokenization import train_tokenizer

WORDS = [f"{first}{second}" for first in "bcdfgh" for second in ("ale", "ore", "ine", "ust")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 300, model_max_length=32)
    torch.manual_seed(0)
    ConceptEncoderForTextEncoding(tiny_config(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    for number in range(4):
        words = draw.choices(WORDS, k=60)
        (folder / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    (folder / "empty.txt").write_text(" \n", encoding="utf-8")
    return folder


def index(checkpoint: Path, texts: Path, output: Path, *flags: str) -> Path:
    path = output / "index.arrow"
    given = ["--output", str(path), "--passage_tokens", "16", "--passage_overlap", "4", "--tokens_per_batch", "64"]
    main(["index", str(checkpoint), str(texts), *given, "--no-bf16", *flags])
    return path


def passages_of(checkpoint: Path, text: str, max_tokens: int, overlap: int) -> list:
    return list(split_texts([("a", text)], AutoTokenizer.from_pretrained(checkpoint), max_tokens, overlap))


def test_passages_cover_a_text_and_overlap(checkpoint, texts):
    tokenizer, text = AutoTokenizer.from_pretrained(checkpoint), (texts / "1.txt").read_text(encoding="utf-8")
    passages = passages_of(checkpoint, text, 16, 4)
    covered = 0
    for passage in passages:
        assert text[passage.start :].startswith(passage.text)
        assert len(tokenizer(passage.text, add_special_tokens=False)["input_ids"]) <= 16
        assert set(passage.text.split()) <= set(WORDS)
        assert passage.start <= covered + 1
        covered = passage.start + len(passage.text)
    assert covered == len(text)
    assert sum(len(passage.text) for passage in passages) > len(text)


@pytest.mark.parametrize("max_tokens", [3, 5, 16])
def test_passages_that_do_not_overlap_are_cut_between_words(checkpoint, texts, max_tokens):
    tokenizer, text = AutoTokenizer.from_pretrained(checkpoint), (texts / "1.txt").read_text(encoding="utf-8")
    passages = passages_of(checkpoint, text, max_tokens, 0)
    assert " ".join(passage.text for passage in passages).split() == text.split()
    # Behind a space, as they stand in the text.
    sizes = [len(tokenizer(f" {it.text}", add_special_tokens=False)["input_ids"]) for it in passages[1:]]
    assert max(sizes) <= max_tokens
    assert "".join(passage.text for passage in passages_of(checkpoint, "bale" * 40, max_tokens, 0)) == "bale" * 40


def test_a_word_longer_than_the_overlap_is_cut(checkpoint):
    passages = passages_of(checkpoint, "bale" * 40, 16, 2)
    assert len(passages) > 1
    assert passages[0].text + "bale" * 40 != passages[1].text
    assert passages[-1].start + len(passages[-1].text) == 160


@pytest.mark.parametrize(("max_tokens", "overlap"), [(4, 4), (4, -1), (0, 0)])
def test_passages_that_do_not_get_on_are_refused(checkpoint, max_tokens, overlap):
    with pytest.raises(ValueError, match="cannot overlap"):
        passages_of(checkpoint, "bale core", max_tokens, overlap)


def test_late_interaction_is_that_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    queries, passages = (
        [torch.nn.functional.normalize(torch.randn(size, 5, generator=generator), dim=1) for size in sizes]
        for sizes in ((2, 4), (3, 1, 6))
    )
    expected = torch.tensor([[(q @ p.T).max(dim=1).values.mean() for p in passages] for q in queries])
    torch.testing.assert_close(max_sim(pad_concepts(queries), pad_concepts(passages, 9)), expected)
    offsets = torch.tensor([0, 3, 4, 10])
    torch.testing.assert_close(max_sim_ragged(queries[1], torch.cat(passages), offsets), expected[1])
    pairs = ((0, 2), (1, 1), (0, 0))
    back = [(passages[place] @ queries[query].T).max(dim=1).values.mean() for query, place in pairs]
    mutual = torch.stack([(expected[pair] + other) / 2 for pair, other in zip(pairs, back, strict=True)])
    sides = ([side[pair[number]] for pair in pairs] for number, side in enumerate((queries, passages)))
    torch.testing.assert_close(mutual_max_sim(*map(pad_concepts, sides)), mutual)


@pytest.mark.parametrize("late", [False, True])
def test_what_is_found_is_the_best_of_all(checkpoint, texts, tmp_path, late):
    path = index(checkpoint, texts, tmp_path, *(["--late_interaction"] if late else []))
    model, tokenizer = load_encoder(str(checkpoint)), AutoTokenizer.from_pretrained(checkpoint)
    found = SearchIndex(path)
    hits = found.search("core dine fust", TextEncoder(model, tokenizer, late_interaction=late), 3)
    names = sorted(path for path in texts.glob("*.txt") if path.stem != "empty")
    split = split_texts([(path.name, path.read_text(encoding="utf-8")) for path in names], tokenizer, 16, 4)
    passages = list(split)
    assert len(found) == len(passages)
    queries, keys = (
        encode(model, tokenizer, given, late_interaction=late)
        for given in (["core dine fust"], [passage.text for passage in passages])
    )
    if late:
        scores = max_sim(pad_concepts(queries.concept_embeddings), pad_concepts(keys.concept_embeddings))[0]
    else:
        scores = (keys.embeddings @ queries.embeddings.T)[:, 0]
    best = scores.topk(3)
    assert [hit.score for hit in hits] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert [hit.passage for hit in hits] == [passages[number] for number in best.indices.tolist()]


def test_a_passage_finds_itself(checkpoint, texts, tmp_path, capsys):
    path = index(checkpoint, texts, tmp_path)
    wanted = passages_of(checkpoint, (texts / "2.txt").read_text(encoding="utf-8"), 16, 4)[3]
    capsys.readouterr()
    main(["query", str(path), wanted.text, "--top_k", "2", "--json", "--no-bf16"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["name"], first["start"], first["text"]) == ("2.txt", wanted.start, wanted.text)
    assert first["score"] == pytest.approx(1, abs=1e-4)
    assert first["score"] > second["score"]
    main(["query", str(path), wanted.text, "--top_k", "1", "--no-bf16"])
    assert f"2.txt, from character {wanted.start:,}" in capsys.readouterr().out


def test_words_count_if_asked(checkpoint, texts, tmp_path, capsys):
    (folder := tmp_path / "texts").mkdir()
    for path in texts.glob("?.txt"):
        (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "rare.txt").write_text("zebra " + " ".join(WORDS[:5]), encoding="utf-8")
    path = index(checkpoint, folder, tmp_path)
    capsys.readouterr()
    found = {}
    for flags in ([], ["--bm25"]):
        main(["query", str(path), "zebra", "--top_k", "100", "--json", "--no-bf16", *flags])
        found[bool(flags)] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    places = {words: [hit["name"] for hit in hits].index("rare.txt") for words, hits in found.items()}
    passages = len(found[True])
    # No other passage has the word.
    assert found[True][places[True]]["score"] == pytest.approx(1 / 61 + 1 / (61 + places[False]))
    assert places[True] <= places[False]
    assert len(found[False]) == passages


def refusal(capsys, *given: str) -> str:
    assert exit_code(main, list(given)) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_texts_of_signs_alone_are_ranked_by_their_vectors(checkpoint, tmp_path, capsys):
    (tmp_path / "signs").mkdir()
    for name, text in (("a.txt", "!!! ..."), ("b.txt", "???")):
        (tmp_path / "signs" / name).write_text(text, encoding="utf-8")
    path = str(index(checkpoint, tmp_path / "signs", tmp_path))
    found = []
    for flags in ([], ["--bm25"]):
        capsys.readouterr()
        assert exit_code(main, ["query", path, "bale ???", "--json", *flags]) == 0
        found.append([json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()])
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_the_index_of_another_checkpoint_is_refused(checkpoint, texts, tmp_path, capsys):
    path = index(checkpoint, texts, tmp_path)
    other = tmp_path / "other"
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ConceptEncoderForTextEncoding(tiny_config(vocab_size=len(tokenizer))).save_pretrained(other)
    tokenizer.save_pretrained(other)
    assert "was made with another checkpoint" in refusal(capsys, "query", str(path), "a", "--checkpoint", str(other))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "index.txt"], "must end in .arrow"),
        (["--output", "x.arrow", "--passage_tokens", "64"], "is more than the"),
        (["--output", "x.arrow", "--passage_tokens", "8", "--passage_overlap", "8"], "cannot overlap"),
        (["--output", "x.arrow", "--glob", "*.md"], "*.md"),
    ],
)
def test_an_index_that_cannot_be_is_refused(checkpoint, texts, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, "index", str(checkpoint), str(texts), *flags)
    assert not list(tmp_path.iterdir())


def test_an_index_is_replaced_only_if_asked(checkpoint, texts, tmp_path, capsys):
    path = index(checkpoint, texts, tmp_path)
    before = path.read_bytes()
    assert "is there" in refusal(capsys, "index", str(checkpoint), str(texts), "--output", str(path))
    assert path.read_bytes() == before
    index(checkpoint, texts, tmp_path, "--overwrite_output")


def test_an_index_that_cannot_be_written_is_refused_before_the_work(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("evaluation_concept.search.load", None)
    (tmp_path / "index.arrow").mkdir()
    arguments = ["index", "no checkpoint", str(texts), "--output", str(tmp_path / "index.arrow"), "--overwrite_output"]
    assert exit_code(main, arguments) == 2
    assert "index.arrow is a folder, and no file to write to." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["index.arrow"]


def test_what_is_no_index_is_named(tmp_path, capsys):
    (tmp_path / "x.arrow").write_bytes(b"nothing")
    assert "is no index of passages" in refusal(capsys, "query", str(tmp_path / "x.arrow"), "a")
    message = refusal(capsys, "query", str(tmp_path / "no.arrow"), "a")
    assert f"There is no index {tmp_path / 'no.arrow'}; `python -m evaluation_concept.search index` makes" in message


def test_a_query_is_looked_at_before_anything_is_loaded(tmp_path, capsys):
    assert "The query is empty" in refusal(capsys, "query", str(tmp_path / "no.arrow"), " ")
    assert "--top_k 0 must be at least 1" in refusal(capsys, "query", str(tmp_path / "no.arrow"), "a", "--top_k", "0")


def test_texts_without_words_make_no_index(checkpoint, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(" \n", encoding="utf-8")
    output = tmp_path / "x.arrow"
    given = ["index", str(checkpoint), str(tmp_path / "texts"), "--output", str(output)]
    assert "There is no text to index" in refusal(capsys, *given)
    assert not output.exists()
