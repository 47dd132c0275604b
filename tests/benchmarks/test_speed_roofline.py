# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training step is made of: every part is found, with its operations; kernels are sorted into kinds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import cells, roofline
from benchmarks.contenders import CONTENDERS, with_shape
from benchmarks.results import read_results
from benchmarks.workload import make_documents

VOCABULARY = 99
NARROW = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "embedding_size": 16}
TOY = {
    "mini": with_shape(CONTENDERS["mini"], **NARROW, num_hidden_layers=2),
    "bert_256x6": CONTENDERS["bert_256x6"],
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys, nothing compiled."""
    monkeypatch.setattr(roofline, "CONTENDERS", TOY)
    for module in (roofline, cells):
        monkeypatch.setattr(module, "make_documents", lambda *args: make_documents(*args, vocabulary=VOCABULARY))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: None)
    monkeypatch.setitem(roofline.measure_ceilings.__globals__, "COPIED_BYTES", {"cpu": 2**16})
    monkeypatch.setitem(roofline.measure_ceilings.__globals__, "MATRIX_EDGE", {"cpu": 16})


PROFILE = ["--compile", "none", "--steps", "1"]


def measured(command: str, folder: Path, *options: str, contender: str = "mini") -> dict[str, Any]:
    path = folder / f"{command}.json"
    size = ["--tokens", "128", "--length", "64", "--seconds", "0", "--repeats", "2", "--attention", "sdpa"]
    roofline.main([command, "--contender", contender, "--output", str(path), *size, *options])
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_part_of_a_step_is_found(tmp_path):
    kernels = {it["name"]: it for it in measured("kernels", tmp_path)["kernels"]}
    parts = [name for name in kernels if not name.startswith("linear")]
    assert parts == [
        "tokens, local",
        "concepts read tokens",
        "concepts",
        "tokens read concepts",
        "decoder reads tokens",
        "decoder reads concepts",
        "gated MLP of tokens",
        "gated MLP of concepts",
        "norm and rotation",
        "output layer and loss, 38 rows",
        "AdamW, fused",
    ]
    assert all(it["floor"] > 0 and len(it["seconds"]) == 2 for it in kernels.values())
    # Two documents of 64 tokens, 19 of them masked, 8 spans and 4 free concepts.
    concepts = kernels["concepts"]
    assert (concepts["count"], concepts["flops"]) == (2, 3 * (2 * 24 * 4 * 32**2 + 4 * 32 * 2 * 12**2))


def test_linear_layers_and_attention_add_up_to_the_model(tmp_path):
    record = measured("kernels", tmp_path)
    batch = make_documents(64, 128, False, 1, torch.device("cpu"), VOCABULARY)[0].to_batch(False, masks=True)
    total = TOY["mini"].training_flops(batch, 64)
    lengths, masked = [64, 64], [19, 19]
    attention = 3 * TOY["mini"].attention_flops(TOY["mini"].config("sdpa", 64), lengths, masked)
    alone = [it for it in record["kernels"] if it["name"].startswith(("linear", "output"))]
    assert sum(it["flops"] * it["count"] for it in alone) == total - attention


def test_records_become_tables(tmp_path):
    measured("kernels", tmp_path)
    profile = measured("profile", tmp_path, *PROFILE)
    assert profile["shares"]["matmul"] > 0
    paths = [str(tmp_path / f"{name}.json") for name in ("kernels", "profile")]
    roofline.main(["merge", *paths], tmp_path / "speed.json")
    tables = read_results(tmp_path / "speed.json").tables
    assert set(tables) == {"roofline_mini_64", "profile_train_fixed_mini_64"}
    kinds = [row[0] for row in tables["profile_train_fixed_mini_64"].rows]
    assert kinds == sorted([*roofline.KINDS, "other", "idle"])


def test_encoding_is_profiled_too(tmp_path):
    encoding = measured("profile", tmp_path, *PROFILE, "--mode", "encode", "--layout", "variable")
    assert encoding["shares"]["matmul"] > 0 == encoding["shares"]["optimizer"]
    assert roofline.profile_table(encoding).name == "profile_encode_variable_mini_64"


def test_kernels_of_others_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'bert_256x6' is none of our models"):
        measured("kernels", tmp_path, contender="bert_256x6")


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_kernel<...>", "attention"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32", "matmul"),
        ("nvjet_hsh_128x256_64x4", "matmul"),
        ("triton_poi_fused_gelu_mul_3", "elementwise and reductions"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void (anonymous namespace)::sort_kernel", "other"),
        ("Memcpy DtoD", "copies"),
        ("ncclDevKernel_AllReduce", "communication"),
    ],
)
def test_kernels_have_a_kind(kernel, kind):
    assert roofline.kind_of(kernel) == kind
