# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches: exactly K masks, a function of row, epoch and seed alone; static shapes; packed rows; deletion noise."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from training_concept.collocations import PmiVocabulary
from training_concept.masking import IGNORED_LABEL, DeletionCollator, MaskingCollator

Row = dict[str, Any]
SCHEME_OPTIONS: dict[str, dict[str, Any]] = {
    "token": {},
    "whole_word": {"scheme": "whole_word"},
    "span": {"scheme": "span"},
    "pmi": {"scheme": "pmi", "pmi_vocabulary": PmiVocabulary([[token, token + 1] for token in range(30, 290)], 2)},
}


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
    batch = MaskingCollator(tokenizer, mlm_probability=rate)(rows)
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


@pytest.mark.parametrize("scheme", SCHEME_OPTIONS)
def test_batch_mates_order_and_padding_do_not_change_the_mask_of_a_row(
    tokenizer: PreTrainedTokenizerFast, scheme: str
) -> None:
    collator = MaskingCollator(tokenizer, **SCHEME_OPTIONS[scheme])
    rows = [make_row(tokenizer, length, seed=length) for length in (9, 40, 17, 40, 64)]
    alone = [masked_places(collator([row])) for row in rows]
    together, reverse = collator(rows), collator(rows[::-1])
    assert [masked_places(together, row) for row in range(5)] == alone
    assert [masked_places(reverse, row) for row in range(5)] == alone[::-1]
    padded = {"input_ids": np.pad(rows[0]["input_ids"], (3, 2), constant_values=tokenizer.pad_token_id), "epoch": 0}
    assert masked_places(collator([padded])) == [place + 3 for place in alone[0]]


def test_masks_are_the_same_in_every_process_and_version(tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"input_ids": [2, *range(10, 28), 3], "epoch": 3}
    batch = MaskingCollator(tokenizer, mlm_probability=0.3, seed=7)([row])
    assert batch["masked_positions"].tolist() == [[8, 9, 10, 12, 13, 17]]


def test_replacements_are_the_same_in_every_process_and_version(tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"input_ids": [2, *range(10, 28), 3], "epoch": 3}
    batch = MaskingCollator(tokenizer, "token", 0.5, 0.4, 0.4, seed=7)([row])
    expected = [2, 10, 11, 129, 13, 14, 15, 16, 4, 94, 4, 20, 4, 4, 147, 24, 25, 26, 27, 3]
    assert batch["input_ids"].tolist() == [expected]
    assert masked_places(batch) == [2, 3, 7, 8, 9, 10, 12, 13, 14, 17]


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


def test_a_row_with_few_words_has_them_all_masked_and_still_fits(tokenizer: PreTrainedTokenizerFast) -> None:
    full = make_row(tokenizer, 40)
    sparse = np.full(40, tokenizer.sep_token_id)
    sparse[[4, 20]] = 100
    bare = np.full(38, tokenizer.sep_token_id)
    rows = [full, {"input_ids": sparse, "epoch": 0}, {"input_ids": bare, "epoch": 0}]
    batch = MaskingCollator(tokenizer)(rows)
    assert batch["masked_positions"].shape[1] == 12
    assert batch["masked_positions"][1].tolist() == [4, 20, *[-1] * 10]
    assert batch["masked_positions"][2].tolist() == [-1] * 12
    num_masked = (batch["masked_positions"] >= 0).sum(dim=1)
    visible = batch["attention_mask"].sum(dim=1) - num_masked
    assert visible.max() <= batch["input_ids"].shape[1] - 12
    assert masked_places(batch) == masked_places(MaskingCollator(tokenizer)([full]))


def test_a_batch_without_any_word_still_has_a_column_of_positions(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = MaskingCollator(tokenizer)([{"input_ids": [tokenizer.cls_token_id, tokenizer.sep_token_id], "epoch": 0}])
    assert batch["masked_positions"].tolist() == [[-1]]
    assert batch["labels"].tolist() == [[IGNORED_LABEL] * batch["labels"].shape[1]]


def test_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [make_row(tokenizer, 9), make_row(tokenizer, 13)]
    batch = MaskingCollator(tokenizer)(rows)
    assert batch["input_ids"].shape == (2, 13)
    assert batch["attention_mask"].tolist() == [[1] * 9 + [0] * 4, [1] * 13]
    assert torch.equal(batch["input_ids"] == tokenizer.pad_token_id, batch["attention_mask"] == 0)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED_LABEL).all()


@pytest.mark.parametrize("scheme", SCHEME_OPTIONS)
def test_with_a_length_all_batches_have_the_same_shapes(tokenizer: PreTrainedTokenizerFast, scheme: str) -> None:
    collator = MaskingCollator(tokenizer, **SCHEME_OPTIONS[scheme], length=64)
    for lengths in ((64, 64), (64, 3), (20, 33), (1, 4)):
        rows = [make_row(tokenizer, length, seed) for seed, length in enumerate(lengths)]
        batch = collator(rows)
        assert batch["input_ids"].shape == batch["labels"].shape == (2, 64)
        assert batch["masked_positions"].shape == (2, 19)
        alone = [masked_places(MaskingCollator(tokenizer, **SCHEME_OPTIONS[scheme])([row])) for row in rows]
        assert [masked_places(batch, row) for row in range(2)] == alone


def test_a_row_that_does_not_fit_widens_its_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = {"input_ids": [tokenizer.sep_token_id] * 64, "epoch": 0}
    batch = MaskingCollator(tokenizer, length=64)([bare, make_row(tokenizer, 64)])
    assert batch["input_ids"].shape == (2, 64 + 19)
    assert batch["masked_positions"].shape == (2, 19)
    # Without masked positions nothing has to leave the sequence.
    for options in ({"mask_replace_prob": 0.9}, {"gives_positions": False}):
        batch = MaskingCollator(tokenizer, length=64, **options)([bare])
        assert batch["input_ids"].shape == (1, 64)
        assert "masked_positions" not in batch


def test_rows_longer_than_the_length_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="holds 65 tokens, more than the length of 64"):
        MaskingCollator(tokenizer, length=64)([make_row(tokenizer, 65)])


@pytest.mark.parametrize("scheme", SCHEME_OPTIONS)
def test_workers_give_the_masks_of_the_main_process(tokenizer: PreTrainedTokenizerFast, scheme: str) -> None:
    rows = [make_row(tokenizer, 32, seed) for seed in range(12)]
    collator = MaskingCollator(tokenizer, **SCHEME_OPTIONS[scheme], mask_replace_prob=0.6, random_replace_prob=0.2)
    loaders = [DataLoader(rows, batch_size=4, collate_fn=collator, num_workers=workers) for workers in (0, 2)]
    for here, there in zip(*loaders, strict=True):
        assert all(torch.equal(here[name], there[name]) for name in here)


def test_the_stage_of_a_row_picks_its_rate(tokenizer: PreTrainedTokenizerFast) -> None:
    rates = (0.5, 0.4, 0.15)
    collator = MaskingCollator(tokenizer, mlm_probability=rates, length=100)
    for stage, rate in enumerate(rates):
        row = make_row(tokenizer, 100)
        batch = collator([{**row, "stage": stage}])
        expected = MaskingCollator(tokenizer, mlm_probability=rate)([row])
        assert batch["masked_positions"].tolist() == expected["masked_positions"].tolist()
        assert batch["masked_positions"].shape == (1, round(100 * rate))
    mixed = collator([{**make_row(tokenizer, 100), "stage": stage} for stage in (2, 0)])
    assert [len(masked_places(mixed, row)) for row in range(2)] == [15, 50]
    assert len(masked_places(collator([make_row(tokenizer, 100)]))) == 50


@pytest.mark.parametrize("stage", [-1, 2])
def test_a_stage_without_a_rate_is_refused(tokenizer: PreTrainedTokenizerFast, stage: int) -> None:
    collator = MaskingCollator(tokenizer, mlm_probability=[0.4, 0.2])
    with pytest.raises(ValueError, match=f"a row is of stage {stage}, but mlm_probability has 2 rates"):
        collator([{**make_row(tokenizer, 20), "stage": stage}])


def packed_row(tokenizer: PreTrainedTokenizerFast, lengths: Sequence[int]) -> Row:
    ids = np.concatenate([make_row(tokenizer, length, seed)["input_ids"] for seed, length in enumerate(lengths)])
    return {"input_ids": ids, "epoch": 0, "document_lengths": np.array(lengths, dtype=np.int32)}


def test_packed_rows_have_document_lengths_and_no_attention_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [packed_row(tokenizer, (10, 20, 5)), packed_row(tokenizer, (17,))]
    batch = MaskingCollator(tokenizer)(rows)
    assert "attention_mask" not in batch
    assert batch["document_lengths"].tolist() == [[10, 20, 5], [17, 0, 0]]
    assert batch["document_lengths"].dtype == torch.int64
    assert batch["input_ids"][1, 17:].eq(tokenizer.pad_token_id).all()
    fixed = MaskingCollator(tokenizer, length=40, max_documents=4)(rows)
    assert fixed["document_lengths"].tolist() == [[10, 20, 5, 0], [17, 0, 0, 0]]
    assert fixed["input_ids"].shape == (2, 40)


@pytest.mark.parametrize("lengths", [[10, 9], [10, 10, 1], [20, 0], [25, -5], []])
def test_document_lengths_that_do_not_make_the_row_are_refused(
    tokenizer: PreTrainedTokenizerFast, lengths: list[int]
) -> None:
    row = {**packed_row(tokenizer, (10, 10)), "document_lengths": lengths}
    with pytest.raises(ValueError, match=r"row 1 of the batch is packed: its document_lengths must .* its 20 tokens"):
        MaskingCollator(tokenizer)([packed_row(tokenizer, (10, 10)), row])


def test_padding_inside_packed_rows_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    row = packed_row(tokenizer, (10, 10))
    row["input_ids"][15] = tokenizer.pad_token_id
    with pytest.raises(ValueError, match="none of them padding"):
        MaskingCollator(tokenizer)([row])


def test_more_documents_than_columns_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="row 0 of the batch holds 3 documents; max_documents is 2"):
        MaskingCollator(tokenizer, max_documents=2)([packed_row(tokenizer, (5, 6, 7))])


def test_packed_and_other_rows_do_not_mix(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="1 of the 2 rows of the batch have document_lengths"):
        MaskingCollator(tokenizer)([packed_row(tokenizer, (5, 6)), make_row(tokenizer, 11)])


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
        MaskingCollator(tokenizer, mlm_probability=rate)


def test_a_curriculum_without_rates_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="mlm_probability is an empty list"):
        MaskingCollator(tokenizer, mlm_probability=[])


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


@pytest.mark.parametrize("rate", [0.1, 0.6, 0.9])
def test_deletion_keeps_order_and_special_tokens(tokenizer: PreTrainedTokenizerFast, rate: float) -> None:
    rows = [make_row(tokenizer, length, seed) for seed, length in enumerate((40, 64, 7))]
    batch = DeletionCollator(tokenizer, rate)(rows)
    special = set(tokenizer.all_special_ids)
    assert batch["document_lengths"].shape == (3, 1)
    for row, left, count, labels, places in zip(
        rows,
        batch["input_ids"],
        batch["document_lengths"][:, 0].tolist(),
        batch["labels"],
        batch["decoded_positions"],
        strict=True,
    ):
        whole, kept = row["input_ids"].tolist(), left[:count].tolist()
        assert labels[: len(whole)].tolist() == whole
        assert labels[len(whole) :].tolist() == [IGNORED_LABEL] * (64 - len(whole))
        assert places.tolist() == [*range(len(whole)), *[-1] * (64 - len(whole))]
        assert left[count:].tolist() == [tokenizer.pad_token_id] * (len(left) - count)
        words = sum(token not in special for token in whole)
        assert len(whole) - len(kept) == min(max(int(rate * len(whole) + 0.5), 1), words)
        assert [token for token in kept if token in special] == [token for token in whole if token in special]
        remaining = iter(whole)
        assert all(token in remaining for token in kept)
    assert {values.dtype for values in batch.values()} == {torch.int64}


def test_deletion_depends_on_row_epoch_and_seed_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [make_row(tokenizer, length, seed=length) for length in (30, 50)]
    together = DeletionCollator(tokenizer)(rows)
    alone = DeletionCollator(tokenizer)(rows[:1])
    assert together["input_ids"][0, : alone["input_ids"].shape[1]].tolist() == alone["input_ids"][0].tolist()
    others = [DeletionCollator(tokenizer)([{**rows[0], "epoch": 1}]), DeletionCollator(tokenizer, seed=1)(rows[:1])]
    assert all(other["input_ids"].tolist() != alone["input_ids"].tolist() for other in others)


def test_deletion_hits_every_word_equally_often(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = np.arange(100, 164)
    batch = DeletionCollator(tokenizer, 0.75)([{"input_ids": ids, "epoch": epoch} for epoch in range(2000)])
    counts = torch.bincount(batch["input_ids"].flatten(), minlength=164)[100:]
    # 500 expected each, standard deviation 19.
    assert counts.sum() == 2000 * 16
    assert counts.min() > 420
    assert counts.max() < 580


def test_deletion_with_a_length_has_the_same_shapes(tokenizer: PreTrainedTokenizerFast) -> None:
    collator = DeletionCollator(tokenizer, length=50)
    for lengths in ((50, 50), (3, 20)):
        batch = collator([make_row(tokenizer, length) for length in lengths])
        assert {name: values.shape for name, values in batch.items()} == {
            "input_ids": (2, 20),
            "document_lengths": (2, 1),
            "labels": (2, 50),
            "decoded_positions": (2, 50),
        }


def test_deletion_takes_the_documents_of_a_row_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [packed_row(tokenizer, lengths) for lengths in ((12, 5, 20), (30,))]
    batch = DeletionCollator(tokenizer, max_documents=4)(rows)
    special = set(tokenizer.all_special_ids)
    for index, row in enumerate(rows):
        begin, lengths = 0, row["document_lengths"]
        kept = batch["input_ids"][index].split(
            [
                *batch["document_lengths"][index].tolist(),
                len(batch["input_ids"][index]) - int(batch["document_lengths"][index].sum()),
            ]
        )
        for number, length in enumerate(lengths):
            places = slice(begin, begin + length)
            whole = batch["labels"][index, places].tolist()
            assert whole == row["input_ids"][places].tolist()
            assert batch["decoded_positions"][index, places].tolist() == list(range(length))
            assert batch["decoded_documents"][index, places].tolist() == [number] * length
            assert [token for token in kept[number].tolist() if token in special] == [
                token for token in whole if token in special
            ]
            remaining = iter(whole)
            assert all(token in remaining for token in kept[number].tolist())
            begin += length
        assert batch["document_lengths"][index, len(lengths) :].sum() == 0
        assert set(batch["decoded_positions"][index, begin:].tolist()) <= {-1}


def test_deletion_refuses_documents_that_it_would_empty_and_bad_rates(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="would lose all of its tokens: lower deletion_probability"):
        DeletionCollator(tokenizer)([{"input_ids": np.array([100]), "epoch": 0}])
    with pytest.raises(ValueError, match="deletion_probability must lie between 0 and 1"):
        DeletionCollator(tokenizer, 1.0)
    with pytest.raises(ValueError, match="3 documents; max_documents is 2"):
        DeletionCollator(tokenizer, max_documents=2)([packed_row(tokenizer, (5, 6, 7))])
