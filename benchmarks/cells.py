# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""One cell of the speed benchmark: a model, built, compiled and timed on documents of one length."""

import gc
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from benchmarks.contenders import ConceptContender, Contender, Inputs
from benchmarks.timing import Step, Timing, time_limit, time_steps
from benchmarks.workload import Documents, make_documents

LEARNING_RATE = 1e-4
# Variants of a block that a model may have, before `torch.compile` gives up on it.
MOST_VARIANTS = 64
# Behind how a model is compiled: what it launches is recorded and replayed.
GRAPHS = "+graphs"
COMPILES = ("regions", "whole", "none", f"regions{GRAPHS}", f"whole{GRAPHS}")


@dataclass(frozen=True)
class Cell:
    """
    What to time.

    Attributes:
        contender: name in a table of contenders.
        mode: `train` or `encode`.
        length: most tokens of a document.
        variable: whether lengths are drawn from a normal distribution (see `make_documents`).
        attention, compiled: one of the contender's ways.
    """

    contender: str
    mode: str
    length: int
    variable: bool
    attention: str
    compiled: str

    def __str__(self) -> str:
        spread = "variable" if self.variable else "fixed"
        return f"{self.mode} {self.length} {spread} {self.contender} {self.attention} {self.compiled}"


@dataclass(frozen=True)
class Setting:
    """
    How cells are timed.

    Attributes:
        device: of the model.
        dtype: bfloat16 (mixed precision in training) or float32.
        tokens: in a batch, without padding.
        seconds: that one repeat takes, about.
        repeats: how many there are.
        max_seconds: a cell is broken off after so many; 0 is never.
        batches: different ones that take turns.
    """

    device: torch.device
    dtype: torch.dtype
    tokens: int
    seconds: float
    repeats: int
    max_seconds: float = 0.0
    batches: int = 4


@dataclass(frozen=True)
class Measurement:
    """
    What came of a cell; where it failed, `error` says why and the numbers are missing.

    Attributes:
        tokens: of a step, without padding.
        seconds: of a step, by repeat.
        first_step_s: seconds of the first step, compilation included.
        peak_bytes: most device memory in use; `None` with CUDA graphs, whose memory is not counted.
        flops: operations of a training step on fixed lengths, as executed.
        parameters: of the model in training, without its output layer in encoding.
    """

    contender: str
    mode: str
    length: int
    variable: bool
    attention: str
    compiled: str
    tokens: int = 0
    seconds: tuple[float, ...] = ()
    first_step_s: float | None = None
    peak_bytes: int | None = None
    flops: int | None = None
    parameters: int | None = None
    error: str | None = None

    @property
    def tokens_per_second(self) -> list[float]:
        """By repeat."""
        return [self.tokens / seconds for seconds in self.seconds]


def measure_cell(cell: Cell, contenders: Mapping[str, Contender], setting: Setting) -> list[Measurement]:
    """
    Time a cell; where compiling fails, also without. Whatever goes wrong is recorded and does not end the benchmark.
    """
    measured = [_try_cell(cell, contenders[cell.contender], setting)]
    error = measured[0].error
    if error is not None and cell.compiled != "none" and not any(reason in error for reason in FINAL):
        measured.append(_try_cell(replace(cell, compiled="none"), contenders[cell.contender], setting))
    return measured


def prepare(
    cell: Cell, contender: Contender, setting: Setting, documents: list[Documents]
) -> tuple[nn.Module, list[Inputs]]:
    """The model of a cell, compiled (which happens in its first step), and its batches."""
    with torch.device(setting.device):
        model = contender.build(cell.attention, cell.length, cell.mode)
    packed = contender.packs(cell.attention, cell.variable)
    batches = [it.to_batch(packed, masks=cell.mode == "train") for it in documents]
    if cell.mode == "encode":
        model = model.to(setting.dtype)
    compile_model(model.train(cell.mode == "train"), contender, cell.compiled)
    return model, [contender.inputs(batch, cell.mode) for batch in batches]


def compile_model(model: nn.Module, contender: Contender, how: str, **options: Any) -> None:
    """
    Compile `model` in place, with `options` of `torch.compile`: its `regions` one by one, as a `whole`, or `none`;
    with `GRAPHS`, as CUDA graphs.
    """
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    options |= {"mode": "reduce-overhead"} if how.endswith(GRAPHS) else {}
    modules = {"regions": contender.regions(model), "whole": [model], "none": []}
    for module in modules[how.removesuffix(GRAPHS)]:
        module.compile(dynamic=False, **options)


def allow_cudnn(allowed: bool) -> None:
    """Whether attention may be cuDNN's. Its backward pass gave our training NaN gradients; others may use it."""
    torch.backends.cuda.enable_cudnn_sdp(allowed)


def training_step(model: nn.Module, batches: list[Inputs], setting: Setting) -> Step:
    """Forward and backward pass, in bfloat16 under autocast, and fused AdamW on float32 weights."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    turns, mixed = itertools.cycle(batches), setting.dtype != torch.float32

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(setting.device.type, setting.dtype, enabled=mixed):
            loss = model(**next(turns))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def encoding_step(model: nn.Module, batches: list[Inputs], setting: Setting) -> Step:
    """A forward pass without gradients."""
    turns = itertools.cycle(batches)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            model(**next(turns))

    return step


STEPS: dict[str, Callable[[nn.Module, list[Inputs], Setting], Step]] = {
    "train": training_step,
    "encode": encoding_step,
}
# Errors that compiling is not to blame for.
FINAL = ("OutOfMemoryError", "TimeoutError", "unsupported")


def _try_cell(cell: Cell, contender: Contender, setting: Setting) -> Measurement:
    empty = Measurement(**vars(cell))
    if cell.variable and not contender.variable:
        return replace(empty, error="unsupported: fixed lengths only")
    try:
        with time_limit(setting.max_seconds):
            return _measure(cell, contender, setting, empty)
    # A library or kernel may raise anything; the benchmark goes on and says so in its table.
    except Exception as error:
        return replace(empty, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    finally:
        _clean_up(setting.device)


def _measure(cell: Cell, contender: Contender, setting: Setting, empty: Measurement) -> Measurement:
    torch.manual_seed(0)
    allow_cudnn(not (cell.mode == "train" and isinstance(contender, ConceptContender)))
    documents = make_documents(cell.length, setting.tokens, cell.variable, setting.batches, setting.device)
    model, inputs = prepare(cell, contender, setting, documents)
    step = STEPS[cell.mode](model, inputs, setting)
    timing: Timing = time_steps(step, setting.device, setting.seconds, setting.repeats)
    flops = None
    if cell.mode == "train" and not cell.variable:
        flops = contender.training_flops(documents[0].to_batch(packed=False, masks=True), cell.length)
    return replace(
        empty,
        tokens=sum(documents[0].lengths),
        seconds=tuple(timing.seconds),
        first_step_s=timing.first,
        peak_bytes=None if cell.compiled.endswith(GRAPHS) else timing.peak_bytes,
        flops=flops,
        parameters=sum(it.numel() for it in model.parameters()),
    )


def _clean_up(device: torch.device) -> None:
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def describe(measurement: Measurement) -> dict[str, Any]:
    """A measurement as it is written to JSON."""
    return vars(measurement) | {"seconds": list(measurement.seconds)}
