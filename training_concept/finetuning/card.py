# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card of a run over tasks."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from configuration_concept import ConceptEncoderConfig
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.finetuning.experiment import MODEL, RANDOM_INIT
from training_concept.finetuning.results import BAG_OF_WORDS
from training_concept.publishing.card import TEMPLATES, base_name, hub_base, save_card

# What tables call systems, explained where they are there.
SYSTEMS = {
    BAG_OF_WORDS: "Bag of words: TF-IDF of single words with logistic (ridge) regression; it knows which words a text "
    "holds, and not their order.",
    RANDOM_INIT: "Random encoder: the same configuration and settings, with fresh weights.",
}


def write_task_card(
    args: FineTuningArguments,
    model_args: ClassifierArguments,
    content: Mapping[str, Any],
    table: str,
    datasets: Mapping[str, tuple[str, str | None]],
    file: str | None = None,
) -> ModelCard:
    """
    Write README.md of the output folder: the table, every score as an `EvalResult`, usage and settings.

    Args:
        args: of the run.
        model_args: name the checkpoint.
        content: of results.json.
        table: of results.
        datasets: by task, path and configuration of its data.
        file: that the only task was read from, if it is the user's.
    """
    base = model_args.model_name_or_path
    titles = [f"the file {Path(file).name}"] if file else [task["title"] for task in content["tasks"].values()]
    name = args.hub_model_id or Path(args.output_dir).resolve().name
    is_concept = content["model_type"] == ConceptEncoderConfig.model_type
    card = ModelCard.from_template(
        _card_data(args, model_args, name, is_concept, content, datasets),
        template_path=str(TEMPLATES / "text_classification.md"),
        title=name,
        base_model=base_name(base) if base else None,
        model_type=content["model_type"],
        is_trained=any(task["trained_on"] for task in content["tasks"].values()),
        tasks=", ".join(titles),
        holds_model=content["holds_model"],
        trust=", trust_remote_code=True" if is_concept else "",
        results_table=table,
        about_numbers=_about_numbers(content),
        notes=_notes(content, titles),
        about_systems=" ".join(text for system, text in SYSTEMS.items() if system in _systems(content)),
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
    return ModelCardData(
        language=args.language,
        license=args.license,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["encoder"] + (["concept-encoder", "custom_code"] if is_concept else []),
        base_model=hub_base(model_args.model_name_or_path),
        model_name=name,
        eval_results=results,
    )


def _eval_results(task: Mapping[str, Any], path: str, config: str | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=_dataset_type(path),
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


def _dataset_type(path: str) -> str:
    """`path` in the characters of an id, without which the Hub refuses the card, and with it the model."""
    return re.sub(r"[^\w./-]+", "-", path, flags=re.ASCII)


def _metric_name(metric: str, value: Mapping[str, Any]) -> str:
    if value["spread"] is None:
        return metric
    return f"{metric}, mean of {value['runs']} runs (standard deviation {value['spread']:.4f})"


def _splits(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [split for task in content["tasks"].values() for split in task["splits"].values()]


def _systems(content: Mapping[str, Any]) -> set[str]:
    """Of which there are scores."""
    return {system for split in _splits(content) for system in split["systems"]}


def _about_numbers(content: Mapping[str, Any]) -> str:
    """What the numbers of the table are, of those that it has."""
    text = "In points."
    if any(system["spread"] is not None for split in _splits(content) for system in split["systems"].values()):
        text += " Of several runs (seeds) the mean ± standard deviation."
    if content.get("comparisons") or any("ahead_of_bag_of_words" in split for split in _splits(content)):
        text += " Differences have the 95 % interval of a paired bootstrap over the scored examples."
    return text


def _notes(content: Mapping[str, Any], titles: Sequence[str]) -> list[str]:
    """What a reader has to know of each task to make anything of its score."""
    notes = []
    for title, task in zip(titles, content["tasks"].values(), strict=True):
        sizes = sorted(set(task["trained_on"]))
        if len(task["trained_on"]) > 1:
            trained = f"cross-validated in {len(task['trained_on'])} folds, trained on {sizes[0]:,} examples each"
        else:
            trained = f"trained on {sizes[0]:,} examples" if sizes else "not trained on"
        if task.get("started_from"):
            trained += ", from a model of MNLI"
        chosen = f"; {_chosen(task['chosen'])} chosen on {task['chosen_by']}" if task["chosen_by"] else ""
        notes.append(f"{title[0].upper()}{title[1:]}: {trained}{chosen}.")
    return notes


def _chosen(by_fold: Sequence[Mapping[str, Any]]) -> str:
    """What a sweep chose, of folds that chose differently everything."""
    texts = [", ".join(f"{name}={value:g}" for name, value in settings.items()) for settings in by_fold]
    return " or ".join(dict.fromkeys(texts))


def _settings(args: FineTuningArguments, content: Mapping[str, Any]) -> dict[str, str]:
    """How it was trained; where a sweep chose, what it chose, "or" between tasks and folds that differ in it."""
    chosen: list[Mapping[str, Any]] = [settings for task in content["tasks"].values() for settings in task["chosen"]]

    def told(names: Sequence[str], show: Callable[..., str]) -> str:
        values = [[settings.get(name, getattr(args, name)) for name in names] for settings in chosen or [{}]]
        swept = any(name in settings for settings in chosen for name in names)
        return " or ".join(dict.fromkeys(show(*some) for some in values)) + " (chosen by the sweep)" * swept

    devices = args.train_batch_size // args.per_device_train_batch_size * args.world_size
    counts_steps = args.max_steps > 0 or any("max_steps" in settings for settings in chosen)
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    return {
        "Examples a step": told(batch, lambda rows, steps: f"{rows * steps * devices:,}"),
        **(
            {"Steps": told(["max_steps"], "{:,}".format)}
            if counts_steps
            else {"Epochs": told(["num_train_epochs"], "{:g}".format)}
        ),
        "Learning rate": told(["learning_rate"], "{:g}".format),
        "Schedule": f"{args.lr_scheduler_type.value}, warm-up {told(['warmup_steps'], '{:g}'.format)}",
        "Weight decay": told(["weight_decay"], "{:g}".format),
        **({"Optimizer": f"Muon for matrices of linear layers, {args.optim.value}"} if args.muon else {}),
        "Sweep": content["sweep"] or "none",
        "Seeds": ", ".join(map(str, content["seeds"])),
        "Precision": args.mixed_precision if args.bf16 or args.fp16 else "fp32",
    }
