# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
What a training step of ours is made of: its kernels beside what the device allows, and where the time goes.

    python -m benchmarks.roofline kernels --contender base --length 1024 --output kernels.json
    python -m benchmarks.roofline profile --contender base --length 1024 --output profile.json
    python -m benchmarks.roofline merge kernels.json profile.json

A floor is the longer of two times: operations at the speed of a large matrix product, and bytes at the speed of a
large copy, both measured in the same run. Bytes are the least that a forward and a backward pass can move in bfloat16:
input and weights three times each (read, read again, gradient written), output twice (written, its gradient read).
What lies between, such as attention's queries, need not be moved.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.cells import COMPILES, LEARNING_RATE, STEPS, Cell, Setting, allow_cudnn, prepare
from benchmarks.contenders import CONTENDERS, MODES, ConceptContender, Inputs, LinearProducts, concept_reads
from benchmarks.results import RESULTS, Table, merge_results
from benchmarks.speed import LAYOUTS, add_shared_options, carry_out, facts
from benchmarks.timing import Step, current_device, measure_ceilings, time_steps
from benchmarks.workload import MASKED, make_documents
from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from modeling_concept.kernels import norm_and_rotate
from modeling_concept.losses import linear_cross_entropy
from training_concept.throughput import TRAINING_PASSES

COMMAND = "python -m benchmarks.roofline"
# Bytes that AdamW moves for a float32 weight: gradient read; weight and two moments read and written.
ADAMW_BYTES = 4 + 3 * 8
# Kinds of kernels by what their names hold; the first that fits.
KINDS = {
    "communication": ("nccl",),
    "attention": ("flash", "fmha", "attention", "attn"),
    "optimizer": ("multi_tensor", "adam"),
    "matmul": ("gemm", "nvjet", "cutlass", "cublas", "xmma", "splitk", "aten::mm", "aten::addmm", "aten::bmm"),
    "copies": ("memcpy", "memset", "aten::copy_"),
    "elementwise and reductions": ("triton", "elementwise", "reduce", "norm", "gelu", "softmax", "aten::"),
}
WARM_UP = 5
# Calls under the profiler, which remembers every kernel of them.
MOST_PROFILED = 20


@dataclass(frozen=True)
class Kernel:
    """
    A part of a step.

    Attributes:
        name: what it is.
        count: how often a step has it.
        flops: operations of its forward and backward pass.
        bytes: the least that these move.
        step: runs both.
    """

    name: str
    count: int
    flops: float
    bytes: float
    step: Step


def main(arguments: Sequence[str], path: Path = RESULTS / "speed.json") -> None:
    """
    Measure into the file that `--output` names, or merge such files into the results file `path`.

    Raises:
        OSError, ValueError: what is named on the command line is missing or cannot be read.
    """
    carry_out(_parse(arguments), COMMAND, arguments, path)


def measure_kernels(options: argparse.Namespace, path: Path) -> None:
    """Time every kernel beside its floor and write that to `options.output`."""
    device, dtype = current_device(), getattr(torch, options.dtype)
    record = facts(options, device) | {"contender": options.contender, "length": options.length, "kernels": []}
    ceilings = measure_ceilings(device, dtype)
    record["ceilings"] = asdict(ceilings)
    matmul, copy = statistics.median(ceilings.matmul_flops), statistics.median(ceilings.copy_bytes)
    for kernel in make_kernels(options, device):
        measured = busy_seconds(kernel.step, device, options.seconds, options.repeats)
        floor = max(kernel.flops / matmul, kernel.bytes / copy)
        record["kernels"].append(
            {name: getattr(kernel, name) for name in ("name", "count", "flops", "bytes")}
            | {"floor": floor, "seconds": measured}
        )
        seconds = statistics.median(measured)
        print(
            f"{kernel.name}: {1e3 * seconds:.3f} ms, {seconds / floor:.2f} x floor, {kernel.count} a step", flush=True
        )
        write_json(options.output, record)


def busy_seconds(step: Step, device: torch.device, seconds: float, repeats: int) -> list[float]:
    """
    Seconds of a call, by repeat.

    On a GPU those in which a kernel of it ran: Python takes longer to launch a small one, which in a step that is
    replayed as a CUDA graph happens once.
    """
    timing = time_steps(step, device, seconds, repeats)
    if device.type != "cuda":
        return timing.seconds
    steps = min(timing.steps, MOST_PROFILED)
    return [sum(spent for spent, _ in profile_steps(step, device, steps).values()) for _ in range(repeats)]


def make_kernels(options: argparse.Namespace, device: torch.device) -> Iterator[Kernel]:
    """
    The kernels of a training step of `options.contender` on documents of `options.length` tokens.

    Raises:
        ValueError: if it is none of our models.
    """
    contender = CONTENDERS[options.contender]
    if not isinstance(contender, ConceptContender):
        raise ValueError(f"{options.contender!r} is none of our models, whose kernels these are.")
    allow_cudnn(False)
    setting = Setting(device, getattr(torch, options.dtype), options.tokens, 0, 1, batches=1)
    documents = make_documents(options.length, options.tokens, False, 1, device)
    cell = Cell(options.contender, "train", options.length, False, options.attention, "none")
    model, batches = prepare(cell, contender, setting, documents)
    masked_lm, inputs = model.model, batches[0]
    yield from linear_kernels(masked_lm, inputs, setting)
    yield from block_kernels(masked_lm, inputs, setting, options)
    yield norm_and_rotary(masked_lm, inputs, setting)
    yield loss_kernel(masked_lm, inputs, setting)
    yield optimizer_kernel(masked_lm)


def linear_kernels(model: nn.Module, inputs: Inputs, setting: Setting) -> Iterator[Kernel]:
    """Every shape of linear layer but the output layer's."""
    with LinearProducts() as products:
        _forward(model, inputs, setting)
    for (rows, width, out), count in sorted(products.shapes.items()):
        if out == model.config.vocab_size:
            continue
        layer = nn.Linear(width, out, bias=False, device=setting.device, dtype=setting.dtype)
        states = torch.randn(rows, width, device=setting.device, dtype=setting.dtype, requires_grad=True)
        flops = TRAINING_PASSES * 2 * rows * width * out
        step = _both_passes(layer, (states,), {}, setting, [layer.weight])
        yield Kernel(f"linear {width} to {out}, {rows:,} rows", count, flops, _moved(states, layer, rows * out), step)


def block_kernels(model: nn.Module, inputs: Inputs, setting: Setting, options: argparse.Namespace) -> Iterator[Kernel]:
    """Attention of every kind, with its projections, norms and rotations, and the gated MLPs, compiled."""
    documents = options.tokens // options.length
    reads = concept_reads(model.config, options.length, round(MASKED * options.length))
    for name, modules in _parts(model).items():
        called = _capture(model, modules[0], inputs, setting)
        if called is None:
            continue
        args, kwargs = called
        with LinearProducts() as products, torch.no_grad():
            output = _first(_autocast(modules[0], args, kwargs, setting))
        flops = TRAINING_PASSES * (products.flops + 4 * documents * reads.get(name, 0) / len(modules))
        states = sum(it.numel() for it in (*args, *kwargs.values()) if _is_state(it))
        moved = 2 * (3 * states + 3 * _weights(modules[0]) + 2 * output.numel())
        modules[0].compile(dynamic=False)
        step = _both_passes(modules[0], args, kwargs, setting, list(modules[0].parameters()))
        yield Kernel(name, len(modules), flops, moved, step)


def norm_and_rotary(model: nn.Module, inputs: Inputs, setting: Setting) -> Kernel:
    """Norm per head and rotation of the queries of a token layer, compiled; bandwidth is all it needs."""
    config, rows = model.config, inputs["input_ids"]
    visible = rows.shape[1] - inputs["masked_positions"].shape[1]
    shape = (rows.shape[0], visible, config.token_hidden_size // config.head_dim, config.head_dim)
    states = torch.randn(shape, device=setting.device, dtype=setting.dtype, requires_grad=True)
    places = torch.arange(visible, device=setting.device).expand(rows.shape[0], -1)
    cos, sin = model.model.rotate(states, places) or (None, None)
    weight = torch.ones(config.head_dim, device=setting.device, requires_grad=True)
    arguments = (weight, cos, sin, config.norm_eps, setting.dtype)
    both = torch.compile(lambda states: norm_and_rotate(states, *arguments), dynamic=False)
    layers = len(model.model.token_blocks) + len(model.model.interleaved_blocks)
    step = _both_passes(both, (states,), {}, setting, [weight])
    # Queries and keys of every layer, each read three times and written twice.
    return Kernel("norm and rotation", 2 * layers, 0, 2 * 5 * states.numel(), step)


def loss_kernel(model: nn.Module, inputs: Inputs, setting: Setting) -> Kernel:
    """The output layer and cross-entropy on the masked tokens, compiled."""
    rows = inputs["masked_positions"].numel()
    weight, bias = model.lm_head.weight, model.lm_head.bias
    states = torch.randn(rows, weight.shape[1], device=setting.device, dtype=setting.dtype, requires_grad=True)
    targets = torch.randint(weight.shape[0], (rows,), device=setting.device)
    compiled = torch.compile(linear_cross_entropy, dynamic=False)
    flops = TRAINING_PASSES * 2 * rows * weight.numel()
    # Logits need not be moved: a fused kernel keeps them.
    moved = 2 * (3 * states.numel() + 3 * weight.numel())
    step = _both_passes(compiled, (states, weight, bias, targets), {}, setting)
    return Kernel(f"output layer and loss, {rows:,} rows", 1, flops, moved, step)


def optimizer_kernel(model: nn.Module) -> Kernel:
    """Fused AdamW on all weights."""
    weights = [nn.Parameter(torch.zeros_like(it)) for it in model.parameters()]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, fused=True)
    number = sum(it.numel() for it in weights)
    # Some ten operations a weight, far from what bounds it.
    return Kernel("AdamW, fused", 1, 0, ADAMW_BYTES * number, optimizer.step)


def measure_profile(options: argparse.Namespace, path: Path) -> None:
    """Profile a step of any contender; shares by kind and the longest kernels go to `options.output`."""
    device = current_device()
    contender, mixed = CONTENDERS[options.contender], getattr(torch, options.dtype)
    setting = Setting(device, mixed, options.tokens, options.seconds, options.repeats)
    variable = LAYOUTS[options.layout]
    documents = make_documents(options.length, options.tokens, variable, setting.batches, device)
    cell = Cell(options.contender, options.mode, options.length, variable, options.attention, options.compile)
    allow_cudnn(not isinstance(contender, ConceptContender))
    step = STEPS[cell.mode](*prepare(cell, contender, setting, documents), setting)
    timing = time_steps(step, device, options.seconds, options.repeats, warm_up=WARM_UP)
    kernels = profile_steps(step, device, options.steps)
    described = ("contender", "length", "mode", "layout")
    record = facts(options, device) | {name: getattr(options, name) for name in described}
    record |= {"step_seconds": timing.seconds, "shares": shares(kernels, statistics.median(timing.seconds))}
    record["longest"] = [
        {"kernel": name, "kind": kind_of(name), "seconds": seconds, "count": count}
        for name, (seconds, count) in sorted(kernels.items(), key=lambda it: -it[1][0])[: options.top]
    ]
    write_json(options.output, record)
    print(json.dumps(record["shares"], indent=2))
    for row in record["longest"]:
        print(f"{1e3 * row['seconds']:9.3f} ms {row['count']:6.1f} x  {row['kind']:12.12}  {row['kernel'][:100]}")


def profile_steps(step: Step, device: torch.device, steps: int) -> dict[str, tuple[float, float]]:
    """Seconds of a step on the device, and calls in it, by the name of the kernel; on a CPU by operation."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize(device)
    spent: dict[str, list[float]] = defaultdict(list)
    for event in profiler.events():
        if (seconds := _own_seconds(event, cuda)) > 0:
            spent[event.name].append(seconds)
    return {name: (sum(times) / steps, len(times) / steps) for name, times in spent.items()}


def kind_of(kernel: str) -> str:
    """What a kernel of this name does, a key of `KINDS` or "other"."""
    lowered = kernel.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)), "other")


def shares(kernels: Mapping[str, tuple[float, float]], step_seconds: float) -> dict[str, float]:
    """Share of a step by kind of kernel; "idle" is when no kernel ran."""
    spent: dict[str, float] = dict.fromkeys((*KINDS, "other"), 0.0)
    for name, (seconds, _) in kernels.items():
        spent[kind_of(name)] += seconds / step_seconds
    return spent | {"idle": max(1 - sum(spent.values()), 0.0)}


def merge(options: argparse.Namespace, path: Path) -> None:
    """Put the tables of measured records into the results file `path`."""
    records = [json.loads(record.read_text(encoding="utf-8")) for record in options.records]
    try:
        tables = [kernels_table(it) if "kernels" in it else profile_table(it) for it in records]
    except (KeyError, TypeError) as error:
        raise ValueError(f"one of {options.records} is no record of {COMMAND}: {error!r}") from error
    merge_results(path, {}, tables)


def kernels_table(record: Mapping[str, Any]) -> Table:
    """Operations, bytes, floor, measured time and their ratio of every kernel."""
    rows = []
    for it in record["kernels"]:
        seconds = statistics.median(it["seconds"])
        spread = statistics.stdev(it["seconds"]) if len(it["seconds"]) > 1 else 0.0
        cells = [it["flops"] / 1e9, it["bytes"] / 1e6, 1e3 * it["floor"], 1e3 * seconds, 1e3 * spread]
        rows.append(
            [it["name"], it["count"], *(float(f"{cell:.3g}") for cell in cells), round(seconds / it["floor"], 2)]
        )
    columns = ["kernel", "a step", "GFLOP", "MB", "floor (ms)", "measured (ms)", "spread (ms)", "ratio"]
    matmul, copy = (statistics.median(record["ceilings"][it]) / 1e12 for it in ("matmul_flops", "copy_bytes"))
    note = (
        f"{record['contender']} on documents of {record['length']} tokens, {record['tokens']:,} tokens a step, "
        f"{record['device']}. Forward and backward pass, bfloat16. Ceilings in the same run: {matmul:.0f} TFLOP/s, "
        f"{copy:.2f} TB/s. Rows overlap: attention and MLPs hold the linear layers."
    )
    return Table(f"roofline_{record['contender']}_{record['length']}", columns, rows, note)


def profile_table(record: Mapping[str, Any]) -> Table:
    """Shares of a step by kind of kernel."""
    rows = [[kind, round(share, 3)] for kind, share in record["shares"].items()]
    milliseconds = 1e3 * statistics.median(record["step_seconds"])
    mode, layout = record["mode"], record["layout"]
    note = (
        f"A step ({mode}) of {record['contender']} on documents of {layout} length, {record['length']} tokens at "
        f"most, {record['tokens']:,} in all, {milliseconds:.1f} ms, {record['device']}. Idle: no kernel was running."
    )
    name = f"profile_{mode}_{layout}_{record['contender']}_{record['length']}"
    return Table(name, ["kind of kernel", "share of step"], rows, note)


def _parts(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of each kind, all alike; the first stands for them."""
    encoder, decoder = model.model, model.decoder
    tokens = [*encoder.token_blocks, *encoder.interleaved_blocks]
    found = {
        "tokens, local": [block.attention for block in tokens],
        "concepts read tokens": [block.attention for block in encoder.reads],
        "concepts": [block.attention for block in encoder.layers],
        "tokens read concepts": [block.attention for block in encoder.writes],
        "decoder reads tokens": [block.attention for block in decoder.token_reads],
        "decoder reads concepts": [block.attention for block in decoder.concept_reads],
        "gated MLP of tokens": [block.mlp for block in tokens],
        "gated MLP of concepts": [block.mlp for block in encoder.layers],
    }
    return {name: modules for name, modules in found.items() if modules}


def _capture(
    model: nn.Module, module: nn.Module, inputs: Inputs, setting: Setting
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What `module` is called with in a forward pass of `model`, ready to be differentiated; `None` if it is not."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    _forward(model, inputs, setting)
    hook.remove()
    if not calls:
        return None
    args, kwargs = calls[0]
    return tuple(map(_leaf, args)), {name: _leaf(value) for name, value in kwargs.items()}


def _forward(model: nn.Module, inputs: Inputs, setting: Setting) -> None:
    # With labels left out the output layer is one product, whichever kernel the loss has.
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    with torch.no_grad():
        _autocast(model, (), inputs, setting)


def _autocast(function: Callable, args: tuple[Any, ...], kwargs: dict[str, Any], setting: Setting) -> Any:
    with torch.autocast(setting.device.type, setting.dtype, enabled=setting.dtype != torch.float32):
        return function(*args, **kwargs)


def _both_passes(
    function: Callable,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    setting: Setting,
    weights: Sequence[torch.Tensor] = (),
) -> Step:
    """A forward and a backward pass to all states among the arguments, and to `weights`; gradients are thrown away."""
    leaves = [it for it in (*args, *kwargs.values()) if _is_state(it)] + list(weights)

    def step() -> None:
        output = _first(_autocast(function, args, kwargs, setting))
        torch.autograd.grad(output, leaves, torch.ones_like(output), allow_unused=True)

    return step


def _leaf(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value


def _is_state(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _weights(module: nn.Module) -> int:
    return sum(it.numel() for it in module.parameters())


def _moved(states: torch.Tensor, layer: nn.Module, out: int) -> int:
    return 2 * (3 * states.numel() + 3 * _weights(layer) + 2 * out)


def _own_seconds(event: FunctionEvent, cuda: bool) -> float:
    if cuda:
        is_kernel = event.device_type == torch.autograd.DeviceType.CUDA
        return event.self_device_time_total / 1e6 if is_kernel else 0.0
    return event.self_cpu_time_total / 1e6


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure what a training step is made of.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    kernels = commands.add_parser("kernels", help="kernels beside what the device allows")
    kernels.set_defaults(run=measure_kernels)
    profiling = commands.add_parser("profile", help="shares of a step by kind of kernel")
    profiling.set_defaults(run=measure_profile)
    profiling.add_argument("--mode", default="train", choices=MODES, help="(default: %(default)s)")
    profiling.add_argument("--layout", default="fixed", choices=tuple(LAYOUTS), help="(default: %(default)s)")
    profiling.add_argument("--compile", default="regions", choices=COMPILES, help="(default: %(default)s)")
    profiling.add_argument("--steps", type=int, default=5, help="to profile (default: %(default)s)")
    profiling.add_argument("--top", type=int, default=40, help="longest kernels to keep (default: %(default)s)")
    for command in (kernels, profiling):
        add_shared_options(command)
        command.set_defaults(seconds=0.1)
        command.add_argument("--contender", default="base", help="model (default: %(default)s)")
        command.add_argument("--length", type=int, default=1024, help="tokens of a document (default: %(default)s)")
        command.add_argument("--attention", default="varlen", help="(default: %(default)s)")
    merging = commands.add_parser("merge", help="take over what the other commands wrote")
    merging.add_argument("records", type=Path, nargs="+", help="those JSON files")
    merging.set_defaults(run=merge)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
