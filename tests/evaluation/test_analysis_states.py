# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts to rows, rows to concepts: nothing is lost, nothing depends on the batch, and other models are refused."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from evaluation_concept.states import (
    cut_rows,
    encode_rows,
    load_masked_lm,
    mean_concepts,
    num_free_concepts,
    pad_batches,
    random_encoder,
    span_of,
)
from modeling_concept import ConceptEncoderForSequenceClassificationViaDecoder
from tests.evaluation.checkpoints import save_checkpoint, small_model, small_tokenizer, write_texts

TEXTS = ["", "One mill.", *write_texts(3)]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


def test_texts_are_cut_into_windows(tokenizer):
    rows = cut_rows(TEXTS, tokenizer, length=32)
    ends = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert {row.document for row in rows} == {1, 2, 3, 4}
    for row in rows:
        assert row.input_ids[[0, -1]].tolist() == ends
        assert row.document == 1 or 16 <= len(row.input_ids) <= 32
    words = [row.input_ids[1:-1] for row in rows if row.document == 2]
    whole = tokenizer(TEXTS[2], add_special_tokens=False, verbose=False)["input_ids"]
    found = np.concatenate(words)
    assert found.tolist() == whole[: len(found)]
    assert len(whole) - len(found) < 16


def test_rows_are_drawn_evenly(tokenizer):
    rows = cut_rows(TEXTS, tokenizer, length=32, most=3)
    assert len(rows) == 3
    assert [row.document for row in rows][::2] == [1, 4]


def test_special_tokens_in_a_text_are_characters(tokenizer):
    (row,) = cut_rows(["a [MASK] b"], tokenizer, length=32)
    assert tokenizer.mask_token_id not in row.input_ids


def test_texts_without_words_are_refused(tokenizer):
    with pytest.raises(ValueError, match="empty"):
        cut_rows(["", " \n"], tokenizer, length=32)


def test_batches_hold_rows_of_like_length_within_the_bound():
    rows = [np.arange(1, length + 1) for length in (3, 9, 5, 9, 1)]
    batches = list(pad_batches(rows, padding=0, device=torch.device("cpu"), tokens_per_batch=18))
    assert [group for group, _ in batches] == [[1, 3], [2, 0, 4]]
    for group, batch in batches:
        for index, ids, mask in zip(group, batch["input_ids"], batch["attention_mask"], strict=True):
            assert ids[mask.bool()].tolist() == rows[index].tolist()
            assert ids[~mask.bool()].sum() == 0


def test_a_row_longer_than_the_bound_goes_alone():
    batches = pad_batches([np.ones(9, int), np.ones(9, int)], 0, torch.device("cpu"), tokens_per_batch=4)
    assert [group for group, _ in batches] == [[0], [1]]


@pytest.mark.parametrize("variant", ["hybrid", "learned_concepts"])
def test_concepts_are_those_of_the_rows_alone(tokenizer, variant):
    model = small_model(tokenizer, variant)
    rows = [row.input_ids for row in cut_rows(TEXTS, tokenizer, length=40)]
    encoded = encode_rows(model, rows)
    for index, row in enumerate(rows):
        with torch.no_grad():
            alone = model.model(torch.from_numpy(row)[None]).last_hidden_state[0]
        assert torch.allclose(encoded.concepts[index][encoded.mask[index]], alone, atol=1e-4)
    assert not encoded.concepts[~encoded.mask].any()
    first = encoded.concepts[0][encoded.mask[0]].mean(dim=0)
    assert mean_concepts(encoded)[0] == pytest.approx(first.numpy(), abs=1e-6)


def test_concepts_leave_the_device_once_a_batch(tokenizer, monkeypatch):
    copies, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or cpu(tensor))
    encode_rows(small_model(tokenizer), [np.arange(5, length) for length in range(20, 40)])
    assert [shape[0] for shape in copies] == [20, 20]


def test_a_random_encoder_has_the_same_shape_and_other_weights(tokenizer):
    model = small_model(tokenizer)
    random = random_encoder(model, seed=1)
    assert random.config is model.config
    assert not torch.equal(random.model.embed_tokens.weight, model.model.embed_tokens.weight)
    again = random_encoder(model, seed=1)
    assert torch.equal(random.model.embed_tokens.weight, again.model.embed_tokens.weight)
    assert not random.training


def test_free_concepts_and_spans(tokenizer):
    assert num_free_concepts(small_model(tokenizer).config) == 2
    assert num_free_concepts(small_model(tokenizer, "learned_concepts").config) is None
    assert span_of(10, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_other_models_are_refused(tokenizer, tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **small))
    with pytest.raises(ValueError, match="BertForMaskedLM, which is no concept encoder"):
        load_masked_lm(save_checkpoint(tmp_path / "bert", bert, tokenizer))
    model = ConceptEncoderForSequenceClassificationViaDecoder(small_model(tokenizer).config)
    with pytest.raises(ValueError, match="ViaDecoder; what is needed is a ConceptEncoderForMaskedLM"):
        load_masked_lm(save_checkpoint(tmp_path / "classifier", model, tokenizer))
    loaded = load_masked_lm(save_checkpoint(tmp_path / "ours", small_model(tokenizer), tokenizer))
    assert not loaded.training
