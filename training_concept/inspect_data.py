# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Show what a data recipe gives: documents by source, rows after packing, what each masking scheme masks, and examples.

    python -m training_concept.inspect_data recipes/data/offline.yaml --tokenizer_name outputs/bpe --max_seq_length 512

The data settings are those of run_mlm.py. Into a pipe or file everything is Markdown. Of a stream only the first
--max_documents documents of each source are read.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from evaluation_concept.encode import load_tokenizer
from evaluation_concept.errors import exit_code
from evaluation_concept.files import write_json
from training_concept.arguments import DataArguments
from training_concept.data import TEXT, load_documents, tokenize_documents
from training_concept.data_summary import (
    QUANTILES,
    MaskingSummary,
    SourceSummary,
    summarise_masking,
    summarise_sources,
)
from training_concept.masking import IGNORED_LABEL, MaskingCollator, build_collator
from training_concept.recipes import ROLES, DataRecipe, recipe_from_arguments
from training_concept.rows import RowCounts, RowFormat, list_lengths, make_rows, row_format
from training_concept.schemes import SCHEMES
from training_concept.settings_parser import SettingsParser
from training_concept.sources import AnyDataset, read_through
from training_concept.terminal import TextTable, make_console, print_table
from training_concept.words import WordBoundaries

COMMAND = "python -m training_concept.inspect_data"
DOCUMENTS_OF_A_STREAM = 1000
ROWS_TO_MASK = 1000
ROWS_PER_BATCH = 50
TOKENS_OF_AN_EXAMPLE = 120
OPENING, CLOSING = "⟦", "⟧"
LINE_END, BLANK = "↵", "␣"
STYLES = {"span": "bold black on bright_yellow", "border": "bold red", "rest": ""}


@dataclass
class InspectArguments:
    """What to look at, and how much of it."""

    tokenizer_name: str = field(metadata={"help": "Tokenizer, on the Hub or on disk."})
    split: str = field(default="train", metadata={"help": f"Documents to look at: {', '.join(ROLES)}."})
    max_documents: int | None = field(
        default=None,
        metadata={
            "help": "Look at the first so many documents of each source only. Defaults to all, and for streams to "
            f"{DOCUMENTS_OF_A_STREAM}."
        },
    )
    num_examples: int = field(default=10, metadata={"help": "Number of masked rows to show."})
    json: str | None = field(default=None, metadata={"help": "File to write all figures to, too."})

    def __post_init__(self) -> None:
        if self.split not in ROLES:
            raise ValueError(f"--split {self.split} is not one of {', '.join(ROLES)}.")
        for name in ("max_documents", "num_examples"):
            if (value := getattr(self, name)) is not None and value < (name == "max_documents"):
                raise ValueError(f"--{name} {value} is too few.")


@dataclass(frozen=True)
class PackingSummary:
    """
    Rows of one source.

    Attributes:
        counts: of documents and rows.
        documents_per_row: mean number of documents, or windows of long ones, in a row. `None` where rows do not tell.
        efficiency: fraction of the rows' positions that hold tokens, special ones included, rather than padding.
    """

    counts: RowCounts
    documents_per_row: float | None
    efficiency: float


@dataclass(frozen=True)
class Example:
    """A row of token ids, its source, and what is masked as one: first position and the one behind the last."""

    source: str
    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Inspection:
    """
    All that is shown.

    Attributes:
        extent: how much was read, in words.
        sources: in the order of the recipe.
        packing: by source.
        masking: by scheme.
        examples: rows masked with the scheme of the settings.
    """

    extent: str
    sources: list[SourceSummary]
    packing: dict[str, PackingSummary]
    masking: dict[str, MaskingSummary]
    examples: list[Example]


def main(arguments: Sequence[str]) -> None:
    """
    Run the command.

    Raises:
        ValueError: a bad recipe or setting.
        OSError: a source or tokenizer that cannot be read.
    """
    args, data_args = _parse(arguments)
    tokenizer = load_tokenizer(args.tokenizer_name)
    inspection = inspect(args, data_args, tokenizer)
    if args.json:
        write_json(Path(args.json), to_json(inspection))
    show(make_console(), inspection, tokenizer, row_format(data_args, tokenizer, takes_documents=True), data_args)


def inspect(args: InspectArguments, data_args: DataArguments, tokenizer: PreTrainedTokenizerBase) -> Inspection:
    """Read the recipe of `data_args`, make rows of it and mask them."""
    recipe = recipe_from_arguments(data_args)
    form = row_format(data_args, tokenizer, takes_documents=True)
    documents, extent = read_documents(recipe, args, data_args)
    workers, again = data_args.preprocessing_num_workers, data_args.overwrite_cache
    lengths: dict[str, np.ndarray] = {}
    packing: dict[str, PackingSummary] = {}
    rows: dict[str, Dataset] = {}
    for name, split in documents.items():
        tokens = list_lengths(tokenize_documents(split, tokenizer, num_proc=workers, overwrite_cache=again))
        lengths[name] = np.append(tokens, np.zeros(len(split) - len(tokens), dtype=np.int64))
        # Takes what was tokenised from the cache.
        rows[name], counts = make_rows(split, tokenizer, form, num_proc=workers)
        packing[name] = summarise_packing(rows[name], counts)
    licenses = {source.label: source.license for source in recipe.sources}
    sources = summarise_sources(lengths, recipe.weights, licenses)
    sample = sample_rows(rows, {source.name: source.weight_share for source in sources}, ROWS_TO_MASK)
    return Inspection(
        extent=extent,
        sources=sources,
        packing=packing,
        masking=mask_by_scheme([row for _, row in sample], tokenizer, data_args, form),
        examples=pick_examples(sample, args.num_examples, make_collator(tokenizer, data_args, form)),
    )


def read_documents(
    recipe: DataRecipe, args: InspectArguments, data_args: DataArguments
) -> tuple[dict[str, Dataset], str]:
    """
    The documents to look at by source, those of a stream in memory, and in words how much that is.

    Raises:
        ValueError: if no source has such a split.
    """
    loaded = load_documents(recipe, num_proc=data_args.preprocessing_num_workers)
    splits = {name: roles[args.split] for name, roles in loaded.items() if args.split in roles}
    if not splits:
        raise ValueError(f"no source of {data_args.data_recipe} has a split for {args.split} (--split).")
    limit = args.max_documents or (DOCUMENTS_OF_A_STREAM if recipe.streaming else None)
    extent = f"the {args.split} documents" if limit is None else f"the first {limit:,} {args.split} documents"
    return {name: _first(split, name, limit) for name, split in splits.items()}, f"{extent} of each source"


def _first(documents: AnyDataset, name: str, limit: int | None) -> Dataset:
    if isinstance(documents, IterableDataset):
        texts = [row[TEXT] for row in islice(read_through(documents, name), limit)]
        return Dataset.from_dict({TEXT: texts})
    return documents if limit is None else documents.take(min(limit, len(documents)))


def summarise_packing(rows: Dataset, counts: RowCounts) -> PackingSummary:
    """Summarise the rows of a source."""
    packed = len(rows) > 0 and "document_lengths" in rows.column_names
    per_row = float(list_lengths(rows, "document_lengths").mean()) if packed else None
    return PackingSummary(counts, per_row, counts.efficiency)


def add_up(summaries: Iterable[PackingSummary]) -> PackingSummary:
    """The summary of all rows together."""
    summaries = list(summaries)
    counts = sum((summary.counts for summary in summaries), RowCounts())
    packed = sum(summary.counts.rows * (summary.documents_per_row or 0) for summary in summaries)
    return PackingSummary(counts, packed / max(counts.rows, 1) or None, counts.efficiency)


def sample_rows(
    rows: Mapping[str, Dataset], shares: Mapping[str, float], number: int
) -> list[tuple[str, dict[str, Any]]]:
    """About `number` rows and the sources they are of, by `shares` of the sources and from all over each."""
    sample = []
    for name, source in rows.items():
        wanted = min(max(round(number * shares[name]), 1), len(source))
        picked = np.linspace(0, len(source) - 1, wanted, dtype=int) if wanted else ()
        sample += [(name, row | {"epoch": 0}) for row in source.select(picked)]
    return sample


def make_collator(
    tokenizer: PreTrainedTokenizerBase, data_args: DataArguments, form: RowFormat, scheme: str | None = None
) -> MaskingCollator:
    """The collator of a run with these settings, or one with another scheme. Of a schedule the first rate counts."""
    chosen = scheme or data_args.masking_scheme
    return build_collator(tokenizer, data_args, scheme=chosen, length=form.length, max_documents=form.max_documents)


def mask_by_scheme(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, data_args: DataArguments, form: RowFormat
) -> dict[str, MaskingSummary]:
    """What each scheme masks in `rows`; without a vocabulary of n-grams all but `pmi`."""
    schemes = [scheme for scheme in SCHEMES if scheme != "pmi" or data_args.pmi_vocabulary]
    boundaries = WordBoundaries.from_tokenizer(tokenizer)
    return {
        scheme: measure_masking(rows, make_collator(tokenizer, data_args, form, scheme), boundaries)
        for scheme in schemes
    }


def measure_masking(
    rows: Sequence[Mapping[str, Any]], collator: MaskingCollator, boundaries: WordBoundaries
) -> MaskingSummary:
    """Mask `rows` and count."""
    batches = [_mask_batch(batch, collator, boundaries) for batch in _batches(rows)]
    masked, maskable, starts, tokens, wanted = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return summarise_masking(masked, maskable, starts, int(tokens.sum()), wanted)


def _mask_batch(
    rows: Sequence[Mapping[str, Any]], collator: MaskingCollator, boundaries: WordBoundaries
) -> tuple[np.ndarray, ...]:
    """Of B rows of N tokens: masked, maskable and beginnings of words, bool [B, N]; tokens and wanted masks, [B]."""
    batch = collator(rows)
    # The collator may add columns of padding.
    labels, shown = (batch[name].numpy()[:, : collator.length] for name in ("labels", "input_ids"))
    masked = labels != IGNORED_LABEL
    ids = np.where(masked, labels, shown)
    maskable, lengths = collator.is_maskable[ids], (ids != collator.pad_token_id).sum(axis=1)
    wanted = np.maximum(np.floor(collator.rates[0] * lengths + 0.5).astype(int), 1)
    starts = np.stack([boundaries.starts(row) for row in ids])
    return masked, maskable, starts, lengths, np.minimum(wanted, maskable.sum(axis=1))


def _batches(rows: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    return (rows[start : start + ROWS_PER_BATCH] for start in range(0, len(rows), ROWS_PER_BATCH))


def pick_examples(
    sample: Sequence[tuple[str, Mapping[str, Any]]], number: int, collator: MaskingCollator
) -> list[Example]:
    """At most `number` rows from all over the sample, masked."""
    picked = np.linspace(0, len(sample) - 1, min(number, len(sample)), dtype=int)
    return [
        Example(name, np.asarray(row["input_ids"]).tolist(), collator.spans(row))
        for name, row in (sample[index] for index in picked)
    ]


def to_json(inspection: Inspection) -> dict[str, Any]:
    """All figures as JSON values; the examples are left out."""
    return {name: value for name, value in asdict(inspection).items() if name != "examples"}


def show(
    console: Console,
    inspection: Inspection,
    tokenizer: PreTrainedTokenizerBase,
    form: RowFormat,
    data_args: DataArguments,
) -> None:
    """Print tables and examples."""
    print_table(console, sources_table(inspection))
    print_table(console, lengths_table(inspection.sources))
    print_table(console, packing_table(inspection.packing, form))
    print_table(console, masking_table(inspection.masking))
    if inspection.examples:
        console.print(f"\nExamples, masked by the scheme {data_args.masking_scheme}", style="bold")
    for example in inspection.examples:
        console.print(Text.assemble((f"\n{example.source}: ", "bold"), render(example, tokenizer)))


def sources_table(inspection: Inspection) -> TextTable:
    """Sizes and shares of the sources."""
    columns = ["source", "documents", "blank", "tokens", "share by size", "by weight", "licence"]
    rows = [
        [it.name, it.documents, it.blank, it.tokens, it.size_share, it.weight_share, it.license]
        for it in inspection.sources
    ]
    note = "Tokens without special ones. Blank documents are skipped."
    return TextTable(f"Documents: {inspection.extent}", columns, rows, note)


def lengths_table(sources: Sequence[SourceSummary]) -> TextTable:
    """Lengths of the documents of each source."""
    quantiles = [*(f"{quantile:.0%}" for quantile in QUANTILES[:-1]), "longest"]
    rows = [[source.name, *source.quantiles] for source in sources]
    return TextTable("Tokens in a document, by quantile", ["source", *quantiles], rows)


def packing_table(packing: Mapping[str, PackingSummary], form: RowFormat) -> TextTable:
    """Rows by source, and of all together."""
    columns = ["source", "rows", "documents a row", "tokens", "efficiency", "documents cut", "lines cut off"]
    rows: list[list[Any]] = []
    for name, summary in {**packing, "all": add_up(packing.values())}.items():
        counts = summary.counts
        figures = [counts.rows, summary.documents_per_row, counts.tokens, summary.efficiency]
        rows.append([name, *figures, counts.cut, counts.truncated])
    note = (
        "Efficiency is the share of positions that hold tokens, special ones included, rather than padding. A "
        "document that is cut is longer than a row and goes on in another."
    )
    return TextTable(f"Rows of {form.length:,} tokens (packing: {form.packing})", columns, rows, note)


def masking_table(masking: Mapping[str, MaskingSummary]) -> TextTable:
    """Masks by scheme."""
    columns = ["scheme", "rows", "exactly K", "masked", "tokens in a run", "words masked whole"]
    rows = [
        [
            scheme,
            summary.rows,
            summary.exact_rows / max(summary.rows, 1),
            summary.masked_share,
            summary.span_length,
            summary.whole_words,
            *summary.part_rates.values(),
        ]
        for scheme, summary in masking.items()
    ]
    note = (
        "Exactly K: share of the rows in which as many tokens are masked as the rate says, special ones counted in. "
        "Words masked whole: of the words of several tokens that are touched at all. The columns to the right: masked "
        "share of the first, the middle and the last tokens of such words, and of words of a single token."
    )
    missing = "" if "pmi" in masking else " The scheme pmi needs --pmi_vocabulary."
    return TextTable("Masking", [*columns, "first", "middle", "last", "single"], rows, note + missing)


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Text:
    """The beginning of a row as text, what is masked as one between brackets and in colour."""
    text, end = Text(), 0
    for begin, behind in example.spans:
        if begin >= TOKENS_OF_AN_EXAMPLE:
            break
        text.append(_decode(example.ids, end, begin, tokenizer), STYLES["rest"])
        piece = _decode(example.ids, begin, behind, tokenizer)
        text.append(" " * piece.startswith(" "))
        for part, style in ((OPENING, "border"), (piece.strip() or BLANK, "span"), (CLOSING, "border")):
            text.append(part, STYLES[style])
        end = behind
    last = max(min(TOKENS_OF_AN_EXAMPLE, len(example.ids)), end)
    text.append(_decode(example.ids, end, last, tokenizer), STYLES["rest"])
    if last < len(example.ids):
        text.append(f" ... ({len(example.ids):,} tokens)", STYLES["rest"])
    return text


def _decode(ids: Sequence[int], begin: int, end: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Text of the tokens on one line, with the space before it if there is one."""
    # What stands before tells whether a word goes on.
    before = tokenizer.decode(ids[max(begin - 1, 0) : begin])
    text = tokenizer.decode(ids[max(begin - 1, 0) : end])[len(before) :]
    return re.sub(r"\s+", " ", text.replace("\n", f" {LINE_END} "))


def _parse(arguments: Sequence[str]) -> tuple[InspectArguments, DataArguments]:
    parser = SettingsParser((InspectArguments, DataArguments), "Show what a data recipe (a YAML file) gives.")
    parser.usage = f"{COMMAND} RECIPE --tokenizer_name TOKENIZER [--setting VALUE ...]"
    rest = list(arguments)
    if rest and not rest[0].startswith("-"):
        rest[:1] = ["--data_recipe", rest[0]]
    parser.check_known(rest)
    return parser.parse_args_into_dataclasses(rest, look_for_args_file=False)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
