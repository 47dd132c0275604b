# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA by PEFT on the classifier: adapters alone are trained, saved and loaded, and can be merged into the weights."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder
from tests.modeling.tiny import document, tiny_model

peft = pytest.importorskip("peft")

ATTENTION = ["qkv_proj", "q_proj", "kv_proj", "o_proj"]
HEAD = {"classifier.weight", "classifier.bias"}
ROWS = [{"input_ids": document(24, seed=row), "labels": torch.tensor(row % 3)} for row in range(12)]
BATCH = {name: torch.stack([row[name] for row in ROWS]) for name in ROWS[0]}


@pytest.fixture(scope="module")
def classifier() -> ConceptEncoderForSequenceClassificationViaDecoder:
    """Do not change it: adapters go into copies."""
    return tiny_model(ConceptEncoderForSequenceClassificationViaDecoder, dtype=torch.float32, num_labels=3)


def adapt(model, target_modules="all-linear"):
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=target_modules)
    return peft.get_peft_model(deepcopy(model), config)


def train(model, folder, steps=8):
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=6,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=steps,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=ROWS)
    trainer.train()
    return trainer


@torch.no_grad()
def compute(model) -> torch.Tensor:
    return model.eval()(input_ids=BATCH["input_ids"]).logits


@pytest.mark.parametrize("target_modules", ["all-linear", ATTENTION], ids=["all", "attention"])
def test_an_adapted_classifier_starts_as_it_was(classifier, target_modules):
    adapted = adapt(classifier, target_modules)
    assert torch.equal(compute(adapted), compute(classifier))
    trained, total = adapted.get_nb_trainable_parameters()
    assert 0 < trained < total / 4


def test_every_named_module_is_there(classifier):
    names = {
        name.rpartition(".")[2] for name, module in classifier.named_modules() if isinstance(module, torch.nn.Linear)
    }
    assert {*ATTENTION, "gate_up_proj", "down_proj"} <= names


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_and_the_classifier_alone_learn(classifier, tmp_path, checkpointing):
    adapted = adapt(classifier)
    if checkpointing:
        adapted.gradient_checkpointing_enable()
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    history = train(adapted, tmp_path).state.log_history
    changed = {name for name, parameter in adapted.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if "lora_" in name or "modules_to_save" in name}
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_a_saved_adapter_is_small_and_gives_the_same_on_the_same_base(classifier, tmp_path):
    adapted = adapt(classifier)
    train(adapted, tmp_path / "run")
    adapted.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name or name.rpartition("model.model.")[2] or "classifier" in name for name in saved)
    assert sum(tensor.numel() for tensor in saved.values()) == adapted.get_nb_trainable_parameters()[0]
    loaded = peft.PeftModel.from_pretrained(deepcopy(classifier), tmp_path / "adapter")
    assert torch.equal(compute(loaded), compute(adapted))
    assert not torch.equal(compute(adapted), compute(classifier))


def test_a_merged_adapter_is_a_plain_checkpoint(classifier, tmp_path):
    adapted = adapt(classifier)
    train(adapted, tmp_path / "run")
    expected = compute(adapted)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    loaded, info = type(classifier).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(compute(loaded), expected, atol=1e-4, rtol=1e-4)


def test_all_linear_layers_leave_the_tied_output_alone():
    model = tiny_model(ConceptEncoderForMaskedLM, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
    assert not any("lora_" in name and "lm_head" in name for name, _ in adapted.named_parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
