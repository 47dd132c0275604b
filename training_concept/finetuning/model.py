# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A model with a classifier for a task: from a checkpoint of any kind, or of its configuration with new weights."""

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from evaluation_concept.tasks import Task, normalise
from training_concept.build import (
    adapt_to_length,
    advise_on_length,
    build_config,
    build_tokenizer,
    check_length,
    fit_config,
)
from training_concept.finetuning.arguments import ClassifierArguments
from training_concept.run import check_weights

# What transformers calls classes that have no name.
UNNAMED = r"LABEL_\d+"
# Flags that change fields of the same name of a concept encoder's configuration.
SWITCHES = ("readout", "classifier_token_residual", "decoder_tokens")


def classifier_config(args: ClassifierArguments, task: Task, max_seq_length: int) -> PreTrainedConfig:
    """
    The configuration that `args` name, with the labels of `task`.

    A classifier with labels of the same names, but for case and punctuation, keeps their order.

    Raises:
        ValueError: as `build_config`, a switch that this kind of model does not have, or one with fewer positions
            than `max_seq_length`.
    """
    config = build_config(args)
    changes = {name: getattr(args, name) for name in SWITCHES if getattr(args, name) is not None}
    if lacking := [name for name in changes if not hasattr(config, name)]:
        raise ValueError(f"--{lacking[0]} is for concept encoders, and this is a {config.model_type} model.")
    config = type(config).from_dict(config.to_dict() | changes)
    if args.adapt_to_length:
        config = adapt_to_length(config, max_seq_length)
    check_length(config, max_seq_length)
    if args.model_name_or_path:
        advise_on_length(config, max_seq_length)
    names = label_names(config, task) or ("score",)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = "regression" if task.is_regression else "single_label_classification"
    return config


def label_names(config: PreTrainedConfig, task: Task) -> tuple[str, ...]:
    """Names of the labels in the order of the model's outputs: its own if those are the task's; none to regress."""
    if task.labels is None:
        return ()
    own = _own_names(config)
    if sorted(own) == sorted(task.labels):
        return own
    # Many checkpoints write them in capitals, and in an order of their own.
    names = {normalise(name): name for name in task.labels}
    if len(names) == len(task.labels) and sorted(map(normalise, own)) == sorted(names):
        return tuple(names[normalise(name)] for name in own)
    return task.labels


def own_labels(args: ClassifierArguments) -> tuple[str, ...] | None:
    """The classes that the checkpoint of `args` names; none of a regression, `None` if it names none."""
    return _own_labels(build_config(args))


def _own_labels(config: PreTrainedConfig) -> tuple[str, ...] | None:
    names = _own_names(config)
    # Most checkpoints that give a rating name no problem.
    if config.problem_type == "regression" or len(names) == 1:
        return ()
    return None if all(re.fullmatch(UNNAMED, name) for name in names) else names


def check_labels(args: ClassifierArguments, task: Task) -> None:
    """
    Raises:
        ValueError: the checkpoint of `args`, which is to be scored as it is, names its classes otherwise than `task`.
    """
    config = build_config(args)
    own, theirs = _own_labels(config), label_names(config, task)
    if own is not None and sorted(map(normalise, own)) != sorted(map(normalise, theirs)):
        there, wanted = (", ".join(names) or "values" for names in (own, theirs))
        raise ValueError(f"{args.model_name_or_path} answers with {there}, {task.name} with {wanted}: train it first.")


def _own_names(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(config.id2label[number] for number in range(len(config.id2label)))


def tokenizer_for(args: ClassifierArguments, texts: Iterable[str], max_seq_length: int) -> PreTrainedTokenizerBase:
    """The tokenizer that `args` name, which takes texts of `max_seq_length` tokens for no oversight."""
    tokenizer = build_tokenizer(args, texts, max_seq_length)
    tokenizer.model_max_length = max(tokenizer.model_max_length, max_seq_length)
    return tokenizer


def build_classifier(
    args: ClassifierArguments,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    fresh: bool = False,
    trained: bool = True,
    auto_class: Any = AutoModelForSequenceClassification,
) -> PreTrainedModel:
    """
    The model: the checkpoint's weights, where it has any, under a classifier of the shape that `config` gives it.

    Args:
        args: name the checkpoint, unless a new model is wanted.
        config: from `classifier_config`.
        tokenizer: of the texts.
        fresh: new weights, whatever `args` name.
        trained: whether the model is to be trained. If it is not, the checkpoint has to have the classifier.
        auto_class: of transformers, for the kind of classifier.

    Raises:
        ValueError: if weights are damaged or have other shapes, or a classifier is missing that nothing will train.
    """
    if not trained and not args.model_name_or_path:
        raise ValueError("A new model has learned nothing to be scored: ask for --do_train, or name a checkpoint.")
    config = copy.deepcopy(config)
    if fresh or not args.model_name_or_path:
        model = _new(args, config, tokenizer, auto_class)
    else:
        model = _load(args, config, trained, auto_class)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return model


def _new(
    args: ClassifierArguments, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, auto_class: Any
) -> PreTrainedModel:
    if not args.model_name_or_path:
        fit_config(args, config, tokenizer)
    options = {"trust_remote_code": args.trust_remote_code, "attn_implementation": args.attn_implementation}
    return auto_class.from_config(config, dtype=args.dtype, **options)


def _load(args: ClassifierArguments, config: PreTrainedConfig, trained: bool, auto_class: Any) -> PreTrainedModel:
    name = str(args.model_name_or_path)
    check_weights(Path(name))
    try:
        model, report = auto_class.from_pretrained(
            name,
            config=config,
            dtype=args.dtype,
            attn_implementation=args.attn_implementation,
            ignore_mismatched_sizes=args.ignore_mismatched_sizes,
            output_loading_info=True,
            cache_dir=args.cache_dir,
            revision=args.model_revision,
            token=args.token,
            trust_remote_code=args.trust_remote_code,
        )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"Weights of {name} have other shapes than this task and configuration give them; "
            "--ignore_mismatched_sizes starts those anew."
        ) from error
    if not trained and (report["missing_keys"] or report["mismatched_keys"]):
        raise ValueError(f"{name} has no classifier for this task: train one with --do_train.")
    return model
