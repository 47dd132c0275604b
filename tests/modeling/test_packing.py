# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Documents packed in rows give the same numbers as documents alone: concepts, logits, loss and gradients."""

import pytest
import torch
from torch.nn import functional as F

from modeling_concept import ConceptEncoder, ConceptEncoderForMaskedLM
from tests.modeling.tiny import MASK, VARIANTS, document, tiny_config, tiny_model

# Three rows of at most 50 tokens: filled, padded, one document alone; a document of every awkward length.
ROWS = ((21, 1, 9, 2, 17), (3, 30, 8), (37,))
TOTAL = 50


def documents(masked: float = 0.3) -> list[list[torch.Tensor]]:
    """A document's first token is never masked, so that the encoder sees something of each."""
    rows = [[document(length, seed, masked) for seed, length in enumerate(lengths)] for lengths in ROWS]
    for tokens in (tokens for row in rows for tokens in row):
        tokens[0] = 11
    return rows


def pack(rows: list[list[torch.Tensor]], fill: int = 0, total: int = TOTAL) -> dict[str, torch.Tensor]:
    ids = torch.full((len(rows), total), fill)
    lengths = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for index, row in enumerate(rows):
        joined = torch.cat(row)
        ids[index, : len(joined)] = joined
        lengths[index, : len(row)] = torch.tensor([len(tokens) for tokens in row])
    return {"input_ids": ids, "document_lengths": lengths}


def split(values: torch.Tensor, rows: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """What belongs to each document of `[rows, total, ...]`."""
    return [
        part
        for index, row in enumerate(rows)
        for part in values[index].split([*map(len, row), values.shape[1] - sum(map(len, row))])[: len(row)]
    ]


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backend", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_logits_equal_separate_ones(variant, dtype, tolerance, backend):
    model, rows = tiny_model(ConceptEncoderForMaskedLM, variant, dtype), documents()
    model.set_attn_implementation(backend)
    alone = [model(tokens[None]).logits[0] for row in rows for tokens in row]
    for fill in (0, 17):
        packed = split(model(**pack(rows, fill)).logits, rows)
        for ours, theirs in zip(packed, alone, strict=True):
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_concepts_equal_separate_ones(variant):
    model, rows = tiny_model(ConceptEncoder, variant), documents()
    packed = model(**pack(rows))
    for index, row in enumerate(rows):
        for number, tokens in enumerate(row):
            alone = model(tokens[None])
            mine = (packed.concept_documents[index] == number) & packed.concept_mask[index].bool()
            torch.testing.assert_close(packed.last_hidden_state[index, mine], alone.last_hidden_state[0])
            assert torch.equal(packed.pooled_mask[index, mine], alone.pooled_mask[0])
            if alone.concept_positions is not None:
                torch.testing.assert_close(packed.concept_positions[index, mine], alone.concept_positions[0])
    assert not packed.last_hidden_state[~packed.concept_mask.bool()].any()


@pytest.mark.parametrize("given", ["labels", "masked_positions"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_loss_and_gradients_equal_separate_ones(variant, given):
    model, rows = tiny_model(ConceptEncoderForMaskedLM, variant), documents()
    batch = pack(rows)
    masked = batch["input_ids"] == MASK
    batch["labels"] = torch.full_like(batch["input_ids"], -100).masked_fill(masked, 7)
    batch["labels"][0, :5] = 8  # tokens that stay visible are scored too
    labels = split(batch["labels"], rows)
    if given == "masked_positions":
        batch["labels"][0, :5] = -100
        labels = split(batch["labels"], rows)
        where = [row.nonzero().flatten() for row in masked]
        batch["masked_positions"] = torch.nn.utils.rnn.pad_sequence(where, batch_first=True, padding_value=-1)
        room = TOTAL - batch["masked_positions"].shape[1] - int((TOTAL - masked.sum(1)).max())
        batch["input_ids"] = F.pad(batch["input_ids"], (0, max(-room, 0)))
        batch["labels"] = F.pad(batch["labels"], (0, max(-room, 0)), value=-100)
    together = model(**batch).loss
    flat = [tokens for row in rows for tokens in row]
    logits = torch.cat([model(tokens[None]).logits[0] for tokens in flat])
    separate = F.cross_entropy(logits, torch.cat(labels))
    torch.testing.assert_close(together, separate, atol=1e-10, rtol=0)
    torch.testing.assert_close(gradients(model, together), gradients(model, separate), atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("variant", ["hybrid", "bottleneck", "perceiver_v1"])
def test_one_document_a_row_equals_an_attention_mask(variant):
    model = tiny_model(ConceptEncoderForMaskedLM, variant)
    rows = [[document(length, masked=0.3)] for length in (37, 12, 1)]
    batch = pack(rows)
    mask = torch.arange(TOTAL) < batch["document_lengths"]
    one = model(batch["input_ids"], attention_mask=mask.long()).logits
    torch.testing.assert_close(model(**batch).logits[mask], one[mask], atol=1e-10, rtol=0)


def test_nothing_passes_from_one_document_to_another():
    """Changing one document changes its own logits and no others."""
    model, rows = tiny_model(ConceptEncoderForMaskedLM), documents(masked=0.0)
    before = split(model(**pack(rows)).logits, rows)
    rows[0][2][4] = 50 if rows[0][2][4] != 50 else 51
    after = split(model(**pack(rows)).logits, rows)
    changed = [not torch.allclose(ours, theirs, atol=1e-10) for ours, theirs in zip(before, after, strict=True)]
    assert changed == [number == 2 for number in range(len(before))]


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_without_tokens_and_documents_of_masks_stay_finite(variant):
    model = tiny_model(ConceptEncoderForMaskedLM, variant, torch.float32).train()
    ids = torch.stack([document(30), torch.full((30,), MASK), document(30, seed=1)])
    lengths = torch.tensor([[10, 20], [15, 15], [0, 0]])
    for backend in ("sdpa", "eager", "varlen"):
        model.set_attn_implementation(backend)
        model.zero_grad()
        model(ids, document_lengths=lengths, labels=torch.full_like(ids, 7)).loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("lengths", [[[1] * 50], [[25, 25]], [[49, 1]], [[2] * 25]])
@pytest.mark.parametrize("ratio", [1, 3, 64])
def test_every_document_has_all_its_concepts(lengths, ratio):
    """The bound on the concepts of a row, which follows from its shape alone, leaves none out."""
    model = ConceptEncoder(tiny_config(concept_ratio=ratio, min_concepts=2, max_concepts=9)).eval()
    ids, lengths = document(50)[None], torch.tensor(lengths)
    outputs = model(ids, document_lengths=lengths)
    alone = [model(tokens[None]).last_hidden_state.shape[1] for tokens in ids[0].split(lengths[0].tolist())]
    used = outputs.concept_documents[0][outputs.concept_mask[0].bool()]
    assert used.bincount(minlength=len(alone)).tolist() == alone


def test_bad_arguments_are_refused():
    model, batch = tiny_model(ConceptEncoder), pack(documents())
    with pytest.raises(ValueError, match="both attention_mask and document_lengths"):
        model(**batch, attention_mask=torch.ones_like(batch["input_ids"]))
    with pytest.raises(ValueError, match=r"document_lengths of shape \(3,\)"):
        model(batch["input_ids"], document_lengths=batch["document_lengths"][:, 0])


def test_packed_batches_compile_without_a_graph_break():
    layers = {"num_hidden_layers": 1, "num_token_layers": 1}
    model, batch = tiny_model(ConceptEncoderForMaskedLM, **layers), pack(documents())
    expected = model(**batch).logits
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(**batch).logits, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_segment_is_longer_than_kernels_are_told(variant, monkeypatch):
    """What a segment has beyond that is neither computed nor set to 0 on a GPU, forward or backward."""

    def attend(query, key, value, segments, scaling):
        for starts, longest in (
            (segments.query_starts, segments.max_queries),
            (segments.key_starts, segments.max_keys),
        ):
            told.append((int(starts.diff().max()), longest))
        return query

    told: list[tuple[int, int]] = []
    monkeypatch.setattr("modeling_concept.attention._attend_segments", attend)
    model = tiny_model(ConceptEncoderForMaskedLM, variant, torch.float32)
    model.set_attn_implementation("varlen")
    model(**pack(documents(masked=0)))
    flat = pack([[tokens for row in documents(masked=0) for tokens in row]], total=4 * TOTAL)
    if model.config.position_embedding == "rope":
        model(**flat, max_document_length=37)
    assert all(actual <= longest for actual, longest in told)
