# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Training with several objectives and losses on concepts: what is summed, logged, resumed, shared and refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer import DEFAULT_CALLBACKS

from modeling_concept import ConceptEncoderForMaskedLM
from tests.training import tiny_run
from tests.training.pair_run import SHAPE, launch, train_one
from tests.training.test_resume import Interrupt
from tests.training.tiny_trainer import build, history, rows, tiny_tokenizer, trainer
from training_concept.arguments import ConceptTrainingArguments
from training_concept.combination import STATE_FILE, check_losses
from training_concept.trainer import ConceptTrainer

EVERYTHING = {
    "objectives": "mlm:1,nested:0.5,tsdae:0.3,prefix:0.2,contrastive:0.1",
    "concept_losses": "vicreg@centred:0.05,orthogonality:0.02",
    "loss_weighting": "kendall_gal",
}
TERMS = ["mlm", "nested", "tsdae", "prefix", "contrastive", "vicreg@centred", "orthogonality"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def run(folder: Path, tokenizer, name: str = "concept_encoder", **settings: Any) -> ConceptTrainer:
    shape = SHAPE if name == "concept_encoder" else {}
    return trainer(build(name, **shape), folder, tokenizer, rows(24, 20, 20), length=20, **settings)


def test_every_term_is_logged_and_they_add_up_to_the_loss(tmp_path, tokenizer):
    trained = run(tmp_path, tokenizer, max_steps=2, **EVERYTHING | {"loss_weighting": "fixed"})
    trained.train()
    weights = [1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02]
    terms = [history(trained, f"loss_{term}") for term in TERMS]
    for step, loss in enumerate(history(trained, "loss")):
        assert sum(weight * term[step] for weight, term in zip(weights, terms, strict=True)) == pytest.approx(
            loss, abs=1e-4
        )


def test_masked_language_modelling_alone_is_what_it_was(tmp_path, tokenizer):
    plain, named = (run(tmp_path, tokenizer, max_steps=3, **settings) for settings in ({}, {"objectives": "mlm:1"}))
    plain.train()
    named.train()
    assert named.combination is None
    assert history(named, "loss") == history(plain, "loss")


def test_accumulated_passes_have_the_gradients_of_one(tmp_path, tokenizer):
    def gradients(size: int, accumulation: int) -> dict[str, torch.Tensor]:
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        found: dict[str, torch.Tensor] = {}
        trained = run(tmp_path, tokenizer, objectives="mlm:1,tsdae:0.3,prefix:0.2", max_grad_norm=0, **settings)
        step = trained.create_optimizer().step

        def keep(*args: Any, **kwargs: Any) -> Any:
            found.update({name: p.grad.clone() for name, p in trained.model.named_parameters()})
            return step(*args, **kwargs)

        trained.optimizer.step = keep
        trained.train()
        return found

    whole, parts = gradients(8, 1), gradients(2, 4)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_all_objectives_learn_together(tmp_path, tokenizer):
    trained = run(tmp_path, tokenizer, max_steps=60, learning_rate=5e-3, logging_steps=10, **EVERYTHING)
    trained.train()
    for term in TERMS[:5]:
        losses = history(trained, f"loss_{term}")
        assert losses[-1] < losses[0], term


def test_learned_weights_are_resumed_bit_by_bit(tmp_path, monkeypatch):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "do_eval": False, **EVERYTHING}
    whole, parts = ({"output_dir": str(tmp_path / name)} for name in ("whole", "parts"))
    tiny_run.train(tmp_path, **settings | whole)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.trainer.DEFAULT_CALLBACKS", [*DEFAULT_CALLBACKS, Interrupt(5)])
        with pytest.raises(KeyboardInterrupt):
            tiny_run.train(tmp_path, **settings | parts)
    tiny_run.train(tmp_path, **settings | parts)

    for name in ("model.safetensors", f"checkpoint-6/{STATE_FILE}"):
        ended, others = (load_file(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert ended.keys() == others.keys()
        assert all(torch.equal(ended[key], others[key]) for key in ended)
    learned = load_file(tmp_path / "whole" / f"checkpoint-6/{STATE_FILE}")
    assert any(value.any() for value in learned.values())
    # What is published knows nothing of it.
    assert not (tmp_path / "whole" / STATE_FILE).exists()
    ConceptEncoderForMaskedLM.from_pretrained(tmp_path / "whole" / "checkpoint-6")


def test_weights_of_other_losses_are_not_gone_on_with(tmp_path, tokenizer):
    saved = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    run(tmp_path, tokenizer, **saved | EVERYTHING).train()
    other = run(tmp_path, tokenizer, max_steps=2, **EVERYTHING | {"concept_losses": "t_regs:0.1"})
    with pytest.raises(ValueError, match="was trained with other --concept_losses"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_two_processes_train_as_one_does(tmp_path_factory):
    runs = {"weighted": EVERYTHING, "in chunks": {"objectives": "mlm:1,contrastive:1", "contrastive_chunk_size": 2}}
    launcher = ["--multi_gpu", "--num_machines", "1", "--dynamo_backend", "no"]
    pair = launch(tmp_path_factory.mktemp("pair"), launcher, runs)
    for name, settings in runs.items():
        single = train_one(tmp_path_factory.mktemp("single"), **settings)
        for figure in ("loss", "grad_norm", "eval_loss"):
            assert pair[name][figure] == pytest.approx(single[figure], abs=1e-4), (name, figure)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bert", {"objectives": "mlm:1,tsdae:1"}, "are for concept encoders, and this is a bert model"),
        ("concept_encoder", {"loss_weighting": "learnable"}, "goes with --concept_losses only"),
        (
            "concept_encoder",
            {"objectives": "contrastive:1", "concept_losses": "vicreg:1"},
            "add mlm, nested, tsdae or prefix to --objectives",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, tokenizer, name, settings, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, tokenizer, name, **settings)


@pytest.mark.parametrize(
    ("length", "settings", "message"),
    [
        (20, {"objectives": "contrastive"}, "add mlm or nested to --objectives"),
        (20, {"objectives": "tsdae,prefix"}, "add mlm or nested to --objectives"),
        (None, {"concept_losses": "vicreg@centred"}, "needs rows of one length: leave --line_by_line out"),
        (20, {"concept_losses": "vicreg", "loss_weighting": "learnable"}, "use --loss_weighting fixed"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(tmp_path, monkeypatch, length, settings, message):
    monkeypatch.setattr(ConceptTrainingArguments, "world_size", 2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    args = ConceptTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    with pytest.raises(ValueError, match=message):
        check_losses(args, build(), length)


@pytest.mark.parametrize(
    "rows_of",
    [
        {"packing": "documents", "max_documents_per_row": 4},
        {"packing": None, "line_by_line": True, "max_seq_length": 96},
        {"streaming": True, "packing": "documents", "max_documents_per_row": 4},
        {"mlm_probability_schedule": [0.5, 0.3], "dataloader_num_workers": 2},
    ],
    ids=["packed", "lines", "stream", "curriculum"],
)
def test_every_kind_of_row_is_trained_on(tmp_path, rows_of):
    metrics = tiny_run.train(tmp_path, **EVERYTHING | rows_of)
    assert metrics["eval_loss"] > 0
    for term in TERMS:
        losses = tiny_run.logged(tmp_path / "out", f"loss_{term}")
        assert len(losses) == 3
        assert all(math.isfinite(loss) for loss in losses.values()), term


@pytest.mark.parametrize(
    ("objectives", "regions"),
    [
        ("mlm,prefix", True),
        pytest.param(EVERYTHING["objectives"], True, marks=pytest.mark.slow),
        pytest.param(EVERYTHING["objectives"], False, marks=pytest.mark.slow),
    ],
)
def test_compiled_code_has_the_same_losses(tmp_path, tokenizer, objectives, regions):
    compiled = {"torch_compile_backend": "aot_eager", "torch_compile_regions": regions}
    settings = EVERYTHING | {"objectives": objectives, "max_steps": 3, "contrastive_chunk_size": 4}
    losses = []
    for extra in ({"dataloader_drop_last": True}, compiled):
        trained = run(tmp_path, tokenizer, **settings | extra)
        trained.train()
        losses.append(history(trained, "loss"))
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_the_command_learns_and_evaluates_masked_language_modelling(tmp_path):
    trained = tiny_run.train(tmp_path, max_steps=40, learning_rate=5e-3, **EVERYTHING)
    assert trained["eval_loss"] < math.log(300) - 0.5
