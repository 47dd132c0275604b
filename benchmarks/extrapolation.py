# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Masked-LM loss at lengths that a model was not trained at, by position, in `results/architecture.json`.

    python -m benchmarks.extrapolation --model model_cards/concept-encoder-mini --recipe recipes/data/sotu.yaml \\
        --split test --trained_at 4096 --lengths 512 4096 8192 16384
    ... --rotations trained theta:41000 yarn:4 linear:4     # and with other rotary positions, without training
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.results import RESULTS, Table, describe_device, merge_results
from evaluation_concept.errors import exit_code
from modeling_concept import ConceptEncoderForMaskedLM, register_auto_classes
from modeling_concept.losses import labels_at
from training_concept.data import encode_texts, load_documents
from training_concept.masking import MaskingCollator
from training_concept.recipes import read_recipe

COMMAND = "python -m benchmarks.extrapolation"
MASKED = 0.3
TRAINED = "trained"


def main(arguments: Sequence[str], path: Path = RESULTS / "architecture.json") -> None:
    """
    Measure, and merge the table `extrapolation` into the results file `path`.

    Raises:
        OSError, ValueError: for a model, recipe or split that is not there, or documents that are all too short.
    """
    options = _parse(arguments)
    register_auto_classes()
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=True)
    sources = load_documents(read_recipe(options.recipe))
    texts = [text for roles in sources.values() for text in roles[options.split]["text"]]
    documents = encode_texts(texts, tokenizer)
    edges = [0, *sorted(options.lengths)]
    windows = {}
    for length in edges[1:]:
        found = [window for tokens in documents for window in full_windows(tokens, length, tokenizer)]
        if not found:
            raise ValueError(f"No document of the {options.split} split has {length} tokens.")
        windows[length] = found[: options.most_windows]
    rows: list[list[Any]] = []
    for rotation in options.rotations:
        model = load_rotated(options.model, rotation, options.trained_at)
        for length, some in windows.items():
            positions, losses = loss_by_position(model, some, tokenizer, options.tokens_per_batch)
            bucket = np.digitize(positions, edges[1:-1])
            means = [float(losses[bucket == number].mean()) for number in range(edges.index(length))]
            means += [float("nan")] * (len(edges) - 1 - len(means))
            cells = map(_cell, [float(losses.mean()), *means])
            rows.append([rotation.replace(":", " "), length, len(some), *cells])
    merge_results(path, {}, [_table(options, edges, rows)])


def load_rotated(folder: str, rotation: str, trained_at: int) -> ConceptEncoderForMaskedLM:
    """
    The model in `folder` with its rotary positions as `trained`, with `theta:VALUE` as their base, or of a
    `TYPE:FACTOR` of the library, for texts that are longer than `trained_at` tokens.

    Raises:
        ValueError: no such type, or no number.
    """
    config = AutoConfig.from_pretrained(folder)
    if rotation != TRAINED:
        kind, _, value = rotation.partition(":")
        scaled = {"rope_type": kind, "factor": float(value), "original_max_position_embeddings": trained_at}
        changes = {"rope_theta": float(value)} if kind == "theta" else scaled
        config = type(config).from_dict(config.to_dict() | {"rope_parameters": config.rope_parameters | changes})
    return ConceptEncoderForMaskedLM.from_pretrained(folder, config=config).eval()


def full_windows(tokens: np.ndarray, length: int, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Windows of exactly `length` tokens, special ones included; what is left of the document is left out."""
    inner = length - 2
    whole = tokens[: len(tokens) // inner * inner].reshape(-1, inner)
    return list(np.pad(whole, ((0, 0), (1, 1)), constant_values=((tokenizer.cls_token_id, tokenizer.sep_token_id),)))


@torch.no_grad()
def loss_by_position(
    model: ConceptEncoderForMaskedLM, windows: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    Positions of all masked tokens of `windows`, and the loss of each in nats; so many `tokens` go through at a time.
    """
    collator = MaskingCollator(tokenizer, mlm_probability=MASKED, vocab_size=model.config.vocab_size)
    positions, losses = [], []
    for batch in _batches(windows, max(1, tokens // len(windows[0]))):
        inputs = collator([{"input_ids": window, "epoch": 0} for window in batch])
        labels = labels_at(inputs.pop("labels"), inputs["masked_positions"])
        logits = model(**inputs).logits
        scored = labels != -100
        positions.append(inputs["masked_positions"][scored].numpy())
        losses.append(F.cross_entropy(logits[scored].float(), labels[scored], reduction="none").numpy())
    return np.concatenate(positions), np.concatenate(losses)


def _batches(items: Sequence[np.ndarray], size: int) -> Iterator[Sequence[np.ndarray]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _cell(mean: float) -> float | str:
    return "" if np.isnan(mean) else round(mean, 3)


def _table(options: argparse.Namespace, edges: Sequence[int], rows: list[list[Any]]) -> Table:
    spans = [f"at {first:,} to {end - 1:,}" for first, end in pairwise(edges)]
    note = (
        f"{Path(options.model).name}, trained on rows of {options.trained_at} tokens, on windows of other lengths of "
        f"the {options.split} documents: loss in nats of masked tokens, of all and by their position. A longer window "
        f"shows more of its document, and fewer documents have one. {describe_device()}."
    )
    columns = ["tokens in a window", "windows", "loss", *spans]
    if options.rotations == [TRAINED]:
        return Table("extrapolation", columns, [row[1:] for row in rows], note)
    return Table("rotations", ["rotary positions", *columns], rows, note)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure loss at other lengths, by position.")
    parser.add_argument("--model", required=True, help="folder of a trained masked language model")
    parser.add_argument("--recipe", required=True, help="YAML file of a data recipe")
    parser.add_argument("--split", default="validation", choices=("validation", "test"), help="role of the documents")
    parser.add_argument("--trained_at", type=int, required=True, help="tokens in a row of its training, for the note")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192], help="tokens in a window")
    parser.add_argument("--most_windows", type=int, help="of each length; all by default")
    rotations = f"rotary positions: {TRAINED}, theta:VALUE, or TYPE:FACTOR as yarn:4 (default: {TRAINED})"
    parser.add_argument("--rotations", nargs="+", default=[TRAINED], help=rotations)
    parser.add_argument("--tokens_per_batch", type=int, default=16384, help="go through the model at a time")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
