# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Fine-tune on long documents and score by each task's own metric: a concept encoder or any other encoder.

    python run_long_context.py --model_name_or_path outputs/mini --package_dir data/packages \\
        --task_name sotu_eras brown_genres --max_seq_length 16384 --seeds 1 2 3 --do_train --do_eval \\
        --gradient_checkpointing --output_dir outputs/mini_long
    python run_long_context.py --model_name_or_path outputs/mini --task_name scrolls --data_dir data/benchmarks \\
        --do_train --do_eval --do_predict --output_dir outputs/mini_scrolls
    python run_long_context.py --model_name_or_path outputs/mini --task_name ruler --max_seq_length 16384 \\
        --length_curriculum 1024 4096 --compare concept_ratio=8 concept_ratio=16 --do_train --do_eval ...

`python run_long_context.py --help` lists every setting, docs/long_context.md every task. Beside a score stand those of
the same training on the first 512 tokens, of a bag of words and of the most frequent answer. Started again, a run does
what is left of it. Without --do_train the checkpoint is scored as it is; with --frozen_encoder its embeddings are
classified, which takes minutes on a CPU.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evaluation_concept.errors import exit_code
from evaluation_concept.long_context.baselines import FIRST_TOKENS
from evaluation_concept.long_context.registry import find_tasks
from evaluation_concept.long_context.tasks import (
    ALL,
    GENERATIVE,
    TEST,
    VALIDATION,
    Generator,
    Task,
)
from modeling_concept import register_auto_classes
from training_concept.arguments import parse_dataclasses
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.finetuning.claim import LONG_CONTEXT, claimed
from training_concept.finetuning.results import distinguished
from training_concept.logs import set_up_logging
from training_concept.long_context.arguments import LongContextArguments
from training_concept.long_context.card import check_push, push_model
from training_concept.long_context.comparison import compare_runs, write_comparison
from training_concept.long_context.experiment import (
    FIRST,
    MODEL,
    RANDOM,
    Outcome,
    Part,
    run_baselines,
    run_generator,
    run_model,
)
from training_concept.long_context.forms import TOKEN_KINDS
from training_concept.long_context.frozen import check_frozen, with_random_weights
from training_concept.long_context.preparation import (
    CELLS_FOLDER,
    MODELS_FOLDER,
    Run,
    load_task,
    make_plan,
    run_facts,
    to_write,
    try_out_all,
)
from training_concept.long_context.results import (
    BASELINES_FILE,
    PREDICTIONS_FOLDER,
    SUBMISSION_FOLDER,
    baselines_digest,
    beside_earlier,
    kept_baselines,
    read_results,
    task_results,
    write_outcome,
    write_run,
)
from training_concept.long_context.setup import (
    export_texts,
    make_sources,
    with_overrides,
)
from training_concept.long_context.stages import cut_stage

COMPARE_FOLDER = "compare"
FOLDERS = (CELLS_FOLDER, COMPARE_FOLDER, MODELS_FOLDER, PREDICTIONS_FOLDER, SUBMISSION_FOLDER)
NO_GENERATOR = "its answers are written, for which there is no generator"


def main(arguments: Sequence[str], generator: Generator | None = None) -> dict[str, Any]:
    """
    Run the script with command-line `arguments`.

    Args:
        arguments: see --help.
        generator: writes the answers of tasks that no encoder alone can do, which are not run without.

    Returns:
        What results.json holds, of a comparison what comparison.json does; other processes than the main one know
        nothing of baselines and earlier tasks.

    Raises:
        ValueError, OSError, ImportError: for what its user can put right; nothing is lost then, and where single
            tasks lack something, it comes when all others have been run.
    """
    kinds = ClassifierArguments, LongContextArguments, FineTuningArguments
    model_args, options, training_args = parse_dataclasses(arguments, *kinds, description=__doc__)
    set_up_logging(training_args)
    register_auto_classes()
    run = Run(model_args, options, training_args, make_sources(options, model_args), Path(training_args.output_dir))
    tasks = find_tasks(options.task_name)
    if options.export_texts:
        return export_texts(tasks, run.sources, model_args, options)
    _check(tasks, model_args, options, training_args)
    own, *names = distinguished([str(run.folder), *(options.compare_with or [])])
    others = dict(zip(names, map(read_results, map(Path, options.compare_with or [])), strict=True))
    with claimed(training_args, LONG_CONTEXT, FOLDERS):
        variants = {overrides or own: _variant(run, overrides) for overrides in options.compare or [None]}
        try_out_all(list(variants.values()), tasks, generator, others)
        contents = {name: _run_tasks(variant, tasks, generator) for name, variant in variants.items()}
        found = contents[next(iter(contents))]
        if options.compare or others:
            found = compare_runs(
                {name: _without_earlier(content, tasks) for name, content in contents.items()} | others
            )
            if run.is_main:
                print(f"\n{write_comparison(run.folder, found)}", flush=True)
    if run.missing:
        reasons = "; ".join(f"{name}: {why}" for name, why in run.missing.items())
        raise ValueError(f"Not run: {reasons}. The results of the other tasks are in {run.folder}.")
    return found


def _without_earlier(content: dict[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """Only what this run has scored."""
    names = [task.name for task in tasks if task.name not in content["not_run"]]
    return content | {"tasks": {name: content["tasks"][name] for name in names}}


def _variant(run: Run, overrides: str | None) -> Run:
    if overrides is None:
        return run
    changed = with_overrides(run.model_args, overrides)
    return replace(run, model_args=changed, folder=run.folder / COMPARE_FOLDER / overrides)


def _check(
    tasks: Sequence[Task], model_args: ClassifierArguments, options: LongContextArguments, args: FineTuningArguments
) -> None:
    if not args.do_eval:
        raise ValueError("Nothing to do: ask for --do_eval, and for --do_train, --do_predict or both beside it.")
    if args.eval_strategy != "no":
        raise ValueError("--eval_strategy: what is scored is scored once, at the end; leave it at no.")
    check_push(args, tasks, bool(options.compare))
    if args.label_smoothing_factor and all(task.kind in TOKEN_KINDS for task in tasks):
        raise ValueError("--label_smoothing_factor is for classes and choices, and these tasks pick places.")
    if model_args.readout and (placed := [task.name for task in tasks if task.kind in TOKEN_KINDS]):
        raise ValueError(f"--readout is for classes and choices, and {placed[0]} picks places: leave one of them out.")
    if options.scored_split not in (TEST, VALIDATION):
        raise ValueError(f"--scored_split {options.scored_split} must be {TEST} or {VALIDATION}.")
    if args.do_predict and options.scored_split == VALIDATION:
        raise ValueError("--do_predict is for what is reported, and --scored_split validation to choose settings by.")
    if args.do_predict and all(task.scored in ("test", ALL) for task in tasks):
        raise ValueError("--do_predict: none of these tasks has a test split whose answers are hidden.")
    if options.frozen_encoder:
        check_frozen(tasks, model_args, options, args)
    if not args.do_train and (options.length_curriculum or options.compare):
        raise ValueError("--length_curriculum and --compare train models: they go with --do_train.")
    if not args.do_train and (folded := [task.name for task in tasks if task.folds and task.kind != GENERATIVE]):
        raise ValueError(f"{folded[0]} is cross-validated, which trains a model for each fold: ask for --do_train.")


def _run_tasks(run: Run, tasks: Sequence[Task], generator: Generator | None) -> dict[str, Any]:
    """All tasks with one model; results are written after every one, so that what is there can be looked at."""
    unwritten = {task.name: NO_GENERATOR for task in tasks if task.kind == GENERATIVE and generator is None}
    not_run, split = unwritten | run.missing, run.options.scored_split
    running = [task for task in tasks if task.name not in not_run]
    content = run_facts(run) | {"tasks": {}, "not_run": {}}
    if run.is_main and not run.training_args.overwrite_output_dir:
        content = beside_earlier(run.folder, content, [task.name for task in running])
    content["not_run"] |= not_run
    table = ""
    for task in running:
        outcome = _generate(run, task, generator) if task.kind == GENERATIVE else _run_task(run, task)
        content["tasks"][task.name] = task_results(outcome, split)
        if run.is_main:
            write_outcome(run.folder, outcome, split)
            table = write_run(run.folder, content)
    if run.is_main:
        print(f"\n{table or write_run(run.folder, content)}", flush=True)
        if run.training_args.push_to_hub:
            folder = run.folder / MODELS_FOLDER / tasks[0].name
            push_model(folder, run.training_args, run.model_args, tasks[0], content)
    return content


def _generate(run: Run, task: Task, generator: Generator | None) -> Outcome:
    assert generator is not None
    task, scored, hidden = to_write(run, task)
    return run_generator(task, generator, scored, hidden)


def _run_task(run: Run, task: Task) -> Outcome:
    with run.training_args.main_process_first():
        task, stages, examples = load_task(run, task)
    tokenizer = stages[-1].tuner.tokenizer
    parts, plan = stages[-1].parts, make_plan(run, task, examples)
    outcome = Outcome(task, [example for part in parts for example in part.scored])
    outcome.trained_on = [len(part.train) for part in parts] if plan.train else []
    # Before the training, so that they are there however it ends.
    baselines = _baselines(run, task, parts, tokenizer) if run.options.baselines and plan.train else {}
    run_model(task, stages, plan, MODEL, outcome)
    if run.options.first_tokens_ablation and plan.train and run.options.max_seq_length > FIRST_TOKENS:
        told = run.model_args, run.options, run.training_args, tokenizer
        first = [cut_stage(task, stage, FIRST_TOKENS, *told) for stage in stages]
        run_model(task, first, replace(plan, hidden=(), keep=None, score_every_length=False), FIRST, outcome)
    if run.options.frozen_encoder and run.options.baselines:
        run_model(task, with_random_weights(stages), plan, RANDOM, outcome)
    outcome.predictions |= baselines
    return outcome


def _baselines(run: Run, task: Task, parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase) -> Mapping[str, list]:
    """On the main process, which alone writes results; those that an earlier start has made are read."""
    if run.is_main and task.name not in run.baselines:
        path = run.folder / CELLS_FOLDER / task.name / BASELINES_FILE
        made_from = baselines_digest(task, parts, tokenizer)
        run.baselines[task.name] = kept_baselines(path, made_from, lambda: run_baselines(task, parts, tokenizer))
    return run.baselines.get(task.name, {})


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
