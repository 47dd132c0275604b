# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Compiled training: the same losses, all compilations in the first step, and a warm-up that leaves a cache only."""

from pathlib import Path

import pytest
import torch
from accelerate.utils import DynamoBackend
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters
from transformers import TrainerCallback

from tests.training import tiny_run
from tests.training.tiny_trainer import ONE_OF_EACH, build, history, rows, tiny_tokenizer, trainer
from training_concept.arguments import ConceptTrainingArguments
from training_concept.compilation import find_regions
from training_concept.trainer import ConceptTrainer

pytestmark = pytest.mark.usefixtures("fresh_compiler")

# Parts that are compiled apart: four that say who reads whom, rotations of tokens, of queries and of concepts (in the
# encoder for all rows at once, in the decoder row by row), embeddings, concepts, six kinds of blocks, head and loss.
KINDS = 18
WIDTHS = {"hidden_size": 32, "num_attention_heads": 2, "local_attention": 16}
WHOLE = {"torch_compile_backend": "eager"}
REGIONS = WHOLE | {"torch_compile_regions": True}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def graphs() -> int:
    """How many have been compiled."""
    return counters["stats"]["unique_graphs"]


class GraphsByStep(TrainerCallback):
    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_step_end(self, *args, **kwargs):
        self.counts.append(graphs())


def run_steps(folder: Path, tokenizer, name: str = "concept_encoder", **settings) -> tuple[ConceptTrainer, list[int]]:
    """6 steps of 4 rows, evaluation of 11 rows after every other step; the run and its graphs by step."""
    shape = {} if name == "bert" else ONE_OF_EACH | settings.pop("shape", {})
    evaluating = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 4}
    steps = {"max_steps": 6, "per_device_train_batch_size": 4, "dataloader_drop_last": True}
    model = build(name, **shape)
    run = trainer(model, folder, tokenizer, rows(11, 20, 20), length=20, **evaluating | steps | settings)
    run.add_callback(by_step := GraphsByStep())
    run.train()
    return run, by_step.counts


# Blocks have more kinds than the compiler expects of one piece of code, unless it is told.
@torch._dynamo.config.patch(recompile_limit=2)
@pytest.mark.parametrize(("name", "compiler", "expected", "checkpointing"), [
    ("concept_encoder", WHOLE, 1, False),
    ("concept_encoder", REGIONS, KINDS, False),
    ("concept_encoder", REGIONS, KINDS, True),
    pytest.param("concept_encoder", WHOLE, 1, True, marks=pytest.mark.slow),
    ("bert", WHOLE, 1, True),
    ("bert", REGIONS, 2, False),
])  # fmt: skip
def test_everything_is_compiled_in_the_first_step(tmp_path, tokenizer, name, compiler, expected, checkpointing):
    settings = {"gradient_checkpointing": checkpointing, "label_smoothing_factor": 0.1, "z_loss": 1e-3}
    plain, _ = run_steps(tmp_path, tokenizer, name, **settings)
    assert graphs() == 0

    compiled, counts = run_steps(tmp_path, tokenizer, name, **settings, **compiler)

    assert counts == [expected] * 6
    assert not counters["graph_break"]
    for figure in ("loss", "grad_norm", "eval_loss"):
        assert history(compiled, figure) == pytest.approx(history(plain, figure), abs=1e-5)


def test_blocks_of_one_structure_share_a_graph(tmp_path, tokenizer):
    run_steps(tmp_path, tokenizer, **REGIONS, max_steps=1, shape={"num_hidden_layers": 8, "read_every": 8})
    assert graphs() == KINDS


def test_regions_are_the_outermost_parts_that_a_model_names():
    model = build(**ONE_OF_EACH)
    regions = find_regions(model)
    blocks = {f"model.{name}.0" for name in ("token_blocks", "reads", "layers", "writes")}
    blocks |= {"model.embeddings", "model.concepts", "decoder.token_reads.0", "decoder.concept_reads.0"}
    places = {"model.arrangement", "model.mixing", "model.exchange", "decoder.reading", "model.rotary_emb"}
    found = {name for name, module in model.named_modules() if module in regions}
    assert found == blocks | places | {"head", "criterion"}
    assert model.criterion not in find_regions(model, left_out=["LinearCrossEntropy"])

    model._compiled_modules = ["ConceptEncoder", "ConceptBlock"]
    assert model.model in find_regions(model)
    assert model.model.layers[0] not in find_regions(model)


def test_a_model_without_names_is_compiled_as_a_whole():
    model = build("bert")
    assert {type(module).__name__ for module in find_regions(model)} == {"BertEmbeddings", "BertLayer"}
    model._no_split_modules = None
    with pytest.raises(ValueError, match="BertForMaskedLM names no parts to compile: compile it as a whole"):
        find_regions(model)


def test_liger_kernel_is_left_out_of_what_is_compiled(tmp_path, tokenizer):
    run = trainer(build(**ONE_OF_EACH), tmp_path, tokenizer, rows(8, 20, 20), use_liger_kernel=True, **REGIONS)
    assert run.model.criterion._compiled_call_impl is None
    assert run.model.head._compiled_call_impl is not None


def test_graph_breaks_are_errors_for_models_that_need_none(tmp_path, tokenizer, monkeypatch):
    def forward(self, states):
        torch._dynamo.graph_break()
        return states

    monkeypatch.setattr(nn.Dropout, "forward", forward)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        run_steps(tmp_path, tokenizer, **WHOLE, max_steps=1)
    run_steps(tmp_path, tokenizer, "bert", **WHOLE, max_steps=1)
    assert graphs() > 1


@pytest.mark.parametrize("compiler", [WHOLE, REGIONS], ids=["whole", "regions"])
def test_evaluation_compiles_nothing(tmp_path, tokenizer, compiler):
    plain = trainer(build(**ONE_OF_EACH), tmp_path, tokenizer, rows(11, 10, 20))
    compiled = trainer(build(**ONE_OF_EACH), tmp_path, tokenizer, rows(11, 10, 20), **compiler)
    assert compiled.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-5)
    assert compiled.predict(compiled.eval_dataset).metrics["test_loss"] > 0
    assert graphs() == 0


def test_batches_of_many_lengths_share_a_dynamic_graph(tmp_path, tokenizer):
    run = trainer(
        build("bert"), tmp_path, tokenizer, rows(24, 10, 40), per_device_train_batch_size=2, max_steps=12, **WHOLE
    )
    run.train()
    assert len(set(history(run, "masked_tokens_per_step"))) > 3
    assert graphs() == 2


@pytest.mark.parametrize(("name", "compiler"), [("concept_encoder", REGIONS), ("bert", WHOLE)])
def test_a_checkpoint_does_not_show_that_it_was_compiled(tmp_path, tokenizer, name, compiler):
    compiled, _ = run_steps(tmp_path / "compiled", tokenizer, name, **compiler)
    compiled.save_model()
    plain, _ = run_steps(tmp_path / "plain", tokenizer, name)
    plain.save_model()
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in ("compiled", "plain"))
    torch.testing.assert_close(weights, others, atol=1e-6, rtol=1e-5)
    configurations = [(tmp_path / name / "config.json").read_text() for name in ("compiled", "plain")]
    assert configurations[0] == configurations[1]


@pytest.mark.parametrize("regions", [False, True])
def test_what_the_launcher_was_told_counts(tmp_path, monkeypatch, regions):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "reduce-overhead")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", str(regions))
    args = ConceptTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.torch_compile, args.torch_compile_backend) == (True, "inductor")
    assert (args.torch_compile_mode, args.torch_compile_regions) == ("reduce-overhead", regions)
    assert args.dataloader_drop_last
    told = ConceptTrainingArguments(output_dir=str(tmp_path), use_cpu=True, torch_compile_backend="eager")
    assert told.torch_compile_backend == "eager"


def test_nothing_is_compiled_twice(tmp_path, tokenizer):
    run = trainer(build(**ONE_OF_EACH), tmp_path, tokenizer, rows(8, 20, 20), **WHOLE)
    assert run.accelerator.state.dynamo_plugin.backend == DynamoBackend.NO


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"torch_compile": True, "use_liger_kernel": True}, "--use_liger_kernel .* add --torch_compile_regions"),
        ({"torch_compile": True, "fsdp": True}, "FSDP gathers .* add --torch_compile_regions"),
        ({"warm_up": True, "do_train": True}, "--warm_up goes with --do_train and --torch_compile"),
        ({"warm_up": True, "torch_compile": True}, "--warm_up goes with --do_train and --torch_compile"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        ConceptTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_cuda_graphs_need_rows_of_one_length(tmp_path, tokenizer):
    settings = {"torch_compile_mode": "reduce-overhead", **WHOLE}
    with pytest.raises(ValueError, match=r"--torch_compile_mode reduce-overhead replays one shape"):
        trainer(build(**ONE_OF_EACH), tmp_path, tokenizer, rows(8, 20, 20), **settings)
    assert trainer(
        build(**ONE_OF_EACH), tmp_path, tokenizer, rows(8, 20, 20), length=20, **settings
    ).args.uses_cuda_graphs


def test_cuda_graphs_keep_their_memory_for_a_whole_step(tmp_path, tokenizer, monkeypatch):
    calls = []
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run = trainer(build(**ONE_OF_EACH), tmp_path, tokenizer, rows(12, 20, 20), length=20, **settings)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: calls.append("begin"))
    run.model.register_forward_hook(lambda *_: calls.append("pass"))
    run.train()
    assert calls == ["begin", "pass", "pass"] * 3


def test_a_warm_up_takes_one_step_and_leaves_no_trace(tmp_path, capsys):
    settings = {"report_to": "tensorboard", "save_strategy": "steps", "save_steps": 1, "max_steps": 100}
    seconds = tiny_run.train(tmp_path, "bert", warm_up=True, **settings, **WHOLE)
    assert 0 < seconds["first_step_training_seconds"] < seconds["first_step_seconds"] == seconds["warm_up_seconds"]
    assert graphs() == 1
    assert not (tmp_path / "out").exists()
    assert "The first step was done" in capsys.readouterr().out


def test_a_warm_up_compiles_each_stage_of_a_curriculum(tmp_path):
    settings = {"mlm_probability_schedule": [0.5, 0.3], "packing": "documents", "gradient_accumulation_steps": 2}
    settings |= {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 10}
    overrides = ",".join(f"{name}={value}" for name, value in (ONE_OF_EACH | WIDTHS).items())
    seconds = tiny_run.train(tmp_path, config_overrides=overrides, warm_up=True, **settings, **WHOLE)
    assert seconds["first_step_seconds"] < seconds["warm_up_seconds"]
    assert graphs() == 2


def test_a_warm_up_compiles_each_share_of_nested_concepts(tmp_path):
    overrides = ",".join(f"{name}={value}" for name, value in (ONE_OF_EACH | WIDTHS).items())
    tiny_run.train(tmp_path, config_overrides=overrides, objectives="nested:1", warm_up=True, **WHOLE)
    assert graphs() == 3


def test_a_warm_up_leaves_a_run_alone(tmp_path):
    tiny_run.train(tmp_path, "bert", max_steps=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    tiny_run.train(tmp_path, "bert", warm_up=True, **WHOLE)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("regions", [False, True])
def test_cuda_compiles_once_and_gives_the_same(tmp_path, tokenizer, mode, regions):
    plain, _ = run_steps(tmp_path, tokenizer, use_cpu=False)
    compiler = {"torch_compile_mode": mode, "torch_compile_regions": regions}
    compiled, counts = run_steps(tmp_path, tokenizer, use_cpu=False, **compiler)
    assert counts == [KINDS if regions else 1] * 6
    for figure in ("loss", "grad_norm", "eval_loss"):
        assert history(compiled, figure) == pytest.approx(history(plain, figure), abs=1e-3)


@pytest.mark.slow
def test_a_run_finds_compiled_what_its_warm_up_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    settings = {"model": "bert", "torch_compile": True, "do_eval": False}
    tiny_run.train(tmp_path, warm_up=True, **settings)
    assert counters["inductor"]["fxgraph_cache_miss"] > 0
    torch._dynamo.reset()
    counters.clear()
    tiny_run.train(tmp_path, **settings)
    assert counters["inductor"]["fxgraph_cache_miss"] == 0
    assert counters["aot_autograd"]["autograd_cache_hit"] > 0
