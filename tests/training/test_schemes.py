# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What the masking schemes choose, against the statistics that their papers give."""

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import PreTrainedTokenizerFast

from training_concept.collocations import Collocation, PmiVocabulary, write_collocations
from training_concept.masking import IGNORED_LABEL, MaskingCollator
from training_concept.words import WordBoundaries

Row = dict[str, Any]
Spans = list[tuple[int, int]]
COLLOCATIONS = ("red green", "red green blue", "green blue", "house letter number seven", "night day")
OTHER_SCHEMES = ("whole_word", "span", "pmi")


@pytest.fixture(scope="module")
def vocabulary_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pmi") / "vocabulary.tsv"
    write_collocations(path, [Collocation(text, len(text.split()), 10, 1.0) for text in COLLOCATIONS], [])
    return path


@pytest.fixture(scope="module")
def options(tokenizer: PreTrainedTokenizerFast, vocabulary_file: Path) -> dict[str, dict[str, Any]]:
    """By scheme what the collator is told."""
    vocabulary = PmiVocabulary.load(vocabulary_file, tokenizer)
    named: dict[str, dict[str, Any]] = {name: {"scheme": name} for name in ("token", *OTHER_SCHEMES)}
    named["pmi"]["pmi_vocabulary"] = vocabulary
    named["span of tokens"] = {"scheme": "span", "span_unit": "token"}
    named["long span"] = {
        "scheme": "span",
        "span_distribution": "uniform",
        "min_span_length": 3,
        "max_span_length": 10,
    }
    return named


@pytest.fixture(scope="module")
def rows(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> list[Row]:
    """Rows of one to five documents between special tokens."""
    encoded = tokenizer(documents)["input_ids"]
    return [
        {"input_ids": np.concatenate(encoded[begin : begin + 1 + begin % 5]).astype(np.uint16), "epoch": begin}
        for begin in range(75)
    ]


def words_of(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray) -> list[tuple[int, int]]:
    """First token of each word and the one behind it, special tokens left out."""
    begins = np.flatnonzero(WordBoundaries.from_tokenizer(tokenizer).starts(ids)).tolist()
    spans = zip(begins, [*begins[1:], len(ids)], strict=True)
    return [span for span in spans if ids[span[0]] not in tokenizer.all_special_ids]


def members(spans: Iterable[tuple[int, int]]) -> list[int]:
    return [place for begin, end in spans for place in range(begin, end)]


SCHEMES = ("token", *OTHER_SCHEMES, "span of tokens", "long span")


@pytest.mark.parametrize("rate", [0.02, 0.15, 0.5, 0.85])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_exactly_k_tokens_and_never_a_special_one(
    tokenizer: PreTrainedTokenizerFast, options: dict, rows: list[Row], scheme: str, rate: float
) -> None:
    collator = MaskingCollator(tokenizer, mlm_probability=rate, **options[scheme])
    batch = collator(rows)
    for index, row in enumerate(rows):
        ids = row["input_ids"]
        places = torch.nonzero(batch["labels"][index] != IGNORED_LABEL).flatten().tolist()
        words = int((~np.isin(ids, tokenizer.all_special_ids)).sum())
        assert len(places) == min(max(int(rate * len(ids) + 0.5), 1), words)
        assert not np.isin(ids[places], tokenizer.all_special_ids).any()
        assert members(collator.spans(row)) == places


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_unit_holds_a_special_token_or_crosses_a_document(
    tokenizer: PreTrainedTokenizerFast, options: dict, scheme: str
) -> None:
    # Documents of words that begin with a space, no special token between: one would be joined to the next.
    words = tokenizer(" red green blue house letter number seven night day" * 6, add_special_tokens=False)["input_ids"]
    lengths = [17, 1, 40, len(words) - 58]
    assert lengths[-1] > 1
    collator = MaskingCollator(tokenizer, mlm_probability=0.6, **options[scheme])
    crossing = 0
    for epoch in range(50):
        row = {"input_ids": words, "epoch": epoch}
        packed = collator.spans({**row, "document_lengths": lengths})
        assert all(not begin < border < end for begin, end in packed for border in np.cumsum(lengths))
        crossing += sum(begin < border < end for begin, end in collator.spans(row) for border in np.cumsum(lengths))
    assert (crossing > 0) == (scheme != "token")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_place_is_masked_equally_often(tokenizer: PreTrainedTokenizerFast, options: dict, scheme: str) -> None:
    """Over the epochs, from the first token to the last and on both sides of special tokens."""
    word = next(index for token, index in tokenizer.get_vocab().items() if token.startswith("Ġ") and len(token) > 1)
    ids = np.full(64, word)
    ids[[0, 20, 21, 40]] = tokenizer.sep_token_id
    epochs = 2000
    collator = MaskingCollator(tokenizer, mlm_probability=0.25, **options[scheme])
    batch = collator([{"input_ids": ids, "epoch": epoch} for epoch in range(epochs)])
    counts = (batch["labels"] != IGNORED_LABEL).sum(dim=0).numpy()
    counts = counts[ids != tokenizer.sep_token_id]
    assert counts.sum() == epochs * 16
    # 533 expected each, standard deviation 20.
    assert counts.min() > 450
    assert counts.max() < 615


@pytest.mark.parametrize("scheme", ["whole_word", "pmi"])
@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
def test_words_are_split_only_if_nothing_else_fits(
    tokenizer: PreTrainedTokenizerFast, options: dict, rows: list[Row], scheme: str, rate: float
) -> None:
    collator = MaskingCollator(tokenizer, mlm_probability=rate, **options[scheme])
    num_long = 0
    for row in rows:
        masked = set(members(collator.spans(row)))
        words = words_of(tokenizer, row["input_ids"])
        parts = [(masked & set(range(*word)), word[1] - word[0]) for word in words]
        cut = [len(part) for part, size in parts if 0 < len(part) < size]
        num_long += sum(len(part) == size > 1 for part, size in parts)
        assert len(cut) <= 1
        if cut and scheme == "whole_word":
            assert min(size for part, size in parts if not part or len(part) < size) > cut[0]
    assert num_long > 100


def test_whole_words_do_not_depend_on_their_length(tokenizer: PreTrainedTokenizerFast, options: dict) -> None:
    text = " red" * 200 + " mountain" * 200
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    words = words_of(tokenizer, np.array(ids))
    assert len(words) == 400
    collator = MaskingCollator(tokenizer, mlm_probability=0.3, **options["whole_word"])
    masked = [set(members(collator.spans({"input_ids": ids, "epoch": epoch}))) for epoch in range(50)]
    rates = [
        np.mean([begin in chosen for chosen in masked for begin, _ in part]) for part in (words[:200], words[200:])
    ]
    # Of 10,000 words each; the standard deviation is .005.
    assert rates == pytest.approx([0.3, 0.3], abs=0.02)


@pytest.mark.parametrize("rate", [0.15, 0.5])
@pytest.mark.parametrize(
    ("settings", "lengths", "weights", "mean"),
    [
        # SpanBERT: geometric, p = .2, at most 10, mean 3.8.
        ({}, range(1, 11), 0.8 ** np.arange(10), 3.8),
        ({"span_success_probability": 0.5, "max_span_length": 4}, range(1, 5), 0.5 ** np.arange(4), 26 / 15),
        ({"span_distribution": "uniform", "min_span_length": 3}, range(3, 11), np.ones(8), 6.5),
    ],
)
@pytest.mark.parametrize("unit", ["token", "word"])
def test_span_lengths(
    tokenizer: PreTrainedTokenizerFast,
    settings: dict[str, Any],
    lengths: range,
    weights: np.ndarray,
    mean: float,
    rate: float,
    unit: str,
) -> None:
    ids = np.tile(tokenizer(" mountain river red", add_special_tokens=False)["input_ids"], 4000)
    words = words_of(tokenizer, ids)
    collator = MaskingCollator(tokenizer, "span", mlm_probability=rate, span_unit=unit, **settings)
    spans = collator.spans({"input_ids": ids, "epoch": 0})
    word_at = np.repeat(np.arange(len(words)), [end - begin for begin, end in words])
    places = np.arange(len(ids)) if unit == "token" else word_at
    sizes = [places[end - 1] - places[begin] + 1 for begin, end in spans]
    counts = Counter(sizes)
    observed = np.array([counts[length] for length in lengths])
    # The last span and the one at the row's end may be cut, and words fill up what is left.
    assert len(sizes) - observed.sum() <= 4
    assert observed.sum() > 250
    assert chisquare(observed, weights / weights.sum() * observed.sum()).pvalue > 0.001
    assert np.mean(sizes) == pytest.approx(mean, rel=0.05)


def test_spans_of_words_hold_whole_words(tokenizer: PreTrainedTokenizerFast, rows: list[Row]) -> None:
    collator = MaskingCollator(tokenizer, "span", mlm_probability=0.3)
    cut = 0
    for row in rows:
        words = words_of(tokenizer, row["input_ids"])
        begins, ends = ({word[side] for word in words} for side in range(2))
        spans = collator.spans(row)
        assert all(begin in begins for begin, _ in spans)
        cut += sum(end not in ends for _, end in spans)
    # No word is left that fits.
    assert cut <= len(rows) / 10


def test_spans_do_not_overlap_and_fill_a_row_if_they_must(tokenizer: PreTrainedTokenizerFast, options: dict) -> None:
    for scheme in ("span", "span of tokens", "long span"):
        collator = MaskingCollator(tokenizer, mlm_probability=0.97, **options[scheme])
        spans = collator.spans({"input_ids": np.arange(100, 200), "epoch": 0})
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
        assert len(members(spans)) == 97


def occurrences(text: str, collocation: str) -> Spans:
    """Words of `collocation` in a text of words and single spaces, as first word and the one behind the last."""
    words, wanted = text.split(), collocation.split()
    size = len(wanted)
    return [(place, place + size) for place in range(len(words)) if words[place : place + size] == wanted]


def test_collocations_are_masked_as_one(tokenizer: PreTrainedTokenizerFast, options: dict) -> None:
    text = "river red green blue window house letter number seven window red green night day night blue window"
    text = " ".join([text] * 20)
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    words = words_of(tokenizer, ids)
    collator = MaskingCollator(tokenizer, mlm_probability=0.3, **options["pmi"])
    units: Counter[str] = Counter()
    for epoch in range(30):
        spans = collator.spans({"input_ids": ids, "epoch": epoch})
        masked = set(members(spans))
        units.update(tokenizer.decode(ids[begin:end]).strip() for begin, end in spans)
        for collocation in ("red green blue", "house letter number seven", "night day"):
            for first, behind in occurrences(text, collocation):
                whole = set(range(words[first][0], words[behind - 1][1]))
                # All or nothing, but for a cut where nothing else fits.
                assert not masked & whole or whole <= masked or len(masked & whole) < 4
    assert {"red green blue", "red green", "house letter number seven", "night day"} <= units.keys()
    # The longest n-gram is the unit: "green blue" occurs only inside "red green blue".
    assert units["green blue"] == 0
    # Units are as likely as each other, whatever their length: 600 of each, standard deviation .02.
    rates = [units[name] / 600 for name in ("red green blue", "house letter number seven", "night day", "river")]
    assert rates == pytest.approx([0.3] * 4, abs=0.06)


def test_of_overlapping_collocations_each_is_chosen_at_times(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = [30, 31], [31, 32]
    collator = MaskingCollator(
        tokenizer, "pmi", mlm_probability=0.5, pmi_vocabulary=PmiVocabulary([first, second], max_ngram=2)
    )
    # Every token is a word, as if a space began it.
    collator.scheme.boundaries = WordBoundaries(*np.ones((3, len(tokenizer)), dtype=bool) & [[True], [False], [True]])
    ids = [50, 30, 31, 32, 51, 52]
    spans = Counter(span for epoch in range(200) for span in collator.spans({"input_ids": ids, "epoch": epoch}))
    assert spans[1, 3] > 20
    assert spans[2, 4] > 20
    assert spans[1, 4] == 0


@pytest.mark.parametrize("scheme", ["whole_word", "span", "pmi"])
def test_shares_of_mask_random_and_kept_tokens(
    tokenizer: PreTrainedTokenizerFast, options: dict, rows: list[Row], scheme: str
) -> None:
    """80-10-10, token by token for whole words, unit by unit for spans and collocations."""
    collator = MaskingCollator(
        tokenizer, mlm_probability=0.5, mask_replace_prob=0.6, random_replace_prob=0.2, **options[scheme]
    )
    rows = [{**row, "epoch": epoch} for row in rows for epoch in range(4)]
    batch = collator(rows)
    plain = MaskingCollator(tokenizer, mlm_probability=0.5, **options[scheme])(rows)
    assert torch.equal(batch["labels"], plain["labels"])
    units, mixed = [], 0
    for index, row in enumerate(rows):
        for begin, end in collator.spans(row):
            shown, gold = batch["input_ids"][index, begin:end], batch["labels"][index, begin:end]
            is_mask = shown == tokenizer.mask_token_id
            units.append((is_mask.float().mean().item(), (shown == gold).float().mean().item(), end - begin))
            mixed += bool(is_mask.any() and not is_mask.all())
    masked, kept = (np.array([unit[side] for unit in units]) for side in range(2))
    assert (mixed == 0) == (scheme != "whole_word")
    sizes = [unit[2] for unit in units]
    assert np.average(masked, weights=sizes) == pytest.approx(0.6, abs=0.03)
    assert np.average(kept, weights=sizes) == pytest.approx(0.2, abs=0.03)
    if scheme != "whole_word":
        long = np.array(sizes) > 3
        assert np.mean(kept[long] == 1) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("whole_word", [(10, 11), (11, 12), (13, 16), (16, 17), (17, 18), (18, 19)]),
        ("span", [(16, 17), (17, 18), (19, 25)]),
        ("span of tokens", [(4, 12)]),
        ("pmi", [(10, 11), (11, 17), (19, 20)]),
    ],
)
def test_units_are_the_same_in_every_process_and_version(
    tokenizer: PreTrainedTokenizerFast, options: dict, scheme: str, expected: Spans
) -> None:
    text = "red green blue river house letter number seven night day window green"
    row = {"input_ids": tokenizer(text)["input_ids"], "epoch": 3}
    assert MaskingCollator(tokenizer, seed=7, **options[scheme]).spans(row) == expected


def test_an_unknown_scheme_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="scheme 'words' is unknown; known are: token, whole_word, span, pmi"):
        MaskingCollator(tokenizer, "words")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"span_distribution": "normal"}, "span_distribution must be geometric or uniform, got 'normal'"),
        ({"span_unit": "line"}, "span_unit must be word or token, got 'line'"),
        ({"span_success_probability": 1.0}, "span_success_probability must lie between 0 and 1"),
        ({"min_span_length": 0}, "min_span_length must be at least 1"),
        ({"min_span_length": 11}, "not exceed max_span_length, got 11 and 10"),
    ],
)
def test_span_settings_are_checked(tokenizer: PreTrainedTokenizerFast, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskingCollator(tokenizer, "span", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_span_length": 400, "max_span_length": 500, "span_success_probability": 0.9},
        {"max_span_length": 400},
        {"max_span_length": 3000, "span_distribution": "uniform"},
    ],
)
def test_long_spans_have_lengths_too(tokenizer: PreTrainedTokenizerFast, settings: dict) -> None:
    with np.errstate(all="raise", under="ignore"):
        scheme = MaskingCollator(tokenizer, "span", **settings).scheme
    assert scheme.probabilities.sum() == pytest.approx(1)
    assert (np.diff(scheme.limits.astype(np.float64)) >= 0).all()


def test_collocations_come_from_a_file(
    tokenizer: PreTrainedTokenizerFast, options: dict, vocabulary_file: Path
) -> None:
    row = {"input_ids": tokenizer("red green blue river " * 8)["input_ids"], "epoch": 0}
    loaded = MaskingCollator(tokenizer, "pmi", pmi_vocabulary=str(vocabulary_file))
    assert loaded.spans(row) == MaskingCollator(tokenizer, **options["pmi"]).spans(row)
    with pytest.raises(ValueError, match="needs pmi_vocabulary"):
        MaskingCollator(tokenizer, "pmi")
    with pytest.raises(FileNotFoundError):
        MaskingCollator(tokenizer, "pmi", pmi_vocabulary=vocabulary_file.with_name("none.tsv"))
