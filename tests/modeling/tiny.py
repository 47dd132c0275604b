# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every family, and batches for them."""

import torch

from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderPreTrainedModel

SIZE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "read_every": 1,
    "local_attention": 8,
    "decoder_window": 6,
    "concept_ratio": 4,
    "min_concepts": 2,
    "max_concepts": 12,
    "num_global_concepts": 2,
}
PERCEIVER = {
    "position_embedding": "learned",
    "max_position_embeddings": 64,
    "token_mixer": "none",
    "concept_init": "learned",
    "num_concepts": 6,
    "write_back": False,
    "qk_norm": False,
    "decoder_query": "token+position",
    "decoder_tokens": "none",
    "masked_tokens": "mask",
}
VARIANTS = {
    "hybrid": {},
    "bottleneck": {"decoder_tokens": "none", "num_decoder_layers": 2},
    "thin": {"token_hidden_size": 16, "embedding_size": 12, "token_intermediate_size": 24},
    "no_stem": {"num_token_layers": 0, "decoder_tokens": "none"},
    "seen_masks": {"masked_tokens": "mask"},
    "learned_concepts": {"concept_init": "learned", "num_concepts": 5},
    "learned_positions": {"position_embedding": "learned", "max_position_embeddings": 64},
    "perceiver_v1": PERCEIVER,
}
# Every value of every switch that no variant above has.
SWITCHES = {
    "shifted": {"token_mixer": "shifted"},
    "conv": {"token_mixer": "conv", "conv_kernel_size": 5},
    "no_places": {"concept_positions": "none"},
    "sinusoidal_places": {"concept_positions": "sinusoidal"},
    "learned_places": {"concept_positions": "learned"},
    "cope": {"concept_positions": "cope", "cope_distances": 5},
    "rotary_table": {"concept_init": "learned", "num_concepts": 5, "concept_positions": "rope"},
    "slot_reads": {"read_attention": "slot"},
    "shared_reads": {"share_reads": True},
    "single_read": {"read_every": 2},
    "no_write_back": {"write_back": False},
    "no_free_concepts": {"num_global_concepts": 0},
    "no_qk_norm": {"qk_norm": False},
    "iterated": {"num_iterations": 3},
    "sampled_iterations": {"num_iterations": 3, "sample_iterations": True, "tracked_iterations": 1},
    "word_queries": {"decoder_query": "token+position"},
    "mixing_decoder": {"num_decoder_mixing_layers": 2},
    "weighted_decoder": PERCEIVER | {"decoder_reads": "weighted"},
    "nested_dropout": {"nested_dropout": 0.5},
    "funnel": {"num_funnel_stages": 2},
    "bottleneck_funnel": {"num_funnel_stages": 1, "decoder_tokens": "none", "token_hidden_size": 16},
    "no_query_residual": {"decoder_query": "token+position", "decoder_token_residual": False},
}
# RoPE types with other frequencies for texts of more than 16 tokens.
LENGTH_DEPENDENT = {
    kind: {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16} | factors
    for kind, factors in {"dynamic": {}, "longrope": {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}}.items()
}
MASK = 4


def tiny_config(variant: str = "hybrid", **overrides) -> ConceptEncoderConfig:
    return ConceptEncoderConfig(**(SIZE | (VARIANTS | SWITCHES)[variant] | overrides))


def tiny_model(
    model_class: type[ConceptEncoderPreTrainedModel],
    variant: str = "hybrid",
    dtype: torch.dtype = torch.float64,
    **overrides,
) -> ConceptEncoderPreTrainedModel:
    """A model in which every parameter counts: an untrained one writes back nothing and has weights of .02."""
    torch.manual_seed(0)
    model = model_class(tiny_config(variant, **overrides)).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    return model


def document(length: int, seed: int = 0, masked: float = 0.0) -> torch.Tensor:
    """Token ids `[length]` without special tokens, a share of them replaced by the mask token."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    ids = torch.randint(5, SIZE["vocab_size"], (length,), generator=generator)
    return ids.masked_fill(torch.rand(length, generator=generator) < masked, MASK)


def masked_batch(rows: int = 3, length: int = 37, count: int = 9) -> dict[str, torch.Tensor]:
    """Full rows with exactly `count` masks: `input_ids`, `labels`, `masked_positions`."""
    generator = torch.Generator().manual_seed(rows * length)
    ids = torch.randint(5, SIZE["vocab_size"], (rows, length), generator=generator)
    positions = torch.rand(rows, length, generator=generator).argsort(dim=1)[:, :count].sort(dim=1).values
    labels = torch.full_like(ids, -100).scatter(1, positions, ids.gather(1, positions))
    return {"input_ids": ids.scatter(1, positions, MASK), "labels": labels, "masked_positions": positions}


def padded_batch() -> dict[str, torch.Tensor]:
    """A masked batch with padding, without `masked_positions`."""
    batch = masked_batch()
    del batch["masked_positions"]
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][1, 20:] = 0
    batch["labels"][1, 20:] = -100
    return batch


def packed_batch() -> dict[str, torch.Tensor]:
    """A masked batch with several documents in a row."""
    batch = masked_batch()
    batch["document_lengths"] = torch.tensor([[12, 25, 0], [37, 0, 0], [9, 8, 20]])
    return batch
