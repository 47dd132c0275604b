# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The figures of the data pipeline, in `results/data.json`: packing, loading, and how long a GPU waits for batches.

    python -m benchmarks.data corpus --recipe recipes/data/offline.yaml --tokenizer_name TOKENIZER --corpus CORPUS
    python -m benchmarks.data gpu --parts PARTS --output waiting.json     # on a machine with a GPU
    python -m benchmarks.data merge waiting.json                          # back here

CORPUS is the folder that `python -m training_concept.corpus` built, PARTS one that `python -m training_concept.export`
wrote of it; the machine with the GPU needs torch, transformers and this repository, and no `datasets`.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.loading import (
    LOADER_LENGTHS,
    LoaderSpeed,
    PackedRows,
    ShuffledPasses,
    Waiting,
    known_schemes,
    make_collators,
    make_loader,
    time_waiting,
    tokens_per_second,
    training_step,
)
from benchmarks.results import RESULTS, Figure, Table, current_commit, describe_device, merge_results
from benchmarks.tables import to_markdown
from benchmarks.timing import current_device
from configuration_concept import ConceptEncoderConfig
from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from modeling_concept import ConceptEncoderForMaskedLM
from training_concept.parts import load_parts
from training_concept.schemes import SCHEMES

COMMAND = "python -m benchmarks.data"
LARGEST_SHARE = 0.02
# Embedding tables of this many rows more are faster on a GPU.
VOCABULARY_MULTIPLE = 64


def main(arguments: Sequence[str], path: Path = RESULTS / "data.json") -> None:
    """
    Measure, or merge what was measured elsewhere, into the results file `path`.

    Raises:
        OSError, ValueError: what is named on the command line is missing or cannot be read.
    """
    options = _parse(arguments)
    options.run(options, path)


def measure_corpus(options: argparse.Namespace, path: Path) -> None:
    """Measure a recipe on this machine, and merge that into the results file `path`."""
    # Reads with `datasets`, which the machine with the GPU may lack.
    from benchmarks.offline import measure

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer_name)
    merge_results(path, *measure(options, tokenizer, known_schemes(options.pmi_vocabulary)))


def measure_gpu(options: argparse.Namespace, path: Path) -> None:
    """Measure the loader and training steps on this machine, and write them to `options.output`, not to `path`."""
    folder: Path = options.parts
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer_name or folder / "tokenizer")
    parts = load_parts(folder, split="train")
    documents = [parts[index] for index in range(len(parts))]
    facts = {"commit": current_commit(), "date": date.today().isoformat(), "device": describe_device(current_device())}
    record: dict[str, Any] = facts | {
        "preset": options.preset,
        "workers": options.workers,
        "loader": [],
        "waiting": [],
    }
    rows = {length: PackedRows(documents, length, tokenizer) for length in options.lengths}
    # No worker is started beside a device in use before all of these are measured.
    for name, measure in (("loader", measure_loader), ("waiting", measure_waiting)):
        for measured in measure(rows, tokenizer, options):
            record[name].append(asdict(measured))
            write_json(options.output, record)
            print(measured, flush=True)
    print(f"\n{to_markdown(waiting_table(*read_record(options.output)))}")


def measure_loader(
    rows: Mapping[int, PackedRows], tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace
) -> Iterator[LoaderSpeed]:
    """Speed of the loader alone, by length and scheme."""
    for length, packed, scheme, loader in _loaders(rows, tokenizer, options):
        print(f"{len(packed):,} rows of {length}, {scheme}", flush=True)
        warm_up = 8 * max(options.workers, 1)
        runs = [tokens_per_second(loader, options.seconds, warm_up) for _ in range(options.runs)]
        yield LoaderSpeed(length, scheme, runs)


def measure_waiting(
    rows: Mapping[int, PackedRows], tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace
) -> Iterator[Waiting]:
    """Training steps with and without the loader, by length and scheme."""
    device = current_device()
    # As in training: cuDNN's attention gave NaN gradients.
    torch.backends.cuda.enable_cudnn_sdp(False)
    config = ConceptEncoderConfig.from_preset(
        options.preset,
        vocab_size=_padded_vocabulary(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
    )
    model = ConceptEncoderForMaskedLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    step = training_step(torch.compile(model) if options.compile else model, optimizer, device)
    for length, _, scheme, loader in _loaders(rows, tokenizer, options):
        yield Waiting(length, scheme, *time_waiting(step, loader, options.steps, options.runs, options.warm_up))


def _loaders(
    rows: Mapping[int, PackedRows], tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace
) -> Iterator[tuple[int, PackedRows, str, DataLoader]]:
    schemes = options.schemes or known_schemes(options.pmi_vocabulary)
    extras = {"vocab_size": _padded_vocabulary(tokenizer), "pmi_vocabulary": options.pmi_vocabulary}
    for length, packed in rows.items():
        batch_size = max(options.tokens_per_step // length, 1)
        for scheme, collator in make_collators(tokenizer, length, schemes, **extras).items():
            yield (
                length,
                packed,
                scheme,
                make_loader(packed, ShuffledPasses(len(packed)), collator, batch_size, options.workers),
            )


def merge_record(options: argparse.Namespace, path: Path) -> None:
    """Put what `measure_gpu` wrote into the results file `path`."""
    facts, speeds, waiting = read_record(options.record)
    merge_results(path, waiting_figures(facts, waiting), [waiting_table(facts, speeds, waiting)])


def read_record(path: Path) -> tuple[dict[str, Any], list[LoaderSpeed], list[Waiting]]:
    """
    Facts (commit, date, device, preset, workers), speeds of the loader and waiting times, as measured on a GPU.

    Raises:
        OSError: if the file is not there.
        ValueError: if it is no such record, or was broken off before the first training step.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        speeds = [LoaderSpeed(**speed) for speed in content.pop("loader")]
        waiting = [Waiting(**entry) for entry in content.pop("waiting")]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of {COMMAND} gpu: {error!r}") from error
    if not waiting:
        raise ValueError(f"{path} holds no training steps: the measurement was broken off")
    return content, speeds, waiting


def waiting_figures(facts: Mapping[str, Any], waiting: Sequence[Waiting]) -> dict[str, Figure]:
    """The most of a step of the preset that a GPU can have waited for batches, in the worst case measured."""
    worst = max(waiting, key=lambda entry: statistics.fmean(entry.next_shares))
    note = (
        f"share of a training step of {facts['preset']} in which the host waits for the next batch, which bounds the "
        "wait of the GPU from above, since that still has work; the highest of all lengths and schemes measured "
        f"({worst.length} tokens, {worst.scheme}); required: below {LARGEST_SHARE}"
    )
    described = {name: facts[name] for name in ("commit", "date", "device")}
    command = f"{COMMAND} gpu"
    figure = Figure.of_runs(worst.next_shares, unit="fraction", command=command, note=note, **described)
    return {f"gpu_wait_share_{facts['preset']}": figure}


def waiting_table(facts: Mapping[str, Any], speeds: Sequence[LoaderSpeed], waiting: Sequence[Waiting]) -> Table:
    """Loader and training side by side, by length and scheme."""
    alone = {(speed.length, speed.scheme): statistics.fmean(speed.tokens_per_second) for speed in speeds}
    rows: list[list[Any]] = []
    for it in waiting:
        rates = [alone[it.length, it.scheme], it.tokens / statistics.fmean(it.cached)]
        shares = [statistics.fmean(it.shares), statistics.stdev(it.shares) if len(it.shares) > 1 else 0.0]
        milliseconds = round(1000 * statistics.fmean(it.loaded), 1)
        in_next = round(statistics.fmean(it.next_shares), 4)
        rows.append(
            [it.length, it.scheme, *map(round, rates), milliseconds, *(round(it, 4) for it in shares), in_next]
        )
    columns = ["tokens in a row", "masking", "loader alone, tokens/s", "training, tokens/s", "step, ms"]
    note = (
        f"{facts['preset']} on {facts['device']}, workers: {facts['workers']}. Waiting: what batches from the loader "
        "add to a step on one batch repeated, as a share of it, mean and standard deviation of the rounds. In next: "
        "share of the step that the host waits for the loader, which bounds the former from above; where that is "
        "larger or negative, it is noise of the step."
    )
    return Table("waiting", [*columns, "waiting", "spread", "in next"], rows, note)


def _padded_vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    return -(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure the figures of the data pipeline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--pmi_vocabulary", help="file of n-grams; without it the scheme pmi is left out")
    shared.add_argument("--workers", type=int, default=2, help="of the loader (default: %(default)s)")
    shared.add_argument("--runs", type=int, default=3, help="measure each speed so often (default: %(default)s)")
    shared.add_argument("--seconds", type=float, default=3.0, help="measure so long (default: %(default)s)")

    corpus = commands.add_parser("corpus", parents=[shared], help="packing, loading and masking of a recipe, here")
    corpus.set_defaults(run=measure_corpus)
    corpus.add_argument("--recipe", type=Path, required=True, help="YAML file of the offline corpus")
    corpus.add_argument("--tokenizer_name", required=True, help="tokenizer, on disk or on the Hub")
    corpus.add_argument("--corpus", type=Path, help="folder of the built corpus, to count its tokens")
    corpus.add_argument("--num_proc", type=int, help="processes that tokenise")

    gpu = commands.add_parser("gpu", parents=[shared], help="the loader beside training, on a machine with a GPU")
    gpu.set_defaults(run=measure_gpu)
    gpu.add_argument("--parts", type=Path, required=True, help="folder of an exported corpus")
    gpu.add_argument("--output", type=Path, required=True, help="JSON file to write the measurements to")
    gpu.add_argument("--tokenizer_name", help="tokenizer (default: that of the parts)")
    gpu.add_argument("--preset", default="small", help="size of the model (default: %(default)s)")
    gpu.add_argument("--schemes", nargs="+", choices=tuple(SCHEMES), help="of masking (default: all that can be had)")
    gpu.add_argument("--lengths", type=int, nargs="+", default=LOADER_LENGTHS, help="tokens in a row")
    gpu.add_argument("--tokens_per_step", type=int, default=32768, help="with padding (default: %(default)s)")
    gpu.add_argument("--steps", type=int, default=30, help="training steps in each run (default: %(default)s)")
    gpu.add_argument("--warm_up", type=int, default=10, help="steps before (default: %(default)s)")
    gpu.add_argument("--compile", action="store_true", help="compile the model")

    merge = commands.add_parser("merge", help="take over what `gpu` wrote")
    merge.set_defaults(run=merge_record)
    merge.add_argument("record", type=Path, help="that JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
