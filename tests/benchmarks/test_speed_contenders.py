# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The models that are timed: all of them train, layouts of a batch are the same documents, operations are counted."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cells import Cell, Setting, measure_cell
from benchmarks.contenders import CONTENDERS, REFERENCE, Contender, window_pairs, with_shape
from benchmarks.workload import MASK, MASKED, draw_lengths, make_documents, masked_counts

CPU = torch.device("cpu")
LENGTH, TOKENS, VOCABULARY = 64, 256, 99
NARROW = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4}
OURS = NARROW | {"num_hidden_layers": 2, "embedding_size": 16, "local_attention": 8, "decoder_window": 4}
PERCEIVER = {"d_model": 32, "d_latents": 48, "num_self_attends_per_block": 2, "num_latents": 4}
# What makes each contender small enough for a test.
TOY = {
    **dict.fromkeys(("mini", "small", "base", "base_bottleneck", "base_ratio_4", "base_ratio_16", "base_1024"), OURS),
    "perceiver_v1": NARROW | {"num_hidden_layers": 2, "intermediate_size": 64, "num_concepts": 8},
    **{name: NARROW | {"num_hidden_layers": 2, "intermediate_size": 64} for name in CONTENDERS if name[:5] == "bert_"},
    **{
        name: NARROW | {"num_hidden_layers": 3, "intermediate_size": 48, "local_attention": 8}
        for name in CONTENDERS
        if name.startswith("modernbert")
    },
    "longformer_768x12": NARROW | {"num_hidden_layers": 2, "intermediate_size": 64, "attention_window": 8},
    "perceiver_1280x10": {"vocab_size": VOCABULARY} | PERCEIVER,
}
# It has no backward pass on a CPU.
WAYS = [
    (name, attention)
    for name, contender in CONTENDERS.items()
    for attention in contender.attentions
    if attention != "flex_attention"
]


def toy(name: str) -> Contender:
    return with_shape(CONTENDERS[name], **TOY[name])


def run(name: str, attention: str, mode: str, variable: bool) -> torch.Tensor:
    torch.manual_seed(0)
    contender = toy(name)
    documents = make_documents(LENGTH, TOKENS, variable, 1, CPU, VOCABULARY)[0]
    batch = documents.to_batch(contender.packs(attention, variable), masks=mode == "train")
    return contender.build(attention, LENGTH, mode)(**contender.inputs(batch, mode))


@pytest.mark.parametrize("name", list(CONTENDERS))
def test_every_contender_trains_a_step(name, monkeypatch):
    monkeypatch.setattr("benchmarks.cells.make_documents", lambda *args: make_documents(*args, vocabulary=VOCABULARY))
    contender = toy(name)
    setting = Setting(CPU, torch.bfloat16, TOKENS, seconds=0, repeats=2)
    cell = Cell(name, "train", LENGTH, False, contender.attentions[0], "none")
    (measured,) = measure_cell(cell, {name: contender}, setting)
    assert measured.error is None
    assert (measured.tokens, len(measured.seconds)) == (TOKENS, 2)
    assert measured.flops > 0


@pytest.mark.parametrize(("name", "attention"), WAYS)
def test_a_random_model_guesses(name, attention):
    loss = run(name, attention, "train", variable=False)
    assert loss.item() == pytest.approx(np.log(VOCABULARY), abs=0.2)
    loss.backward()


@pytest.mark.parametrize("name", ["base", "perceiver_v1", "bert_768x12", REFERENCE])
@pytest.mark.parametrize("variable", [False, True])
def test_unpadded_documents_have_the_loss_of_padded_ones(name, variable):
    losses = [run(name, attention, "train", variable) for attention in ("varlen", "sdpa")]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


def test_unpadded_states_of_modernbert_are_those_of_the_library():
    batches = {}
    documents = make_documents(LENGTH, TOKENS, True, 1, CPU, VOCABULARY)[0]
    for attention, packed in (("varlen", True), ("eager", False)):
        torch.manual_seed(0)
        contender = toy(REFERENCE)
        batch = documents.to_batch(packed, masks=False)
        states = contender.build(attention, LENGTH, "encode").eval()(**contender.inputs(batch, "encode"))
        in_use = torch.arange(states.shape[1]) < (batch.lengths.sum(dim=1, keepdim=True))
        batches[attention] = states[in_use]
    torch.testing.assert_close(batches["varlen"], batches["eager"], rtol=1e-5, atol=1e-5)


def test_every_contender_has_the_same_vocabulary():
    sizes = {contender.config(contender.attentions[0], LENGTH).vocab_size for contender in CONTENDERS.values()}
    assert sizes == {30528}


@pytest.mark.parametrize(
    ("ours", "other", "share"),
    [
        ("mini", "bert_256x6", 0.02),
        ("mini", "modernbert_256x9", 0.02),
        ("small", "bert_512x10", 0.03),
        ("base", "bert_768x15", 0.03),
        ("base", "longformer_768x12", 0.03),
        ("base", "perceiver_1280x10", 0.06),
    ],
)
def test_equals_have_about_as_many_parameters(ours, other, share):
    numbers = []
    for name in (ours, other):
        contender = CONTENDERS[name]
        with torch.device("meta"):
            model = contender.build(contender.attentions[0], 512, "train")
        numbers.append(sum(parameter.numel() for parameter in model.parameters()))
    assert numbers[1] == pytest.approx(numbers[0], rel=share)


@pytest.mark.parametrize(("name", "attention"), [("bert_768x12", "eager"), ("perceiver_v1", "eager")])
def test_operations_of_dense_models_are_all_that_are_counted(name, attention):
    contender = toy(name)
    batch = make_documents(LENGTH, TOKENS, False, 1, CPU, VOCABULARY)[0].to_batch(packed=False, masks=True)
    inputs = {key: value for key, value in contender.inputs(batch, "train").items() if key != "labels"}
    model = contender.build(attention, LENGTH, "train").requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    assert contender.forward_flops(batch, LENGTH) == counter.get_total_flops()
    assert contender.training_flops(batch, LENGTH) == 3 * counter.get_total_flops()


def test_operations_of_bert_follow_the_formula():
    batch = make_documents(LENGTH, TOKENS, False, 1, CPU, VOCABULARY)[0].to_batch(packed=False, masks=True)
    rows, width, masked = TOKENS, 32, len(batch.masked)
    layer = 2 * rows * (4 * width**2 + 2 * width * 64) + 4 * width * (TOKENS // LENGTH) * LENGTH**2
    head = 2 * masked * (width**2 + width * VOCABULARY)
    assert toy("bert_768x12").forward_flops(batch, LENGTH) == 2 * layer + head


@pytest.mark.parametrize(("length", "reach"), [(1, 4), (5, 4), (4, 4), (9, 0), (50, 7)])
def test_pairs_of_a_window(length, reach):
    places = np.arange(length)
    assert window_pairs(length, reach) == (np.abs(places - places[:, None]) <= reach).sum()


def test_lengths_have_the_distribution_that_is_asked_for():
    lengths = draw_lengths(512, 2**20, np.random.default_rng(0))
    assert sum(lengths) == 2**20
    assert np.mean(lengths) == pytest.approx(256, abs=3)
    assert np.std(lengths) == pytest.approx(64, abs=3)
    assert 8 <= min(lengths) <= max(lengths) <= 512


@pytest.mark.parametrize("variable", [False, True])
def test_batches_have_static_shapes_and_the_same_number_of_tokens(variable):
    batches = make_documents(64, 1024, variable, 4, CPU)
    for packed in (False, True):
        shapes = {
            (it.input_ids.shape, it.lengths.shape, it.masked.shape, it.num_tokens)
            for it in (documents.to_batch(packed, masks=True) for documents in batches)
        }
        assert len(shapes) == 1
        assert shapes.pop()[3] == 1024
    assert not torch.equal(batches[0].words, batches[1].words)


@pytest.mark.parametrize("packed", [False, True])
def test_exactly_the_masked_tokens_are_masked(packed):
    documents = make_documents(64, 1024, True, 1, CPU)[0]
    batch = documents.to_batch(packed, masks=True)
    assert torch.equal(batch.masked, (batch.input_ids.flatten() == MASK).nonzero().flatten())
    assert torch.equal(batch.targets, documents.words[documents.masked])
    assert len(batch.masked) == round(MASKED * 1024)
    assert not (documents.to_batch(packed, masks=False).input_ids == MASK).any()


def test_every_document_has_its_share_of_masked_tokens():
    lengths = [8, 61, 30, 9]
    counts = masked_counts(lengths, variable=True)
    assert sum(counts) == round(MASKED * sum(lengths))
    assert all(abs(count - MASKED * length) <= 1 for count, length in zip(counts, lengths, strict=True))


def test_a_batch_that_holds_no_document_is_refused():
    with pytest.raises(ValueError, match="does not fit into a batch of 32; raise --tokens"):
        make_documents(64, 32, False, 1, CPU)
