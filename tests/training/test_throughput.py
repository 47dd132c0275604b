# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Throughput: FLOPs as counted by hand, rates as defined, and no waiting for the device between reports."""

import time
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from transformers import BertConfig, BertForMaskedLM

from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderForMaskedLM
from training_concept import throughput
from training_concept.throughput import Amounts, ThroughputMeter, count_forward_flops, device_peak_flops

BATCH, LENGTH, WIDTH, INNER, VOCABULARY = 3, 24, 32, 64, 300


def batch(num_masked: int = 7, padding: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.full((BATCH, LENGTH), 9)
    labels = torch.full((BATCH, LENGTH), -100)
    labels[:, :num_masked] = 9
    inputs = {"input_ids": ids, "labels": labels, "masked_positions": torch.arange(num_masked).expand(BATCH, -1)}
    if padding:
        inputs["attention_mask"] = (torch.arange(LENGTH) < LENGTH - padding).long().expand(BATCH, -1)
    return inputs


def concept_flops(num_masked: int, **config) -> int:
    widths = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCABULARY}
    model = ConceptEncoderForMaskedLM(ConceptEncoderConfig.from_preset("nano", **widths | config))
    return count_forward_flops(model, batch(num_masked))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_flops_are_those_of_the_matrix_products(attention):
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=2
    )
    model = BertForMaskedLM._from_config(config, attn_implementation=attention)
    inputs = batch()
    del inputs["masked_positions"]

    layer = 4 * WIDTH * WIDTH + 2 * WIDTH * INNER + 2 * LENGTH * WIDTH
    by_hand = 2 * BATCH * LENGTH * (2 * layer + WIDTH * WIDTH + WIDTH * VOCABULARY)
    assert count_forward_flops(model, inputs) == by_hand
    assert model.config._attn_implementation == attention


def test_flops_follow_what_a_concept_encoder_decodes():
    # One more masked token: one less for the encoder, one more row of the output head and of the decoder.
    larger_head = concept_flops(8, vocab_size=2 * VOCABULARY) - concept_flops(8)
    assert larger_head == 2 * BATCH * 8 * WIDTH * VOCABULARY
    assert concept_flops(8, decoder_tokens="none") < concept_flops(8)


@pytest.mark.parametrize("packed", [False, True])
def test_flops_do_not_depend_on_the_kernel(packed):
    inputs = batch()
    if packed:
        inputs["document_lengths"] = torch.tensor([[10, 14], [LENGTH, 0], [1, LENGTH - 1]])
    counts = set()
    for attention in ("eager", "sdpa", "varlen"):
        widths = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCABULARY}
        config = ConceptEncoderConfig.from_preset("nano", **widths)
        model = ConceptEncoderForMaskedLM._from_config(config, attn_implementation=attention)
        counts.add(count_forward_flops(model, inputs))
        assert model.config._attn_implementation == attention
    assert len(counts) == 1


def test_rates_are_amounts_over_time_and_steps():
    stretch = Amounts(seconds=2.0, steps=4, tokens=1000, masked_tokens=300, flops=5e9)
    rates = {
        "tokens_per_second": 500,
        "masked_tokens_per_second": 150,
        "masked_tokens_per_step": 75,
        "model_flops_per_second": 2.5e9,
    }
    assert stretch.rates(None) == rates
    assert stretch.rates(1e10) == rates | {"mfu": 0.25}
    assert (stretch + stretch).rates(1e10) == rates | {"mfu": 0.25}
    assert Amounts().rates(1e10) == {}


def test_the_meter_counts_real_tokens_and_leaves_pauses_out(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    meter = ThroughputMeter(Accelerator(cpu=True), peak_flops=1e6)
    meter.update(batch(7), flops=1e6)
    meter.update(batch(5, padding=4), flops=1e6)
    clock[0] += 4
    with meter.paused():
        clock[0] += 1000
    report = meter.report(steps=1)
    assert report["tokens_per_second"] == BATCH * (LENGTH + LENGTH - 4) / 4
    assert report["masked_tokens_per_step"] == BATCH * 12
    assert report["mfu"] == 2e6 / 4 / 1e6

    clock[0] += 2
    assert meter.report(steps=0) == {}
    assert meter.total == Amounts(6.0, 1, BATCH * (2 * LENGTH - 4), BATCH * 12, 2e6)


def test_the_meter_counts_packed_documents_without_what_follows_them():
    meter = ThroughputMeter(Accelerator(cpu=True))
    meter.update(batch(7) | {"document_lengths": torch.tensor([[10, 4, 0], [LENGTH, 0, 0], [1, 2, 3]])}, flops=1.0)
    meter.report(steps=1)
    assert meter.total.tokens == 14 + LENGTH + 6


def test_counting_never_waits_for_the_device():
    # A tensor of the meta device has no values, and refuses whoever asks for one.
    device = SimpleNamespace(device=torch.device("meta"), num_processes=1, reduce=lambda counts: counts)
    meter = ThroughputMeter(device)
    for padding in (0, 3):
        meter.update({name: tensor.to("meta") for name, tensor in batch(7, padding).items()}, flops=1.0)
    with pytest.raises(NotImplementedError):
        meter.report(steps=1)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peaks_go_by_the_name_of_the_device(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert device_peak_flops(torch.device("cuda")) == peak
    assert device_peak_flops(torch.device("cpu")) is None


def test_without_a_peak_there_is_no_mfu(monkeypatch):
    meter = ThroughputMeter(Accelerator(cpu=True))
    meter.update(batch(), flops=1.0)
    assert "mfu" not in meter.report(steps=1)
    monkeypatch.setattr(throughput, "device_peak_flops", lambda device: 10.0)
    meter = ThroughputMeter(Accelerator(cpu=True))
    meter.update(batch(), flops=1.0)
    assert meter.report(steps=1)["mfu"] > 0
