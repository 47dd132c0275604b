# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Task heads on the one core: what they load, what they compute, and that padding does not matter to any."""

import pytest
import torch
from torch.nn import functional as F

from modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForMultipleChoice,
    ConceptEncoderForQuestionAnswering,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderForTextEncoding,
    ConceptEncoderForTokenClassification,
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


def test_document_lengths_are_refused_by_one_vector_heads(batch):
    model = tiny_model(ConceptEncoderForSequenceClassificationViaDecoder)
    with pytest.raises(ValueError, match="document_lengths"):
        model(batch["input_ids"], document_lengths=torch.tensor([[9], [30], [21], [4]]))


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


def test_embeddings_are_normalised_means_of_concepts(batch):
    model = tiny_model(ConceptEncoderForTextEncoding)
    outputs, encoded = model(**batch), model.model(**batch)
    assert isinstance(model.model, ConceptEncoder)
    torch.testing.assert_close(outputs.embeddings.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    used = encoded.concept_mask[0].bool()
    mean = encoded.last_hidden_state[0, used].mean(dim=0)
    torch.testing.assert_close(outputs.embeddings[0], F.normalize(mean, dim=0))
    lengths = outputs.concept_embeddings.norm(dim=-1)
    torch.testing.assert_close(lengths, outputs.concept_mask.to(lengths.dtype))
