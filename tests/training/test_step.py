# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The training step: nothing waits for the device, precision as the stock Trainer has it, options of the loss."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel, TrainerCallback

from tests.training.tiny_trainer import build, history, rows, tiny_tokenizer, trainer
from training_concept.arguments import ConceptTrainingArguments
from training_concept.concept_losses import LOSSES
from training_concept.masking import MaskingCollator
from training_concept.mixture import MixtureDataset, with_epochs
from training_concept.throughput import ThroughputMeter
from training_concept.trainer import ConceptTrainer

MODELS = ["concept_encoder", "bert"]
# Operations whose result the host has to know, and methods that copy to it.
READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"}
COPYING = ("cpu", "numpy", "tolist")
ACCELERATOR = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


class ReadsCounted(TorchDispatchMode):
    """Counts what would make a host wait for its accelerator, by name of the operation."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.active = False
        for name in COPYING:
            patch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))

    def _counted(self, name, method):
        def counted(tensor, *args, **kwargs):
            self.counts[name] += self.active
            return method(tensor, *args, **kwargs)

        return counted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        self.counts[name] += self.active and name in READING
        return function(*args, **kwargs or {})


class Between(TrainerCallback):
    """Counts from the end of one step to the end of another, the fetching of batches and the optimizer included."""

    def __init__(self, reads: ReadsCounted, first: int, last: int) -> None:
        self.reads, self.first, self.last = reads, first, last

    def on_step_end(self, args, state, control, **kwargs):
        self.reads.active = self.first <= state.global_step < self.last


def reads_of_steps(run: ConceptTrainer, patch: pytest.MonkeyPatch) -> Counter[str]:
    # The counter of epochs is read too, but lies in the memory of the host.
    patch.setattr(MixtureDataset, "epoch", 0)
    reads = ReadsCounted(patch)
    run.add_callback(Between(reads, first=1, last=4))
    with reads:
        run.train()
    return +reads.counts


def stepping(folder: Path, tokenizer, name: str = "concept_encoder", **settings) -> ConceptTrainer:
    """A run of 5 steps in one pass, of which only the last is logged."""
    steps = {"max_steps": 5, "logging_steps": 5, "per_device_train_batch_size": 2}
    return trainer(build(name), folder, tokenizer, rows(24, 20, 20), length=20, **steps | settings)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_no_step_waits_for_the_device(tmp_path, tokenizer, monkeypatch, name, accumulation):
    run = stepping(tmp_path, tokenizer, name, gradient_accumulation_steps=accumulation, label_smoothing_factor=0.1)
    assert reads_of_steps(run, monkeypatch) == {}


EVERYTHING = {
    "objectives": "mlm,nested,tsdae,prefix,contrastive",
    "concept_losses": ",".join(f"{name},{name}@centred" for name in LOSSES),
    "loss_weighting": "kendall_gal",
}


@pytest.mark.parametrize("setting", [{}, {"gradient_accumulation_steps": 2, "contrastive_chunk_size": 3}])
def test_no_objective_and_no_loss_on_concepts_waits_for_the_device(tmp_path, tokenizer, monkeypatch, setting):
    assert reads_of_steps(stepping(tmp_path, tokenizer, **EVERYTHING | setting), monkeypatch) == {}


@pytest.mark.parametrize(
    "setting",
    [{"logging_nan_inf_filter": True}, {"include_num_input_tokens_seen": "all"}, {"logging_steps": 1}],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_that_wait_are_noticed(tmp_path, tokenizer, monkeypatch, setting):
    assert reads_of_steps(stepping(tmp_path, tokenizer, **setting), monkeypatch)["_local_scalar_dense"] >= 3


@pytest.mark.skipif(ACCELERATOR is None or ACCELERATOR.type != "cuda", reason="no CUDA device on this machine")
def test_cuda_is_never_waited_for(tmp_path, tokenizer):
    class Strict(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            torch.cuda.set_sync_debug_mode("error" if 1 <= state.global_step < 4 else "default")

    run = stepping(tmp_path, tokenizer, use_cpu=False, bf16=True, gradient_accumulation_steps=2)
    run.add_callback(Strict())
    run.train()
    assert run.state.global_step == 5


def test_batches_are_copied_while_the_host_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    beside_an_accelerator = ConceptTrainingArguments(output_dir=str(tmp_path))
    assert beside_an_accelerator.accelerator_config.non_blocking
    assert beside_an_accelerator.dataloader_pin_memory
    assert not ConceptTrainingArguments(output_dir=str(tmp_path), use_cpu=True).accelerator_config.non_blocking
    chosen = ConceptTrainingArguments(output_dir=str(tmp_path), accelerator_config={"even_batches": False})
    assert not chosen.accelerator_config.non_blocking


def test_products_are_in_bfloat16_and_weights_and_optimizer_in_float32(tmp_path, tokenizer):
    run = stepping(tmp_path, tokenizer, bf16=True)
    seen = []
    run.model.head.dense.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run.train()
    state = run.optimizer.state_dict()["state"]
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    assert {moments["exp_avg"].dtype for moments in state.values()} == {torch.float32}


def test_the_optimizer_is_the_fused_one(tmp_path, tokenizer):
    run = stepping(tmp_path, tokenizer)
    run.train()
    assert all(group["fused"] for group in run.optimizer.param_groups)


def logits_and_targets(model: PreTrainedModel, tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """All rows in one batch, as in a step of `one_step`."""
    data = with_epochs(rows(8, 20, 20))
    batch = MaskingCollator(tokenizer, vocab_size=model.config.vocab_size)([data[index] for index in range(8)])
    with torch.no_grad():
        return model(batch["input_ids"]).logits.flatten(0, 1), batch["labels"].flatten()


def one_step(folder: Path, tokenizer, name: str, **settings) -> ConceptTrainer:
    run = trainer(build(name), folder, tokenizer, rows(8, 20, 20), per_device_train_batch_size=8, **settings)
    run.train()
    return run


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_smoothed_and_the_partition_function_is_held(tmp_path, tokenizer, name):
    settings = {"label_smoothing_factor": 0.2, "z_loss": 0.01}
    run = one_step(tmp_path, tokenizer, name, **settings)

    logits, targets = logits_and_targets(build(name).eval(), tokenizer)
    log_z = logits.logsumexp(dim=1)[targets != -100]
    expected = F.cross_entropy(logits, targets, label_smoothing=0.2) + 0.01 * log_z.square().mean()
    assert history(run, "loss")[0] == pytest.approx(expected.item(), abs=1e-5)
    # What is evaluated is the likelihood alone.
    logits, targets = logits_and_targets(run.model.eval(), tokenizer)
    assert run.evaluate()["eval_loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-5)


def test_a_model_is_told_only_the_options_that_are_set(tmp_path, tokenizer, monkeypatch):
    told = []

    def forward(self, input_ids, labels=None, masked_positions=None, label_smoothing=0.0, **kwargs):
        told.append({"label_smoothing": label_smoothing} | kwargs)
        return {"loss": self.lm_head(self.model.embed_tokens(input_ids)).mean()}

    model = build()
    monkeypatch.setattr(type(model), "forward", forward)
    for setting in ({}, {"label_smoothing_factor": 0.1}, {"z_loss": 1e-4}, {"use_liger_kernel": True}):
        run = trainer(model, tmp_path, tokenizer, rows(8, 20, 20), **setting)
        told.clear()
        run.compute_loss(model, next(iter(run.get_train_dataloader())))
        expected = {"label_smoothing_factor": {"label_smoothing": 0.1}, "z_loss": {"z_loss": 1e-4}}
        expected["use_liger_kernel"] = {"loss_kernel": "liger"}
        assert told == [{"label_smoothing": 0.0} | expected.get(next(iter(setting), ""), {})]


@pytest.mark.parametrize("setting", [{"label_smoothing_factor": 1.5}, {"z_loss": -1e-4}])
def test_options_out_of_range_are_refused(tmp_path, setting):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], and --z_loss must not be negative"):
        ConceptTrainingArguments(output_dir=str(tmp_path), **setting)


def test_counting_costs_a_few_operations_a_step(tmp_path, tokenizer, monkeypatch):
    class Operations(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += 1
            return function(*args, **kwargs or {})

    run = stepping(tmp_path, tokenizer)
    batch = next(iter(run.get_train_dataloader()))
    meter = ThroughputMeter(run.accelerator)
    with Operations() as operations:
        meter.update(batch | {"document_lengths": torch.tensor([[20], [20]])}, flops=1.0)
    assert operations.count <= 6
