# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Documents encoded in chunks: equal to the whole document, for every configuration that this is claimed of."""

import pytest
import torch

from evaluation_concept.streaming import (
    RunningRead,
    encode_in_chunks,
    encode_in_one_pass_approximately,
    open_document,
)
from modeling_concept import ConceptEncoder, ConceptEncoderForMaskedLM
from modeling_concept.attention import eager_attention_forward
from tests.modeling.tiny import LENGTH_DEPENDENT, SWITCHES, VARIANTS, document, tiny_model

REFUSED = {"slot_reads": "read_attention", "funnel": "num_funnel_stages", "bottleneck_funnel": "num_funnel_stages"}
EXACT = [name for name in VARIANTS | SWITCHES if name not in REFUSED]
# Learned positions end at 64.
LENGTH, CHUNK = 61, 16


@pytest.mark.parametrize("variant", EXACT)
def test_chunks_give_what_the_whole_document_gives(variant: str) -> None:
    model, ids = tiny_model(ConceptEncoder, variant), document(LENGTH)
    whole = model(ids[None], output_token_states=True)
    chunked = encode_in_chunks(model, ids, chunk=CHUNK, output_token_states=True)
    assert chunked.keys() == whole.keys() - {"token_index", "token_mask"}
    for name, values in chunked.items():
        torch.testing.assert_close(values, whole[name], atol=1e-10, rtol=0, check_dtype=False)


@pytest.mark.parametrize("backend", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_are_exact_at_length(backend: str, dtype: torch.dtype) -> None:
    """Many chunks, and more tokens to a concept than configured, since there is a most."""
    model = tiny_model(ConceptEncoder, dtype=dtype)
    model.set_attn_implementation(backend)
    ids = document(1003)
    whole = model(ids[None]).last_hidden_state
    chunked = encode_in_chunks(model, ids, chunk=64).last_hidden_state
    torch.testing.assert_close(chunked, whole, atol=1e-4 if dtype == torch.float32 else 1e-10, rtol=0)


@pytest.mark.parametrize("rope", LENGTH_DEPENDENT)
def test_chunks_have_the_frequencies_of_the_whole_document(rope: str) -> None:
    settings = {"max_position_embeddings": 16, "rope_parameters": LENGTH_DEPENDENT[rope]}
    ids = document(LENGTH)
    whole = tiny_model(ConceptEncoder, **settings)(ids[None]).last_hidden_state
    chunked = encode_in_chunks(tiny_model(ConceptEncoder, **settings), ids, chunk=CHUNK).last_hidden_state
    torch.testing.assert_close(chunked, whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("length", [1, 3, 16, 17])
def test_short_documents_are_exact(length: int) -> None:
    model, ids = tiny_model(ConceptEncoder), document(length)
    chunked = encode_in_chunks(model, ids, chunk=CHUNK).last_hidden_state
    torch.testing.assert_close(chunked, model(ids[None]).last_hidden_state, atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", ["hybrid", "seen_masks"])
def test_masks_types_and_ratio_are_heeded(variant: str) -> None:
    model, ids = tiny_model(ConceptEncoder, variant, max_concepts=40), document(200, masked=0.3)
    types = (torch.arange(200) > 50).long()
    whole = model(ids[None], token_type_ids=types[None], concept_ratio=7).last_hidden_state
    chunked = encode_in_chunks(model, ids, types, chunk=32, concept_ratio=7).last_hidden_state
    torch.testing.assert_close(chunked, whole, atol=1e-10, rtol=0)


def test_the_encoder_of_a_model_with_a_head_is_taken() -> None:
    model, ids = tiny_model(ConceptEncoderForMaskedLM), document(LENGTH)
    chunked = encode_in_chunks(model, ids, chunk=CHUNK).last_hidden_state
    torch.testing.assert_close(chunked, model.model(ids[None]).last_hidden_state, atol=1e-10, rtol=0)


def test_an_online_softmax_is_the_softmax() -> None:
    """Also where parts have very different sizes of logits."""
    query, key, value = (torch.randn(2, length, 4, dtype=torch.float64) for length in (3, 50, 50))
    key[:, 30:] *= 100
    running = RunningRead()
    for keys, values in zip(key.split(13, dim=1), value.split(13, dim=1), strict=True):
        running.add(query, keys, values, 0.5)
    dense, _ = eager_attention_forward(torch.nn.Identity(), query[None], key[None], value[None], None, 0.5)
    assert running.output is not None
    torch.testing.assert_close(running.output, dense[0].transpose(0, 1), atol=1e-12, rtol=0)


def test_windows_cover_the_document_once() -> None:
    """And hold the neighbours that a layer needs."""
    opened = open_document(tiny_model(ConceptEncoder), document(101), None, 16, "cpu")
    own = []
    for window, inner in opened.windows(reach=9):
        slots = list(range(*window.indices(101)))
        own += slots[inner]
        assert slots[0] <= max(slots[inner][0] - 9, 0)
        assert slots[-1] >= min(slots[inner][-1] + 9, 100)
    assert own == list(range(101))


@pytest.mark.parametrize(("variant", "field"), REFUSED.items())
def test_what_is_not_exact_is_refused(variant: str, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        encode_in_chunks(tiny_model(ConceptEncoder, variant), document(LENGTH))


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.eval"):
        encode_in_chunks(tiny_model(ConceptEncoder).train(), document(LENGTH))


def test_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="one document"):
        encode_in_chunks(tiny_model(ConceptEncoder), document(LENGTH)[None])


def test_one_pass_is_exact_for_one_chunk_and_approximate_for_more() -> None:
    model, ids = tiny_model(ConceptEncoder), document(96)
    whole = model(ids[None]).last_hidden_state
    one = encode_in_one_pass_approximately(model, ids, chunk=96).last_hidden_state
    several = encode_in_one_pass_approximately(model, ids, chunk=32).last_hidden_state
    torch.testing.assert_close(one, whole, atol=1e-10, rtol=0)
    assert several.isfinite().all()
    assert several.shape == whole.shape
    assert not torch.allclose(several, whole, atol=1e-3)


def test_one_pass_cannot_iterate() -> None:
    with pytest.raises(ValueError, match="num_iterations"):
        encode_in_one_pass_approximately(tiny_model(ConceptEncoder, "iterated"), document(LENGTH))
