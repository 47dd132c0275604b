# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Objectives one by one: the inputs that they make of rows, their losses against references, and that they learn."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from modeling_concept import ConceptEncoderForMaskedLM
from tests.training.tiny_trainer import VOCABULARY, build, rows, tiny_tokenizer
from training_concept.masking import MaskingCollator
from training_concept.mixture import with_epochs
from training_concept.objectives import (
    OBJECTIVES,
    SHORTEST_SPAN,
    Batch,
    ObjectiveCollator,
    ObjectiveSettings,
    embed,
    parse_objectives,
    sum_of_info_nce,
)

PAD = 0


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def packed(*lengths: int, epoch: int = 0) -> dict[str, Any]:
    """A row of documents of these lengths, of different tokens."""
    ids = np.concatenate(
        [[2, *(10 * number + 5 + np.arange(length - 2) % 10), 3] for number, length in enumerate(lengths)]
    )
    return {"input_ids": ids, "epoch": epoch, "document_lengths": np.array(lengths)}


def single(length: int, epoch: int = 0) -> dict[str, Any]:
    row = packed(length, epoch=epoch)
    del row["document_lengths"]
    return row


def collated(tokenizer, name: str, given: Sequence[dict], settings: dict | None = None, **options: Any) -> Batch:
    masking = MaskingCollator(tokenizer, vocab_size=VOCABULARY, **options)
    return OBJECTIVES[name](ObjectiveSettings(**settings or {})).collator(tokenizer, masking)(given)


def split_row(ids: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    ends = lengths.cumsum(0).tolist()
    return [ids[end - length : end].tolist() for end, length in zip(ends, lengths.tolist(), strict=True) if length]


# What is made of rows.


def test_a_continuation_is_the_second_half_at_its_places(tokenizer):
    given = [packed(9, 4, 12), packed(25)]
    batch = collated(tokenizer, "prefix", given, length=26, max_documents=4)
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "input_ids": (2, 15),
        "document_lengths": (2, 4),
        "labels": (2, 13),
        "decoded_positions": (2, 13),
        "decoded_documents": (2, 13),
    }
    for index, row in enumerate(given):
        whole = split_row(torch.tensor(row["input_ids"]), torch.tensor(row["document_lengths"]))
        firsts = split_row(batch["input_ids"][index], batch["document_lengths"][index])
        assert firsts == [document[: (len(document) + 1) // 2] for document in whole]
        seen = batch["decoded_positions"][index] >= 0
        assert torch.equal(seen, batch["labels"][index] >= 0)
        found = zip(
            batch["decoded_documents"][index][seen].tolist(),
            batch["decoded_positions"][index][seen].tolist(),
            batch["labels"][index][seen].tolist(),
            strict=True,
        )
        expected = [
            (number, place, document[place])
            for number, document in enumerate(whole)
            for place in range((len(document) + 1) // 2, len(document))
        ]
        assert list(found) == expected


def test_rows_that_are_not_packed_are_one_document(tokenizer):
    batch = collated(tokenizer, "prefix", [single(9), single(20)])
    assert batch["document_lengths"].tolist() == [[5], [10]]
    assert batch["labels"].shape == (2, 10)
    assert "decoded_documents" not in batch
    assert "decoded_documents" not in collated(tokenizer, "tsdae", [single(9), single(20)])


def test_spans_are_the_halves_of_documents(tokenizer):
    given = [packed(2 * SHORTEST_SPAN, 2 * SHORTEST_SPAN - 2, 20), packed(30)]
    batch = collated(tokenizer, "contrastive", given)
    assert batch["pairs"].tolist() == [[1, 0, 1], [1, 0, 0]]
    for index, row in enumerate(given):
        whole = split_row(torch.tensor(row["input_ids"]), torch.tensor(row["document_lengths"]))
        halves = [
            split_row(batch["input_ids"][index, view], batch["document_lengths"][index, view]) for view in (0, 1)
        ]
        for document, first, second in zip(whole, *halves, strict=True):
            assert first + second == document
            assert 0 <= len(first) - len(second) <= 1


@pytest.mark.parametrize("given", [[packed(12, 30), packed(20)], [single(12), single(30)]], ids=["packed", "single"])
def test_masked_views_mask_other_tokens_each_time(tokenizer, given):
    settings = {"contrastive_views": "masks"}
    batch = collated(tokenizer, "contrastive", given, settings, mlm_probability=0.4)
    again = collated(tokenizer, "contrastive", given, settings, mlm_probability=0.4)
    assert torch.equal(batch["input_ids"], again["input_ids"])
    masked = MaskingCollator(tokenizer, vocab_size=VOCABULARY, mlm_probability=0.4)(given)["input_ids"] == 4
    first, second = (batch["input_ids"][:, view] == 4 for view in (0, 1))
    assert first.sum() == second.sum() == masked.sum()
    assert not torch.equal(first, second)
    assert not torch.equal(first, masked)
    lengths = [list(row.get("document_lengths", [len(row["input_ids"])])) for row in given]
    assert [[n for n in row.tolist() if n] for row in batch["document_lengths"][:, 0]] == lengths


@pytest.mark.parametrize("name", ["tsdae", "prefix", "contrastive"])
def test_inputs_depend_on_the_row_alone_and_have_one_shape(tokenizer, name):
    given = [packed(20, 12), packed(28), packed(9, 9, 9)]
    options = {"length": 32, "max_documents": 3}
    together = collated(tokenizer, name, given, **options)
    for index, row in enumerate(given):
        alone = collated(tokenizer, name, [row], **options)
        assert alone.keys() == together.keys()
        assert all(torch.equal(alone[key][0], together[key][index]) for key in alone)


def test_every_objective_has_a_noise_of_its_own(tokenizer):
    given, options = [packed(40)], {"mlm_probability": 0.6, "length": 40}
    kept = set(collated(tokenizer, "tsdae", given, **options)["input_ids"][0].tolist())
    masked = MaskingCollator(tokenizer, vocab_size=VOCABULARY, **options)(given)["input_ids"][0]
    assert kept != set(masked[masked != 4].tolist())


def test_workers_give_the_same_batches(tokenizer):
    masking = MaskingCollator(tokenizer, vocab_size=VOCABULARY)
    settings = ObjectiveSettings()
    names = ("tsdae", "prefix", "contrastive")
    collate = ObjectiveCollator(
        masking, {name: OBJECTIVES[name](settings).collator(tokenizer, masking) for name in names}
    )
    data = with_epochs(rows(6, 20, 40))
    here, there = (list(DataLoader(data, batch_size=3, collate_fn=collate, num_workers=workers)) for workers in (0, 2))
    for ours, theirs in zip(here, there, strict=True):
        assert set(ours["objectives"]) == set(names)
        for name in names:
            mine = ours["objectives"][name]
            assert all(torch.equal(mine[key], theirs["objectives"][name][key]) for key in mine)


def test_what_has_no_halves_is_refused(tokenizer):
    row = {"input_ids": np.array([2, 7, 3, 9]), "epoch": 0, "document_lengths": np.array([3, 1])}
    for name in ("prefix", "contrastive"):
        with pytest.raises(ValueError, match="row 0 of the batch has a document of one token"):
            collated(tokenizer, name, [row])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"deletion_probability": 1.0}, "--deletion_probability 1.0 must lie between 0 and 1"),
        ({"contrastive_views": "crops"}, "--contrastive_views crops is not one of spans, masks"),
        ({"contrastive_temperature": 0.0}, "--contrastive_temperature 0.0 must be above 0"),
        ({"contrastive_chunk_size": 0}, "--contrastive_chunk_size 0 must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveSettings(**setting)


def test_objectives_are_read_from_text():
    assert parse_objectives("mlm, contrastive:0.1") == {"mlm": 1.0, "contrastive": 0.1}
    with pytest.raises(ValueError, match="--objectives has no objective 'clm'; it has mlm, nested, tsdae"):
        parse_objectives("mlm:1,clm:1")
    with pytest.raises(ValueError, match="--objectives '': '' is not of the form name:weight"):
        parse_objectives("")


# Losses.


def one_loss(
    model: ConceptEncoderForMaskedLM, name: str, batch: Batch, step: int = 0, **settings: Any
) -> torch.Tensor:
    objective = OBJECTIVES[name](ObjectiveSettings(**settings))
    return objective.loss(model, batch, objective.count(batch), step)[0]


@pytest.mark.parametrize("name", ["tsdae", "prefix"])
def test_documents_of_a_row_have_the_loss_that_they_have_alone(tokenizer, name):
    model, given = build(), [packed(9, 20, 30), packed(40)]
    whole = one_loss(model, name, collated(tokenizer, name, given, length=64))
    batch = collated(tokenizer, name, given)
    total, count = 0.0, 0
    for index in range(len(given)):
        texts = split_row(batch["input_ids"][index], batch["document_lengths"][index])
        for number, text in enumerate(texts):
            own = (batch["decoded_positions"][index] >= 0) & (
                batch.get("decoded_documents", torch.zeros_like(batch["decoded_positions"]))[index] == number
            )
            labels, places = batch["labels"][index][own][None], batch["decoded_positions"][index][own][None]
            total += model(torch.tensor([text]), decoded_positions=places, labels=labels).loss * int(own.sum())
            count += int(own.sum())
    assert float(whole) == pytest.approx(float(total / count), abs=1e-5)


def test_a_nested_loss_is_that_of_a_share_of_the_concepts(tokenizer):
    model = build()
    batch = MaskingCollator(tokenizer, vocab_size=VOCABULARY)(with_epochs(rows(4, 40, 40)).__getitems__(range(4)))
    losses = [float(one_loss(model, "nested", batch, step)) for step in range(6)]
    assert losses == [float(model(**batch, kept_concepts=share).loss) for share in (0.5, 0.25, 0.125)] * 2


def loop_info_nce(first: np.ndarray, second: np.ndarray, pairs: list[int], temperature: float) -> float:
    chosen = [index for index, pair in enumerate(pairs) if pair]
    total = 0.0
    for queries, keys in ((first, second), (second, first)):
        for index in chosen:
            scores = [math.exp(queries[index] @ keys[other] / temperature) for other in chosen]
            total -= math.log(math.exp(queries[index] @ keys[index] / temperature) / sum(scores)) / 2
    return total


def test_info_nce_is_that_of_a_loop_over_the_pairs():
    first, second = F.normalize(torch.randn(2, 7, 5, dtype=torch.float64), dim=-1)
    for pairs in ([1] * 7, [1, 0, 1, 1, 0, 0, 1]):
        ours = sum_of_info_nce(first, second, torch.tensor(pairs), 0.2)
        assert float(ours) == pytest.approx(loop_info_nce(first.numpy(), second.numpy(), pairs, 0.2))
    assert float(sum_of_info_nce(first, second, torch.zeros(7), 0.2)) == 0
    given = (first[:4].requires_grad_(), second[:4].requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: sum_of_info_nce(a, b, torch.tensor([1, 0, 1, 1]), 0.5), given)


def test_embeddings_are_the_means_of_each_documents_concepts(tokenizer):
    model, row = build().eval(), packed(20, 9, 30)
    ids, lengths = torch.tensor(row["input_ids"])[None], torch.tensor(row["document_lengths"])[None]
    together = embed(model, ids, lengths, only_concepts=True)[0]
    for text, embedding in zip(split_row(ids[0], lengths[0]), together, strict=True):
        mean = model.model(torch.tensor([text])).last_hidden_state[0, model.config.num_global_concepts :].mean(0)
        torch.testing.assert_close(embedding, F.normalize(mean, dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("views", ["spans", "masks"])
def test_chunks_have_the_loss_and_gradients_of_the_whole_batch(tokenizer, views, size):
    """With dropout where all are one chunk: several draw it in another order (see the next test)."""
    batch = collated(tokenizer, "contrastive", [packed(20, 24), packed(44), packed(30)], {"contrastive_views": views})
    results = []
    dropout = 0.2 if size >= batch["input_ids"].flatten(0, 1).shape[0] else 0.0
    for chunk_size in (None, size):
        model = build(hidden_dropout=dropout).double().train()
        torch.manual_seed(0)
        loss = one_loss(model, "contrastive", batch, contrastive_views=views, contrastive_chunk_size=chunk_size)
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append({"loss": loss.detach()} | gradients)
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)


def test_chunks_repeat_their_dropout(tokenizer):
    batch = collated(tokenizer, "contrastive", [packed(20, 24), packed(44), packed(30)])
    model = build(hidden_dropout=0.5).train()
    seen = []
    model.model.embeddings.dropout.register_forward_hook(lambda module, inputs, output: seen.append(output == 0))
    one_loss(model, "contrastive", batch, contrastive_chunk_size=2).backward()
    assert len(seen) == 6
    first, again = seen[:3], seen[3:]
    assert all(any(torch.equal(mask, other) for other in first) for mask in again)


def test_a_chunk_is_all_that_is_held_of_a_batch(tokenizer):
    batch = collated(tokenizer, "contrastive", [single(60)] * 8)
    held = {}
    for size in (None, 2):
        model, kept = build(), []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            one_loss(model, "contrastive", batch, contrastive_chunk_size=size)
        held[size] = sum(kept)
    assert held[2] < held[None] / 10


# Learning.


TOPICS, WORDS = 16, 8


def topical(copies: int, seed: int, length: int = 34) -> list[dict[str, Any]]:
    """Documents of a topic each, whose halves share no word: that they belong together has to be learned."""
    draw = np.random.default_rng(seed)
    texts = []
    for topic in np.tile(np.arange(TOPICS), copies):
        words = 20 + WORDS * topic + draw.permutation(WORDS)
        halves = (draw.choice(part, length // 2 - 1) for part in np.split(words, 2))
        texts.append({"input_ids": np.array([2, *np.concatenate([*halves]), 3]), "epoch": 0})
    return texts


def trained(name: str, tokenizer, steps: int, **settings: Any) -> ConceptEncoderForMaskedLM:
    model = build(num_decoder_layers=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        batch = collated(tokenizer, name, topical(1, seed=step), settings)
        optimizer.zero_grad()
        one_loss(model, name, batch, **settings).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("name", "steps"), [("tsdae", 150), ("prefix", 200)])
def test_tokens_are_told_from_concepts_alone_better_than_by_their_frequency(tokenizer, name, steps):
    model = trained(name, tokenizer, steps)
    held_out = collated(tokenizer, name, topical(4, seed=10**6))
    counts = torch.zeros(VOCABULARY)
    for step in range(50):
        labels = collated(tokenizer, name, topical(1, seed=step))["labels"]
        counts += torch.bincount(labels[labels >= 0], minlength=VOCABULARY)
    labels = held_out["labels"][held_out["labels"] >= 0]
    unigram = -((counts + 0.1) / (counts + 0.1).sum()).log()[labels].mean()
    with torch.no_grad():
        loss = one_loss(model, name, held_out)
    assert float(loss) < float(unigram) - 1


@pytest.mark.parametrize("views", ["spans", "masks"])
def test_the_other_view_of_a_document_is_found_among_those_of_others(tokenizer, views):
    def found(model: ConceptEncoderForMaskedLM) -> float:
        """Of one document for each topic the share whose second view is the nearest to its first."""
        shares = []
        for seed in range(10**6, 10**6 + 8):
            batch = collated(tokenizer, "contrastive", topical(1, seed), {"contrastive_views": views})
            inputs = {name: batch[name].flatten(0, 1) for name in ("input_ids", "document_lengths")}
            with torch.no_grad():
                embeddings = embed(model, **inputs, only_concepts=True)
            first, second = embeddings.unflatten(0, (-1, 2)).transpose(0, 1).squeeze(2)
            shares.append(((first @ second.T).argmax(1) == torch.arange(TOPICS)).float().mean())
        return float(torch.stack(shares).mean())

    if views == "spans":
        assert found(build(num_decoder_layers=2).eval()) < 0.2
    assert found(trained("contrastive", tokenizer, 100, contrastive_views=views)) > 0.7
