# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Export a text encoder to ONNX, for encoding without PyTorch.

    python -m evaluation_concept.onnx_export outputs/nano --output encoder.onnx          # float32
    python -m evaluation_concept.onnx_export outputs/nano --output encoder.onnx --int8   # a quarter of the size

The graph takes `input_ids` and `attention_mask` (int64, `[batch, length]`, of any size) and gives `embeddings`
(float32, `[batch, hidden_size]`). It needs the packages onnx and onnxscript, and onnxruntime for int8. Where the
latter is installed, its embeddings are compared with the model's.
"""

import argparse
import copy
import operator
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from evaluation_concept.encode import load_encoder
from evaluation_concept.errors import exit_code
from evaluation_concept.files import draft, make_room

COMMAND = "python -m evaluation_concept.onnx_export"
PACKAGES = "pip install onnx onnxscript onnxruntime"
INT64 = 7  # onnx.TensorProto.INT64
# Documents of a batch and tokens of the longest that are compared, and how like embeddings have to be (cosine).
COMPARED = ((1, 1), (3, 40), (2, 300))
LEAST_COSINE = {"float32": 0.9999, "int8": 0.9}


class PaddedEncoder(nn.Module):
    """A text encoder that takes one padded document a row and gives its embedding alone."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Int64 `[batch, length]` twice to `[batch, hidden_size]`."""
        return self.model(input_ids, attention_mask).embeddings


def export_onnx(model: PreTrainedModel, path: Path) -> None:
    """
    Write `ConceptEncoderForTextEncoding` to `path`, as a whole or not at all.

    Raises:
        ImportError: if a package is missing.
    """
    model = copy.deepcopy(model).float().cpu()
    model.set_attn_implementation("sdpa")
    example = torch.full((2, 48), model.config.vocab_size - 1)
    inputs = {"input_ids": example, "attention_mask": torch.ones_like(example)}
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with named_packages(), draft(path) as draft_path:
        program = torch.onnx.export(
            PaddedEncoder(model).eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["embeddings"],
            dynamic_shapes=dict.fromkeys(inputs, any_size),
            custom_translation_table=translations(),
            dynamo=True,
            verbose=False,
        )
        program.save(draft_path)


def quantize_onnx(path: Path, int8_path: Path) -> None:
    """
    Write what was exported to `path` with weights in int8, and matrix products of inputs that are rounded to int8 as
    they come (dynamic quantisation, arXiv 2106.08295, section 2), to `int8_path`, as a whole or not at all.

    Raises:
        ImportError: if a package is missing.
    """
    with named_packages(), draft(int8_path) as draft_path:
        from onnxruntime.quantization import quantize_dynamic

        # Processors without VNNI add products of 8 bits up in 16, where those of 7 bits have room.
        quantize_dynamic(path, draft_path, per_channel=True, reduce_range=True)


def least_cosine(model: PreTrainedModel, path: Path) -> float | None:
    """
    The least cosine between embeddings that ONNX Runtime computes from `path` and those of `model`, over random padded
    documents of several sizes; `None` if the runtime is not installed.
    """
    try:
        from onnxruntime import InferenceSession
    except ModuleNotFoundError:
        return None
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    generator, cosines = torch.Generator().manual_seed(0), []
    for rows, length in COMPARED:
        ids = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
        ids[ids == model.config.mask_token_id] = 0  # which are not read
        lengths = torch.linspace(1, length, rows).long().flip(0)
        mask = (torch.arange(length) < lengths[:, None]).long()
        (found,) = session.run(["embeddings"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            expected = model(ids, mask).embeddings
        cosines.append(nn.functional.cosine_similarity(torch.from_numpy(found), expected, dim=-1).min())
    return float(min(cosines))


@contextmanager
def named_packages() -> Iterator[None]:
    """
    Raises:
        ImportError: for a package that is missing, with what to do.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f"ONNX needs the package {error.name}: {PACKAGES}.") from error


def translations() -> dict[Callable, Callable]:
    """What PyTorch's exporter (2.13) does not know of our models, or gets wrong, by the operation that is meant."""
    return {
        torch.ops.aten.sort.stable: _sort,
        torch.ops.aten.searchsorted.Tensor: _searchsorted,
        operator.floordiv: _floor_divide,
    }


def main(arguments: Sequence[str]) -> None:
    """
    Run the command.

    Raises:
        ValueError: if the output is there, the checkpoint is of another kind of model, or the exported graph computes
            something else.
        ImportError: if a package is missing.
        OSError: if there is no checkpoint, or the output cannot be written.
    """
    options = _parse(arguments)
    output = Path(options.output)
    if output.exists() and not options.overwrite_output:
        raise ValueError(f"{output} is there. Choose another --output, or --overwrite_output.")
    make_room(output)
    model = load_encoder(options.checkpoint, options.trust_remote_code).float()
    if options.int8:
        with tempfile.TemporaryDirectory() as folder:
            exact = Path(folder) / "float32.onnx"
            export_onnx(model, exact)
            quantize_onnx(exact, output)
    else:
        export_onnx(model, output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {_compare(model, output, options.int8)}")


def _compare(model: PreTrainedModel, output: Path, is_int8: bool) -> str:
    """What came of comparing the output with the model."""
    if (cosine := least_cosine(model, output)) is None:
        return "not compared with the model, since onnxruntime is not installed"
    if cosine < LEAST_COSINE["int8" if is_int8 else "float32"]:
        raise ValueError(
            f"{output} gives other embeddings than the model: the least cosine between them is {cosine:.4f}."
        )
    return f"cosine to the model's embeddings at least {cosine:.5f}"


def _sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Of equal values TopK takes that with the lower index first, so it is stable; it does not take bytes."""
    from onnxscript import opset18 as op

    values = op.Cast(values, to=INT64)
    size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


def _searchsorted(
    edges: Any, values: Any, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
) -> Any:
    """How many edges lie before each value."""
    from onnxscript import opset18 as op

    edges, values = (
        op.Unsqueeze(edges, op.Constant(value_ints=[-2])),
        op.Unsqueeze(values, op.Constant(value_ints=[-1])),
    )
    before = op.LessOrEqual(edges, values) if right else op.Less(edges, values)
    return op.ReduceSum(op.Cast(before, to=INT64), op.Constant(value_ints=[-1]), keepdims=0)


def _floor_divide(number: Any, divisor: Any) -> Any:
    """Of sizes, negative ones too; Div rounds towards 0, and Mod has the sign of the divisor."""
    from onnxscript import opset18 as op

    return op.Div(op.Sub(number, op.Mod(number, divisor)), divisor)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        usage=f"{COMMAND} CHECKPOINT --output FILE.onnx [options]",
        description="Export a text encoder to ONNX.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="concept encoder, folder or name")
    parser.add_argument("--output", required=True, help="file to write")
    parser.add_argument("--int8", action="store_true", help="weights in int8, and matrix products in int8")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the checkpoint")
    parser.add_argument("--overwrite_output", action="store_true", help="replace an output that is there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
