# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What scripts that fine-tune can be told: model, experiment and training, filled as those of `run_mlm.py` are."""

from dataclasses import dataclass, field
from typing import Any

from training_concept.arguments import ModelArguments, ScriptTrainingArguments, check_needs

# What no run of several fine-tunings can be told, and why.
REFUSED = {
    "load_best_model_at_end": "would choose by the examples whose score is reported; choose the number of epochs by "
    "--sweep",
    "resume_from_checkpoint": "would start every seed and fold from one checkpoint; started again, a run goes on by "
    "itself",
    **dict.fromkeys(
        ("prediction_loss_only", "batch_eval_metrics", "eval_on_start", "label_names"),
        "has no meaning here, where the predictions for all examples are kept and scored at the end",
    ),
}
# Schedules that go by what an evaluation in mid-training gives.
SCHEDULES_BY_SCORE = ("reduce_lr_on_plateau", "greedy")
# What a sweep may vary, and of which type it is. These change no other field of `TrainingArguments`.
SWEPT = {
    "learning_rate": float,
    "num_train_epochs": float,
    "max_steps": int,
    "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int,
    "weight_decay": float,
    "warmup_steps": float,
    "label_smoothing_factor": float,
}


@dataclass
class ClassifierArguments(ModelArguments):
    """Which model to fine-tune, and what its classifier reads."""

    readout: str | None = field(
        default=None,
        metadata={
            "help": "Concept encoder only: what a text is classified by (decoder, concepts, cls_query, tokens). "
            "Overrides the configuration."
        },
    )
    classifier_token_residual: bool | None = field(
        default=None,
        metadata={
            "help": "Concept encoder only: whether a decoder whose queries hold word embeddings keeps them in the "
            "residual stream that is classified. Overrides the configuration."
        },
    )
    decoder_tokens: str | None = field(
        default=None,
        metadata={
            "help": "Concept encoder only: whether the decoder also reads the tokens around a position (window) or "
            "concepts alone (none). Overrides the configuration."
        },
    )
    adapt_to_length: bool = field(
        default=False,
        metadata={
            "help": "Concept encoder only: for texts that are longer than those that the checkpoint was trained on, "
            "whether its positions are stretched (YaRN), at each length by as much as it needs, and whether it gets "
            "more concepts, so that each stands for as many tokens as before."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapt_to_length and not self.model_name_or_path:
            raise ValueError("--adapt_to_length goes with --model_name_or_path: a new model was trained at no length.")


@dataclass
class RepetitionArguments:
    """What all fine-tunings of a run share: who tokenises and pads, what they train on and with which seeds."""

    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Number of processes that tokenise."}
    )
    pad_to_max_length: bool = field(
        default=False,
        metadata={
            "help": "Whether all examples are padded to the length that they are cut at, not to the batch's longest."
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Train on so many examples only, drawn at random, the same for every seed: the first ones may "
            "be all of one kind."
        },
    )
    seeds: list[int] | None = field(
        default=None, metadata={"help": "Fine-tune once with each of these seeds. Defaults to --seed."}
    )

    def check_repetition(self, *counts: str) -> None:
        """
        Raises:
            ValueError: `max_train_samples` or one of the fields `counts` is below 1, or a seed is there twice.
        """
        for name in (*counts, "max_train_samples"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} {value} must be at least 1.")
        if self.seeds is not None and len(set(self.seeds)) < max(len(self.seeds), 1):
            raise ValueError(f"--seeds must name different seeds, got {' '.join(map(str, self.seeds))}.")


@dataclass
class ExperimentArguments(RepetitionArguments):
    """How often, with which settings and beside what a task is fine-tuned."""

    max_seq_length: int = field(
        default=128, metadata={"help": "Tokens of an example, special ones included; longer ones are cut."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on the first so many examples of each split only."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Predict the first so many examples of each test split only."}
    )
    trained_weights: str | None = field(
        default=None,
        metadata={
            "help": "Train only the weights whose names this regular expression finds, e.g. 'o_proj|classifier'; the "
            "others stay those of the checkpoint, so that several fine-tuned models can share them."
        },
    )
    sweep: str | None = field(
        default=None,
        metadata={
            "help": "Settings to choose from, e.g. 'learning_rate=1e-5,3e-5 num_train_epochs=3,5'. They are chosen "
            "by the first seed, never on the examples whose score is reported."
        },
    )
    sweep_folds: int = field(
        default=1,
        metadata={
            "help": "Where no split but the scored one has labels, settings are chosen by cross-validation inside the "
            "training examples, in so many folds; 1 holds out a tenth of them."
        },
    )
    baselines: bool = field(
        default=True, metadata={"help": "Whether to score the majority class and a bag of words too."}
    )
    random_init_baseline: bool = field(
        default=True,
        metadata={
            "help": "Whether to fine-tune a model of the same configuration with fresh weights beside it, which takes "
            "as long again."
        },
    )
    compare_with: list[str] | None = field(
        default=None,
        metadata={"help": "Output folders of other runs, to compare with example by example (paired bootstrap)."},
    )

    def __post_init__(self) -> None:
        if self.sweep_folds < 1:
            raise ValueError(f"--sweep_folds {self.sweep_folds} must be at least 1.")
        check_needs(self, {"sweep_folds": ("sweep",)})
        self.check_repetition("max_seq_length", "max_eval_samples", "max_predict_samples")
        self.settings  # noqa: B018 (a sweep that cannot be read is refused before anything runs)

    @property
    def settings(self) -> list[dict[str, Any]]:
        """All combinations of what is swept; a single empty one without a sweep."""
        return parse_sweep(self.sweep or "")


@dataclass
class FineTuningArguments(ScriptTrainingArguments):
    """How to fine-tune: what is added to the settings of transformers' Trainer, or has another default here."""

    def __post_init__(self) -> None:
        if refused := [name for name in REFUSED if getattr(self, name)]:
            raise ValueError(f"--{refused[0]} {REFUSED[refused[0]]}.")
        if followed := [name for name in SCHEDULES_BY_SCORE if self.lr_scheduler_type == name]:
            raise ValueError(
                f"--lr_scheduler_type {followed[0]} would set the learning rate by examples whose score is reported."
            )
        if not self.eval_do_concat_batches:
            raise ValueError("--eval_do_concat_batches False leaves predictions in parts, which nothing here reads.")
        super().__post_init__()


def parse_sweep(text: str) -> list[dict[str, Any]]:
    """
    All combinations of the values in `text`, such as "learning_rate=1e-5,3e-5 num_train_epochs=3".

    Raises:
        ValueError: a setting that cannot be swept, stands there twice or does nothing beside another, or a value of
            the wrong kind or below what there is.
    """
    combinations: list[dict[str, Any]] = [{}]
    for item in text.split():
        name, _, values = item.partition("=")
        if name not in SWEPT:
            raise ValueError(f"--sweep cannot vary {name!r}; it can: {', '.join(SWEPT)}.")
        if name in combinations[0]:
            raise ValueError(f"--sweep sets {name} twice.")
        try:
            numbers = [SWEPT[name](value) for value in values.split(",")]
        except ValueError:
            raise ValueError(f"--sweep {item}: write {name}=VALUE or {name}=VALUE,VALUE,...") from None
        if wrong := [number for number in numbers if not number >= int(SWEPT[name] is int)]:
            raise ValueError(f"--sweep sets {name} to {wrong[0]:g}, which no training has.")
        combinations = [{**combination, name: number} for combination in combinations for number in numbers]
    if {"max_steps", "num_train_epochs"} <= combinations[0].keys():
        raise ValueError("--sweep sets max_steps, beside which num_train_epochs does nothing.")
    return combinations
