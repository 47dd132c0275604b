# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Where tests of Triton kernels run, and what range kernels compute in plain operations."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.version import Version

from modeling_concept.kernels import HAS_TRITON
from modeling_concept.range_kernels import KeyRanges

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
on_kernels = pytest.mark.skipif(
    not (HAS_TRITON and (INTERPRETED or DEVICE == "cuda")), reason="no Triton, or a CPU without its interpreter"
)
on_gpu = pytest.mark.skipif(not (HAS_TRITON and DEVICE == "cuda"), reason="no Triton, or no GPU")
# What PyTorch finds out about kernels it asks a driver, which may be made up where there is none.
traced = pytest.mark.skipif(not HAS_TRITON or INTERPRETED, reason="no Triton, or its interpreter")
# `wrap_triton` takes no function of the interpreter before 2.13.
beside_the_interpreter = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.13") or not HAS_TRITON or INTERPRETED or DEVICE == "cuda",
    reason="PyTorch is too old for interpreted kernels, no Triton, or kernels run here",
)


def check_in_interpreter(file: str) -> None:
    """Run the tests in `file` in Triton's interpreter, and see that they pass."""
    # What Triton's own functions become is settled when it is first imported.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


def attend_under_a_mask(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ranges: KeyRanges, scaling: float
) -> torch.Tensor:
    """What `attend_ranges` computes, from all logits."""
    places = torch.arange(key.shape[1], device=key.device)
    mask = (places >= ranges.first[..., None]) & (places <= ranges.last[..., None])
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) * scaling
    weights = logits.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1).masked_fill(~mask[:, None], 0)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


def written_by_kernels(
    function: Callable[..., Any], arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> list[set[str]]:
    """
    What PyTorch finds that each kernel of `function` writes to, by its names; a compiler copies that before.

    Nothing is run, so that no GPU is needed, but the name of one.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._dynamo.exc import BackendCompilerFailed
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        raise NotImplementedError

    monkeypatch.setattr(driver, "_active", SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32)))
    with pytest.raises((BackendCompilerFailed, NotImplementedError)):
        torch.compile(function, backend=aot_autograd(fw_compiler=keep), fullgraph=True)(*arguments)
    calls = [node.kwargs for graph in graphs for node in graph.graph.nodes if "tensors_to_clone" in node.kwargs]
    return [set(call["tensors_to_clone"]) for call in calls]
