# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From arguments to configuration, tokenizer and model: loaded from the Hub or disk, or made from scratch."""

import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from configuration_concept import ConceptEncoderConfig
from evaluation_concept.errors import naming
from training_concept.arguments import ModelArguments
from training_concept.rows import LONGEST_DEFAULT_SEQUENCE
from training_concept.run import check_weights
from training_concept.tokenization import train_tokenizer

logger = logging.get_logger(__name__)

# Ids that a new model takes from its tokenizer, if its configuration has them.
SPECIAL_IDS = ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")

# Rotary positions that are stretched to a length; others a checkpoint has for reasons of its own.
ADAPTED_ROTATIONS = ("default", "yarn")

# Models after RoBERTa, whose first position has the number behind that of the padding token.
COUNTED_FROM_PADDING = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "longformer"),
    *("luke", "mpnet", "xmod", "ibert"),
)


def build_config(args: ModelArguments) -> PreTrainedConfig:
    """
    The configuration that `args` name, not yet fitted to a tokenizer.

    Raises:
        ValueError: for a preset, model type or field that does not exist, or a value that no model can have.
    """
    name = args.config_name or args.model_name_or_path
    if name:
        with naming(name):
            config = AutoConfig.from_pretrained(name, **_hub_options(args))
        if args.config_overrides:
            changes = _overrides(AutoConfig.from_pretrained(name, **_hub_options(args)), args.config_overrides)
            config = type(config).from_dict(config.to_dict() | changes)
    else:
        config = _new_config(args)
    if args.masked_tokens:
        if not hasattr(config, "masked_tokens"):
            raise ValueError(f"--masked_tokens is for concept encoders, and this is a {config.model_type} model.")
        config = type(config).from_dict(config.to_dict() | {"masked_tokens": args.masked_tokens})
    return config


def build_tokenizer(args: ModelArguments, texts: Iterable[str], max_length: int | None) -> PreTrainedTokenizerBase:
    """The tokenizer that `args` name, or one trained on `texts`, for rows of up to `max_length` tokens."""
    if args.train_tokenizer_vocab_size:
        return train_tokenizer(
            texts, args.train_tokenizer_vocab_size, model_max_length=max_length or LONGEST_DEFAULT_SEQUENCE
        )
    name = args.tokenizer_name or args.model_name_or_path or ""
    with naming(name):
        return AutoTokenizer.from_pretrained(name, **_hub_options(args))


def build_model(args: ModelArguments, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """
    The masked language model: from a checkpoint, or new with `config`.

    A new model has as many embeddings as the tokenizer has tokens, unless `config_overrides` ask for more; one from
    a checkpoint grows if they do not suffice.

    Raises:
        ValueError: if weights are damaged, or a checkpoint and the tokenizer disagree about the mask token.
    """
    if not args.model_name_or_path:
        fit_config(args, config, tokenizer)
        options = {"trust_remote_code": args.trust_remote_code, "attn_implementation": args.attn_implementation}
        model = AutoModelForMaskedLM.from_config(config, dtype=args.dtype, **options)
    else:
        if getattr(config, "mask_token_id", None) not in (None, tokenizer.mask_token_id):
            raise ValueError(
                f"The tokenizer's mask token has the id {tokenizer.mask_token_id}, the model's {config.mask_token_id}."
            )
        check_weights(Path(args.model_name_or_path))
        model = _load_model(args, config)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return model


def _load_model(args: ModelArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """The checkpoint's model, of the shape that `config` gives it; transformers reports what it lacks or leaves."""
    try:
        return AutoModelForMaskedLM.from_pretrained(
            args.model_name_or_path,
            config=config,
            dtype=args.dtype,
            attn_implementation=args.attn_implementation,
            ignore_mismatched_sizes=args.ignore_mismatched_sizes,
            **_hub_options(args),
        )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"Weights of {args.model_name_or_path} have other shapes than this configuration gives them; "
            "--ignore_mismatched_sizes starts those anew."
        ) from error


def train_only(model: PreTrainedModel, pattern: str | None) -> None:
    """
    Let training change nothing but the weights whose name the regular expression `pattern` finds; all, if `None`.

    Raises:
        ValueError: an expression that is none, or that finds nothing in this model.
    """
    if pattern is None:
        return
    try:
        chosen = [weight for name, weight in model.named_parameters() if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(f"--trained_weights {pattern} is no regular expression: {error}.") from error
    if not chosen:
        raise ValueError(f"--trained_weights {pattern} finds none of the weights of this model.")
    model.requires_grad_(False)
    for weight in chosen:
        weight.requires_grad_(True)


def check_length(config: PreTrainedConfig, max_seq_length: int) -> None:
    """
    Raises:
        ValueError: if the model has fewer positions than `max_seq_length`.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if limit and config.model_type in COUNTED_FROM_PADDING:
        limit -= (config.pad_token_id or 0) + 1
    if limit and not _has_any_length(config) and max_seq_length > limit:
        raise ValueError(
            f"--max_seq_length {max_seq_length} is more than the {limit} positions of this model "
            "(max_position_embeddings)."
        )


def note_length(config: PreTrainedConfig, length: int) -> None:
    """
    Let the configuration of a concept encoder say that it is trained on rows of `length` tokens, in place: by
    `max_position_embeddings`, as for other models with rotary positions. Positions that are stretched know what they
    were.
    """
    if _rotates_as_trained(config):
        config.max_position_embeddings = max(config.max_position_embeddings, length)


def adapt_to_length(config: PreTrainedConfig, length: int) -> PreTrainedConfig:
    """
    The configuration of a concept encoder for texts of up to `length` tokens, if it was trained on shorter ones:
    positions stretched by as much as that (YaRN, arXiv 2309.00071), so that the farthest places are no farther apart
    than any of training, and as many tokens to a concept as there. Positions that are stretched otherwise stay so.

    Raises:
        ValueError: another model, or one without rotary positions.
    """
    if not _has_any_length(config):
        raise ValueError(
            "--adapt_to_length is for concept encoders with rotary positions, and this is a "
            f"{config.model_type} model."
        )
    changes = _stretched_positions(config, length) | _further_concepts(config, length)
    return type(config).from_dict(config.to_dict() | changes)


def advise_on_length(config: PreTrainedConfig, max_seq_length: int) -> None:
    """Warn if texts may be longer than the rows that a concept encoder was trained on, and say what helps."""
    if not _has_any_length(config):
        return
    is_far = _rotates_as_trained(config) and _stretched_positions(config, max_seq_length)
    if is_far or _further_concepts(config, max_seq_length):
        logger.warning_once(
            f"--max_seq_length {max_seq_length}: the model was trained on rows of up to "
            f"{config.max_position_embeddings} tokens. Places behind them, unless they are stretched, and concepts "
            "that stand for more tokens are new to it. For long texts, --adapt_to_length keeps both as they were."
        )


def _stretched_positions(config: PreTrainedConfig, length: int) -> dict[str, Any]:
    """What stretches the positions of training to `length`."""
    trained, rotations = config.max_position_embeddings, config.rope_parameters
    if length <= trained or rotations["rope_type"] not in ADAPTED_ROTATIONS:
        return {}
    factor = float(math.ceil(length / trained))
    yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained}
    return {"rope_parameters": rotations | yarn}


def _further_concepts(config: PreTrainedConfig, length: int) -> dict[str, Any]:
    """What leaves `concept_ratio` tokens to a concept in texts of `length`, if that is what training had."""
    trained, most = (math.ceil(it / config.concept_ratio) for it in (config.max_position_embeddings, length))
    is_new = config.concept_init == "anchored" and trained <= config.max_concepts < most
    return {"max_concepts": most} if is_new else {}


def _has_any_length(config: PreTrainedConfig) -> bool:
    return getattr(config, "position_embedding", None) == "rope"


def _rotates_as_trained(config: PreTrainedConfig) -> bool:
    return _has_any_length(config) and config.rope_parameters["rope_type"] == "default"


def _hub_options(args: ModelArguments) -> dict[str, Any]:
    return {
        "cache_dir": args.cache_dir,
        "revision": args.model_revision,
        "token": args.token,
        "trust_remote_code": args.trust_remote_code,
    }


def _new_config(args: ModelArguments) -> PreTrainedConfig:
    make = _config_maker(args)
    # Made again rather than changed, so that fields which follow from others do, and all are checked together.
    return make(**_overrides(make(), args.config_overrides)) if args.config_overrides else make()


def _overrides(draft: PreTrainedConfig, overrides: str) -> dict[str, Any]:
    """The fields that `overrides` set, one key by `FIELD.KEY=VALUE`, read as `draft`, which they change, has them."""
    items = overrides.split(",")
    keyed = [item for item in items if "." in item.split("=")[0]]
    try:
        if whole := [item for item in items if item not in keyed]:
            draft.update_from_string(",".join(whole))
        for item in keyed:
            place, _, value = item.partition("=")
            name, _, key = place.partition(".")
            setattr(draft, name, {**(getattr(draft, name) or {}), key: yaml.safe_load(value)})
    except (AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"--config_overrides {overrides}: {error}") from error
    return {name: getattr(draft, name) for name in _override_names(overrides)}


def _config_maker(args: ModelArguments) -> Callable[..., PreTrainedConfig]:
    if args.preset:
        return partial(ConceptEncoderConfig.from_preset, args.preset)
    if args.model_type not in CONFIG_MAPPING:
        raise ValueError(f"transformers knows no model of the type {args.model_type!r} (--model_type).")
    return CONFIG_MAPPING[args.model_type]


def _override_names(overrides: str | None) -> list[str]:
    """Fields that `overrides` change, each once."""
    return list(dict.fromkeys(re.split(r"[.=]", item)[0] for item in overrides.split(","))) if overrides else []


def fit_config(args: ModelArguments, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the configuration of a new model the tokenizer's vocabulary and special ids, in place."""
    if not args.config_name and "vocab_size" not in _override_names(args.config_overrides):
        config.vocab_size = len(tokenizer)
    for name in SPECIAL_IDS:
        if hasattr(config, name):
            setattr(config, name, getattr(tokenizer, name))
