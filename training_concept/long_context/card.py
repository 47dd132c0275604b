# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that a run over one task leaves: its card, and its upload."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from configuration_concept import ConceptEncoderConfig
from evaluation_concept.long_context.tasks import CLASSIFICATION, GENERATIVE, Task
from training_concept.finetuning.arguments import ClassifierArguments, FineTuningArguments
from training_concept.long_context.results import write_run
from training_concept.publishing.card import TEMPLATES, base_name, hub_base, save_card
from training_concept.publishing.pushing import push_run, target_of


def check_push(args: FineTuningArguments, tasks: Sequence[Task], compares: bool) -> None:
    """
    Refuse an upload of anything but one trained model.

    Raises:
        ValueError: several models would come of the run, or none.
    """
    trains_one = args.do_train and not compares and len(tasks) == 1
    if args.push_to_hub and not (trains_one and not tasks[0].folds and tasks[0].kind != GENERATIVE):
        raise ValueError(
            "--push_to_hub uploads one model: ask for --do_train, name one task that is neither cross-validated nor "
            "answered in writing, and leave out --compare."
        )


def push_model(
    folder: Path, args: FineTuningArguments, model_args: ClassifierArguments, task: Task, content: Mapping[str, Any]
) -> None:
    """
    Complete the folder of a task's model by results and card, and upload it.

    Args:
        folder: of the model.
        args: of the run.
        model_args: name the checkpoint.
        task: the only one.
        content: of results.json.
    """
    table = write_run(folder, content)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    is_concept = config["model_type"] == ConceptEncoderConfig.model_type
    name, base = target_of(args).repo_id, model_args.model_name_or_path
    card = ModelCard.from_template(
        ModelCardData(
            language=args.language,
            license=args.license,
            library_name="transformers",
            pipeline_tag="text-classification" if task.kind == CLASSIFICATION else None,
            tags=["encoder", "long-context"] + (["concept-encoder", "custom_code"] if is_concept else []),
            base_model=hub_base(base),
            model_name=name,
        ),
        template_path=str(TEMPLATES / "long_context.md"),
        title=name,
        base_model=base_name(base) if base else None,
        model_type=config["model_type"],
        architecture=config["architectures"][0],
        task=task.name,
        is_classifier=task.kind == CLASSIFICATION,
        max_seq_length=content["max_seq_length"],
        has_code=is_concept,
        results_table=table,
    )
    save_card(card, folder)
    push_run(args, folder)
