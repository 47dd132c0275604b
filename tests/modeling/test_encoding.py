# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts encoded in batches of any size and form are the texts encoded one by one, in their order."""

import itertools
import logging as standard_logging
import random
from collections.abc import Sequence

import pytest
import torch
from tokenizers import processors
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import PreTrainedTokenizerFast
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import logging

from modeling_concept import ConceptEncoderForTextEncoding, encoding
from modeling_concept.encoding import Batching, TextEncoder, encode, one_ahead
from tests.modeling.tiny import tiny_model
from training_concept.tokenization import train_tokenizer

WORDS = ["red", "green", "blue", "river", "mountain", "house", "letter", "number", "seven", "night", "day", "window"]
VOCABULARY = 300
# An empty one, duplicates, one in which a special token is spelled out, lengths in no order.
LENGTHS = (7, 0, 40, 1, 90, 3, 7, 25, 12, 0, 60, 2)
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]


def make_texts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=length)) for length in lengths]
    return [*texts, texts[0], "the [MASK] of the [SEP]", "a\nnew line"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([" ".join(WORDS)] * 3, VOCABULARY, model_max_length=10**30)


def make_model(variant: str = "hybrid", **overrides: int) -> ConceptEncoderForTextEncoding:
    return tiny_model(ConceptEncoderForTextEncoding, variant, torch.float32, vocab_size=VOCABULARY, **overrides)


@torch.no_grad()
def one_by_one(model, tokenizer, texts: list[str], **options) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Embeddings, and those of concepts, without any batch."""
    outputs = [model(**tokenizer(text, return_tensors="pt", split_special_tokens=True, **options)) for text in texts]
    return torch.cat([output.embeddings for output in outputs]), [output.concept_embeddings[0] for output in outputs]


@pytest.mark.parametrize(("unpadded", "static_shapes"), LAYOUTS)
@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_batches_of_any_size_equal_one_by_one(tokenizer, backend, unpadded, static_shapes):
    model, texts = make_model(), make_texts()
    alone, concepts_alone = one_by_one(model, tokenizer, texts)
    model.set_attn_implementation(backend)
    for budget in (1, 50, 300, 10_000):
        options = {"tokens_per_batch": budget, "unpadded": unpadded, "static_shapes": static_shapes}
        encoded = encode(model, tokenizer, texts, late_interaction=True, **options)
        torch.testing.assert_close(encoded.embeddings, alone, atol=1e-5, rtol=0)
        for ours, theirs in zip(encoded.concept_embeddings, concepts_alone, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["bottleneck", "thin", "perceiver_v1", "learned_concepts", "conv", "funnel"])
def test_every_kind_of_model_encodes(tokenizer, variant):
    model, texts = make_model(variant), make_texts()
    options = {"truncation": True, "max_length": 64} if variant == "perceiver_v1" else {}
    alone, _ = one_by_one(model, tokenizer, texts, **options)
    for backend in ("sdpa", "varlen"):
        model.set_attn_implementation(backend)
        encoded = encode(model, tokenizer, texts, tokens_per_batch=200)
        torch.testing.assert_close(encoded.embeddings, alone, atol=1e-5, rtol=0)


def test_results_stand_in_the_order_of_the_texts(tokenizer):
    model, texts = make_model(), make_texts()
    order = random.Random(1).sample(range(len(texts)), len(texts))
    straight = encode(model, tokenizer, texts, tokens_per_batch=100)
    shuffled = encode(model, tokenizer, [texts[index] for index in order], tokens_per_batch=100)
    torch.testing.assert_close(shuffled.embeddings, straight.embeddings[order], atol=1e-5, rtol=0)
    assert shuffled.num_tokens.tolist() == straight.num_tokens[order].tolist()


def test_batches_keep_to_their_budget(tokenizer):
    model, texts = make_model(), make_texts()
    lengths = sorted((len(ids) for ids in tokenizer(texts, split_special_tokens=True).input_ids), reverse=True)
    for backend in ("sdpa", "varlen"):
        model.set_attn_implementation(backend)
        seen = []
        hook = model.register_forward_pre_hook(lambda _, __, kwargs, seen=seen: seen.append(kwargs), with_kwargs=True)
        encode(model, tokenizer, texts, tokens_per_batch=100)
        hook.remove()
        sizes = [kwargs["input_ids"].numel() for kwargs in seen]
        found = torch.cat([kwargs["document_lengths"].flatten() for kwargs in seen]).tolist()
        assert found == lengths
        assert [size for size in sizes if size > 100] == [length for length in lengths if length > 100]
        assert len(sizes) < len(texts)


@pytest.mark.parametrize(("unpadded", "static"), LAYOUTS)
def test_groups_hold_every_text_once_and_fit_their_shapes(unpadded, static):
    rng = torch.Generator().manual_seed(0)
    lengths = (torch.rand(500, generator=rng) ** 4 * 3000).long().tolist()
    batching = Batching(1000, unpadded, static)
    groups = list(batching.groups(lengths))
    grouped = list(itertools.chain(*groups))
    assert sorted(grouped) == [index for index, length in enumerate(lengths) if length > 0]
    assert [lengths[index] for index in grouped] == sorted(filter(None, lengths), reverse=True)
    ids = [[5 + index % 7] * length for index, length in enumerate(lengths)]
    shapes = set()
    for group in groups:
        inputs = batching.inputs([ids[index] for index in group], padding=0)
        rows, documents = inputs["input_ids"], inputs["document_lengths"]
        assert documents[documents > 0].tolist() == [lengths[index] for index in group]
        assert documents.max() <= inputs["max_document_length"] <= rows.shape[1]
        assert rows[rows > 0].tolist() == [token for index in group for token in ids[index]]
        assert static or not unpadded or (rows > 0).all()
        shapes.add((*rows.shape, *documents.shape, inputs["max_document_length"]))
    assert len(shapes) <= 8 or not static


def test_long_texts_are_cut_and_counted(tokenizer, caplog):
    model, texts = make_model(), make_texts()
    alone, _ = one_by_one(model, tokenizer, texts, truncation=True, max_length=20)
    logging.enable_propagation()
    with caplog.at_level(standard_logging.WARNING):
        encoded = encode(model, tokenizer, texts, max_length=20, tokens_per_batch=64)
    logging.disable_propagation()
    torch.testing.assert_close(encoded.embeddings, alone, atol=1e-5, rtol=0)
    full = torch.tensor([len(ids) for ids in tokenizer(texts, split_special_tokens=True).input_ids])
    assert encoded.num_tokens.tolist() == full.clamp(max=20).tolist()
    assert encoded.truncated.tolist() == (full > 20).tolist()
    assert f"Cut at 20 tokens (max_length): {int((full > 20).sum())} of the texts." in caplog.text


def test_the_tokenizer_and_learned_positions_limit_the_length(tokenizer):
    short = train_tokenizer([" ".join(WORDS)] * 3, VOCABULARY, model_max_length=33)
    texts = make_texts()
    assert encode(make_model(), short, texts).num_tokens.max() == 33
    assert encode(make_model("perceiver_v1"), tokenizer, texts).num_tokens.max() == 64
    assert encode(make_model("perceiver_v1"), short, texts).num_tokens.max() == 33


@pytest.mark.parametrize("positions", [20, 48])
def test_static_shapes_end_where_learned_positions_do(tokenizer, positions):
    model, texts = make_model("perceiver_v1", max_position_embeddings=positions), make_texts()
    expected = encode(model, tokenizer, texts).embeddings
    torch.testing.assert_close(
        encode(model, tokenizer, texts, static_shapes=True).embeddings, expected, atol=1e-5, rtol=0
    )


def test_texts_without_tokens_are_zeros():
    bare = train_tokenizer([" ".join(WORDS)] * 3, VOCABULARY)
    bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    encoded = encode(make_model(), bare, ["", "red", ""], late_interaction=True)
    assert encoded.num_tokens.tolist() == [0, 1, 0]
    assert encoded.embeddings.norm(dim=1).tolist() == pytest.approx([0, 1, 0])
    assert [len(concepts) > 0 for concepts in encoded.concept_embeddings] == [False, True, False]


def test_no_texts_give_nothing(tokenizer):
    encoded = encode(make_model(), tokenizer, iter([]), late_interaction=True)
    assert encoded.embeddings.shape == (0, 32)
    assert encoded.concept_embeddings == []
    assert encoded.num_tokens.dtype == torch.int64


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one text", {}, "a single string"),
        (["red", None], {}, "Text 1 is None, not a string"),
        (["red", "a\ud800b"], {}, "Text 1 is no text in Unicode"),
        (["red"], {"tokens_per_batch": 0}, "tokens_per_batch=0"),
        (["red"], {"workers": 0}, "workers=0"),
        (["red"], {"max_length": 2}, "max_length=2 leaves no room"),
    ],
)
def test_bad_input_is_refused(tokenizer, texts, options, message):
    with pytest.raises(ValueError, match=message):
        encode(make_model(), tokenizer, texts, **options)


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    model = tiny_model(ConceptEncoderForTextEncoding, dtype=torch.float32, vocab_size=99)
    with pytest.raises(ValueError, match=r"gives token \d+, but the model has a vocabulary of 99"):
        encode(model, tokenizer, make_texts())
    assert not model.training


def test_texts_are_read_as_they_are_needed(tokenizer, monkeypatch):
    """Only the part at hand and those that are tokenised ahead are in memory."""
    monkeypatch.setattr(encoding, "BATCHES_PER_PART", 1)
    model, texts, read = make_model(), make_texts(LENGTHS * 5), []

    def lazily():
        for text in texts:
            read.append(text)
            yield text

    parts, lags = [], []
    for part in TextEncoder(model, tokenizer, tokens_per_batch=50).stream(lazily()):
        parts.append(part)
        lags.append(len(read) - sum(len(done.embeddings) for done in parts))
    assert len(parts) > 8
    assert max(lags) < len(texts) / 2
    together = encode(model, tokenizer, texts, tokens_per_batch=50)
    alone, _ = one_by_one(model, tokenizer, texts)
    torch.testing.assert_close(torch.cat([part.embeddings for part in parts]), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.embeddings, alone, atol=1e-5, rtol=0)


def test_an_error_in_the_source_of_texts_gets_through_and_the_model_is_as_before(tokenizer):
    def failing():
        yield "red"
        raise OSError("no such disk")

    model = make_model().train()
    with pytest.raises(OSError, match="no such disk"):
        encode(model, tokenizer, failing())
    assert model.training


def test_dropout_is_off_and_the_mode_is_kept(tokenizer):
    texts, options = make_texts(), {"vocab_size": VOCABULARY, "hidden_dropout": 0.5}
    model = tiny_model(ConceptEncoderForTextEncoding, dtype=torch.float32, **options)
    expected = encode(model, tokenizer, texts).embeddings
    assert torch.equal(encode(model.train(), tokenizer, texts).embeddings, expected)
    assert model.training


def test_embeddings_can_be_trained_on(tokenizer):
    encoded = encode(make_model(), tokenizer, make_texts(), late_interaction=True)
    weights = torch.ones(32, requires_grad=True)
    loss = (encoded.embeddings * weights).square().sum() + (encoded.concept_embeddings[0] * weights).square().sum()
    loss.backward()
    assert weights.grad.abs().sum() > 0


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_half_precision_is_close_and_comes_back_as_float32(tokenizer, weights):
    texts = make_texts()
    exact = encode(make_model(), tokenizer, texts).embeddings
    # Not drawn in bfloat16, which gives other numbers before PyTorch 2.12.
    encoded = encode(make_model().to(weights), tokenizer, texts, bf16=True, late_interaction=True)
    assert encoded.embeddings.dtype == encoded.concept_embeddings[0].dtype == torch.float32
    assert not torch.equal(encoded.embeddings, exact)
    assert torch.cosine_similarity(encoded.embeddings, exact).min() > 0.99


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_model_is_compiled_once_per_shape(tokenizer, in_place):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    lengths = [length for length in LENGTHS if length <= 40]  # for fewer shapes, and each is compiled
    model = make_model(num_hidden_layers=1, num_token_layers=1)
    texts = make_texts(lengths * 4)
    expected, _ = one_by_one(model, tokenizer, texts)
    compiled = model
    if in_place:
        model.compile(backend=counter, fullgraph=True, dynamic=False)
    else:
        compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    encoded = encode(compiled, tokenizer, texts, tokens_per_batch=128)
    torch.testing.assert_close(encoded.embeddings, expected, atol=1e-5, rtol=0)
    assert 1 < counter.frame_count <= 3
    compiled_before = counter.frame_count
    encode(compiled, tokenizer, make_texts(lengths * 7, seed=1), tokens_per_batch=128)
    assert counter.frame_count == compiled_before
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_batches_encoded_at_the_same_time_equal_those_one_after_another(tokenizer, backend):
    model, texts = make_model(), make_texts(LENGTHS * 3)
    model.set_attn_implementation(backend)
    threads = torch.get_num_threads()
    for budget in (50, 200, 10_000):
        options = {"tokens_per_batch": budget, "late_interaction": True}
        together = encode(model, tokenizer, texts, workers=3, **options)
        torch.testing.assert_close(together, encode(model, tokenizer, texts, workers=1, **options), atol=1e-6, rtol=0)
    assert torch.get_num_threads() == threads


def test_progress_counts_texts(tokenizer, capsys, monkeypatch):
    monkeypatch.setattr(logging, "_tqdm_active", True)
    texts = make_texts()
    encode(make_model(), tokenizer, texts, tokens_per_batch=50)
    assert capsys.readouterr().err == ""
    encode(make_model(), tokenizer, texts, tokens_per_batch=50, show_progress=True)
    assert f"{len(texts)}/{len(texts)}" in capsys.readouterr().err


def test_one_ahead_makes_the_next_item_first():
    made = []
    items = (made.append(number) or number for number in range(3))
    assert [(item, list(made)) for item in one_ahead(items)] == [(0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2])]
    assert list(one_ahead([])) == []


def test_a_checkpoint_brings_encode_along(tokenizer, tmp_path):
    model, texts = make_model(), make_texts()
    model.save_pretrained(tmp_path)
    loaded_class = get_class_from_dynamic_module(model.config.auto_map["AutoModelForTextEncoding"], str(tmp_path))
    assert loaded_class.encode.__module__.startswith("transformers_modules.")
    loaded = loaded_class.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(texts, tokenizer).embeddings, model.encode(texts, tokenizer).embeddings)
