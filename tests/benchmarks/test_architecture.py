# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of switches names every choice there is, and the counting toy asks what it says it asks."""

import torch

from benchmarks.architecture import PRESET, SWITCHES
from benchmarks.counting import FURTHEST, KINDS, NOISE, CountingModel, counting_batch
from configuration_concept import ConceptEncoderConfig
from configuration_concept.configuration_concept import CHOICES

# What a document is classified by and scored for costs nothing in a masked language model; activations cost the same.
NOT_OF_THE_MODEL = {"readout", "problem_type", "hidden_activation"}


def test_every_choice_is_in_the_table():
    choices = {(name, value) for name, values in CHOICES.items() if name not in NOT_OF_THE_MODEL for value in values}
    assert choices <= {(switch.field, switch.value) for switch in SWITCHES}


def test_switches_differ_from_the_preset_or_name_its_value():
    preset = ConceptEncoderConfig.from_preset(PRESET)
    for switch in SWITCHES:
        config = ConceptEncoderConfig.from_preset(PRESET, **switch.overrides)
        assert getattr(config, switch.field) == switch.value
        assert (config.to_dict() == preset.to_dict()) == (getattr(preset, switch.field) == switch.value)


def test_answers_are_the_wanted_signs():
    tokens, answers = counting_batch(50, 20, torch.Generator().manual_seed(0))
    for row, answer in zip(tokens.tolist(), answers.tolist(), strict=True):
        *stretch, query = row
        signs = [token for token in stretch if token < KINDS]
        assert signs[-1 - (query - KINDS - NOISE)] == answer
    assert set(tokens[:, -1].tolist()) == {KINDS + NOISE + k for k in range(FURTHEST)}


def test_both_models_see_the_query():
    for contextual in (True, False):
        model = CountingModel(contextual)
        tokens, _ = counting_batch(2, 10, torch.Generator().manual_seed(0))
        other = tokens.clone()
        other[:, -1] = KINDS + NOISE + (tokens[:, -1] - KINDS - NOISE + 1) % FURTHEST
        assert model(tokens).shape == (2, KINDS)
        assert not torch.allclose(model(tokens), model(other))
