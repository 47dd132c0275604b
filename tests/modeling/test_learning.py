# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""It learns what a bag of words cannot: to fetch a masked token from its copy, out of reach of every window."""

import math

import pytest
import torch

from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderForMaskedLM
from tests.modeling.tiny import SWITCHES, VARIANTS

WORDS, SPAN, MASKED, MASK, FIRST = 24, 16, 4, 4, 5


def copies(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rows `[w1 ... w16 w1 ... w16]` of random words, some of the second half masked."""
    words = torch.randint(FIRST, FIRST + WORDS, (rows, SPAN), generator=generator)
    ids = words.repeat(1, 2)
    positions = SPAN + torch.rand(rows, SPAN, generator=generator).argsort(dim=1)[:, :MASKED].sort(dim=1).values
    labels = torch.full_like(ids, -100).scatter(1, positions, ids.gather(1, positions))
    return {"input_ids": ids.scatter(1, positions, MASK), "labels": labels, "masked_positions": positions}


def repetitions(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rows of one random word again and again, some masked."""
    words = torch.randint(FIRST, FIRST + WORDS, (rows, 1), generator=generator).expand(-1, 2 * SPAN)
    positions = torch.rand(rows, 2 * SPAN, generator=generator).argsort(dim=1)[:, :MASKED].sort(dim=1).values
    labels = torch.full_like(words, -100).scatter(1, positions, words.gather(1, positions))
    return {"input_ids": words.scatter(1, positions, MASK), "labels": labels, "masked_positions": positions}


def bag_of_words_loss(batch: dict[str, torch.Tensor]) -> float:
    """
    Loss in nats of the best guess that knows how often each word is seen in the row, but not where.

    A word seen an odd number of times misses its copy: of the words of the row it is then as likely as any other
    such, given the number of masks. Words that are seen an even number of times get the rest, all alike.
    """
    seen = torch.nn.functional.one_hot(batch["input_ids"].clamp(min=FIRST) - FIRST, WORDS)
    counts = (seen * (batch["input_ids"] != MASK)[..., None]).sum(dim=1)
    odd = (counts % 2).double()
    share = 0.95 * odd / odd.sum(dim=1, keepdim=True).clamp(min=1) + 0.05 / WORDS
    truth = batch["labels"].gather(1, batch["masked_positions"]) - FIRST
    return -share.gather(1, truth).log().mean().item()


def trained(steps: int = 200, make=copies, **fields) -> ConceptEncoderForMaskedLM:
    """A small model of these `fields`, trained on rows that `make` makes."""
    torch.manual_seed(0)
    size = {"vocab_size": FIRST + WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ConceptEncoderConfig(**(size | {"concept_ratio": 2, "local_attention": 4, "decoder_window": 4} | fields))
    model = ConceptEncoderForMaskedLM(config).train()
    model.set_attn_implementation("eager")  # trains faster on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.02, total_iters=40)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        model(**make(32, generator)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
        optimizer.zero_grad()
    return model.eval()


def held_out_loss(model: ConceptEncoderForMaskedLM, make=copies, **options) -> float:
    """Loss on rows that training has not seen."""
    with torch.inference_mode():
        return model(**make(512, torch.Generator().manual_seed(2)), **options).loss.item()


@pytest.mark.parametrize("decoder_tokens", ["window", "none"])
def test_it_retrieves_what_a_bag_of_words_cannot(decoder_tokens):
    loss = held_out_loss(trained(80, decoder_tokens=decoder_tokens))
    bag_of_words = bag_of_words_loss(copies(512, torch.Generator().manual_seed(2)))
    assert bag_of_words < math.log(WORDS)
    assert loss < bag_of_words - 1.0


@pytest.mark.slow
@pytest.mark.parametrize("switch", [*VARIANTS, *SWITCHES])
def test_every_variant_learns_what_a_row_is_about(switch):
    """Whatever is between tokens and predictions, the one word of a row gets through."""
    fields = {
        name: value
        for name, value in (VARIANTS | SWITCHES)[switch].items()
        if not name.endswith(("_size", "max_position_embeddings"))
    }
    loss = held_out_loss(trained(make=repetitions, **fields), make=repetitions)
    assert loss < 0.1 * math.log(WORDS)


@pytest.mark.slow
def test_nested_dropout_makes_every_number_of_concepts_work():
    """The loss falls with every concept more, and is far better at a few than that of a model trained with all."""
    fields = {"decoder_tokens": "none", "concept_ratio": 1, "max_concepts": 32}
    shares = (0.125, 0.25, 0.5, 0.75, 1.0)
    nested = trained(400, nested_dropout=0.75, **fields)
    losses = [held_out_loss(nested, kept_concepts=share) for share in shares]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5
    always_all = trained(400, **fields)
    assert losses[1] < held_out_loss(always_all, kept_concepts=shares[1]) - 0.5


@pytest.mark.slow
def test_a_model_trained_with_any_number_of_iterations_works_with_any():
    model = trained(400, num_iterations=3, sample_iterations=True, num_hidden_layers=1, read_every=1)
    losses = [held_out_loss(model, num_iterations=number) for number in (1, 2, 3, 5)]
    assert max(losses) < 0.5
