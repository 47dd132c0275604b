# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Running the Python of documents. A comment like `# [2, hidden]` behind a statement states the shape of what it gives.

    python -m tests.docs.running BLOCKS REPORT

runs blocks of several documents, {document: [block, ...]} in JSON, in a process whose Hub is that of its environment.
The report has the traceback of each document, or null, and the modules that its concept encoders are from.
"""

import ast
import json
import linecache
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import Pipeline

from tests.docs.markdown import Block

SHAPE = re.compile(r"\s*# \[([\w, ]+)\]")


def run(name: str, found: Iterable[Block]) -> dict[str, Any]:
    """Run blocks in one namespace, which is returned; an error names document and line."""
    namespace = {"__name__": "__document__", check_shape.__name__: check_shape}
    for block in found:
        # Lines are counted as in the document, which tracebacks then quote.
        source = "\n" * block.line + block.code
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(with_shapes_checked(source), name, "exec"), namespace)
    return namespace


def with_shapes_checked(source: str) -> ast.Module:
    """The program with a call of `check_shape` around each value whose shape a comment states."""
    tree, lines = ast.parse(source), source.splitlines()
    for statement in tree.body:
        behind = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()
        if (stated := SHAPE.match(behind)) and isinstance(statement, ast.Expr | ast.Assign):
            check = ast.Name(check_shape.__name__, ast.Load())
            call = ast.Call(check, [statement.value, ast.Constant(stated[1])], [])
            statement.value = ast.copy_location(call, statement.value)
    return ast.fix_missing_locations(tree)


def check_shape(value: Any, stated: str) -> Any:
    """Return `value`, which has as many axes as `stated` has, and the sizes that are numbers there."""
    axes, shape = [axis.strip() for axis in stated.split(",")], np.shape(value)
    fits = len(axes) == len(shape) and all(
        axis == str(size) or not axis.isdigit() for axis, size in zip(axes, shape, strict=True)
    )
    if not fits:
        raise AssertionError(f"the document says [{stated}], the shape is {list(shape)}")
    return value


def encoder_modules(namespace: dict[str, Any]) -> list[str]:
    """The modules that the classes of all concept encoders in a namespace are from."""
    networks = [value.model if isinstance(value, Pipeline) else value for value in namespace.values()]
    parts = [part for network in networks if isinstance(network, nn.Module) for part in network.modules()]
    return sorted({type(part).__module__ for part in parts if type(part).__name__.startswith("ConceptEncoder")})


def main(blocks: Path, report: Path) -> None:
    """Run the blocks of each document, whether or not those of others fail."""
    found: dict[str, tuple[str | None, list[str]]] = {}
    for name, listed in json.loads(blocks.read_text(encoding="utf-8")).items():
        try:
            found[name] = None, encoder_modules(run(name, [Block(*block) for block in listed]))
        except Exception:
            found[name] = traceback.format_exc(), []
    report.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
