# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Classification through the pretrained decoder: what is loaded, what is pooled, and every kind of loss."""

import pytest
import torch
from torch.nn import functional as F

from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder
from tests.modeling.tiny import VARIANTS, document, tiny_model

PROBLEMS = {
    "regression": (1, torch.tensor([0.5, -1.0, 2.0, 0.1])),
    "single_label_classification": (3, torch.tensor([0, 2, 1, 1])),
    "multi_label_classification": (3, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])),
}


def classifier(variant="hybrid", **overrides):
    return tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, variant, **overrides)


def batch(rows: int = 4, length: int = 20) -> torch.Tensor:
    return torch.stack([document(length, seed=row) for row in range(rows)])


@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_all_pretrained_weights_are_loaded(variant, tmp_path):
    pretrained = tiny_model(ConceptEncoderForMaskedLM, variant)
    pretrained.save_pretrained(tmp_path)
    model, info = ConceptEncoderForSequenceClassificationViaDecoder.from_pretrained(
        tmp_path, num_labels=3, dtype=torch.float64, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    weights = pretrained.state_dict()
    for name, value in model.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(value, weights[name]), name
    assert any(name.startswith("decoder.concept_reads.0.mlp") for name in model.state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_classifies_what_the_decoder_decodes(variant):
    """Logits = classifier(mean of the states that the masked-LM head would turn to words)."""
    residual = {"decoder_token_residual": False}
    model = classifier(variant, num_labels=3, **residual)
    decoder = tiny_model(ConceptEncoderForMaskedLM, variant, **residual)
    decoder.load_state_dict(model.state_dict(), strict=False)
    states = []
    decoder.head.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    decoder(batch())
    torch.testing.assert_close(model(batch()).logits, model.classifier(states[0].mean(dim=1)), atol=1e-10, rtol=0)


def test_the_bag_of_words_bypass_is_a_switch():
    """With the token residual the classifier reads words even where the concepts are made of nothing."""
    off, on = (classifier("perceiver_v1", classifier_token_residual=value) for value in (False, True))
    on.load_state_dict(off.state_dict())
    for model in (off, on):
        for name, parameter in model.named_parameters():
            if "o_proj" in name:
                torch.nn.init.zeros_(parameter)
    ids = batch()
    assert torch.allclose(off(ids[:1]).logits, off(ids[1:2]).logits)
    assert not torch.allclose(on(ids[:1]).logits, on(ids[1:2]).logits)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_losses_equal_those_of_torch(problem, named):
    num_labels, labels = PROBLEMS[problem]
    model = classifier(num_labels=num_labels, problem_type=problem if named else None)
    outputs = model(batch(), labels=labels)
    expected = {
        "regression": lambda logits: F.mse_loss(logits.squeeze(), labels.double()),
        "single_label_classification": lambda logits: F.cross_entropy(logits, labels),
        "multi_label_classification": lambda logits: F.binary_cross_entropy_with_logits(logits, labels.double()),
    }[problem](outputs.logits)
    torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_micro_batches_add_up_to_the_loss_of_the_batch(problem):
    """Regression too, whose stock loss ignores `num_items_in_batch`."""
    num_labels, labels = PROBLEMS[problem]
    model, ids = classifier(num_labels=num_labels, problem_type=problem), batch()
    whole = model(ids, labels=labels).loss
    items = (labels != -100).sum()
    parts = [model(ids[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=items).loss for i in range(4)]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant):
    model, ids = classifier(variant, num_labels=3), batch()
    model(ids, token_type_ids=ids % 2, labels=torch.tensor([0, 2, 1, 1])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_segments_of_a_pair_are_told_apart():
    model, ids = classifier(), batch()
    types = torch.zeros_like(ids)
    assert torch.equal(model(ids).logits, model(ids, token_type_ids=types).logits)
    types[:, 10:] = 1
    assert not torch.allclose(model(ids).logits, model(ids, token_type_ids=types).logits)
