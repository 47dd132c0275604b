# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card of a run over tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from configuration_concept import ConceptEncoderConfig
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.finetuning.experiment import MODEL
from training_concept.publishing.card import TEMPLATES, save_card


def write_task_card(
    args: FineTuningArguments,
    model_args: ClassifierArguments,
    content: Mapping[str, Any],
    table: str,
    datasets: Mapping[str, tuple[str, str | None]],
) -> ModelCard:
    """
    Write README.md of the output folder: the table, every score as an `EvalResult`, usage and settings.

    Args:
        args: of the run.
        model_args: name the checkpoint.
        content: of results.json.
        table: of results.
        datasets: by task, path and configuration of its data.
    """
    name = args.hub_model_id or Path(args.output_dir).resolve().name
    is_concept = content["model_type"] == ConceptEncoderConfig.model_type
    card = ModelCard.from_template(
        _card_data(args, model_args, name, is_concept, content, datasets),
        template_path=str(TEMPLATES / "text_classification.md"),
        title=name,
        base_model=model_args.model_name_or_path,
        model_type=content["model_type"],
        tasks=", ".join(task["title"] for task in content["tasks"].values()),
        holds_model=content["holds_model"],
        trust=", trust_remote_code=True" if is_concept else "",
        results_table=table,
        notes=_notes(content),
        settings=_settings(args, content),
    )
    save_card(card, Path(args.output_dir))
    return card


def _card_data(
    args: FineTuningArguments,
    model_args: ClassifierArguments,
    name: str,
    is_concept: bool,
    content: Mapping[str, Any],
    datasets: Mapping[str, tuple[str, str | None]],
) -> ModelCardData:
    results = [
        result for task_name, task in content["tasks"].items() for result in _eval_results(task, *datasets[task_name])
    ]
    base = model_args.model_name_or_path
    return ModelCardData(
        language=args.language,
        license=args.license,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["encoder"] + (["concept-encoder", "custom_code"] if is_concept else []),
        # A folder of this machine is no model that others could look at.
        base_model=base if base and not Path(base).exists() else None,
        model_name=name,
        eval_results=results,
    )


def _eval_results(task: Mapping[str, Any], path: str, config: str | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=path,
            dataset_name=task["title"],
            dataset_config=config,
            dataset_split=split,
            metric_type=metric,
            metric_name=_metric_name(metric, value),
            metric_value=round(value["mean"], 4),
        )
        for split, scored in task["splits"].items()
        for metric, value in scored["systems"][MODEL]["values"].items()
    ]


def _metric_name(metric: str, value: Mapping[str, Any]) -> str:
    if value["spread"] is None:
        return metric
    return f"{metric}, mean of {value['runs']} runs (standard deviation {value['spread']:.4f})"


def _notes(content: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of each task to make anything of its score."""
    notes = []
    for task in content["tasks"].values():
        sizes = sorted(set(task["trained_on"]))
        if len(task["trained_on"]) > 1:
            trained = f"cross-validated in {len(task['trained_on'])} folds, trained on {sizes[0]:,} examples each"
        else:
            trained = f"trained on {sizes[0]:,} examples" if sizes else "not trained on"
        if task.get("started_from"):
            trained += ", from a model of MNLI"
        chosen = f"; {_chosen(task['chosen'])} chosen on {task['chosen_by']}" if task["chosen_by"] else ""
        notes.append(f"{task['title']}: {trained}{chosen}.")
    return notes


def _chosen(by_fold: Sequence[Mapping[str, Any]]) -> str:
    """What a sweep chose, of folds that chose differently everything."""
    texts = [", ".join(f"{name}={value:g}" for name, value in settings.items()) for settings in by_fold]
    return " or ".join(dict.fromkeys(texts))


def _settings(args: FineTuningArguments, content: Mapping[str, Any]) -> dict[str, str]:
    def unless_swept(field: str, text: str) -> str:
        return "swept" if f"{field}=" in (content["sweep"] or "") else text

    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    epochs = f"{unless_swept('num_train_epochs', f'{args.num_train_epochs:g}')} epochs"
    rate = unless_swept("learning_rate", f"{args.learning_rate:g}")
    return {
        "Length": f"{rows} examples a step, {f'{args.max_steps:,} steps' if args.max_steps > 0 else epochs}",
        "Learning rate": f"{rate}, {args.lr_scheduler_type.value}, warm-up {args.warmup_steps:g}",
        "Weight decay": unless_swept("weight_decay", f"{args.weight_decay:g}"),
        "Sweep": content["sweep"] or "none",
        "Seeds": ", ".join(map(str, content["seeds"])),
        "Precision": args.mixed_precision if args.bf16 or args.fp16 else "fp32",
    }
