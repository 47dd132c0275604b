# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Task heads on the one core: what they load, what they compute, and that padding does not matter to any."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForQuestionAnswering

from modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForMultipleChoice,
    ConceptEncoderForQuestionAnswering,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderForTextEncoding,
    ConceptEncoderForTokenClassification,
    register_auto_classes,
)
from modeling_concept.pooling import READOUTS
from tests.modeling.tiny import document, tiny_model

LENGTHS = (9, 30, 21, 4)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    texts = [document(length) for length in LENGTHS]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=0)
    return {"input_ids": ids, "attention_mask": (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()}


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("variant", ["hybrid", "thin", "perceiver_v1"])
def test_read_outs_do_not_depend_on_padding(readout, variant, batch):
    model = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, variant, readout=readout, num_labels=3)
    together = model(**batch).logits
    for row, length in enumerate(LENGTHS):
        alone = model(batch["input_ids"][row : row + 1, :length]).logits
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("readout", READOUTS)
def test_read_outs_use_all_their_parameters(readout, batch):
    model = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, readout=readout, num_labels=3).train()
    model(**batch, labels=torch.tensor([0, 2, 1, 1])).loss.backward()
    unused = {
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    # What the last stage writes to concepts is lost on tokens, and what it writes to tokens on concepts.
    expected = {"concepts": "model.writes.1", "cls_query": "model.writes.1", "tokens": "model.norm"}.get(readout)
    assert not {name for name in unused if expected is None or not name.startswith((expected, "model.interleaved"))}


@pytest.mark.parametrize("readout", READOUTS)
def test_read_outs_load_what_they_need_of_a_pretrained_model(readout, tmp_path):
    pretrained = tiny_model(ConceptEncoderForMaskedLM)
    pretrained.save_pretrained(tmp_path)
    model, info = ConceptEncoderForSequenceClassificationViaDecoder.from_pretrained(
        tmp_path, readout=readout, dtype=torch.float64, output_loading_info=True
    )
    assert all(name.startswith(("classifier.", "pooling.")) for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    weights = pretrained.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.model.state_dict(prefix="model.").items())


PACKED_PROBLEMS = {
    "regression": (2, torch.tensor([[[0.5, -1], [2, 0.1], [7, 7]], [[3, -100], [7, 7], [7, 7]]])),
    "single_label_classification": (3, torch.tensor([[0, 2, 1], [1, 1, 1]])),
    "multi_label_classification": (2, torch.tensor([[[0.0, 1], [1, 1], [7, 7]], [[-100, 1], [7, 7], [7, 7]]])),
}


@pytest.mark.parametrize("backend", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("variant", ["hybrid", "perceiver_v1"])
def test_documents_of_packed_rows_are_classified_as_if_alone(readout, variant, backend):
    model = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, variant, readout=readout, num_labels=3)
    model.set_attn_implementation(backend)
    texts = [document(length) for length in LENGTHS]
    ids = torch.stack([torch.cat([*texts[:2], texts[3]]), F.pad(texts[2], (0, 22))])
    packed = model(ids, document_lengths=torch.tensor([[9, 30, 4], [21, 0, 0]])).logits
    alone = torch.cat([model(text[None]).logits for text in texts])
    torch.testing.assert_close(packed[[0, 0, 1, 0], [0, 1, 0, 2]], alone, atol=1e-10, rtol=0)
    assert not packed[1, 1:].any()
    single = model(ids[1:], document_lengths=torch.tensor([[21]])).logits
    torch.testing.assert_close(single[:, 0], alone[2:3], atol=1e-10, rtol=0)


@pytest.mark.parametrize("problem", PACKED_PROBLEMS)
@pytest.mark.parametrize("readout", READOUTS)
def test_packed_losses_and_gradients_equal_separate_ones(readout, problem):
    num_labels, labels = PACKED_PROBLEMS[problem]
    options = {"readout": readout, "num_labels": num_labels, "problem_type": problem}
    model = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, **options)
    texts = [document(length) for length in (9, 30, 21)]
    ids = torch.stack([F.pad(torch.cat(texts[:2]), (0, 1)), F.pad(texts[2], (0, 19))])
    results = []
    for total in (
        model(ids, document_lengths=torch.tensor([[9, 30, 0], [21, 0, 0]]), labels=labels, num_items_in_batch=1).loss,
        sum(
            model(text[None], labels=labels[row, place][None], num_items_in_batch=1).loss
            for text, row, place in zip(texts, (0, 0, 1), (0, 1, 0), strict=True)
        ),
    ):
        model.zero_grad()
        total.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append({"loss": total.detach()} | gradients)
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-8)
    items = {"regression": 6, "single_label_classification": 3, "multi_label_classification": 5}[problem]
    mean = model(ids, document_lengths=torch.tensor([[9, 30, 0], [21, 0, 0]]), labels=labels).loss
    torch.testing.assert_close(mean, results[0]["loss"] / items)


def test_a_packed_classifier_compiles_and_has_finite_gradients_without_documents():
    layers = {"num_hidden_layers": 1, "num_token_layers": 1}
    head = {"readout": "cls_query", "num_labels": 3}
    model = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, **head | layers)
    batch = {"input_ids": document(30)[None].repeat(2, 1), "document_lengths": torch.tensor([[10, 20], [0, 0]])}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    labels = torch.tensor([[1, 2], [-100, -100]])
    torch.testing.assert_close(compiled(**batch, labels=labels).loss, model(**batch, labels=labels).loss)
    model(**batch, labels=labels).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_choices_are_not_packed(batch):
    model = tiny_model(ConceptEncoderForMultipleChoice)
    with pytest.raises(ValueError, match="document_lengths: each choice has a row of its own"):
        model(batch["input_ids"].view(2, 2, -1), document_lengths=torch.tensor([[9], [30], [21], [4]]))


@pytest.mark.parametrize(
    "head",
    [
        ConceptEncoderForMaskedLM,
        ConceptEncoderForMultipleChoice,
        ConceptEncoderForQuestionAnswering,
        ConceptEncoderForSequenceClassificationViaDecoder,
        ConceptEncoderForTextEncoding,
        ConceptEncoderForTokenClassification,
    ],
)
def test_heads_give_what_the_encoder_recorded(head, batch):
    model = tiny_model(head)
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    expected = model.model(**batch, **asked)
    if head is ConceptEncoderForMultipleChoice:
        batch = {name: values.view(2, 2, -1) for name, values in batch.items()}
    outputs, plain = model(**batch, **asked), model(**batch)
    for name in ("hidden_states", "attentions", "cross_attentions"):
        assert len(outputs[name]) == len(expected[name]) >= model.config.num_stages
        for ours, theirs in zip(outputs[name], expected[name], strict=True):
            torch.testing.assert_close(ours, theirs)
        assert name not in plain
    concepts = expected.last_hidden_state.shape[1]
    assert {weights.shape[1:] for weights in outputs.attentions} == {(4, concepts, concepts)}
    assert {weights.shape[1:] for weights in outputs.cross_attentions} == {(4, concepts, max(LENGTHS))}


def test_answers_are_not_read_out_of_a_classifier_of_documents(tmp_path):
    """What stock BERT says: other weights under another name, so those of the head at hand are new."""
    tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, num_labels=2).save_pretrained(tmp_path)
    model, info = ConceptEncoderForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"qa_outputs.weight", "qa_outputs.bias"}
    assert model.qa_outputs.weight.std() < 0.1
    assert not info["unexpected_keys"]
    model.save_pretrained(tmp_path)
    _, info = ConceptEncoderForSequenceClassificationViaDecoder.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("auto", [True, False])
def test_answers_saved_under_the_former_name_are_found(tmp_path, auto):
    register_auto_classes()
    model = tiny_model(ConceptEncoderForQuestionAnswering, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    former = {name.replace("qa_outputs", "classifier"): value for name, value in load_file(path).items()}
    save_file(former, path, metadata={"format": "pt"})
    loader = AutoModelForQuestionAnswering if auto else ConceptEncoderForQuestionAnswering
    for _ in range(2):  # what is saved again loads again
        loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
        loaded.save_pretrained(tmp_path)


def test_token_classification_labels_what_the_decoder_decodes(batch):
    model = tiny_model(ConceptEncoderForTokenClassification, num_labels=4)
    labels = torch.randint(0, 4, batch["input_ids"].shape).masked_fill(batch["attention_mask"] == 0, -100)
    outputs = model(**batch, labels=labels)
    assert outputs.logits.shape == (4, 30, 4)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten()))
    for row, length in enumerate(LENGTHS):
        alone = model(batch["input_ids"][row : row + 1, :length]).logits[0]
        torch.testing.assert_close(outputs.logits[row, :length], alone, atol=1e-10, rtol=0)


def test_token_classification_of_packed_rows_equals_that_of_documents():
    model, ids = tiny_model(ConceptEncoderForTokenClassification, num_labels=4), document(30)[None]
    packed = model(ids, document_lengths=torch.tensor([[10, 20]])).logits[0]
    alone = torch.cat([model(part[None]).logits[0] for part in ids[0].split([10, 20])])
    torch.testing.assert_close(packed, alone, atol=1e-10, rtol=0)


def test_question_answering_scores_starts_and_ends(batch):
    model = tiny_model(ConceptEncoderForQuestionAnswering)
    starts, ends = torch.tensor([2, 5, 0, 99]), torch.tensor([3, 8, 0, 99])  # the last answer is cut off
    outputs = model(**batch, start_positions=starts, end_positions=ends)
    rows = torch.arange(3)
    nll = -outputs.start_logits.log_softmax(-1)[rows, starts[:3]] - outputs.end_logits.log_softmax(-1)[rows, ends[:3]]
    torch.testing.assert_close(outputs.loss, nll.mean() / 2)


def test_multiple_choice_scores_every_text(batch):
    model = tiny_model(ConceptEncoderForMultipleChoice)
    choices = {name: values.view(2, 2, -1) for name, values in batch.items()}
    outputs = model(**choices, labels=torch.tensor([1, 0]))
    assert outputs.logits.shape == (2, 2)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, torch.tensor([1, 0])))
    alone = model(batch["input_ids"][2:3, :21].unsqueeze(1)).logits
    torch.testing.assert_close(outputs.logits[1, :1], alone[0], atol=1e-10, rtol=0)


CLASSIFIER = ConceptEncoderForSequenceClassificationViaDecoder
MISFITS = {
    "tokens of one row": (ConceptEncoderForTokenClassification, {}, {"labels": (120,)}),
    "positions first": (ConceptEncoderForTokenClassification, {}, {"labels": (30, 4)}),
    "classes of other rows": (CLASSIFIER, {"num_labels": 3}, {"labels": (3,)}),
    "values of one row": (CLASSIFIER, {"num_labels": 3, "problem_type": "regression"}, {"labels": (12,)}),
    "values first": (CLASSIFIER, {"num_labels": 3, "problem_type": "multi_label_classification"}, {"labels": (3, 4)}),
    "choices of other rows": (ConceptEncoderForMultipleChoice, {}, {"labels": (4,)}),
    "other starts": (ConceptEncoderForQuestionAnswering, {}, {"start_positions": (3,), "end_positions": (4,)}),
    "other ends": (ConceptEncoderForQuestionAnswering, {}, {"end_positions": (2, 2), "start_positions": (4, 1)}),
}


@pytest.mark.parametrize("case", MISFITS)
def test_labels_of_another_shape_are_refused(case, batch):
    """Also where they are as many, and would be taken for others'."""
    head, settings, shapes = MISFITS[case]
    model, name = tiny_model(head, **settings), next(iter(shapes))
    given = {key: values[None] if head is ConceptEncoderForMultipleChoice else values for key, values in batch.items()}
    labels = {key: torch.zeros(shape, dtype=torch.long) for key, shape in shapes.items()}
    with pytest.raises(ValueError, match=rf"{name} of shape .* do not fit: \("):
        model(**given, **labels)


@pytest.mark.parametrize(("variant", "free"), [("hybrid", 2), ("no_free_concepts", 0), ("learned_concepts", 0)])
def test_embeddings_are_normalised_means_of_concepts_with_a_span(batch, variant, free):
    model = tiny_model(ConceptEncoderForTextEncoding, variant)
    outputs, encoded = model(**batch), model.model(**batch)
    assert isinstance(model.model, ConceptEncoder)
    torch.testing.assert_close(outputs.embeddings.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    used = encoded.concept_mask[0].bool()
    assert torch.equal(encoded.pooled_mask[0].nonzero(), used.nonzero()[free:])
    mean = encoded.last_hidden_state[0, used][free:].mean(dim=0)
    torch.testing.assert_close(outputs.embeddings[0], F.normalize(mean, dim=0))
    lengths = outputs.concept_embeddings.norm(dim=-1)
    torch.testing.assert_close(lengths, outputs.concept_mask.to(lengths.dtype))
