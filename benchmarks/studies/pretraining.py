# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Train by `run_mlm.py`, and measure the concepts of what comes of it on texts that were held out.

    python -m benchmarks.studies.pretraining --held_out TASKS/held_out.parquet --pairs TASKS/pairs.parquet \\
        --preset mini --tokenizer_name TASKS/tokenizer --train_file TASKS/train.parquet \\
        --validation_file TASKS/validation.parquet --do_train --max_steps 500 --output_dir cell

What it does not know itself are settings of `run_mlm.py`. The loss is that of `run_mlm.py --do_eval`, with masks that
are the same whatever the seed of the training. Without `--held_out` it only trains, which tells how long a step takes.
"""

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import run_analysis
import run_mlm
from evaluation_concept.ablation import ablate_slots
from evaluation_concept.analysis import Subject, same_bags
from evaluation_concept.concept_metrics import measure_concepts
from evaluation_concept.encode import load_encoder, load_tokenizer
from evaluation_concept.errors import FinishedRunError, exit_code
from evaluation_concept.probes import Split, probe_order, split_by_document, swap_pairs
from evaluation_concept.similarity import (
    TextPairs,
    agreement,
    encoder_likeness,
    pairs_of_texts,
    read_text_pairs,
    tfidf_likeness,
)
from evaluation_concept.states import TokenRow, encode_rows, evenly, mean_concepts
from training_concept.arguments import parse_arguments
from training_concept.recipes import Source

logger = logging.getLogger(__name__)

STATE_FILE, RESULTS_FILE = "trainer_state.json", "eval_results.json"
EVALUATION = "evaluation"
# Of masks, swaps, splits and pairs: the same for all models.
SEED = 0
# Settings of `run_mlm.py` that the loss depends on, or where it is computed.
EVALUATED_WITH = (
    *("validation_file", "max_seq_length", "packing", "max_documents_per_row", "mlm_probability", "masking_scheme"),
    *("preprocessing_num_workers", "per_device_eval_batch_size", "auto_bf16", "use_cpu"),
    *("attn_implementation", "max_eval_samples"),
)
ABLATED = ("full", "without_concepts", "tokens_alone", "unigram")
# More windows of texts than there are.
ALL_ROWS = 10**6


class OrderTask(NamedTuple):
    """Token ids `[n]` of sentences, of the same with two words swapped, and the parts that they are in."""

    original: list[np.ndarray]
    swapped: list[np.ndarray]
    split: Split


class LikenessTask(NamedTuple):
    """Pairs of texts, and how far their likeness by a bag of words agrees with their scores."""

    pairs: TextPairs
    tfidf: float


# What depends on texts and tokenizer alone is made once in a process, which measures many models of a study.


@cache
def held_out_texts(text_file: str) -> list[str]:
    """The texts of the file, one a row."""
    return run_analysis.read_texts(Source(text_file, data_files={"validation": text_file}))


@cache
def order_task(text_file: str, tokenizer_name: str, longest: int, most: int) -> OrderTask:
    """At most so many sentences of the texts, of at most `longest` tokens."""
    swaps = swap_pairs(held_out_texts(text_file), most, SEED)
    pairs = same_bags(load_tokenizer(tokenizer_name), swaps, longest)
    split = split_by_document([pair.document for pair, _, _ in pairs], SEED)
    return OrderTask([original for _, original, _ in pairs], [swapped for _, _, swapped in pairs], split)


@cache
def likeness_tasks(text_file: str, tokenizer_name: str, scored: str | None, number: int) -> dict[str, LikenessTask]:
    """
    Pairs of neighbouring passages of the texts and, from the table `scored`, sentences and whether one paraphrases the
    other.
    """
    named = ((f"{place:06d}", text) for place, text in enumerate(held_out_texts(text_file)))
    found = {"neighbours": pairs_of_texts(named, load_tokenizer(tokenizer_name), number, SEED)}
    if scored:
        found["paraphrases"] = read_text_pairs(scored, ("sentence1", "sentence2"), "score")
    words = {name: agreement(tfidf_likeness(pairs), pairs) for name, pairs in found.items()}
    return {name: LikenessTask(pairs, next(iter(words[name].values()))) for name, pairs in found.items()}


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """
    Train, evaluate and analyse. A training that is in the output folder, finished, is not repeated.

    Returns:
        See `read_training`; with `--held_out` also `mlm_loss`, and the results of `measure`.

    Raises:
        ValueError, OSError: as `run_mlm.main`, or texts that are not there or too few.
    """
    options, settings = _parse(arguments)
    folder = Path(options.output_dir)
    try:
        run_mlm.main(settings)
    except FinishedRunError:
        logger.warning("%s is trained already.", folder)
    results = read_training(folder)
    if options.held_out:
        run_mlm.main(evaluation_flags(settings, folder))
        metrics = json.loads((folder / EVALUATION / RESULTS_FILE).read_text(encoding="utf-8"))
        results |= {"mlm_loss": metrics["eval_loss"], "mlm_accuracy": metrics["eval_accuracy"]}
        results |= measure(folder, options)
    return results


def read_training(folder: Path) -> dict[str, Any]:
    """
    What a training that `run_mlm.py` wrote to `folder` took.

    Returns:
        `steps`; `tokens`; `seconds_per_step`, the least over what was logged, since what else runs on the host can
        only slow a step down, without what comes up to the first line if there are more, since kernels are chosen
        and caches filled there; `loss`, the last one logged.

    Raises:
        ValueError: nothing was logged.
    """
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    lines = [line for line in state["log_history"] if "masked_tokens_per_step" in line]
    if not lines:
        raise ValueError(f"{folder} has logged nothing that tells how long a step takes: lower --logging_steps.")
    seconds = [line["masked_tokens_per_step"] / line["masked_tokens_per_second"] for line in lines]
    per_step = [line["tokens_per_second"] * taken for line, taken in zip(lines, seconds, strict=True)]
    steps = state["global_step"]
    return {
        "steps": steps,
        "tokens": round(statistics.fmean(per_step) * steps),
        "seconds_per_step": min(seconds[1:] or seconds),
        "loss": lines[-1]["loss"],
    }


def evaluation_flags(settings: Sequence[str], folder: Path) -> list[str]:
    """Flags of `run_mlm.py` that evaluate what these settings trained into `folder`, with masks of `SEED`."""
    given = {name: value for part in parse_arguments(settings) for name, value in vars(part).items()}
    chosen = {name: given[name] for name in EVALUATED_WITH if given[name] is not None}
    chosen |= {"model_name_or_path": folder, "output_dir": folder / EVALUATION, "do_eval": True, "seed": SEED}
    # One short pass: starting workers would take longer than they save.
    chosen |= {"report_to": "none", "disable_tqdm": True, "dataloader_num_workers": 0}
    return [text for name, value in chosen.items() for text in (f"--{name}", str(value))]


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """
    The concepts of the checkpoint in `folder`.

    Returns:
        `geometry`: `ConceptMetrics` of rows that are full; `ablation`: losses; `order`: `OrderRecovery`; `similarity`:
        areas under the curve, or correlations, by set of pairs and kind of likeness; `tfidf`: of a bag of words.
    """
    subject = run_analysis.build_subject(
        run_analysis.AnalysisArguments(
            model_name_or_path=str(folder),
            output_dir=str(folder),
            text_file=options.held_out,
            max_documents=ALL_ROWS,
            max_seq_length=options.length,
            device="cpu" if options.on_cpu else None,
            seed=SEED,
        )
    )
    full = encode_rows(subject.model, [row.input_ids for row in full_rows(subject, options.length, options.rows)])
    batches, special = subject.masked_batches[: options.ablated_batches], subject.tokenizer.all_special_ids
    ablation = asdict(ablate_slots(subject.model, batches, special, SEED, ABLATED))
    tokenizer_name = options.tokenizer_name or str(folder)
    longest = max(len(row.input_ids) for row in subject.rows)
    order = order_task(options.held_out, tokenizer_name, longest, options.sentences)
    pairs = likeness_tasks(options.held_out, tokenizer_name, options.pairs, options.neighbours)
    encoder = load_encoder(str(folder)).to(subject.model.device).eval()
    return {
        "geometry": asdict(measure_concepts(full.concepts, full.mask)),
        "ablation": {name: ablation[name] for name in ABLATED},
        "order": tell_order(subject.model, order),
        "similarity": {name: likeness(encoder, subject.tokenizer, each.pairs) for name, each in pairs.items()},
        "tfidf": {name: each.tfidf for name, each in pairs.items()},
    }


def full_rows(subject: Subject, length: int, most: int) -> list[TokenRow]:
    """
    Rows of `length` tokens, at most so many, evenly from all.

    Raises:
        ValueError: fewer than two.
    """
    full = [row for row in subject.rows if len(row.input_ids) == length]
    if len(full) < 2:
        raise ValueError(f"The texts held out have {len(full)} windows of {length} tokens; two are needed.")
    return [full[index] for index in evenly(len(full), most)]


def tell_order(model: PreTrainedModel, task: OrderTask) -> dict[str, float]:
    """`OrderRecovery` of the sentences of the task."""
    original, swapped = (mean_concepts(encode_rows(model, rows)) for rows in (task.original, task.swapped))
    return asdict(probe_order(original, swapped, task.split))


def likeness(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: TextPairs) -> dict[str, float]:
    """How far the likeness of pairs by an encoder agrees with their scores, by kind of likeness."""
    found = encoder_likeness(encoder, tokenizer, pairs)
    return {kind: next(iter(agreement(values, pairs).values())) for kind, values in found.items()}


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Own options, and the settings of `run_mlm.py`, which has some of them too."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.pretraining", description="Pretraining and analysis.", allow_abbrev=False
    )
    parser.add_argument("--held_out", help="file of texts, one a row, to measure concepts on")
    parser.add_argument("--pairs", help="table of sentence1, sentence2 and score")
    parser.add_argument("--rows", type=int, default=256, help="rows of full length to measure concepts on")
    parser.add_argument("--ablated_batches", type=int, default=8, help="of 16 rows each, decoded without concepts")
    parser.add_argument("--sentences", type=int, default=10_000, help="most sentences for the order probe")
    parser.add_argument("--neighbours", type=int, default=2000, help="pairs of passages")
    options, settings = parser.parse_known_args(list(arguments))
    model, data, training = parse_arguments(settings)
    if options.held_out and data.max_seq_length is None:
        raise ValueError("Concepts are measured on full rows: say how long these are (--max_seq_length).")
    options.output_dir, options.length, options.on_cpu = training.output_dir, data.max_seq_length, training.use_cpu
    # One that a run trains is beside its checkpoint alone.
    options.tokenizer_name = model.tokenizer_name or model.model_name_or_path
    return options, settings


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
