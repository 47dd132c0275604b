# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Warm starts: from a checkpoint of another shape or variant what fits is taken, and the rest is named."""

import re

import pytest
import torch
from transformers import AutoModel, BertConfig, LongformerConfig, MPNetConfig, RobertaConfig
from transformers.utils import logging

from evaluation_concept.errors import naming
from modeling_concept import ConceptEncoderForMaskedLM, register_auto_classes
from tests.modeling.tiny import tiny_config
from training_concept.arguments import ModelArguments
from training_concept.build import (
    adapt_to_length,
    advise_on_length,
    build_config,
    build_model,
    build_tokenizer,
    check_length,
    note_length,
)
from training_concept.finetuning.arguments import ClassifierArguments
from training_concept.tokenization import train_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    register_auto_classes()
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer(["we the people"], 300)
    torch.manual_seed(1)
    ConceptEncoderForMaskedLM(tiny_config(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokenizer


@pytest.fixture
def report(caplog):
    """What transformers logs of loading."""
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


def start(checkpoint, overrides: str | None = None, ignore: bool = False) -> ConceptEncoderForMaskedLM:
    folder, tokenizer = checkpoint
    arguments = ModelArguments(
        model_name_or_path=str(folder), config_overrides=overrides, ignore_mismatched_sizes=ignore
    )
    return build_model(arguments, build_config(arguments), tokenizer)


def test_the_same_configuration_takes_everything_silently(checkpoint, report):
    original = ConceptEncoderForMaskedLM.from_pretrained(checkpoint[0])
    model = start(checkpoint)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in original.state_dict().items())
    assert not report.text


def test_another_variant_takes_what_it_shares_and_names_the_rest(checkpoint, report):
    original = ConceptEncoderForMaskedLM.from_pretrained(checkpoint[0]).state_dict()
    model = start(checkpoint, "num_decoder_layers=3,write_back=false")
    assert len(model.decoder.concept_reads) == 3
    assert len(model.model.writes) == 0
    shared = {name for name in model.state_dict() if name in original}
    assert all(torch.equal(model.state_dict()[name], original[name]) for name in shared)
    assert re.search(r"decoder\.concept_reads\.2\.\S+ +\| MISSING", report.text)
    assert re.search(r"model\.writes\.\S+ \S+ +\| UNEXPECTED", report.text)


def test_other_shapes_start_anew_when_asked_for(checkpoint, report):
    original = ConceptEncoderForMaskedLM.from_pretrained(checkpoint[0]).state_dict()
    with pytest.raises(ValueError, match="--ignore_mismatched_sizes"):
        start(checkpoint, "intermediate_size=96")
    model = start(checkpoint, "intermediate_size=96", ignore=True)
    assert model.model.layers[0].mlp.gate_up_proj.weight.shape == (2 * 96, 32)
    name = "model.layers.0.attention.qkv_proj.weight"
    assert torch.equal(model.state_dict()[name], original[name])
    assert re.search(r"model\.layers\.\S+ \S+mlp\.gate_up_proj\.weight +\| MISMATCH", report.text)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("decoder_tokens=some", "decoder_tokens='some'"),
        ("rope_parameters.rope_type=some", "rope_type='some'"),
        ("rope_parametres.factor=4", "rope_parametres"),
        ("hidden_size.factor=4", "hidden_size.factor=4"),
        ("rope_parameters.factor", "rope_parameters: factor=None"),
        ("rope_parameters=4", "rope_parameters"),
    ],
)
def test_overrides_of_a_checkpoint_are_checked(checkpoint, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        start(checkpoint, overrides)


def test_one_key_of_a_field_is_changed(checkpoint):
    yarn = (
        "rope_parameters.rope_type=yarn,rope_parameters.factor=4,rope_parameters.original_max_position_embeddings=64"
    )
    original, model = start(checkpoint), start(checkpoint, f"num_decoder_layers=1,{yarn}")
    given = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64}
    assert original.config.rope_parameters.items() < (model.config.rope_parameters | {"rope_type": "default"}).items()
    assert model.config.rope_parameters.items() >= given.items()
    assert model.config.num_decoder_layers == 1
    # Slow rotations of heads are stretched, the fastest stay.
    slow, fast = (it.model.rotary_emb.inv_freq for it in (model, original))
    assert slow[0] == fast[0]
    assert slow[-1] < fast[-1]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"config_name": "here", "config_overrides": "a=1"}, "config_name exclude"),
        ({"preset": "nano", "ignore_mismatched_sizes": True}, "ignore_mismatched_sizes"),
    ],
)
def test_flags_that_do_not_go_together(fields, named):
    with pytest.raises(ValueError, match=named):
        ModelArguments(train_tokenizer_vocab_size=300, **fields)


@pytest.mark.parametrize(
    ("settings", "length", "known"),
    [
        ({}, 200, 200),
        ({}, 32, 64),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, 200, 64),
        ({"position_embedding": "learned", "decoder_tokens": "none"}, 200, 64),
    ],
)
def test_a_configuration_knows_the_longest_rows_of_its_training(settings, length, known):
    config = tiny_config(max_position_embeddings=64, **settings)
    note_length(config, length)
    assert config.max_position_embeddings == known


def test_who_reads_longer_texts_than_those_of_training_is_told_what_helps(report):
    config = tiny_config(max_position_embeddings=64)
    advise_on_length(config, 64)
    advise_on_length(BertConfig(), 2000)
    assert not report.text
    advise_on_length(config, 250)
    assert "rows of up to 64 tokens" in report.text
    assert "--adapt_to_length" in report.text
    report.clear()
    advise_on_length(adapt_to_length(config, 250), 250)
    assert not report.text


def test_positions_are_stretched_by_as_much_as_a_length_needs():
    config = tiny_config(max_position_embeddings=64)
    assert adapt_to_length(config, 64).to_dict() == config.to_dict()
    adapted = adapt_to_length(config, 250)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert adapted.rope_parameters == config.rope_parameters | yarn
    assert adapted.max_position_embeddings == 64
    # From one length to the next, and no further than asked for.
    assert adapt_to_length(adapted, 700).rope_parameters["factor"] == 11
    assert adapt_to_length(adapt_to_length(config, 700), 250).rope_parameters == adapted.rope_parameters
    with pytest.raises(ValueError, match="this is a bert model"):
        adapt_to_length(BertConfig(), 64)


@pytest.mark.parametrize(
    "rotations",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ],
)
def test_positions_that_training_had_stay_within_its_length(rotations):
    config = tiny_config(max_position_embeddings=64, rope_parameters=rotations)
    assert adapt_to_length(config, 64).rope_parameters == config.rope_parameters


def test_positions_that_are_stretched_otherwise_stay_so():
    config = tiny_config(max_position_embeddings=64, rope_parameters={"rope_type": "linear", "factor": 2.0})
    assert adapt_to_length(config, 640).rope_parameters == config.rope_parameters


@pytest.mark.parametrize(
    ("ratio", "most", "length", "adapted"),
    [
        (4, 16, 64, 16),
        (4, 16, 65, 17),
        (4, 16, 640, 160),
        (4, 200, 640, 200),
        (16, 16, 256, 16),
        (16, 16, 640, 40),
        # Concepts of training stood for more tokens, and for differently many.
        (2, 16, 640, 16),
    ],
)
def test_concepts_of_longer_texts_stand_for_as_many_tokens_as_in_training(ratio, most, length, adapted):
    config = tiny_config(max_position_embeddings=64, concept_ratio=ratio, max_concepts=most)
    assert adapt_to_length(config, length).max_concepts == adapted


def test_a_new_model_has_no_length_to_be_adapted_from():
    with pytest.raises(ValueError, match="--adapt_to_length goes with"):
        ClassifierArguments(preset="nano", tokenizer_name="x", adapt_to_length=True)


@pytest.mark.parametrize("kind", [RobertaConfig, LongformerConfig, MPNetConfig, BertConfig])
def test_the_longest_text_that_passes_is_the_longest_that_a_control_can_read(kind):
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = kind(**sizes, intermediate_size=8, max_position_embeddings=66, pad_token_id=1)
    if kind is LongformerConfig:
        config.attention_window = [8]
    longest = max(length for length in range(60, 70) if passes(config, length))
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        assert model(torch.full((1, longest), 5)).last_hidden_state.shape[1] == longest
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, longest + 1), 5))


def passes(config, length: int) -> bool:
    try:
        check_length(config, length)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("build", [build_config, lambda arguments: build_tokenizer(arguments, [], None)])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path, build):
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=f"There is no folder {tmp_path}/gone"):
        build(ModelArguments(model_name_or_path=f"{tmp_path}/gone"))
    with pytest.raises(OSError, match=f"{tmp_path}/empty holds no checkpoint: it has neither config.json nor"):
        build(ModelArguments(model_name_or_path=f"{tmp_path}/empty"))


def test_a_name_beside_folders_that_are_there_is_taken_for_one_of_them(tmp_path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    message = r"^There is no folder outputs/nono, nor can it be had from the Hub: no connection$"
    with pytest.raises(OSError, match=message), naming("outputs/nono"):
        raise OSError("no connection")
    with pytest.raises(OSError, match=r"^nono cannot be loaded: no connection$"), naming("nono"):
        raise OSError("no connection")


def test_what_is_wrong_with_a_checkpoint_that_is_there_stays_said(checkpoint):
    folder, _ = checkpoint
    with pytest.raises(ValueError, match=r"^a weight is missing$"), naming(str(folder)):
        raise ValueError("a weight is missing")
    with pytest.raises(OSError, match=r"^user/model cannot be loaded: no connection$"), naming("user/model"):
        raise OSError("no connection")
