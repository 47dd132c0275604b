# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The files for `accelerate launch`: accelerate takes them, and two processes that share a model train as one does."""

from pathlib import Path

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from safetensors.torch import load_file

from modeling_concept import ConceptEncoderForMaskedLM
from tests.training.pair_run import BATCH, ROOT, launch, parse_launch, train_one

CONFIGS = ROOT / "recipes" / "accelerate"
REGIONS = {"torch_compile_backend": "aot_eager", "torch_compile_regions": True}


def parsed(name: str, *flags: str):
    """What `accelerate launch` makes of a file and flags."""
    return parse_launch("--config_file", str(CONFIGS / f"{name}.yaml"), *flags, "run_mlm.py")


def test_every_file_is_tested():
    assert {path.stem for path in CONFIGS.iterdir()} == {"single", "ddp", "fsdp2"}


def test_one_gpu():
    args = parsed("single")
    assert not any((args.multi_gpu, args.use_fsdp, args.cpu))
    _, environment = prepare_simple_launcher_cmd_env(args)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.mark.parametrize(("name", "kind"), [("ddp", "multi_gpu"), ("fsdp2", "use_fsdp")])
def test_several_gpus(name, kind):
    args = parsed(name, "--num_processes", "4")
    assert getattr(args, kind)
    assert prepare_multi_gpu_env(args)["ACCELERATE_MIXED_PRECISION"] == "bf16"
    with pytest.raises(ValueError, match="manually pass in `--num_processes`"):
        parsed(name)


def test_fsdp_shards_blocks_and_saves_whole_weights(monkeypatch):
    for name, value in prepare_multi_gpu_env(parsed("fsdp2", "--num_processes", "4")).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.transformer_cls_names_to_wrap == ConceptEncoderForMaskedLM._no_split_modules
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert not plugin.activation_checkpointing


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return train_one(tmp_path_factory.mktemp("single"))


def assert_same_figures(result: dict, single: dict) -> None:
    for figure in ("loss", "grad_norm", "eval_loss"):
        assert result[figure] == pytest.approx(single[figure], abs=1e-4)


def launch_with(name: str, folder: Path, runs: dict[str, dict], *flags: str) -> dict[str, dict]:
    return launch(folder, ["--config_file", str(CONFIGS / f"{name}.yaml"), *flags], runs)


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_processes_exchange_gradients_once_a_step(tmp_path, single, name):
    results = launch_with(name, tmp_path, {"plain": {}, "accumulated": {"gradient_accumulation_steps": BATCH // 2}})
    for result in results.values():
        assert_same_figures(result, single)
    assert results["plain"]["exchanges"] > 0
    assert results["accumulated"]["exchanges"] == results["plain"]["exchanges"]
    assert ("FSDPConceptBlock" in results["plain"]["sharded"]) == (name == "fsdp2")


@pytest.mark.slow
def test_two_processes_compile(tmp_path, single):
    runs = {
        "whole": {"torch_compile_backend": "aot_eager"},
        "regions": REGIONS,
        "whole, checkpointed": {"torch_compile_backend": "aot_eager", "gradient_checkpointing": True},
        "regions, checkpointed": REGIONS | {"gradient_checkpointing": True},
        "regions, accumulated": REGIONS | {"gradient_accumulation_steps": BATCH // 2},
    }
    for name, result in launch_with("ddp", tmp_path, runs).items():
        assert_same_figures(result, single)
        assert result["graphs"] == (1 if name.startswith("whole") else 8)


@pytest.mark.slow
def test_two_processes_that_share_a_model_compile_save_and_resume(tmp_path, single):
    runs = {
        "compiled": REGIONS | {"save_strategy": "steps", "save_steps": 2},
        "compiled, checkpointed": REGIONS | {"gradient_checkpointing": True},
        "resumed": {"resume_from_checkpoint": str(tmp_path / "compiled" / "checkpoint-2")},
    }
    results = launch_with("fsdp2", tmp_path, runs)
    for result in results.values():
        assert_same_figures(result, single)
        assert "FSDPConceptBlock" in result["sharded"]
    # One fewer than under DDP: the output layer shards its weight, so it is called itself and its loss is no graph.
    assert [results[name]["graphs"] for name in runs] == [7, 7, 0]
    # What it saved is a checkpoint like any other.
    checkpoint = tmp_path / "compiled" / "checkpoint-4"
    model = ConceptEncoderForMaskedLM.from_pretrained(checkpoint)
    assert load_file(checkpoint / "model.safetensors").keys() <= model.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_losses_of_mixed_precision_are_not_rounded(tmp_path, single, name):
    losses = launch_with(name, tmp_path, {"mixed": {}}, "--mixed_precision", "bf16")["mixed"]["loss"]
    assert losses == pytest.approx(single["loss"], abs=0.02)
    assert losses != torch.tensor(losses).bfloat16().tolist()
