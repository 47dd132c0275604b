# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Equalities that hold for every masked language model of ours, whatever its configuration."""

from pathlib import Path

import torch

from modeling_concept import ConceptEncoderForMaskedLM
from tests.modeling.test_packing import documents, pack, split
from tests.modeling.tiny import document, masked_batch


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the parameters that have one."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_padding(model: ConceptEncoderForMaskedLM, _: Path) -> None:
    """Documents padded right or left, beside others, and alone."""
    texts = [document(length, masked=0.3) for length in (1, 8, 21, 37)]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=17)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    right = model(ids, attention_mask=mask).logits
    left = model(
        torch.stack([row.roll(37 - len(text)) for row, text in zip(ids, texts, strict=True)]),
        attention_mask=mask.flip(1),
    ).logits
    for row, text in enumerate(texts):
        alone = model(text[None]).logits[0]
        torch.testing.assert_close(right[row, : len(text)], alone, atol=1e-10, rtol=0)
        torch.testing.assert_close(left[row, 37 - len(text) :], alone, atol=1e-10, rtol=0)


def check_packing(model: ConceptEncoderForMaskedLM, _: Path) -> None:
    """Documents in rows of several, and alone."""
    rows = documents()
    packed = split(model(**pack(rows)).logits, rows)
    for ours, tokens in zip(packed, [tokens for row in rows for tokens in row], strict=True):
        torch.testing.assert_close(ours, model(tokens[None]).logits[0], atol=1e-10, rtol=0)


def check_backends_and_losses(model: ConceptEncoderForMaskedLM, _: Path) -> None:
    """SDPA and eager attention, all positions decoded and the masked ones alone: loss and gradients."""
    batch = masked_batch()
    positions = batch.pop("masked_positions")
    results = []
    for backend in ("sdpa", "eager", "varlen"):
        model.set_attn_implementation(backend)
        for extra in ({}, {"masked_positions": positions}):
            loss = model(**batch, **extra).loss
            results.append({"loss": loss.detach()} | gradients(model, loss))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-10, rtol=1e-8)


def check_saving(model: ConceptEncoderForMaskedLM, folder: Path) -> None:
    """Saved and loaded, bitwise."""
    model = model.float()
    model.save_pretrained(folder)
    loaded = ConceptEncoderForMaskedLM.from_pretrained(folder)
    ids = document(33, masked=0.2)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
