# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a finished run says: its figures beside those of simple baselines, a few guesses, and how to load it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, pipeline

from evaluation_concept.baselines import (
    TokenStatistics,
    bag_of_words_baseline,
    fit_bag_of_words_weight,
    unigram_baseline,
)
from evaluation_concept.states import evenly
from training_concept.masking import MaskingCollator
from training_concept.mixture import MixtureDataset
from training_concept.rows import RunRows

ROWS = {"this model": "eval_", "bag of words": "eval_bag_of_words_", "unigram": "eval_unigram_"}
COLUMNS = {"loss": "{:.3f}", "accuracy": "{:.3f}", "perplexity": "{:.1f}"}
SENTENCES = (
    "The people of the United {mask} are free.",
    "We must work for peace and {mask}.",
    "I ask the Congress to pass this {mask}.",
)

# Enough to fit one number on.
ROWS_TO_FIT = 1024


def baseline_metrics(rows: RunRows, collator: MaskingCollator, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Loss, accuracy and perplexity of unigram and bag of words on the masks that the model is evaluated on."""
    load = partial(DataLoader, batch_size=32, collate_fn=collator)
    wrap = partial(MixtureDataset, num_stages=len(collator.rates))
    train = concatenate_datasets(list(rows.train[-1].values()))
    statistics = TokenStatistics.from_chunks(train, collator.vocab_size, tokenizer.all_special_ids)
    picked = evenly(len(train), ROWS_TO_FIT)
    weight = fit_bag_of_words_weight(statistics, load(wrap([{"train": train.select(picked)}])))
    batches = load(wrap([rows.validation]))
    scores = {
        "unigram": unigram_baseline(statistics, batches),
        "bag_of_words": bag_of_words_baseline(statistics, weight, batches),
    }
    metrics = {}
    for name, score in scores.items():
        metrics[f"eval_{name}_loss"] = score.loss
        metrics[f"eval_{name}_accuracy"] = score.accuracy
        metrics[f"eval_{name}_perplexity"] = float(np.exp(score.loss))
    return metrics


def results_table(metrics: Mapping[str, float]) -> str:
    """Markdown table of loss, accuracy and perplexity, of model and baselines. Empty without an evaluation."""
    if "eval_loss" not in metrics:
        return ""
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---{'|---:' * len(COLUMNS)}|"]
    for name, prefix in ROWS.items():
        if f"{prefix}loss" in metrics:
            cells = (form.format(metrics[f"{prefix}{column}"]) for column, form in COLUMNS.items())
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fill_masks(folder: Path, top_k: int = 3) -> list[tuple[str, str]]:
    """Each of `SENTENCES` that is not too long for the model saved in `folder`, and the `top_k` likeliest tokens."""
    fill = pipeline("fill-mask", model=str(folder), top_k=top_k)
    tokenizer = fill.tokenizer
    sentences = [sentence.format(mask=tokenizer.mask_token) for sentence in SENTENCES]
    return [
        (sentence, ", ".join(f"{guess['token_str'].strip()} ({guess['score']:.2f})" for guess in fill(sentence)))
        for sentence in sentences
        if len(tokenizer(sentence)["input_ids"]) <= tokenizer.model_max_length
    ]


def loading_code(name: str, trust_remote_code: bool) -> str:
    """The two lines of Python that load the model called `name` (a folder or a Hub id) for filling masks."""
    trust = ", trust_remote_code=True" if trust_remote_code else ""
    return f'from transformers import pipeline\nfill = pipeline("fill-mask", model="{name}"{trust})'


def print_report(table: str, examples: list[tuple[str, str]], code: str) -> None:
    """Print the final report of a run on stdout; empty parts are left out."""
    parts = {
        "Held-out masked tokens": table,
        "Guesses": "\n".join(f"{sentence}  ->  {guesses}" for sentence, guesses in examples),
        "Load it with": code,
    }
    print("\n".join(f"\n{title}\n\n{text}" for title, text in parts.items() if text), flush=True)
