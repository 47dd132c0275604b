# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
A toy that content-based positions solve and absolute ones do not: find the k-th last sign among noise.

A row is a stretch of tokens, one in eight of them a sign of one of eight kinds, the rest noise, and a query that names
k in 1..8. The answer is the kind of the k-th sign from the end, wherever that is. It stands for the selective copying
and counting tasks of CoPE (arXiv 2405.18719, section 5).
"""

import torch
from torch import nn

from benchmarks.timing import current_device
from configuration_concept import ConceptEncoderConfig
from modeling_concept.attention import ConceptAttention, ConceptBlock, ContextualAttention

KINDS, NOISE, FURTHEST, DENSITY = 8, 8, 8, 0.125
LENGTH, WIDTH, STEPS, BATCH = 96, 64, 2000, 64


def counting_batch(rows: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 `[rows, length + 1]`, the query last, and answers int64 `[rows]`."""
    is_sign = torch.rand(rows, length, generator=generator) < DENSITY
    is_sign[:, :FURTHEST] = True  # there is always an answer
    signs = torch.randint(KINDS, (rows, length), generator=generator)
    noise = KINDS + torch.randint(NOISE, (rows, length), generator=generator)
    wanted = torch.randint(FURTHEST, (rows, 1), generator=generator)
    from_end = is_sign.flip(1).cumsum(dim=1).flip(1) - 1
    place = (is_sign & (from_end == wanted)).long().argmax(dim=1, keepdim=True)
    tokens = torch.cat([torch.where(is_sign, signs, noise), KINDS + NOISE + wanted], dim=1)
    return tokens, signs.gather(1, place).squeeze(1)


class CountingModel(nn.Module):
    """Two blocks of self-attention and a classifier on the state of the query, the last token."""

    def __init__(self, contextual: bool) -> None:
        super().__init__()
        config = ConceptEncoderConfig(hidden_size=WIDTH, num_attention_heads=4, cope_distances=16)
        mixer = ContextualAttention if contextual else ConceptAttention
        self.tokens = nn.Embedding(KINDS + NOISE + FURTHEST, WIDTH)
        self.places = None if contextual else nn.Embedding(4 * LENGTH, WIDTH)
        self.blocks = nn.ModuleList(
            [ConceptBlock(config, WIDTH, inner_width=2 * WIDTH, mixer=mixer) for _ in range(2)]
        )
        self.classifier = nn.Linear(WIDTH, KINDS)
        for block in self.blocks:
            if contextual:
                nn.init.zeros_(block.attention.distances)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[rows, length]` to logits `[rows, KINDS]`. Absolute places are counted from the query, as is the task."""
        states = self.tokens(tokens)
        if self.places is not None:
            states = states + self.places(torch.arange(tokens.shape[1], device=tokens.device).flip(0))
        for block in self.blocks:
            states = block(states)
        return self.classifier(states[:, -1])


def counting_accuracy(contextual: bool, seed: int, length: int = LENGTH, steps: int = STEPS) -> tuple[float, float]:
    """Train on rows of `length`; accuracy on new rows of that length and of twice that. Chance is 1 / 8."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    device = current_device()
    model = CountingModel(contextual).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        tokens, answers = counting_batch(BATCH, length, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens.to(device)), answers.to(device)).backward()
        optimizer.step()
        schedule.step()
    return accuracy(model, length, seed), accuracy(model, 2 * length, seed)


@torch.no_grad()
def accuracy(model: nn.Module, length: int, seed: int, rows: int = 2000) -> float:
    """Share of right answers on rows that no training has seen."""
    tokens, answers = counting_batch(rows, length, torch.Generator().manual_seed(10_000 + seed))
    device = next(model.parameters()).device
    return float((model(tokens.to(device)).argmax(dim=-1).cpu() == answers).float().mean())
