# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Fine-tune on GLUE, on tasks that ship in packages, or on files of one's own: a concept encoder or any other encoder.

    python run_glue.py --model_name_or_path outputs/mini --task_name all --do_train --do_eval --do_predict \\
        --seeds 1 2 3 --sweep "learning_rate=1e-4,3e-4 num_train_epochs=3,10" --output_dir outputs/mini_glue
    python run_glue.py --model_name_or_path outputs/nano --package_dir data/packages --task_name sst2 adjacent_swaps \\
        --do_train --do_eval --output_dir outputs/nano_tasks
    python run_glue.py --model_name_or_path outputs/nano --train_file train.csv --validation_file dev.csv \\
        --do_train --do_eval --output_dir outputs/nano_own

`python run_glue.py --help` lists every setting. Started again, a run does what is left of it: finished fine-tunings
are read, one that broke off goes on from its last checkpoint. Without --do_train the checkpoint is scored as it is.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation_concept.errors import exit_code
from evaluation_concept.glue import GLUE_DATASET, STARTED_FROM_MNLI, write_submission
from evaluation_concept.tasks import TaskData
from modeling_concept import register_auto_classes
from training_concept.arguments import parse_dataclasses
from training_concept.finetuning.arguments import ClassifierArguments, ExperimentArguments, FineTuningArguments
from training_concept.finetuning.card import write_task_card
from training_concept.finetuning.cell import FineTuner
from training_concept.finetuning.claim import GLUE, claimed
from training_concept.finetuning.data import drawn_rows
from training_concept.finetuning.experiment import Outcome, Plan, check_sweep, run_task
from training_concept.finetuning.model import classifier_config, own_labels, tokenizer_for
from training_concept.finetuning.results import (
    PREDICTIONS_FOLDER,
    check_comparable,
    compare,
    distinguished,
    task_results,
    write_run,
)
from training_concept.finetuning.task_arguments import TaskArguments, load_tasks
from training_concept.logs import set_up_logging
from training_concept.publishing.card import base_name
from training_concept.publishing.pushing import push_run

CELLS_FOLDER, SUBMISSION_FOLDER = "cells", "submission"


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """
    Run the script with command-line `arguments`. Returns what results.json holds.

    Raises:
        ValueError, OSError: for what its user can put right; nothing is lost then.
    """
    kinds = ClassifierArguments, TaskArguments, ExperimentArguments, FineTuningArguments
    model_args, task_args, options, training_args = parse_dataclasses(arguments, *kinds, description=__doc__)
    set_up_logging(training_args)
    register_auto_classes()
    classes = None if training_args.do_train else own_labels(model_args)
    with training_args.main_process_first():
        loaded = load_tasks(task_args, model_args.cache_dir, model_args.token, classes, training_args.do_predict)
    tasks = {data.task.name: _prepare(data, options, training_args) for data in loaded}
    _check(tasks, task_args, options, training_args)
    for data in tasks.values():
        classifier_config(model_args, data.task, options.max_seq_length)
    texts = (text for data in tasks.values() if data.train for column in data.train.texts for text in column)
    tokenizer = tokenizer_for(model_args, texts, options.max_seq_length)
    tuner = FineTuner(model_args, options, training_args, tokenizer)
    with claimed(training_args, GLUE, (CELLS_FOLDER, SUBMISSION_FOLDER, PREDICTIONS_FOLDER)) as folder:
        return _run_tasks(folder, tuner, tasks, task_args)


def _run_tasks(
    folder: Path, tuner: FineTuner, tasks: Mapping[str, TaskData], task_args: TaskArguments
) -> dict[str, Any]:
    training_args = tuner.training_args
    outcomes: dict[str, Outcome] = {}
    content: dict[str, Any] = {}
    for name, data in tasks.items():
        outcomes[name] = run_task(tuner, data, _plan(name, tasks, task_args, training_args))
        # After every task, so that what is there can be looked at.
        if training_args.process_index == 0:
            content, table = _write(folder, tuner, tasks, outcomes, content, task_args)
    if training_args.process_index == 0:
        _finish(tuner, tasks, outcomes, content, table, task_args)
    return content


def _prepare(data: TaskData, options: ExperimentArguments, training_args: FineTuningArguments) -> TaskData:
    """The examples that this run wants."""
    limit = options.max_eval_samples
    evaluation = {split: examples.first(limit) for split, examples in data.evaluation.items()}
    return replace(
        data,
        train=data.train.take(drawn_rows(len(data.train), options.max_train_samples)) if data.train else None,
        evaluation=evaluation if training_args.do_eval else {},
        selection=data.selection.first(limit) if data.selection else None,
        test={file: examples.first(options.max_predict_samples) for file, examples in data.test.items()},
    )


def _check(
    tasks: Mapping[str, TaskData], task_args: TaskArguments, options: ExperimentArguments, args: FineTuningArguments
) -> None:
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("Nothing to do: ask for --do_train, --do_eval, --do_predict or several of them.")
    for name, data in tasks.items():
        if args.do_eval and not data.evaluation:
            raise ValueError(f"{name}: --do_eval needs --validation_file, or a split with labels.")
        if args.do_predict and not data.test:
            raise ValueError(f"{name}: --do_predict needs --test_file, or a task with a test set without labels.")
        if args.do_train and data.train is None and not data.task.folds:
            raise ValueError(f"{name}: --do_train needs --train_file.")
        if args.do_train and data.train is None and not args.do_eval:
            raise ValueError(f"{name} is cross-validated: --do_train goes with --do_eval.")
        if args.do_train:
            check_sweep(data, options)
    if args.max_steps > 0 and len({settings.get("num_train_epochs") for settings in options.settings}) > 1:
        raise ValueError(f"--sweep varies num_train_epochs, which does nothing beside --max_steps {args.max_steps}.")
    trains_one = args.do_train and len(tasks) == 1 and not any(data.task.folds for data in tasks.values())
    if args.push_to_hub and not trains_one:
        raise ValueError(
            "--push_to_hub uploads one model: ask for --do_train, and name one task, which is not cross-validated."
        )
    if options.compare_with and not args.do_eval:
        raise ValueError("--compare_with goes with --do_eval only.")
    for other in options.compare_with or []:
        check_comparable({name: data.evaluation for name, data in tasks.items()}, Path(other))
    if task_args.mnli_init and tasks.keys() & STARTED_FROM_MNLI:
        _check_mnli(task_args.mnli_init, tasks, args)


def _check_mnli(given: str, tasks: Mapping[str, TaskData], args: FineTuningArguments) -> None:
    if not args.do_train:
        raise ValueError("--mnli_init goes with --do_train only.")
    own = _mnli_checkpoint("mnli", args)
    if "mnli" in tasks and _mnli_checkpoint(given, args).resolve() != own.resolve():
        # Of a recipe for another output folder, it may be of another kind of model.
        raise ValueError(f"--mnli_init {given}: this run trains on mnli, say --mnli_init mnli to start from {own}.")
    if "mnli" not in tasks and not _mnli_checkpoint(given, args).is_dir():
        raise ValueError(f"--mnli_init {given} is not there, and mnli is not among the tasks.")


def _mnli_checkpoint(given: str, args: FineTuningArguments) -> Path:
    return Path(args.output_dir) / "mnli" if given == "mnli" else Path(given)


def _plan(
    name: str, tasks: Mapping[str, TaskData], task_args: TaskArguments, training_args: FineTuningArguments
) -> Plan:
    folder = Path(training_args.output_dir)
    starts_from_mnli = task_args.mnli_init and name in STARTED_FROM_MNLI
    return Plan(
        folder / CELLS_FOLDER / name,
        train=training_args.do_train,
        predict=training_args.do_predict,
        started_from=str(_mnli_checkpoint(task_args.mnli_init or "", training_args)) if starts_from_mnli else None,
        keep=(folder if len(tasks) == 1 else folder / name) if training_args.do_train else None,
    )


def _write(
    folder: Path,
    tuner: FineTuner,
    tasks: Mapping[str, TaskData],
    outcomes: Mapping[str, Outcome],
    content: Mapping[str, Any],
    task_args: TaskArguments,
) -> tuple[dict[str, Any], str]:
    """Write results and predictions of the tasks so far; those of all but the last are in `content`."""
    results = dict(content.get("tasks", {}))
    name = list(outcomes)[-1]
    started_from = task_args.mnli_init if name in STARTED_FROM_MNLI else None
    results[name] = task_results(outcomes[name]) | {"started_from": started_from}
    for file, predictions in outcomes[name].test.items():
        write_submission(folder / SUBMISSION_FOLDER, tasks[name].task, file, predictions)
    config = classifier_config(tuner.model_args, tasks[name].task, tuner.options.max_seq_length)
    others = distinguished(tuner.options.compare_with or [])
    facts = {
        "model": base_name(base) if (base := tuner.model_args.model_name_or_path) else None,
        "model_type": config.model_type,
        "holds_model": tuner.training_args.do_train and len(tasks) == 1 and not tasks[name].task.folds,
        "seeds": tuner.options.seeds or [tuner.training_args.seed],
        "sweep": tuner.options.sweep,
        "comparisons": {label: compare(outcomes, other) for label, other in others.items()},
    }
    return write_run(folder, facts, outcomes, results)


def _finish(
    tuner: FineTuner,
    tasks: Mapping[str, TaskData],
    outcomes: Mapping[str, Outcome],
    content: Mapping[str, Any],
    table: str,
    task_args: TaskArguments,
) -> None:
    glue = not (task_args.files or task_args.in_packages)
    own = Path(task_args.validation_file).name if task_args.validation_file else None
    sources = {name: (GLUE_DATASET, name) if glue else (own or name, None) for name in tasks}
    file = next(iter(task_args.files.values()), None)
    write_task_card(tuner.training_args, tuner.model_args, content, table, sources, file)
    files = [file for outcome in outcomes.values() for file in outcome.test]
    written = f"\nPredictions: {Path(tuner.training_args.output_dir) / SUBMISSION_FOLDER} ({', '.join(files)})"
    print(f"\n{table}{written if files else ''}", flush=True)
    if tuner.training_args.push_to_hub:
        push_run(tuner.training_args, Path(tuner.training_args.output_dir))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
