# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer, texts and tiny checkpoints to analyse."""

import random
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderForMaskedLM
from tests.modeling.tiny import SIZE, SWITCHES, VARIANTS
from training_concept.tokenization import train_tokenizer

VOCABULARY = 300
SPECIAL_TOKENS = ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
VERSE = "the river keeps its old name in hills and nobody there asks why mill stands at bend wheel turns all day"


def write_texts(number: int, seed: int = 0, sentences: int = 12) -> list[str]:
    """Texts of sentences of 8 to 14 words, each with favourite words of its own."""
    draw, words = random.Random(seed), VERSE.split()
    texts = []
    for _ in range(number):
        favourites = draw.sample(words, 5) * 3 + words
        lines = (draw.choices(favourites, k=draw.randint(8, 14)) for _ in range(sentences))
        texts.append(" ".join(f"{' '.join(line).capitalize()}." for line in lines))
    return texts


def small_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(write_texts(30), VOCABULARY, model_max_length=64)


def small_model(tokenizer: PreTrainedTokenizerFast, variant: str = "hybrid", **overrides: Any):
    """A model of random weights in which every part counts, on the tokens of `tokenizer`."""
    special = {name: getattr(tokenizer, name) for name in SPECIAL_TOKENS}
    settings = SIZE | {"vocab_size": len(tokenizer)} | special | (VARIANTS | SWITCHES)[variant] | overrides
    torch.manual_seed(0)
    model = ConceptEncoderForMaskedLM(ConceptEncoderConfig(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.1)
    return model


def save_checkpoint(folder: Path, model, tokenizer: PreTrainedTokenizerFast) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
