# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Masks: exactly K, on words only, a function of row, epoch and seed alone."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from training_concept.masking import IGNORED_LABEL, MaskingCollator

Row = dict[str, Any]


def make_row(tokenizer: PreTrainedTokenizerFast, length: int, seed: int = 0, epoch: int = 0) -> Row:
    """A row `[CLS] words [SEP]` with separators among the words, as a row of several documents has them."""
    ids = np.random.default_rng(seed).integers(len(tokenizer.all_special_ids), len(tokenizer), size=length)
    ids[::7] = tokenizer.sep_token_id
    ids[0], ids[-1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    return {"input_ids": ids.astype(np.int32), "epoch": epoch}


def masked_places(batch: dict[str, torch.Tensor], row: int = 0) -> list[int]:
    return torch.nonzero(batch["labels"][row] != IGNORED_LABEL).flatten().tolist()


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
@pytest.mark.parametrize("length", [4, 5, 10, 63, 128])
def test_exactly_k_words_are_masked(tokenizer: PreTrainedTokenizerFast, rate: float, length: int) -> None:
    rows = [make_row(tokenizer, length, seed) for seed in range(8)]
    ids = torch.tensor(np.stack([row["input_ids"] for row in rows])).long()
    batch = MaskingCollator(tokenizer, rate)(rows)
    expected = max(1, int(rate * length + 0.5))
    chosen = batch["labels"] != IGNORED_LABEL
    assert chosen.sum(dim=1).tolist() == [expected] * len(rows)
    assert batch["masked_positions"].shape == (len(rows), expected)
    assert [masked_places(batch, row) for row in range(len(rows))] == batch["masked_positions"].tolist()
    assert not torch.isin(batch["labels"][chosen], torch.tensor(tokenizer.all_special_ids)).any()
    assert torch.equal(batch["labels"][chosen], ids[chosen])
    assert torch.equal(batch["input_ids"], ids.masked_fill(chosen, tokenizer.mask_token_id))
    assert "attention_mask" not in batch
    assert {values.dtype for values in batch.values()} == {torch.int64}


def test_batch_mates_order_and_padding_do_not_change_the_mask_of_a_row(tokenizer: PreTrainedTokenizerFast) -> None:
    collator = MaskingCollator(tokenizer)
    rows = [make_row(tokenizer, length, seed=length) for length in (9, 40, 17, 40, 64)]
    alone = [masked_places(collator([row])) for row in rows]
    together, reverse = collator(rows), collator(rows[::-1])
    assert [masked_places(together, row) for row in range(5)] == alone
    assert [masked_places(reverse, row) for row in range(5)] == alone[::-1]
    padded = {"input_ids": np.pad(rows[0]["input_ids"], (3, 2), constant_values=tokenizer.pad_token_id), "epoch": 0}
    assert masked_places(collator([padded])) == [place + 3 for place in alone[0]]


def test_masks_are_the_same_in_every_process_and_version(tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"input_ids": [2, *range(10, 28), 3], "epoch": 3}
    batch = MaskingCollator(tokenizer, 0.3, seed=7)([row])
    assert batch["masked_positions"].tolist() == [[8, 9, 10, 12, 13, 17]]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_rows_may_be_lists_arrays_or_tensors(tokenizer: PreTrainedTokenizerFast, kind: type) -> None:
    row = make_row(tokenizer, 32)
    collator = MaskingCollator(tokenizer)
    batch, expected = collator([{**row, "input_ids": kind(row["input_ids"])}]), collator([row])
    assert all(torch.equal(batch[name], values) for name, values in expected.items())


def test_epoch_seed_and_content_change_the_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    row = make_row(tokenizer, 128)
    changed = row["input_ids"].copy()
    changed[5] += 1
    collator = MaskingCollator(tokenizer)
    masks = [
        masked_places(collator([row])),
        masked_places(collator([{**row, "epoch": 1}])),
        masked_places(collator([{**row, "input_ids": changed}])),
        masked_places(MaskingCollator(tokenizer, seed=1)([row])),
    ]
    assert len({tuple(mask) for mask in masks}) == 4
    assert masked_places(collator([row])) == masks[0]


def test_every_word_is_masked_equally_often_over_the_epochs(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = np.arange(100, 164)
    epochs = 2000
    batch = MaskingCollator(tokenizer, 0.25)([{"input_ids": ids, "epoch": epoch} for epoch in range(epochs)])
    counts = (batch["labels"] != IGNORED_LABEL).sum(dim=0)
    assert counts.sum() == epochs * 16
    # 500 expected each, standard deviation 19.
    assert counts.min() > 420
    assert counts.max() < 580


def test_a_row_with_few_words_has_them_all_masked_and_still_fits(tokenizer: PreTrainedTokenizerFast) -> None:
    full = make_row(tokenizer, 40)
    sparse = np.full(40, tokenizer.sep_token_id)
    sparse[[4, 20]] = 100
    bare = np.full(38, tokenizer.sep_token_id)
    rows = [full, {"input_ids": sparse, "epoch": 0}, {"input_ids": bare, "epoch": 0}]
    batch = MaskingCollator(tokenizer, 0.3)(rows)
    assert batch["masked_positions"].shape[1] == 12
    assert batch["masked_positions"][1].tolist() == [4, 20, *[-1] * 10]
    assert batch["masked_positions"][2].tolist() == [-1] * 12
    num_masked = (batch["masked_positions"] >= 0).sum(dim=1)
    visible = batch["attention_mask"].sum(dim=1) - num_masked
    assert visible.max() <= batch["input_ids"].shape[1] - 12
    assert masked_places(batch) == masked_places(MaskingCollator(tokenizer, 0.3)([full]))


def test_a_batch_without_any_word_still_has_a_column_of_positions(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = MaskingCollator(tokenizer)([{"input_ids": [tokenizer.cls_token_id, tokenizer.sep_token_id], "epoch": 0}])
    assert batch["masked_positions"].tolist() == [[-1]]
    assert batch["labels"].tolist() == [[IGNORED_LABEL] * batch["labels"].shape[1]]


def test_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [make_row(tokenizer, 9), make_row(tokenizer, 13)]
    batch = MaskingCollator(tokenizer, pad_to_multiple_of=8)(rows)
    assert batch["input_ids"].shape == (2, 16)
    assert batch["attention_mask"].tolist() == [[1] * 9 + [0] * 7, [1] * 13 + [0] * 3]
    assert torch.equal(batch["input_ids"] == tokenizer.pad_token_id, batch["attention_mask"] == 0)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED_LABEL).all()


def test_bert_style_replacement_keeps_the_chosen_places(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [make_row(tokenizer, 500, seed) for seed in range(40)]
    ids = torch.tensor(np.stack([row["input_ids"] for row in rows])).long()
    batch = MaskingCollator(tokenizer, mask_replace_prob=0.8, random_replace_prob=0.1)(rows)
    assert torch.equal(batch["labels"], MaskingCollator(tokenizer)(rows)["labels"])
    assert "masked_positions" not in batch
    chosen = batch["labels"] != IGNORED_LABEL
    assert torch.equal(batch["input_ids"][~chosen], ids[~chosen])
    shown, gold = batch["input_ids"][chosen], ids[chosen]
    masked, kept = shown == tokenizer.mask_token_id, shown == gold
    # Of 6000 places; the standard deviations are below .006.
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert kept.float().mean().item() == pytest.approx(0.1, abs=0.02)
    replaced = shown[~masked & ~kept]
    assert not torch.isin(replaced, torch.tensor(tokenizer.all_special_ids)).any()
    assert len(replaced.unique()) > 200


def test_the_collator_travels_to_spawned_workers(tokenizer: PreTrainedTokenizerFast) -> None:
    collator, rows = MaskingCollator(tokenizer, seed=3), [make_row(tokenizer, 64)]
    copy = pickle.loads(pickle.dumps(collator))
    assert torch.equal(copy(rows)["input_ids"], collator(rows)["input_ids"])


@pytest.mark.parametrize("token_id", [-1, 300])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: PreTrainedTokenizerFast, token_id: int) -> None:
    rows = [make_row(tokenizer, 8), {"input_ids": [2, 100, token_id, 3], "epoch": 0}]
    with pytest.raises(ValueError, match=f"row 1 of the batch holds the token id {token_id}, outside .* 300 tokens"):
        MaskingCollator(tokenizer)(rows)


def test_a_model_may_have_more_ids_than_the_tokenizer_but_not_fewer(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = MaskingCollator(tokenizer, vocab_size=320)([{"input_ids": [2, 310, 310, 3], "epoch": 0}])
    assert 310 in batch["labels"]
    with pytest.raises(ValueError, match="299 token ids, fewer than the tokenizer's 300"):
        MaskingCollator(tokenizer, vocab_size=299)


@pytest.mark.parametrize("ids", [[], [0, 0, 0]])
def test_rows_without_tokens_are_refused(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="row 1 of the batch is empty or holds only padding"):
        MaskingCollator(tokenizer)([make_row(tokenizer, 8), {"input_ids": ids, "epoch": 0}])


def test_rows_without_epoch_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        MaskingCollator(tokenizer)([{"input_ids": [2, 100, 3]}])


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_the_masking_rate_lies_between_0_and_1(tokenizer: PreTrainedTokenizerFast, rate: float) -> None:
    with pytest.raises(ValueError, match="mlm_probability must lie between 0 and 1"):
        MaskingCollator(tokenizer, rate)


@pytest.mark.parametrize(("masked", "randomised"), [(0.9, 0.2), (-0.1, 0.5), (0.5, -0.1)])
def test_replacement_shares_are_checked(tokenizer: PreTrainedTokenizerFast, masked: float, randomised: float) -> None:
    with pytest.raises(ValueError, match="add up to at most 1"):
        MaskingCollator(tokenizer, mask_replace_prob=masked, random_replace_prob=randomised)


@pytest.mark.parametrize("missing", ["mask_token", "pad_token"])
def test_a_tokenizer_without_mask_or_padding_is_refused(tokenizer: PreTrainedTokenizerFast, missing: str) -> None:
    tokens = {"mask_token": "[MASK]", "pad_token": "[PAD]", missing: None}
    incomplete = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokens)
    with pytest.raises(ValueError, match=f"a tokenizer with a {missing}"):
        MaskingCollator(incomplete)
