# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A saved checkpoint in sentence-transformers gives the embeddings of `model.encode`, also after it saved one."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from configuration_concept import export_code
from modeling_concept import ConceptEncoderForTextEncoding
from modeling_concept.sentence_embedding import ConceptSentenceEmbedding
from tests.hub.samples import Samples

sentence_transformers = pytest.importorskip("sentence_transformers")

# Spelled-out special tokens, nothing at all, and texts of several lengths, some of them cut.
TEXTS = ["The river keeps its name.", "", "A [MASK] [PAD] line.", "And another one, longer than it. " * 30, "It"]


def load(folder: Path, **options) -> "sentence_transformers.SentenceTransformer":
    return sentence_transformers.SentenceTransformer(
        str(folder), trust_remote_code=True, device="cpu", local_files_only=True, **options
    )


def embed(samples: Samples, folder: Path, **options):
    model = ConceptEncoderForTextEncoding.from_pretrained(folder, dtype=torch.float32)
    return model.encode(TEXTS, samples.tokenizer, **options)


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_embeddings_are_those_of_the_model(samples, saved, batch_size):
    model = load(saved / "mlm")
    assert type(model[0]).__module__.startswith("transformers_modules.")
    found = model.encode(TEXTS, batch_size=batch_size, convert_to_tensor=True)
    expected = embed(samples, saved / "mlm").embeddings
    assert_equal(found, expected)
    assert_equal(found.norm(dim=1), torch.ones(len(TEXTS)))
    assert model.similarity_fn_name == "cosine"
    assert_equal(model.similarity(found, found), expected @ expected.T)
    assert_equal(model.encode(TEXTS[0], convert_to_tensor=True), expected[0])
    assert model[0].get_embedding_dimension() == found.shape[1]


def test_longer_texts_are_cut_and_prompts_put_before(samples, saved):
    model = load(saved / "mlm", prompts={"question": "query: "})
    assert model.max_seq_length == samples.tokenizer.model_max_length
    model.max_seq_length = 9
    found = model.encode(TEXTS, convert_to_tensor=True)
    assert_equal(found, embed(samples, saved / "mlm", max_length=9).embeddings)
    prompted = model.encode(["river"], prompt_name="question", convert_to_tensor=True)
    assert_equal(prompted, model.encode(["query: river"], convert_to_tensor=True))


def test_concepts_are_there_for_late_interaction(samples, saved):
    if not hasattr(sentence_transformers, "MultiVectorEncoder"):
        pytest.skip("needs sentence-transformers 6")
    model = sentence_transformers.MultiVectorEncoder(modules=[load(saved / "mlm")[0]], device="cpu")
    expected = embed(samples, saved / "mlm", late_interaction=True).concept_embeddings
    for found, concepts in zip(model.encode(TEXTS), expected, strict=True):
        assert_equal(found, concepts)


def test_what_it_saves_loads_again(samples, saved, tmp_path):
    model = load(saved / "mlm", prompts={"question": "query: "})
    model.max_seq_length = 9
    model.save_pretrained(str(tmp_path / "again"))
    again = load(tmp_path / "again")
    assert again.max_seq_length == 9
    assert again.prompts["question"] == "query: "
    assert_equal(again.encode(TEXTS, convert_to_tensor=True), embed(samples, saved / "mlm", max_length=9).embeddings)


def test_its_losses_train_the_model(saved):
    model = load(saved / "mlm")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")  # from 5.4 on
    loss = losses.MultipleNegativesRankingLoss(model)
    columns = [model[0].preprocess(texts) for texts in (TEXTS[:2], TEXTS[2:4])]
    loss(columns, labels=None).backward()
    assert model[0].model.model.embed_tokens.weight.grad.abs().sum() > 0


def test_prompts_that_a_user_set_survive_another_save(tmp_path):
    export_code(tmp_path)
    path = tmp_path / "config_sentence_transformers.json"
    settings = json.loads(path.read_text()) | {"prompts": {"question": "query: "}}
    path.write_text(json.dumps(settings))
    export_code(tmp_path)
    assert json.loads(path.read_text()) == settings


def test_learned_positions_are_the_longest_text(samples):
    model = ConceptEncoderForTextEncoding(
        type(samples.mlm.config)(
            position_embedding="learned", max_position_embeddings=16, hidden_size=32, vocab_size=300
        )
    )
    assert ConceptSentenceEmbedding(model, deepcopy(samples.tokenizer)).max_seq_length == 16


def test_other_backends_are_refused(saved):
    with pytest.raises(ValueError, match="backend='onnx'"):
        load(saved / "mlm", backend="onnx")
