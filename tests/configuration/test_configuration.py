# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Presets, derived widths, what survives JSON, and one clear error for every configuration no model can have."""

import json
import re

import pytest
import torch
from transformers import BertConfig

from configuration_concept import PRESETS, ConceptEncoderConfig
from configuration_concept.configuration_concept import CHOICES, FORMAT_VERSION, POSITIVE
from modeling_concept import ConceptEncoderForMaskedLM

IMPOSSIBLE = {
    "hidden_size": {"hidden_size": 65, "num_attention_heads": 8},
    "token_hidden_size": {"hidden_size": 64, "num_attention_heads": 4, "token_hidden_size": 40},
    "num_attention_heads": {"hidden_size": 72, "num_attention_heads": 8, "token_hidden_size": 72},
    "max_concepts": {"min_concepts": 8, "max_concepts": 4},
    "num_hidden_layers": {"num_hidden_layers": 5, "read_every": 2},
    "mask_token_id": {"mask_token_id": None},
    "pad_token_id": {"pad_token_id": 30522},
    "local_attention": {"local_attention": 1},
    "decoder_window": {"decoder_window": 1},
    "num_global_concepts": {"num_global_concepts": -1},
    "attention_dropout": {"attention_dropout": 1.0},
    "classifier_dropout": {"classifier_dropout": -0.1},
    "format_version": {"format_version": FORMAT_VERSION + 1},
}


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_impossible_configurations_name_the_field(field):
    with pytest.raises(ValueError, match=field):
        ConceptEncoderConfig(**IMPOSSIBLE[field])


@pytest.mark.parametrize("field", POSITIVE)
def test_sizes_are_positive(field):
    with pytest.raises(ValueError, match=field):
        ConceptEncoderConfig(**{field: -1})


@pytest.mark.parametrize("field", CHOICES)
def test_unknown_choices_list_the_known_ones(field):
    with pytest.raises(ValueError, match=re.escape(f"{field}='other' is not one of {CHOICES[field][0]!r}, ")):
        ConceptEncoderConfig(**{field: "other"})


@pytest.mark.parametrize(("version", "age"), [(FORMAT_VERSION + 1, "a newer"), (FORMAT_VERSION - 1, "an older")])
def test_a_checkpoint_of_other_code_is_refused(tmp_path, version, age):
    ConceptEncoderConfig.from_preset("nano").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version, "new_field": 1}))
    with pytest.raises(ValueError, match=f"{age} version"):
        ConceptEncoderConfig.from_pretrained(tmp_path)


def test_a_checkpoint_of_another_architecture_is_named(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of model_type='bert', not 'concept_encoder'"):
        ConceptEncoderForMaskedLM.from_pretrained(tmp_path)


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"no preset 'huge'.*nano"):
        ConceptEncoderConfig.from_preset("huge")


def test_a_mistyped_override_of_a_preset_is_refused():
    with pytest.raises(ValueError, match="no field 'concept_ration'"):
        ConceptEncoderConfig.from_preset("nano", concept_ration=8)
    taken = {"num_labels": 3, "attn_implementation": "eager", "rope_theta": 500.0, "dtype": "bfloat16"}
    config = ConceptEncoderConfig.from_preset("nano", **taken)
    assert (config.num_labels, config._attn_implementation, config.rope_parameters["rope_theta"]) == (3, "eager", 500)


@pytest.mark.parametrize(
    ("preset", "millions"), [("nano", 4.3), ("mini", 13), ("small", 48), ("base", 130), ("perceiver_v1", 45)]
)
def test_presets_have_their_size(preset, millions):
    with torch.device("meta"):
        model = ConceptEncoderForMaskedLM(ConceptEncoderConfig.from_preset(preset))
    assert model.num_parameters() == pytest.approx(millions * 1e6, rel=0.05)


@pytest.mark.parametrize(("layers", "reads"), [(1, 1), (3, 1), (2, 2), (6, 2)])
def test_tokens_are_read_twice_where_layers_can_be_halved(layers, reads):
    assert ConceptEncoderConfig(num_hidden_layers=layers).num_stages == reads
    assert ConceptEncoderConfig(num_hidden_layers=6, read_every=6).num_stages == 1
    assert ConceptEncoderConfig(num_hidden_layers=6, read_every=2).num_stages == 3


def test_widths_follow_the_size_dial():
    config = ConceptEncoderConfig(hidden_size=96, num_attention_heads=3)
    assert (config.token_hidden_size, config.embedding_size, config.head_dim) == (96, 96, 32)
    assert (config.intermediate_size, config.token_intermediate_size) == (192, 192)
    assert ConceptEncoderConfig.from_preset("small").embedding_size == 256


@pytest.mark.parametrize("preset", PRESETS)
def test_configurations_survive_json(preset, tmp_path):
    config = ConceptEncoderConfig.from_preset(preset, concept_ratio=3)
    config.save_pretrained(tmp_path)
    loaded = ConceptEncoderConfig.from_pretrained(tmp_path)
    assert {k: v for k, v in loaded.to_dict().items() if k != "transformers_version"} == {
        k: v for k, v in config.to_dict().items() if k != "transformers_version"
    }


def test_family_is_one_field():
    assert ConceptEncoderConfig().family == "hybrid"
    assert ConceptEncoderConfig(decoder_tokens="none").family == "bottleneck"


def test_the_control_has_the_shape_of_the_plan():
    config = ConceptEncoderConfig.from_preset("perceiver_v1")
    assert (config.hidden_size, config.num_hidden_layers, config.num_concepts) == (512, 6, 128)
    assert (config.concept_init, config.token_mixer, config.num_decoder_layers) == ("learned", "none", 1)
    assert (config.decoder_query, config.masked_tokens, config.max_position_embeddings) == (
        "token+position",
        "mask",
        512,
    )


@pytest.mark.parametrize(
    "field", ["token_hidden_size", "embedding_size", "intermediate_size", "token_intermediate_size"]
)
def test_a_width_of_0_is_no_default(field):
    with pytest.raises(ValueError, match=f"{field}=0 must be at least 1"):
        ConceptEncoderConfig(**{field: 0})
