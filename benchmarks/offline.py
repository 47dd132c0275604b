# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a data recipe gives on this machine: how full its rows are, how fast batches come from disk, what is masked."""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from benchmarks.loading import LOADER_LENGTHS, LoaderSpeed, make_collators, make_loader, tokens_per_second
from benchmarks.results import Figure, Table
from training_concept.arguments import DataArguments
from training_concept.corpus.build import CORPUS_FILE
from training_concept.corpus.table import COLUMNS, corpus_rows
from training_concept.data import load_documents
from training_concept.data_summary import MaskingSummary
from training_concept.inspect_data import PackingSummary, add_up, mask_by_scheme, sample_rows, summarise_packing
from training_concept.masking import MaskingCollator
from training_concept.mixture import MixtureDataset, MixtureSampler
from training_concept.recipes import DataRecipe, read_recipe
from training_concept.rows import make_rows, row_format

COMMAND = "python -m benchmarks.data corpus"
PACKING_LENGTHS = (512, 4096)
MASKING_LENGTH = 512
ROWS_TO_MASK = 1000
TOKENS_IN_A_BATCH = 32768
CORPUS_NOTE = (
    "Sizes of what is left; not prose, duplicates and excluded count paragraphs that were removed. Tokens of a "
    "WordPiece of 30,522."
)


class Corpus:
    """
    The training rows of a recipe at any length, from the cache if they were made before.

    Args:
        recipe: YAML file.
        tokenizer: of the rows.
        num_proc: processes that tokenise.
    """

    def __init__(self, recipe: Path, tokenizer: PreTrainedTokenizerBase, num_proc: int | None = None) -> None:
        self.path = recipe
        self.recipe: DataRecipe = read_recipe(recipe)
        self.tokenizer = tokenizer
        self.num_proc = num_proc
        documents = load_documents(self.recipe, num_proc=num_proc)
        self.documents = {name: roles["train"] for name, roles in documents.items() if "train" in roles}

    def settings(self, length: int, **options: Any) -> DataArguments:
        """The data settings of a run on rows of `length` tokens."""
        return DataArguments(data_recipe=str(self.path), max_seq_length=length, packing="documents", **options)

    def rows(self, length: int) -> tuple[dict[str, Dataset], dict[str, PackingSummary]]:
        """Rows of `length` tokens by source, and how full they are."""
        form = row_format(self.settings(length), self.tokenizer, takes_documents=True)
        made = {
            name: make_rows(split, self.tokenizer, form, num_proc=self.num_proc)
            for name, split in self.documents.items()
        }
        rows = {name: source for name, (source, _) in made.items()}
        return rows, {name: summarise_packing(source, counts) for name, (source, counts) in made.items()}

    def speeds(
        self,
        rows: Mapping[str, Dataset],
        collators: Mapping[str, MaskingCollator],
        workers: int,
        runs: int,
        seconds: float,
    ) -> list[LoaderSpeed]:
        """
        Tokens a second of the loader of a training run, by scheme.

        Args:
            rows: by source.
            collators: by scheme; their length is that of the rows.
            workers: of the loader.
            runs: how often each is measured, with workers of its own every time.
            seconds: how long each time.
        """
        dataset = MixtureDataset([rows], self.recipe.weights)
        sampler = MixtureSampler(dataset, seed=0)
        speeds = []
        for scheme, collator in collators.items():
            length = int(collator.length or 0)
            loader = make_loader(dataset, sampler.visit, collator, max(TOKENS_IN_A_BATCH // length, 1), workers)
            measured = [tokens_per_second(loader, seconds, warm_up=8 * max(workers, 1)) for _ in range(runs)]
            speeds.append(LoaderSpeed(length, scheme, measured))
        return speeds

    def masking(
        self, rows: Mapping[str, Dataset], length: int, pmi_vocabulary: str | None
    ) -> dict[str, MaskingSummary]:
        """What each scheme masks, on rows from all over the corpus and in proportion to the sources' sizes."""
        settings = self.settings(length, pmi_vocabulary=pmi_vocabulary)
        total = sum(map(len, rows.values()))
        sample = sample_rows(rows, {name: len(source) / total for name, source in rows.items()}, ROWS_TO_MASK)
        form = row_format(settings, self.tokenizer, takes_documents=True)
        return mask_by_scheme([row for _, row in sample], self.tokenizer, settings, form)


def corpus_tokens(corpus_json: Path) -> int:
    """
    Tokens of a built corpus after exclusions, all splits.

    Raises:
        OSError: if the file is not there.
        ValueError: if it is not what the build of the corpus writes.
    """
    content = json.loads(corpus_json.read_text(encoding="utf-8"))
    try:
        return sum(split["tokens"] for source in content["sources"].values() for split in source["splits"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{corpus_json} is not the record of a corpus: {error!r}") from error


def measure(
    options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, schemes: Sequence[str]
) -> tuple[dict[str, Figure], list[Table]]:
    """
    All figures and tables of a recipe.

    Args:
        options: `recipe`, `corpus`, `num_proc`, `pmi_vocabulary`, `workers`, `runs`, `seconds`.
        tokenizer: of the rows.
        schemes: of masking.
    """
    figures, tables = {}, []
    if options.corpus:
        figures = tokens_figure(corpus_tokens(options.corpus / CORPUS_FILE))
        tables = [Table("corpus", list(COLUMNS), corpus_rows(options.corpus / CORPUS_FILE), CORPUS_NOTE)]
    corpus = Corpus(options.recipe, tokenizer, options.num_proc)
    packing: dict[int, dict[str, PackingSummary]] = {}
    speeds: list[LoaderSpeed] = []
    masking: dict[str, MaskingSummary] = {}
    for length in sorted({*PACKING_LENGTHS, *LOADER_LENGTHS, MASKING_LENGTH}):
        rows, packing[length] = corpus.rows(length)
        if length in LOADER_LENGTHS:
            collators = make_collators(tokenizer, length, schemes, pmi_vocabulary=options.pmi_vocabulary)
            speeds += corpus.speeds(rows, collators, options.workers, options.runs, options.seconds)
        if length == MASKING_LENGTH:
            masking = corpus.masking(rows, length, options.pmi_vocabulary)
    figures |= packing_figures({length: add_up(packing[length].values()) for length in PACKING_LENGTHS})
    figures |= loader_figures(speeds, options.workers)
    tables += [packing_table(packing), loader_table(speeds, options.workers), masking_table(masking)]
    return figures, tables


def tokens_figure(tokens: int) -> dict[str, Figure]:
    """Size of the corpus."""
    note = "tokens of the offline corpus, all splits, after exclusions, in a WordPiece of 30,522; required: 90M"
    device = "none: counted"
    return {"offline_tokens": Figure.of_runs([tokens], unit="tokens", command=COMMAND, device=device, note=note)}


def packing_figures(packing: Mapping[int, PackingSummary]) -> dict[str, Figure]:
    """How full rows are, by length."""
    note = "share of the positions of packed rows of {} tokens that are no padding, offline corpus; required: 0.98"
    facts = {"unit": "fraction", "command": COMMAND, "device": "none: counted"}
    return {
        f"packing_{length}": Figure.of_runs([summary.efficiency], note=note.format(length), **facts)
        for length, summary in packing.items()
    }


def loader_figures(speeds: Sequence[LoaderSpeed], workers: int) -> dict[str, Figure]:
    """Speed of the loader with single tokens masked, by length."""
    note = (
        "tokens without padding from ready cache through sampler, rows of {} tokens and the collator, single tokens "
        "masked, {} workers"
    )
    return {
        f"loader_tokens_per_s_{speed.length}": Figure.of_runs(
            speed.tokens_per_second, unit="tokens/s", command=COMMAND, note=note.format(speed.length, workers)
        )
        for speed in speeds
        if speed.scheme == "token"
    }


def packing_table(packing: Mapping[int, Mapping[str, PackingSummary]]) -> Table:
    """How full the rows of each source are, by length, and of all sources together."""
    by_length = {length: {**sources, "all": add_up(sources.values())} for length, sources in packing.items()}
    rows: list[list[Any]] = []
    for name, it in next(iter(by_length.values())).items():
        row: list[Any] = [name, it.counts.documents]
        for summaries in by_length.values():
            row += [round(summaries[name].documents_per_row or 0, 2), round(summaries[name].efficiency, 4)]
        rows.append(row)
    columns = [title.format(length) for length in by_length for title in ("documents in a row of {}", "efficiency")]
    note = "Training split. Efficiency is the share of positions that hold tokens, special ones included."
    return Table("packing", ["source", "documents", *columns], rows, note)


def loader_table(speeds: Sequence[LoaderSpeed], workers: int) -> Table:
    """Speed of the loader by length and scheme."""
    rows = [[speed.length, speed.scheme, *_mean_and_spread(speed.tokens_per_second)] for speed in speeds]
    note = (
        f"Tokens a second without padding, from ready cache to batches, {workers} workers: mean and standard "
        f"deviation of {len(speeds[0].tokens_per_second)} runs."
    )
    return Table("loader", ["tokens in a row", "masking", "tokens/s", "spread"], rows, note)


def masking_table(masking: Mapping[str, MaskingSummary]) -> Table:
    """What each scheme masks."""
    rows: list[list[Any]] = []
    for scheme, it in masking.items():
        shares = [it.masked_share, it.span_length, it.whole_words, *it.part_rates.values()]
        exact = f"{it.exact_rows:,} of {it.rows:,}"
        rows.append([scheme, exact, *("" if share is None else round(share, 4) for share in shares)])
    columns = ["masking", "rows with exactly K", "masked share", "tokens in a run", "words masked whole"]
    note = (
        f"Rows of {MASKING_LENGTH} tokens of the offline corpus. Words masked whole: of the words of several tokens "
        "that are touched at all. Last four columns: masked share of the first, the middle and the last tokens of "
        "words of several, and of words of a single one."
    )
    return Table("masking", [*columns, "first", "middle", "last", "single"], rows, note)


def _mean_and_spread(values: Sequence[float]) -> tuple[int, int]:
    return round(statistics.fmean(values)), round(statistics.stdev(values)) if len(values) > 1 else 0
