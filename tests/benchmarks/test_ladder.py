# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The ladder's texts, batches, variants and recipe: everyone is given the same, and nothing is lost on the way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.ladder.batches import (
    IGNORED,
    FlatBatch,
    FlatCollator,
    concept_inputs,
    control_inputs,
    most_documents,
)
from benchmarks.ladder.corpus import Corpus, LadderRows, load_corpus, token_widths
from benchmarks.ladder.evaluate import masking_collator, octaves_of
from benchmarks.ladder.optimizers import make_optimizer
from benchmarks.ladder.progress import Progress
from benchmarks.ladder.settings import Settings, cosine, trapezoid
from benchmarks.ladder.variants import FAMILIES, VARIANTS, check_length, find_variant, size_of, variants_table
from benchmarks.workload import MASK, PAD
from tests.benchmarks.ladder_corpus import BERT, LENGTH, TOY, VOCABULARY, select, write_export
from training_concept.muon import split_parameters
from training_concept.parts import load_parts
from training_concept.tokenization import train_tokenizer

ROWS = 4


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def corpus(exported: Path) -> Corpus:
    return load_corpus(select(exported, exported / "selected"))


def collate(corpus: Corpus, max_documents: int = 64, visits: range = range(ROWS)) -> tuple[FlatBatch, dict]:
    """A flat batch of the first visits, and the batch of packed rows that it is made of."""
    rows = LadderRows(corpus.train, LENGTH, corpus.tokenizer).__getitems__(visits)
    masking = masking_collator(corpus.tokenizer, LENGTH, 0.3, 0, VOCABULARY)
    return FlatCollator(masking, max_documents)(rows), masking(rows)


def test_a_selection_has_the_shares_of_the_recipe(exported, tmp_path):
    select(exported, tmp_path / "some", train_tokens=1200, held_out_tokens=60)
    whole, parts = load_parts(exported / "parts"), load_parts(tmp_path / "some")
    sizes = np.diff(parts.offsets)
    train = parts.split == parts.splits.index("train")
    tokens = [sizes[train & (parts.source == source)].sum() for source in (0, 1)]
    longest = np.diff(whole.offsets).max()
    assert 900 <= tokens[0] <= 900 + longest
    assert 300 <= tokens[1] <= 300 + longest
    for split in (1, 2):
        for source in (0, 1):
            assert 60 <= sizes[(parts.split == split) & (parts.source == source)].sum() <= 60 + longest


def test_a_selection_of_everything_is_everything(exported, corpus):
    whole = load_parts(exported / "parts")
    assert corpus.train_tokens == np.diff(whole.offsets)[whole.split == 0].sum()
    assert {split: sorted(sources) for split, sources in corpus.held_out.items()} == {
        "validation": ["books", "mail"],
        "test": ["books", "mail"],
    }
    texts = sorted(tuple(it) for it in corpus.train)
    assert texts == sorted(tuple(whole[index]) for index in np.flatnonzero(whole.split == 0).tolist())


def test_a_selection_replaces_nothing(exported, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists: remove it"):
        select(exported, tmp_path / "there")


def test_widths_are_the_bytes_of_the_text(corpus):
    text = "red grün blue, 青い river"
    ids = corpus.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert corpus.widths[ids].sum() == len(text.encode())
    assert corpus.widths[corpus.tokenizer.all_special_ids].sum() == 0


def test_wordpiece_does_not_tell_its_bytes():
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(["red green"] * 3, 40, model="wordpiece")
    assert token_widths(tokenizer) is None


def test_every_pass_has_all_rows_and_other_masks(corpus):
    rows = LadderRows(corpus.train, LENGTH, corpus.tokenizer, seed=1)
    passes = [rows.__getitems__(range(start, start + len(rows))) for start in (0, len(rows))]
    contents = [sorted(tuple(row["input_ids"]) for row in them) for them in passes]
    assert contents[0] == contents[1]
    assert [row["epoch"] for row in passes[1]] == [1] * len(rows)
    assert [tuple(row["input_ids"]) for row in passes[0]] != [tuple(row["input_ids"]) for row in passes[1]]


def test_a_flat_batch_holds_what_its_rows_hold(corpus):
    flat, rows = collate(corpus)
    real = torch.arange(LENGTH) < rows["document_lengths"].sum(dim=1, keepdim=True)
    count = flat.num_tokens
    assert flat.input_ids[:count].tolist() == rows["input_ids"][real].tolist()
    assert (flat.input_ids[count:] == PAD).all()
    lengths = rows["document_lengths"][rows["document_lengths"] > 0].tolist()
    assert flat.lengths[: len(lengths)].tolist() == lengths
    masked = flat.masked[flat.masked >= 0]
    assert (flat.input_ids[masked] == MASK).all()
    assert flat.targets[flat.masked >= 0].tolist() == rows["labels"][rows["labels"] != IGNORED].tolist()
    assert flat.rows[flat.masked >= 0].tolist() == torch.nonzero(rows["labels"] != IGNORED)[:, 0].tolist()


def test_shapes_are_the_same_for_all_batches(corpus):
    batches = [collate(corpus, visits=range(start, start + ROWS))[0] for start in range(0, 20, ROWS)]
    for make in (concept_inputs, control_inputs):
        shapes = {
            tuple(value.shape if isinstance(value, torch.Tensor) else value for value in make(batch).values())
            for batch in batches
        }
        assert len(shapes) == 1


def test_documents_beyond_the_bound_are_left_out(corpus):
    whole, _ = collate(corpus)
    flat, _ = collate(corpus, max_documents=int((whole.lengths > 0).sum()) - 1)
    tokens = flat.num_tokens
    assert tokens in np.cumsum(whole.lengths)[:-2]
    assert 0 < tokens < whole.num_tokens
    assert 0 < flat.lengths.min() <= flat.lengths.max() <= LENGTH
    assert flat.input_ids[:tokens].tolist() == whole.input_ids[:tokens].tolist()
    assert flat.masked[flat.masked >= 0].tolist() == [it for it in whole.masked.tolist() if 0 <= it < tokens]


def test_a_variant_and_a_control_see_the_same(corpus):
    flat, _ = collate(corpus)
    ours, control = concept_inputs(flat), control_inputs(flat)
    assert torch.equal(ours["input_ids"], control["input_ids"])
    labels = ours["labels"][0]
    scored = control["targets"] != IGNORED
    assert torch.equal(control["masked"][scored], torch.nonzero(labels != IGNORED)[:, 0])
    assert torch.equal(control["targets"][scored], labels[labels != IGNORED])
    assert torch.equal(ours["masked_positions"][0][scored], control["masked"][scored])
    count = int((np.cumsum(flat.lengths) <= flat.num_tokens).sum())
    assert torch.equal(control["cu_seqlens"].diff()[:count].long(), ours["document_lengths"][0, :count])
    starts = control["cu_seqlens"][:-1][control["cu_seqlens"].diff() > 0].long()
    assert (control["position_ids"][0][starts] == 0).all()


@pytest.mark.parametrize("max_documents", [ROWS, 8, 64])
def test_no_document_is_longer_than_kernels_are_told(corpus, max_documents):
    flat, _ = collate(corpus, max_documents)
    control, ours, kept = control_inputs(flat), concept_inputs(flat), concept_inputs(flat, drops=False)
    lengths = control["cu_seqlens"].diff()
    assert lengths.sum() == kept["document_lengths"].sum() == ROWS * LENGTH
    assert 0 <= lengths.min() <= lengths.max() <= control["max_length"] == ours["max_document_length"] == LENGTH
    assert (flat.positions < LENGTH).all()


def test_visible_tokens_fill_their_slots(corpus):
    for start in range(0, 40, ROWS):
        inputs = concept_inputs(collate(corpus, visits=range(start, start + ROWS))[0])
        masked = (inputs["masked_positions"] >= 0).sum()
        assert inputs["document_lengths"].sum() - masked == ROWS * LENGTH - inputs["masked_positions"].numel()


def test_the_bound_on_documents_is_above_the_mean():
    counts = np.array([1] * 90 + [8] * 10)
    assert most_documents(counts, 128) % 64 == 0
    assert most_documents(counts, 128) > 1.7 * 128
    assert most_documents(np.array([1, 1]), 4) == 64


def test_families_follow_from_the_decoder():
    assert {it.family for it in VARIANTS.values()} == set(FAMILIES)
    assert find_variant("hybrid:decoder_tokens=none").family == "bottleneck"
    assert find_variant("bert:num_hidden_layers=3").family == "control"
    assert all(name == variant.name for name, variant in VARIANTS.items())


def test_changes_reach_the_configuration():
    variant = find_variant("hybrid:concept_ratio=8,write_back=false,concept_positions=none")
    config = variant.contender.config("sdpa", 512)
    assert (config.concept_ratio, config.write_back, config.concept_positions) == (8, False, "none")


@pytest.mark.parametrize("name", ["hybird", "hybrid:concept_ratio", "hybrid:=3", "hybrid:no_such=1", "bert:layers=2"])
def test_a_misspelt_variant_is_refused(name):
    with pytest.raises(ValueError, match=r"there is no variant|FIELD=VALUE|has no field"):
        find_variant(name)


def test_controls_are_shaped_as_they_say():
    layers = {
        name: VARIANTS[name].contender.config("sdpa", 512).layer_types for name in ("bert", "modernbert", "local")
    }
    assert set(layers["bert"]) == {"full_attention"}
    assert set(layers["local"]) == {"sliding_attention"}
    assert [place for place, kind in enumerate(layers["modernbert"]) if kind == "full_attention"] == [0, 3, 6, 9, 12]


def test_the_default_design_is_as_large_as_its_control():
    for ours, control in (("hybrid", "bert"), ("hybrid", "modernbert"), ("hybrid_384", "bert_384")):
        bodies = [size_of(name, 512, VOCABULARY).body for name in (ours, control)]
        assert bodies[0] == pytest.approx(bodies[1], rel=0.1)


def test_sizes_that_differ_are_flagged():
    table = variants_table(["hybrid", "bert", "bert_x6", "perceiver_v1"], 512, VOCABULARY)
    ratios = {row[0]: row[5] for row in table.rows}
    assert ratios["bert"] == "1.00"
    assert "!" not in ratios["hybrid"]
    assert "!" in ratios["bert_x6"]


def test_documents_longer_than_learned_positions_are_refused():
    with pytest.raises(ValueError, match="512 learned positions"):
        check_length(VARIANTS["perceiver_v1"].contender, 1024)
    check_length(VARIANTS["hybrid"].contender, 65536)
    (row,) = variants_table(["perceiver_v1"], 1024, VOCABULARY).rows
    assert "learned positions" in row[-1]


def test_the_trapezoid_rises_stays_and_falls():
    shares = [0, 0.05, 0.1, 0.5, 0.7, 0.85, 1]
    assert [trapezoid(share, 0.1, 0.3) for share in shares] == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])
    assert trapezoid(0, 0, 0) == trapezoid(1, 0, 0) == 1


def test_the_cosine_rises_and_falls():
    assert [cosine(share, 0.2, 0.3) for share in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_the_learning_rate_depends_on_the_share_alone():
    settings = [
        Settings(variant="hybrid", clock=clock, budget=budget, learning_rate=2.0, warm_up=0.1)
        for clock, budget in (("seconds", 80), ("tokens", 1e8))
    ]
    assert settings[0].learning_rate_at(0.05) == settings[1].learning_rate_at(0.05) == pytest.approx(1)
    assert settings[0].learning_rate_at(1.7) == 0


def test_names_tell_runs_apart_and_survive_new_defaults():
    base = Settings(variant="hybrid")
    others = [
        Settings(variant="hybrid:concept_ratio=8"),
        Settings(variant="hybrid", seed=1),
        Settings(variant="hybrid", clock="tokens"),
        Settings(variant="hybrid", clip=0.5),
        Settings(variant="hybrid", final=True),
    ]
    assert len({it.name for it in [base, *others]}) == 6
    assert all("/" not in it.name and ":" not in it.name for it in others)
    assert Settings.from_json({"variant": "hybrid", "forgotten": 1}) == base
    assert (base.recipe, others[3].recipe) == ("", "clip=0.5")


@pytest.mark.parametrize(
    ("field", "value"),
    [("clock", "steps"), ("optimizer", "sgd"), ("batch_tokens", 100), ("budget", 0), ("warm_up", 0.9)],
)
def test_settings_that_make_no_sense_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Settings(variant="hybrid", **{field: value})


@pytest.mark.parametrize("name", TOY)
def test_matrices_decay_and_nothing_else(name):
    contender = find_variant(name).with_vocabulary(VOCABULARY).contender
    model = contender.build(contender.attentions[0], LENGTH, "train")
    names = {id(it): key for key, it in model.named_parameters()}
    matrices, others = split_parameters(model)
    assert {id(it) for it in (*matrices, *others)} == set(names)
    assert all(it.dim() == 2 and it.shape[0] != VOCABULARY for it in matrices)
    assert not any("norm" in names[id(it)] or "embed" in names[id(it)] for it in matrices)
    assert sum(it.numel() for it in matrices) > 0.9 * sum(it.numel() for it in others if it.shape[0] != VOCABULARY)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    contender = find_variant(BERT).with_vocabulary(VOCABULARY).contender
    model = contender.build("varlen", LENGTH, "train")
    muon, adamw = make_optimizer(model, Settings(variant=BERT, optimizer="muon")).param_groups
    matrices, others = split_parameters(model)
    assert [id(it) for it in muon["params"]] == [id(it) for it in matrices]
    assert [id(it) for it in adamw["params"]] == [id(it) for it in others]
    assert (muon["muon"], adamw["muon"]) == (True, False)
    assert (muon["weight_decay"], adamw["weight_decay"]) == (0.1, 0)


def test_both_clocks_tell_the_share(monkeypatch):
    now = 100.0
    monkeypatch.setattr("benchmarks.ladder.progress.time.perf_counter", lambda: now)
    by_time, by_tokens = (Progress(clock, 10, torch.device("cpu")) for clock in ("seconds", "tokens"))
    for it in (by_time, by_tokens):
        it.start()
        it.count(5, torch.tensor(2.0))
    assert (by_time.share, by_tokens.share) == (0, 0.5)
    now = 104.0
    assert (by_time.share, by_tokens.share) == (0.4, 0.5)


def test_the_curve_has_all_steps_in_means():
    progress = Progress("tokens", 10, torch.device("cpu"))
    progress.start()
    for step in range(1000):
        progress.count(10, torch.tensor(float(step)))
    progress.finish()
    curve = progress.curve()
    assert len(curve) == 200
    assert np.mean([point.loss for point in curve]) == pytest.approx(499.5)
    assert [point.tokens for point in curve[-2:]] == [9950, 10000]
    assert [point.seconds for point in curve] == sorted(point.seconds for point in curve)


def test_octaves_double():
    assert octaves_of(np.array([0, 7, 8, 15, 16, 511])).tolist() == [7, 7, 15, 15, 31, 511]
