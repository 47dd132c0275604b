# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A sound checkpoint passes, and each sickness that is planted is found by the check that is made for it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from evaluation_concept.health import NOTED, SICK, WELL, Finding, Patient, check_health, examine, is_well
from modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderForTextEncoding,
    ConceptEncoderForTokenClassification,
)
from tests.evaluation.checkpoints import save_checkpoint, small_model, small_tokenizer
from training_concept.tokenization import train_tokenizer

WEIGHTS = "model.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return small_tokenizer()


@pytest.fixture(scope="module")
def sound(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    save_checkpoint(folder, small_model(tokenizer), tokenizer)
    return folder


@pytest.fixture
def checkpoint(sound, tmp_path) -> Path:
    """A copy of the sound checkpoint to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


def spoil(folder: Path, change) -> None:
    """Let `change` work on the tensors of the checkpoint."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def diagnose(folder: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_health(str(folder))}


def sick(findings: dict[str, Finding]) -> list[str]:
    assert is_well(list(findings.values())) == all(it.status != SICK for it in findings.values())
    return [name for name, finding in findings.items() if finding.status == SICK]


def examined(model, tokenizer) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(Patient(model, tokenizer))}


def replace_concepts(model, change) -> None:
    """Let the encoder give other concepts."""

    def hook(module, inputs, outputs):
        return type(outputs)(**(dict(outputs) | {"last_hidden_state": change(outputs.last_hidden_state)}))

    model.model.register_forward_hook(hook)


def test_a_sound_checkpoint_is_well(sound):
    findings = diagnose(sound)
    assert {finding.status for finding in findings.values()} == {WELL}
    assert len(findings) == 9


@pytest.mark.parametrize(
    "variant",
    ["bottleneck", "thin", "learned_concepts", "perceiver_v1", "funnel", "seen_masks", "no_free_concepts"],
)
def test_sound_models_of_other_kinds_are_well(tokenizer, variant):
    assert sick(examined(small_model(tokenizer, variant), tokenizer)) == []


def test_weights_that_are_not_finite(checkpoint):
    def change(tensors):
        tensors[EMBEDDING][7, 3] = float("nan")

    spoil(checkpoint, change)
    findings = diagnose(checkpoint)
    assert sick(findings) == ["weights finite"]
    assert EMBEDDING in findings["weights finite"].detail
    # What computes would only repeat it.
    assert "states" not in findings


def test_weights_that_have_exploded(checkpoint):
    def change(tensors):
        tensors[EMBEDDING][7] *= 1e6

    spoil(checkpoint, change)
    assert "weights bounded" in sick(diagnose(checkpoint))


def test_states_that_explode(tokenizer):
    model = small_model(tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(900)
    findings = examined(model, tokenizer)
    assert sick(findings) == ["states"]
    assert "dead concepts" not in findings


def test_states_that_are_not_finite(tokenizer):
    model = small_model(tokenizer)
    replace_concepts(model, torch.log)
    findings = examined(model, tokenizer)
    assert sick(findings) == ["states"]
    assert "concepts" in findings["states"].detail


def test_weights_that_are_missing(checkpoint):
    spoil(checkpoint, lambda tensors: tensors.pop(EMBEDDING))
    findings = diagnose(checkpoint)
    assert "weights complete" in sick(findings)
    assert EMBEDDING in findings["weights complete"].detail


def test_weights_of_another_shape(checkpoint):
    def change(tensors):
        name = next(name for name in tensors if name.startswith("head.") and tensors[name].dim() == 2)
        tensors[name] = tensors[name][:-1].clone()

    spoil(checkpoint, change)
    assert "weights complete" in sick(diagnose(checkpoint))


def test_weights_that_no_one_uses_are_noted(checkpoint):
    spoil(checkpoint, lambda tensors: tensors.update(stray=torch.zeros(3)))
    findings = diagnose(checkpoint)
    assert sick(findings) == []
    assert (findings["weights complete"].status, findings["weights complete"].detail) == (
        NOTED,
        "not used by this model: stray",
    )


def test_a_file_of_weights_that_was_cut(checkpoint):
    content = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(content[: len(content) // 2])
    assert sick(diagnose(checkpoint)) == ["weights load"]


def test_weights_that_ought_to_be_tied(checkpoint):
    spoil(checkpoint, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] + 1}))
    assert "tied weights" in sick(diagnose(checkpoint))


def test_weights_that_need_not_be_tied(tokenizer):
    findings = examined(small_model(tokenizer, tie_word_embeddings=False), tokenizer)
    assert findings["tied weights"] == Finding("tied weights", WELL, "not tied, as configured")


def test_a_tokenizer_with_more_tokens(checkpoint, tokenizer):
    larger = train_tokenizer(["Another text, with words and marks of all kinds."] * 3, len(tokenizer) + 10)
    larger.add_tokens([f"more{number}" for number in range(len(tokenizer))])
    larger.save_pretrained(checkpoint)
    findings = diagnose(checkpoint)
    assert "tokenizer" in sick(findings)
    assert f"the model {len(tokenizer):,}" in findings["tokenizer"].detail


def test_a_tokenizer_with_another_mask_token(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["mask_token_id"] += 20
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    findings = diagnose(checkpoint)
    assert sick(findings) == ["tokenizer"]
    assert "mask_token_id" in findings["tokenizer"].detail


def test_concepts_that_are_dead(tokenizer):
    model = small_model(tokenizer)
    replace_concepts(model, lambda concepts: torch.cat([concepts[:, :6], 0 * concepts[:, 6:] + 1], dim=1))
    findings = examined(model, tokenizer)
    assert "dead concepts" in sick(findings)
    assert findings["dead concepts"].detail.startswith("8 of 14")


def test_concepts_that_are_copies(tokenizer):
    model = small_model(tokenizer)
    replace_concepts(model, lambda concepts: concepts[:, :1].expand_as(concepts))
    assert "duplicate concepts" in sick(examined(model, tokenizer))


def test_a_single_copy_is_noted(tokenizer):
    model = small_model(tokenizer)
    replace_concepts(model, lambda concepts: torch.cat([concepts[:, :1], concepts[:, :1], concepts[:, 2:]], dim=1))
    findings = examined(model, tokenizer)
    assert findings["duplicate concepts"].status == NOTED
    assert sick(findings) == []


def test_padding_that_is_read(tokenizer):
    model = small_model(tokenizer)
    forward = model.model.forward
    model.model.forward = lambda ids, attention_mask=None, *rest, **options: forward(ids, None, *rest, **options)
    assert sick(examined(model, tokenizer)) == ["padding"]


def test_padding_that_shifts_the_scores(tokenizer):
    model = small_model(tokenizer)
    replace_concepts(model, lambda concepts: concepts + 0.1 * concepts.shape[1])
    assert "padding" in sick(examined(model, tokenizer))


def test_padding_that_makes_scores_nan(tokenizer):
    model = small_model(tokenizer)
    forward = model.forward

    def spoilt(ids, attention_mask=None):
        outputs = forward(ids, attention_mask=attention_mask)
        outputs.logits = outputs.logits if attention_mask is None else outputs.logits * torch.nan
        return outputs

    model.forward = spoilt
    assert sick(examined(model, tokenizer)) == ["padding"]


def test_what_is_no_such_checkpoint_is_named(checkpoint, tokenizer, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        check_health(str(tmp_path / "nowhere"))
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = save_checkpoint(
        tmp_path / "bert", BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **small)), tokenizer
    )
    with pytest.raises(ValueError, match="no concept encoder"):
        check_health(bert)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps(config | {"architectures": ["ConceptEncoderForPoetry"]}))
    with pytest.raises(ValueError, match="holds a ConceptEncoderForPoetry; what can be examined are"):
        check_health(str(checkpoint))


def with_head(kind: type, tokenizer) -> torch.nn.Module:
    """A model of that kind with the encoder of `small_model`."""
    source = small_model(tokenizer)
    model = kind(source.config).eval()
    model.base_model.load_state_dict(source.model.state_dict())
    return model


HEADS = [
    ConceptEncoder,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderForTextEncoding,
    ConceptEncoderForTokenClassification,
]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_checkpoints_with_other_heads_are_examined(tokenizer, tmp_path, kind, trust_remote_code):
    folder = save_checkpoint(tmp_path / "headed", with_head(kind, tokenizer), tokenizer)
    findings = {finding.check: finding for finding in check_health(folder, trust_remote_code=trust_remote_code)}
    assert {finding.status for finding in findings.values()} == {WELL}
    assert len(findings) == 8
    assert "tied weights" not in findings


def test_a_classifier_with_damaged_weights_is_sick(tokenizer, tmp_path):
    model = with_head(ConceptEncoderForSequenceClassificationViaDecoder, tokenizer)
    folder = Path(save_checkpoint(tmp_path / "classifier", model, tokenizer))

    def change(tensors):
        tensors["classifier.weight"][0, 3] = float("nan")

    spoil(folder, change)
    findings = diagnose(folder)
    assert sick(findings) == ["weights finite"]
    assert "classifier.weight" in findings["weights finite"].detail
    spoil(folder, lambda tensors: tensors.pop("classifier.weight"))
    assert "classifier.weight" in diagnose(folder)["weights complete"].detail


def test_a_classifier_is_examined_as_a_masked_lm_is(tokenizer, tmp_path):
    """Another tokenizer, concepts that are copies, and padding that is read."""
    model = with_head(ConceptEncoderForSequenceClassificationViaDecoder, tokenizer)
    folder = Path(save_checkpoint(tmp_path / "classifier", model, tokenizer))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"mask_token_id": config["mask_token_id"] + 20}))
    assert sick(diagnose(folder)) == ["tokenizer"]
    forward = model.model.forward
    model.model.forward = lambda ids, attention_mask=None, *rest, **options: forward(ids, None, *rest, **options)
    assert sick(examined(model, tokenizer)) == ["padding"]
    replace_concepts(model, lambda concepts: concepts[:, :1].expand_as(concepts))
    assert "duplicate concepts" in sick(examined(model, tokenizer))
