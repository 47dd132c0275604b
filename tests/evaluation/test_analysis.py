# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of an analysis together, its figures and its report."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from evaluation_concept.ablation import Batch
from evaluation_concept.analysis import (
    PARTS,
    Results,
    Subject,
    analyse,
    analyse_geometry,
    analyse_order_recovery,
    same_bags,
)
from evaluation_concept.analysis_figures import DRAWINGS, STYLE, draw_figures, draw_spectrum, printable
from evaluation_concept.analysis_report import MARKDOWN, PAGE, REPORT, finite, headline, write_report
from evaluation_concept.concept_metrics import entropy_ranks
from evaluation_concept.probes import SwapPair
from evaluation_concept.states import cut_rows, encode_rows
from evaluation_concept.tagged import read_tagged_folder
from tests.evaluation.checkpoints import small_model, small_tokenizer, write_texts
from training_concept.masking import MaskingCollator

EVIL = '<script>alert("1")</script> | `code` $x_1$ [link](http://a.b) \n'
SETTINGS = {"text_file": EVIL}


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagged")
    for number, text in enumerate(write_texts(4)):
        words = " ".join(f"{word}/{'nn' if len(word) > 3 else 'at'}" for word in text.split())
        (folder / f"c{number}").write_text(words, encoding="utf-8")
    return read_tagged_folder(folder)


def masked(rows, tokenizer) -> list[Batch]:
    collate = MaskingCollator(tokenizer, mlm_probability=0.3, vocab_size=len(tokenizer))
    return [collate([{"input_ids": row.input_ids, "epoch": 0} for row in rows[:8]])]


def make_subject(tokenizer, variant: str = "hybrid", documents: int = 24, **options) -> Subject:
    texts = write_texts(documents, seed=1, sentences=6)
    rows = cut_rows(texts, tokenizer, length=40)
    model = small_model(tokenizer, variant)
    return Subject(model, tokenizer, texts, rows, masked(rows, tokenizer), **options)


@pytest.fixture(scope="module")
def results(tokenizer, tagged) -> Results:
    return analyse(make_subject(tokenizer, tagged=tagged))


def test_every_part_is_run(results):
    assert set(results) == {*PARTS, "not_run"}
    assert results["not_run"] == {}


def test_numbers_are_those_of_the_parts(results, tokenizer):
    subject = make_subject(tokenizer)
    encoded = encode_rows(subject.model, [row.input_ids for row in subject.rows])
    expected = float(entropy_ranks(encoded.concepts, encoded.mask).mean())
    assert results["geometry"]["model"]["entropy_rank"] == pytest.approx(expected)
    assert results["geometry"]["random"]["entropy_rank"] != pytest.approx(expected)
    shares = [share for share, _ in results["ablation"]["without_share"]]
    assert shares == sorted(shares)
    assert set(results["token_recovery"]) == {"document", "span"}
    assert results["token_recovery"]["span"]["model"]["auc"] > 0.6
    assert 0 <= results["order_recovery"]["random"]["paired_accuracy"] <= 1
    assert set(results["reading"]["preferences"]) == {"part of speech", "frequency", "place in sentence"}


def test_correlations_are_those_of_the_first_document(results):
    found = np.array(results["geometry"]["correlations"])
    assert np.diag(found) == pytest.approx(1)
    assert found == pytest.approx(found.T)


def test_labels_of_figures_are_words_and_numbers(results):
    with mpl.rc_context(STYLE):
        figure = draw_spectrum(results["geometry"])
        figure.draw_without_rendering()
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "0.1" in labels
    assert not any("$" in label for label in labels)


def test_sentences_that_are_too_long_or_of_other_tokens_are_left_out(tokenizer):
    subject = make_subject(tokenizer)
    longest = max(len(row.input_ids) for row in subject.rows)
    kept = SwapPair("the mill is near here", "the mill near is here", 0)
    other = SwapPair("the mill is near here", "the mill is near there", 0)
    long = SwapPair("a " * longest + "mill stands", "a " * longest + "stands mill", 0)
    marked = SwapPair("a [MASK] of the mill", "a [MASK] the of mill", 0)
    found = same_bags(tokenizer, [kept, other, long, marked], longest)
    assert [pair for pair, _, _ in found] == [kept, marked]
    assert tokenizer.mask_token_id not in found[1][1]


def test_the_model_is_left_as_it_was(tokenizer):
    subject = make_subject(tokenizer)
    before = {name: weight.clone() for name, weight in subject.model.state_dict().items()}
    attention = subject.model.config._attn_implementation
    analyse(subject)
    assert subject.model.config._attn_implementation == attention
    assert all(torch.equal(weight, before[name]) for name, weight in subject.model.state_dict().items())


def test_a_random_encoder_is_made_when_it_is_asked_for_and_once(tokenizer):
    subject = make_subject(tokenizer)
    assert "random" not in vars(subject)
    assert subject.encoders["random"] is subject.random
    assert subject.random is not subject.model


def test_an_analysis_can_be_repeated(tokenizer):
    first, second = (analyse_order_recovery(make_subject(tokenizer, seed=4)) for _ in range(2))
    assert first == second


def test_what_cannot_be_run_is_said(tokenizer):
    found = analyse(make_subject(tokenizer, "funnel", documents=5))
    assert "need 10 documents" in found["not_run"]["token_recovery"]
    assert "need 10 documents" in found["not_run"]["order_recovery"]
    assert "no weights on single tokens" in found["not_run"]["reading"]
    assert "--tagged_corpus" in found["not_run"]["parts of speech"]
    assert set(found) == {"geometry", "ablation", "not_run"}


def test_a_defect_is_no_reason_to_leave_a_part_out(tokenizer, monkeypatch):
    def broken(*arguments: object) -> None:
        raise ValueError("shapes do not fit")

    monkeypatch.setattr("evaluation_concept.analysis.measure_concepts", broken)
    with pytest.raises(ValueError, match="shapes do not fit"):
        analyse(make_subject(tokenizer, documents=5))


def test_a_table_of_concepts_has_no_spans(tokenizer):
    found = analyse(make_subject(tokenizer, "learned_concepts"))
    assert set(found["token_recovery"]) == {"document"}
    assert found["ablation"]["own_span"] is None
    assert headline(found).keys() == headline({**found, "extra": 1}).keys()
    assert "span_probe_auc" not in headline(found)


def test_texts_without_sentences_have_no_order(tokenizer):
    subject = make_subject(tokenizer)
    subject.texts = ["no sentences here"] * 24
    assert "order_recovery" in analyse(subject)["not_run"]


class Page(HTMLParser):
    """The tags of a page, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.said += data


@pytest.fixture(scope="module")
def report(results, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    example = results["reading"]["example"]
    evil = {**example, "tokens": [EVIL, *example["tokens"][1:]]}
    changed = {**results, "reading": {**results["reading"], "example": evil}, "settings": SETTINGS}
    paths = write_report(changed, folder)
    assert paths == [folder / REPORT, folder / MARKDOWN, folder / PAGE]
    return folder


def test_the_figures_are_pictures(report):
    figures = sorted(path.stem for path in (report / "figures").iterdir())
    assert figures == sorted(name for _, name in DRAWINGS)
    for path in (report / "figures").iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 200


def test_the_report_is_strict_json(report, results):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads((report / REPORT).read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["headline"] == headline(results)
    assert found["geometry"]["model"] == results["geometry"]["model"]


def test_the_page_needs_nothing_else(report):
    page = Page((report / PAGE).read_text(encoding="utf-8"))
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == len(DRAWINGS)
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "a", "object"} == set()
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)


def test_the_page_shows_text_as_text(report):
    text = (report / PAGE).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert '<script>alert("1")</script>' in Page(text).said


def test_markdown_shows_text_as_text(report):
    text = (report / MARKDOWN).read_text(encoding="utf-8")
    assert "<script" not in text
    assert r"\| \`code\`" in text
    rows = [line for line in text.splitlines() if "script" in line]
    assert rows
    assert all(line.startswith("| ") and line.endswith(" |") for line in rows)
    for name in ("spectrum", "reading"):
        assert f"![{name}](figures/{name}.png)" in text


def test_a_report_of_few_parts_says_what_is_left_out(tmp_path, results):
    part = {"geometry": results["geometry"], "not_run": {"ablation": "there was no time"}, "settings": {}}
    write_report(part, tmp_path)
    assert "there was no time" in (tmp_path / PAGE).read_text(encoding="utf-8")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"spectrum", "correlations"}


@pytest.mark.parametrize(
    ("variant", "options", "first"),
    [("learned_concepts", {"num_concepts": 1}, None), ("no_free_concepts", {"min_concepts": 1}, "the")],
)
def test_single_concepts_are_reported(tokenizer, tmp_path, variant, options, first):
    subject = make_subject(tokenizer, documents=4)
    rows = cut_rows([*([first] if first else []), *subject.texts], tokenizer, length=40)
    subject = replace(subject, model=small_model(tokenizer, variant, **options), rows=rows)
    geometry = analyse_geometry(subject)
    assert np.shape(geometry["correlations"]) == (1, 1)
    write_report({"geometry": geometry, "not_run": {}}, tmp_path)
    assert json.loads((tmp_path / REPORT).read_text(encoding="utf-8"))["geometry"]["correlations"] == [[None]]


def test_figures_go_by_their_part(tmp_path, results):
    drawn = draw_figures({"order_recovery": results["order_recovery"]}, tmp_path)
    assert drawn == {"order_recovery": [tmp_path / "order_recovery.png"]}


def test_tokens_are_shown_on_one_line():
    assert printable("a\n\tb\u200b é") == "a\\n\\tb\\u200b é"


def test_what_is_not_finite_becomes_nothing():
    assert finite({"a": [1.5, float("nan")], 2: (float("inf"), "x", None)}) == {
        "a": [1.5, None],
        "2": [None, "x", None],
    }
