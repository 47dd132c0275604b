# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""How many floating-point operations a forward pass takes, and how many parameters a preset has."""

import torch
from torch import nn

from benchmarks.results import Table
from configuration_concept import PRESETS, ConceptEncoderConfig
from modeling_concept import ConceptEncoder, ConceptEncoderForMaskedLM, ConceptEncoderPreTrainedModel
from modeling_concept.attention import ConceptMLP
from training_concept.throughput import count_forward_flops

MASKED = 0.3


def encoder_flops(config: ConceptEncoderConfig, tokens: int) -> int:
    """Operations of the encoder on one document of `tokens` tokens, no padding."""
    return count_forward_flops(_empty(ConceptEncoder, config), {"input_ids": _ids(tokens)})


def masked_lm_flops(config: ConceptEncoderConfig, tokens: int) -> int:
    """Operations of the masked language model on one such document, a share of `MASKED` of its tokens masked."""
    inputs = {"input_ids": _ids(tokens), "masked_positions": _ids(round(MASKED * tokens))}
    return count_forward_flops(_empty(ConceptEncoderForMaskedLM, config), inputs)


def dense_flops(config: ConceptEncoderConfig, tokens: int) -> int:
    """
    Operations of a plain Transformer encoder on one such document, from the formula; nothing is run.

    It has the widths of `config`, a layer for every layer of tokens or concepts there, and all tokens attend to all.
    """
    mlps = [module for module in _empty(ConceptEncoder, config).modules() if isinstance(module, ConceptMLP)]
    projections, attention = 4 * config.hidden_size**2, 2 * tokens * config.hidden_size
    return 2 * tokens * sum(mlp_weights + projections + attention for mlp_weights in map(_num_weights, mlps))


def count_parameters(config: ConceptEncoderConfig) -> int:
    """Parameters of the masked language model, a tied one counted once."""
    return _num_weights(_empty(ConceptEncoderForMaskedLM, config))


def presets_table() -> Table:
    """Parameters of the masked language model of every preset."""
    columns = ["preset", "width", "concept layers", "parameters", "in embeddings", "body"]
    rows = []
    for name in PRESETS:
        config = ConceptEncoderConfig.from_preset(name)
        model = _empty(ConceptEncoderForMaskedLM, config)
        embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        total, inside = _num_weights(model), sum(map(_num_weights, embeddings))
        rows.append([name, config.hidden_size, config.num_hidden_layers, total, inside, total - inside])
    return Table("presets", columns, rows, "The body is everything but embeddings; the output layer is tied to them.")


def _empty(
    model_class: type[ConceptEncoderPreTrainedModel], config: ConceptEncoderConfig
) -> ConceptEncoderPreTrainedModel:
    with torch.device("meta"):
        return model_class(config)


def _num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _ids(number: int) -> torch.Tensor:
    return torch.empty(1, number, dtype=torch.long, device="meta")
