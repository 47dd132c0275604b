# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`ConceptTrainer`: figures are averages over masked tokens, however rows are batched, whatever the model."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertForMaskedLM

from tests.training.tiny_run import record_batches
from tests.training.tiny_trainer import VOCABULARY, build, rows, tiny_tokenizer, trainer
from training_concept.masking import MaskingCollator
from training_concept.mixture import MixtureDataset, with_epochs
from training_concept.trainer import labels_at, masked_lm_sums

MODELS = ["concept_encoder", "bert"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def test_labels_are_taken_from_the_decoded_positions():
    labels = torch.tensor([[5, 6, 7], [8, -100, 9]])
    assert labels_at(labels, torch.tensor([[2, 0], [2, -1]])).tolist() == [[7, 5], [9, -100]]


def test_sums_of_a_row_are_those_of_its_scored_positions():
    logits, targets = torch.randn(2, 4, 7), torch.tensor([[3, -100, 0, 6], [-100, -100, -100, 5]])
    logits[0, 0, 3] = logits[1, 3, 5] = 50.0

    sums = masked_lm_sums(logits, targets)

    likelihood = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    hits = (logits.argmax(-1) == targets).sum(1)
    torch.testing.assert_close(sums, torch.stack([likelihood.sum(1), hits, torch.tensor([3, 1])], dim=1).float())


@pytest.mark.parametrize("replace", [1.0, 0.8])
@pytest.mark.parametrize("name", MODELS)
def test_evaluation_averages_over_masked_tokens_for_every_batch_size(tmp_path, tokenizer, name, replace):
    model, data = build(name), rows(11, shortest=6, longest=40)
    figures = [
        trainer(model, tmp_path, tokenizer, data, replace, per_device_eval_batch_size=size).evaluate()
        for size in (1, 4, 64)
    ]

    # All rows one by one, so that nothing is padded, and logits for every position.
    collator = MaskingCollator(tokenizer, mask_replace_prob=replace, vocab_size=VOCABULARY)
    singles = [collator([row]) for row in with_epochs(data)]
    with torch.no_grad():
        logits = torch.cat([model(input_ids=single["input_ids"]).logits[0] for single in singles])
    labels = torch.cat([single["labels"][0] for single in singles])
    loss = F.cross_entropy(logits, labels)
    accuracy = (logits.argmax(-1) == labels)[labels != -100].float().mean()
    for figure in figures:
        assert figure["eval_loss"] == pytest.approx(loss.item(), abs=1e-5)
        assert figure["eval_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)
        assert figure["eval_perplexity"] == pytest.approx(loss.exp().item(), rel=1e-4)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_every_source_of_a_mixture_has_its_loss(tmp_path, tokenizer, batch_size, strategy):
    model = build("concept_encoder")
    sources = {"first": rows(5, shortest=6, longest=40), "second": rows(3, shortest=10, longest=20)}
    settings = {"per_device_eval_batch_size": batch_size, "train_sampling_strategy": strategy}
    alone = {name: trainer(model, tmp_path, tokenizer, data, **settings).evaluate() for name, data in sources.items()}
    together = trainer(model, tmp_path, tokenizer, sources["first"], **settings)
    together.eval_dataset = MixtureDataset([sources])
    figures = together.evaluate()
    for name, figure in alone.items():
        assert figures[f"eval_{name}_loss"] == pytest.approx(figure["eval_loss"], abs=1e-5)
        assert f"eval_{name}_loss" not in figure
    assert min(alone[name]["eval_loss"] for name in sources) < figures["eval_loss"]
    assert figures["eval_loss"] < max(alone[name]["eval_loss"] for name in sources)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_kept_of_a_row_does_not_grow_with_length_and_vocabulary(tmp_path, tokenizer, name):
    data = rows(3, shortest=20, longest=20)
    evaluator = trainer(build(name), tmp_path, tokenizer, data)
    loss, sums, count = evaluator.prediction_step(evaluator.model, next(iter(evaluator.get_eval_dataloader())), False)
    assert loss is None
    assert sums.shape == (3, 3)
    assert count.tolist() == [6, 6, 6]


@pytest.mark.parametrize("name", MODELS)
def test_gradient_accumulation_changes_neither_loss_nor_gradient(tmp_path, tokenizer, name):
    # Rows of different lengths hold different numbers of masked tokens.
    data, steps = rows(8, shortest=6, longest=60), []
    for size, accumulation in ((8, 1), (2, 4), (1, 8)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        run = trainer(build(name), tmp_path, tokenizer, data, **settings)
        run.train()
        steps.append({key: run.state.log_history[0][key] for key in ("loss", "grad_norm", "masked_tokens_per_step")})
    assert steps[1] == pytest.approx(steps[0], abs=1e-5)
    assert steps[2] == pytest.approx(steps[0], abs=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_drops_no_rows_and_has_the_same_masks_every_time(tmp_path, tokenizer, workers):
    settings = {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
    evaluator = trainer(
        build("concept_encoder"),
        tmp_path,
        tokenizer,
        rows(11, shortest=20, longest=20),
        dataloader_drop_last=True,
        per_device_eval_batch_size=4,
        per_device_train_batch_size=4,
        **settings,
    )
    batches = [list(evaluator.get_eval_dataloader()) for _ in range(2)]
    assert [len(batch["input_ids"]) for batch in batches[0]] == [4, 4, 3]
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first["input_ids"], second["input_ids"])
    assert len(evaluator.get_train_dataloader()) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_has_its_own_order_and_masks(tmp_path, tokenizer, workers, monkeypatch):
    seen = record_batches(monkeypatch)
    data = rows(4, shortest=20, longest=20)
    trainer(
        build("concept_encoder"), tmp_path, tokenizer, data, per_device_train_batch_size=4, max_steps=3,
        dataloader_num_workers=workers,
    ).train()  # fmt: skip
    texts = [torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"]) for batch in seen]
    orders = {tuple(text[:, 1].tolist()) for text in texts}
    masks = {
        tuple(batch["masked_positions"][text[:, 1].argmin()].tolist()) for batch, text in zip(seen, texts, strict=True)
    }
    assert len(orders) == len(masks) == 3


def test_no_pickle_and_no_token_is_saved(tmp_path, tokenizer):
    run = trainer(build("concept_encoder"), tmp_path, tokenizer, rows(4, 20, 20), hub_token="hf_secret")
    run.save_model()
    saved = json.loads((tmp_path / "training_args.json").read_text())
    assert saved["learning_rate"] == 1e-3
    assert not list(tmp_path.glob("*.bin"))
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_flops_are_estimated_where_a_model_computes_on_values(tmp_path, tokenizer, caplog):
    class Peeking(BertForMaskedLM):
        def forward(self, input_ids=None, **kwargs):
            return super().forward(input_ids=input_ids + int(input_ids[0, 0].item()) * 0, **kwargs)

    # What cannot be counted on a copy without values is estimated as stock does: 6 operations a parameter and token.
    model = Peeking(build("bert").config)
    run = trainer(model, tmp_path, tokenizer, rows(4, 20, 20))
    inputs = {"input_ids": torch.zeros(2, 10, dtype=torch.long), "labels": torch.zeros(2, 10, dtype=torch.long)}
    assert run.floating_point_ops(inputs) == 6 * 20 * model.num_parameters(exclude_embeddings=True)


def test_a_batch_that_the_data_does_not_fill_is_refused(tmp_path, tokenizer):
    settings = {"per_device_train_batch_size": 5, "dataloader_drop_last": True}
    with pytest.raises(ValueError, match="makes 4 rows, too few for one full batch of 5"):
        trainer(build("bert"), tmp_path / "out", tokenizer, rows(4, 20, 20), **settings)
    assert not (tmp_path / "out").exists()
    assert isinstance(trainer(build("bert"), tmp_path, tokenizer, rows(5, 20, 20), **settings).model, nn.Module)


def test_the_attention_kernel_with_wrong_gradients_is_off(tmp_path, tokenizer):
    torch.backends.cuda.enable_cudnn_sdp(True)
    trainer(build("concept_encoder"), tmp_path, tokenizer, rows(4, 20, 20))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
