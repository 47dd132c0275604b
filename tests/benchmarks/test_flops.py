# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Operations: linear in the length once no more concepts are made, and dense ones as a library's encoder has them."""

import pytest
import torch
from transformers import BertConfig, BertModel

from benchmarks.flops import dense_flops, encoder_flops, masked_lm_flops, presets_table
from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderForMaskedLM
from training_concept.throughput import count_forward_flops

# The preset whose cost is reported, thinned and with all lengths 64 times shorter: 128 tokens have all the concepts.
SHRUNK = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "embedding_size": 16,
    "vocab_size": 99,
    "max_concepts": 32,
    "local_attention": 8,
    "decoder_window": 4,
}


@pytest.fixture
def config() -> ConceptEncoderConfig:
    return ConceptEncoderConfig.from_preset("small", **SHRUNK)


@pytest.mark.parametrize("count", [encoder_flops, masked_lm_flops])
def test_four_times_the_tokens_cost_at_most_about_four_times(config, count):
    # Concepts read each other, and are as many at both lengths.
    ratio = count(config, 1024) / count(config, 256)
    assert 2 < ratio <= 4.2


@pytest.mark.parametrize("family", ["window", "none"])
def test_cost_is_linear_once_the_number_of_concepts_is_reached(config, family):
    config.decoder_tokens = family
    at_most, twice, four_times = (encoder_flops(config, tokens) for tokens in (256, 512, 1024))
    assert four_times - twice == 2 * (twice - at_most)


def test_cost_grows_faster_below_the_number_of_concepts(config):
    config.max_concepts = 4096
    assert encoder_flops(config, 4096) > 4.2 * encoder_flops(config, 1024)


def test_the_dense_formula_is_what_a_dense_encoder_counts(config):
    # BERT's two-matrix MLP, half as wide again, is as dear as a gated one. 1 + 2 x 2 layers of tokens, 6 of concepts.
    bert = BertConfig(
        vocab_size=99,
        hidden_size=config.hidden_size,
        intermediate_size=3 * config.intermediate_size // 2,
        num_hidden_layers=11,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    counted = count_forward_flops(BertModel(bert), {"input_ids": torch.ones(1, 64, dtype=torch.long)})
    pooler = 2 * config.hidden_size**2
    assert dense_flops(config, 64) == counted - pooler


def test_presets_count_every_parameter_once():
    rows = {name: counts for name, _, _, *counts in presets_table().rows}
    total, embeddings, body = rows["nano"]
    model = ConceptEncoderForMaskedLM(ConceptEncoderConfig.from_preset("nano"))
    assert total == sum(parameter.numel() for parameter in model.parameters()) == embeddings + body
    config = model.config
    assert embeddings == (config.vocab_size + config.type_vocab_size) * config.embedding_size
