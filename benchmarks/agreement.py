# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Whether every way to compute the model gives the same numbers on this device, in the precision it is timed in.

    python -m benchmarks.agreement
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.utils.import_utils import is_liger_kernel_available

from benchmarks.cells import compile_model
from benchmarks.contenders import CONTENDERS
from benchmarks.results import Table, describe_device
from benchmarks.tables import to_markdown
from benchmarks.timing import current_device
from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoder, ConceptEncoderForMaskedLM
from modeling_concept.losses import labelled_positions

# What rounding to eight bits of mantissa may leave of two results that are the same in exact arithmetic: the length of
# the difference of two tensors, over the length of one.
TOLERANCE = 0.08
COMMAND = "python -m benchmarks.agreement"

Batch = dict[str, torch.Tensor]


def small_model(device: torch.device, **overrides: Any) -> ConceptEncoderForMaskedLM:
    """A model of three heads of 64 with a window of 32, in float32, to be run under autocast."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 4, "vocab_size": 1003}
    config = ConceptEncoderConfig(
        **sizes | {"local_attention": 32, "decoder_window": 16, "max_concepts": 64} | overrides
    )
    return ConceptEncoderForMaskedLM(config).to(device)


def packed_rows(device: torch.device, lengths: list[list[int]], length: int) -> Batch:
    """Rows of `length` tokens with documents of `lengths`; each token but the first of a document may be masked."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, 1000, (len(lengths), length), generator=generator)
    sizes = torch.zeros(len(lengths), max(map(len, lengths)), dtype=torch.long)
    masked = torch.rand(ids.shape, generator=generator) < 0.3
    for row, documents in enumerate(lengths):
        sizes[row, : len(documents)] = torch.tensor(documents)
        starts = sizes[row].cumsum(0) - sizes[row]
        masked[row, starts[: len(documents)]] = False
        masked[row, sum(documents) :] = False
    labels = ids.masked_fill(~masked, -100)
    batch = {"input_ids": ids.masked_fill(masked, 4), "labels": labels, "document_lengths": sizes}
    batch["masked_positions"] = labelled_positions(labels)
    return {name: values.to(device) for name, values in batch.items()}


def padded_rows(batch: Batch) -> Batch:
    """The documents of packed rows in rows of their own, padded on the right."""
    sizes = batch["document_lengths"]
    ids, labels = (
        [part for row, parts in zip(batch[name], sizes, strict=True) for part in _split(row, parts)]
        for name in ("input_ids", "labels")
    )
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=7),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "attention_mask": pad_sequence([torch.ones_like(part) for part in ids], batch_first=True),
    }


def _split(row: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The documents of one row, without its padding."""
    return row[: int(sizes.sum())].split(sizes[sizes > 0].tolist())


def loss_and_gradients(model: ConceptEncoderForMaskedLM, batch: Batch, **options: Any) -> dict[str, torch.Tensor]:
    """Loss and gradients of one step in bfloat16 autocast, in float32."""
    model.zero_grad()
    with torch.autocast(batch["input_ids"].device.type, torch.bfloat16):
        loss = model(**batch, **options).loss
    loss.backward()
    gradients = {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach().float()} | gradients


def largest_difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """
    The largest difference between two tensors of one name: the norm of the difference over the norm of one.

    Raises:
        ValueError: if the names differ or a number is not finite.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"One side alone has {', '.join(sorted(ours.keys() ^ theirs.keys()))}.")
    differences = [float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-6)) for name in ours]
    if not all(map(torch.isfinite, map(torch.tensor, differences))):
        raise ValueError("A loss or gradient is not finite.")
    return max(differences)


def compare_ways(model: ConceptEncoderForMaskedLM, batch: Batch) -> Iterator[tuple[str, float]]:
    """Backends, padding and loss kernels: what is compared with the plainest way, and the largest difference."""
    kernels = ["torch", "chunked"]
    if batch["input_ids"].is_cuda and is_liger_kernel_available():
        kernels.append("liger")
    model.set_attn_implementation("eager")
    plain = loss_and_gradients(model, batch)
    for kernel in kernels:
        difference = largest_difference(loss_and_gradients(model, batch, loss_kernel=kernel), plain)
        yield f"loss kernel {kernel} = auto", difference
    for backend in ("sdpa", "varlen"):
        model.set_attn_implementation(backend)
        yield f"{backend} = eager", largest_difference(loss_and_gradients(model, batch), plain)
        padded = loss_and_gradients(model, padded_rows(batch))
        yield f"{backend}, padded = eager, packed", largest_difference(padded, plain)


def compiled_difference(model: ConceptEncoderForMaskedLM, batch: Batch, how: str, **options: Any) -> float:
    """Steps of `model` as it is, and of `model` compiled as `compile_model` is told, which it stays."""
    plain = loss_and_gradients(model, batch)
    compile_model(model, CONTENDERS["base"], how, **options)
    differences = []
    # CUDA graphs are recorded in the second step and replayed from the third.
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        differences.append(largest_difference(loss_and_gradients(model, batch), plain))
    return max(differences)


def compare(device: torch.device) -> Iterator[tuple[str, float]]:
    """All comparisons, in both families; what is compiled where it is timed, on a GPU."""
    batch = packed_rows(device, [[150, 1, 60, 40], [256], [30, 30, 100]], 256)
    for decoder_tokens in ("window", "none"):
        model = small_model(device, decoder_tokens=decoder_tokens)
        for name, difference in compare_ways(model, batch):
            yield f"{model.config.family}: {name}", difference
    if device.type == "cuda":
        model = small_model(device)
        model.set_attn_implementation("varlen")
        yield "hybrid: varlen, compiled = as it is", compiled_difference(model, batch, "regions+graphs")
    packed = {name: batch[name] for name in ("input_ids", "document_lengths")}
    # Few concepts and many tokens: GPUs split the keys of such reads.
    alone = {"input_ids": torch.randint(10, 1000, (1, 6000), device=device)}
    for name, given in (("packed documents", packed), ("one long document", alone)):
        yield f"encoder, bf16 weights, {name}: varlen = eager", encoder_difference(device, given)


def encoder_difference(device: torch.device, inputs: Batch) -> float:
    """Concepts from bfloat16 weights, without padding and with masks."""
    model = ConceptEncoder(small_model(device).config).to(device, torch.bfloat16).eval()
    states = []
    for backend in ("varlen", "eager"):
        model.set_attn_implementation(backend)
        with torch.no_grad():
            states.append({"concepts": model(**inputs).last_hidden_state.float()})
    return largest_difference(*states)


def check_agreement(device: torch.device) -> Table:
    """
    Compare all ways to compute the model.

    Raises:
        ValueError: naming what differs by more than `TOLERANCE`.
    """
    found = {name: round(difference, 4) for name, difference in compare(device)}
    wrong = [f"{name} ({difference})" for name, difference in found.items() if difference > TOLERANCE]
    if wrong:
        raise ValueError(f"More than {TOLERANCE} apart: {'; '.join(wrong)}.")
    note = (
        f"Norm of the difference over the norm, for the loss or gradient furthest off, on {describe_device(device)}."
    )
    return Table("agreement", ["what equals what", "largest difference"], list(map(list, found.items())), note)


def main(arguments: Sequence[str] = ()) -> int:
    """Print the table. Returns the exit status."""
    argparse.ArgumentParser(
        prog=COMMAND, description="Compare all ways to compute the model on this device."
    ).parse_args(arguments)
    device = current_device()
    try:
        print(to_markdown(check_agreement(device)))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
