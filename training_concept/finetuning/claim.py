# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The output folder of a run of several fine-tunings: whose it is, and that nobody else is at work in it."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState

from evaluation_concept.files import LOCK_FILE, locked
from training_concept.finetuning.arguments import FineTuningArguments

RESULTS_FILE = "results.json"
GLUE, LONG_CONTEXT = "run_glue.py", "run_long_context.py"


@contextmanager
def claimed(args: FineTuningArguments, script: str, folders: Sequence[str]) -> Iterator[Path]:
    """
    The output folder, if it is empty or holds a run of this script, which goes on unless it is to be repeated.

    Args:
        args: name the folder; with `overwrite_output_dir` what the last run left in `folders` is removed.
        script: `GLUE` or `LONG_CONTEXT`.
        folders: that the script makes in it; one of the first two says that a run has begun there.

    Raises:
        ValueError: it holds something else, the results of a training that this run would replace without one, or a
            run that has not ended.
    """
    folder = Path(args.output_dir)
    _check_owner(folder, args, script, folders)
    # What others are still looking at is not removed.
    PartialState().wait_for_everyone()
    is_main = args.process_index == 0
    with locked(folder, "--output_dir") if is_main else nullcontext():
        if args.overwrite_output_dir and is_main:
            for stale in folders:
                shutil.rmtree(folder / stale, ignore_errors=True)
        # Nobody reads what is about to be removed.
        PartialState().wait_for_everyone()
        yield folder


def _check_owner(folder: Path, args: FineTuningArguments, script: str, folders: Sequence[str]) -> None:
    if not folder.is_dir() or all(path.name == LOCK_FILE for path in folder.iterdir()):
        return
    results = folder / RESULTS_FILE
    if not any(path.exists() for path in (results, *(folder / name for name in folders[:2]))):
        raise ValueError(f"{folder} is not empty and holds no run of this script. Choose another --output_dir.")
    content = _read_results(results) if results.is_file() else {}
    if content and script != (LONG_CONTEXT if "max_seq_length" in content else GLUE):
        raise ValueError(f"{folder} holds results of the other script, not of {script}. Choose another --output_dir.")
    if not args.do_train and _is_trained(content):
        raise ValueError(
            f"{folder} holds the results of a training, which would be lost: choose another --output_dir to score "
            "without one."
        )


def _read_results(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it, and it is written again.") from error


def _is_trained(content: dict[str, Any]) -> bool:
    return any(task.get("trained_on") for task in content.get("tasks", {}).values())
