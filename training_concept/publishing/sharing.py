# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights in bfloat16, split in files so that fine-tuned models share those that they have not changed."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

Weights = dict[str, torch.Tensor]


def read_weights(folder: Path) -> Weights:
    """All weights of a checkpoint's safetensors files, by name; those with a fraction in bfloat16."""
    weights = {
        name: weight for path in sorted(folder.glob("*.safetensors")) for name, weight in load_file(path).items()
    }
    return {name: weight.bfloat16() if weight.is_floating_point() else weight for name, weight in weights.items()}


def split_weights(weights: Weights, own: str | None) -> list[Weights]:
    """
    Weights in groups, each for a file.

    Args:
        weights: of a model.
        own: regular expression for the names of weights that no other model will share: the last group. The others
            are grouped by the part of the model that they belong to, since not every head has all parts. Without it
            there is one group.

    Raises:
        ValueError: if it finds no weight, or all.
    """
    if own is None:
        return [weights]
    kept = {name: weight for name, weight in weights.items() if re.search(own, name)}
    if not 0 < len(kept) < len(weights):
        raise ValueError(f"--own {own} finds {len(kept)} of {len(weights)} weights; the others are to be shared.")
    groups: dict[str, Weights] = {}
    for name in sorted(weights.keys() - kept.keys()):
        groups.setdefault(name.partition(".")[0], {})[name] = weights[name]
    return [*groups.values(), kept]


def write_weights(folder: Path, groups: Sequence[Weights]) -> None:
    """Write each group to a file of `folder`, with the index that transformers reads if they are several."""
    _write_files(folder, {}, groups)


def write_unshared_weights(folder: Path, weights: Weights, base: Path) -> None:
    """
    Write what `base` has not, and symbolic links to its files of which all weights are the same.

    Args:
        folder: to write to, beside `base`.
        weights: of a model that was fine-tuned from `base`.
        base: folder that `write_weights` wrote.

    Raises:
        ValueError: if none of its files can be shared.
    """
    links, rest = {}, dict(weights)
    for path in sorted(base.glob("*.safetensors")):
        content = load_file(path)
        if all(name in weights and torch.equal(weights[name], weight) for name, weight in content.items()):
            links[path] = content
            rest = {name: weight for name, weight in rest.items() if name not in content}
    if not links:
        raise ValueError(
            f"no file of weights in {base} is the same here: fine-tune from that folder, with --trained_weights."
        )
    _write_files(folder, links, [rest] if rest else [])


def _write_files(folder: Path, links: Mapping[Path, Weights], groups: Sequence[Weights]) -> None:
    count = len(links) + len(groups)
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    names = names if count > 1 else ["model.safetensors"]
    for name, path in zip(names, links, strict=False):
        (folder / name).symlink_to(os.path.relpath(path, folder))
    for name, group in zip(names[len(links) :], groups, strict=True):
        save_file({key: weight.contiguous() for key, weight in group.items()}, folder / name, {"format": "pt"})
    if count > 1:
        _write_index(folder / SAFE_WEIGHTS_INDEX_NAME, dict(zip(names, [*links.values(), *groups], strict=True)))


def _write_index(path: Path, files: Mapping[str, Weights]) -> None:
    weights = [weight for group in files.values() for weight in group.values()]
    metadata = {
        "total_parameters": sum(weight.numel() for weight in weights),
        "total_size": sum(weight.nbytes for weight in weights),
    }
    places = {name: file for file, group in files.items() for name in group}
    path.write_text(json.dumps({"metadata": metadata, "weight_map": places}, indent=2, sort_keys=True) + "\n")
