# Copyright 2026 The Concept Encoder authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Configuration of the concept encoder: fields, presets, validation and the export of code beside a checkpoint."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils import auto_docstring

# 2: queries, keys and values of self-attention have one matrix, as have both factors of the gated MLP.
FORMAT_VERSION = 2

# The one table of what travels with a checkpoint: Auto classes, and the folder that each file lives in here.
AUTO_MAP = {
    "AutoConfig": "configuration_concept.ConceptEncoderConfig",
    "AutoModel": "modeling_concept.ConceptEncoder",
    "AutoModelForMaskedLM": "modeling_concept.ConceptEncoderForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_concept.ConceptEncoderForSequenceClassificationViaDecoder",
    "AutoModelForMultipleChoice": "modeling_concept.ConceptEncoderForMultipleChoice",
    "AutoModelForTokenClassification": "modeling_concept.ConceptEncoderForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_concept.ConceptEncoderForQuestionAnswering",
    "AutoModelForTextEncoding": "modeling_concept.ConceptEncoderForTextEncoding",
}
CODE_FILES = {
    "configuration_concept": ("configuration_concept",),
    "modeling_concept": (
        *("modeling_concept", "attention", "tokens", "concepts", "decoder"),
        *("encoding", "kernels", "range_kernels", "loading", "losses", "outputs", "pooling", "sentence_embedding"),
    ),
}
# What makes sentence-transformers load a checkpoint with the module that is made for it.
SENTENCE_TRANSFORMERS_FILES: dict[str, Any] = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_embedding.ConceptSentenceEmbedding"}],
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
}

CHOICES = {
    "position_embedding": ("rope", "learned"),
    "token_mixer": ("none", "local", "shifted", "conv"),
    "concept_init": ("anchored", "learned"),
    "concept_positions": ("none", "rope", "cope", "sinusoidal", "learned"),
    "read_attention": ("softmax", "slot"),
    "decoder_query": ("position", "token+position"),
    "decoder_reads": ("perceiver", "weighted"),
    "decoder_tokens": ("none", "window"),
    "masked_tokens": ("drop", "mask"),
    "readout": ("decoder", "concepts", "cls_query", "tokens"),
    "hidden_activation": (
        *("gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast", "quick_gelu", "relu", "relu2", "relu6", "leaky_relu"),
        *("silu", "swish", "hardswish", "mish", "tanh", "sigmoid", "linear"),
    ),
}
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
POSITIVE = (
    # Widths that others follow from come first, so that an error names what was set.
    *("hidden_size", "token_hidden_size", "embedding_size", "intermediate_size", "token_intermediate_size"),
    *("vocab_size", "type_vocab_size", "max_position_embeddings"),
    *("num_hidden_layers", "num_attention_heads", "read_every", "num_decoder_layers"),
    *("num_concepts", "concept_ratio", "min_concepts", "conv_kernel_size", "cope_distances", "num_iterations"),
)

# What exceeds these is damaged or hostile. Most sizes cost nothing until weights or long documents match them; layers,
# and what comes with the shortest document too, cost time and memory at once.
LARGEST = 2**20
MOST_LAYERS = 2**9
MOST_AT_ONCE = 2**12
AT_ONCE = (
    *("num_concepts", "min_concepts", "num_global_concepts", "cope_distances"),
    *("local_attention", "decoder_window", "conv_kernel_size"),
)
# What constructors of transformers take, and keep under another name.
TAKEN_OVER = ("attn_implementation", "rope_theta", "rope_scaling")
# What makes an input pass many layers, in the core and beside it.
REPEATED = ("num_hidden_layers", "num_interleaved_token_layers", "num_iterations")
ONCE = ("num_token_layers", "num_funnel_stages", "num_decoder_layers", "num_decoder_mixing_layers")

# Everything that a preset leaves out follows from `hidden_size` and `num_hidden_layers`, the size dial. `mini` and
# `base` have as many parameters as ModernBERT of their widths (256 x 6, 768 x 22).
PRESETS: dict[str, dict[str, Any]] = {
    "nano": {
        "hidden_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "local_attention": 64,
        "decoder_window": 16,
        "vocab_size": 8192,
    },
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2, "embedding_size": 128},
    "small": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4, "embedding_size": 256},
    "base": {"hidden_size": 768, "num_hidden_layers": 10, "num_attention_heads": 6, "embedding_size": 512},
    # The plan's grid of token and concept widths (3.3), on the default design.
    "grid_512_512": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8},
    "grid_128_512": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "token_hidden_size": 128},
    "grid_64_512": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "token_hidden_size": 64},
    "grid_64_1024": {"hidden_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 16, "token_hidden_size": 64},
    "perceiver_v1": {
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 1344,
        "position_embedding": "learned",
        "max_position_embeddings": 512,
        "token_mixer": "none",
        "concept_init": "learned",
        "num_concepts": 128,
        "read_every": 1,
        "write_back": False,
        "qk_norm": False,
        "num_decoder_layers": 1,
        "decoder_query": "token+position",
        "decoder_tokens": "none",
        "masked_tokens": "mask",
    },
}


def export_code(save_directory: str | os.PathLike) -> list[Path]:
    """
    Copy the code that a checkpoint needs into its folder, flat and byte for byte.

    Returns the paths of the code. A file that already is the one to be copied is left alone, so the function also
    works on the flat layout, where code and weights share one folder. So are files for sentence-transformers, which
    keep what users set there.
    """
    here, target_folder = Path(__file__).resolve().parent, Path(save_directory)
    target_folder.mkdir(parents=True, exist_ok=True)
    targets = []
    for package, stems in CODE_FILES.items():
        for stem in stems:
            candidates = (here.parent / package / f"{stem}.py", here / f"{stem}.py")
            source = next(path for path in candidates if path.is_file())
            target = target_folder / source.name
            if source != target.resolve():
                shutil.copyfile(source, target)
            targets.append(target)
    for name, content in SENTENCE_TRANSFORMERS_FILES.items():
        if not (target_folder / name).exists():
            (target_folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return targets


@auto_docstring(checkpoint="concept-encoder/nano")
@strict
class ConceptEncoderConfig(PreTrainedConfig):
    r"""
    embedding_size (`int`, *optional*):
        Width of the word embeddings; a smaller one than `token_hidden_size` factorises embedding and output head
        (ALBERT, arXiv 1909.11942). Defaults to `token_hidden_size`.
    num_concepts (`int`, *optional*, defaults to 128):
        Number of rows of the concept table. Only with `concept_init="learned"`.
    position_embedding (`str`, *optional*, defaults to `"rope"`):
        `"rope"` (any length; `max_position_embeddings` then says how long the longest rows of its training were) or
        `"learned"` (absolute, up to `max_position_embeddings`).
    token_hidden_size (`int`, *optional*):
        Width of the token states. Defaults to `hidden_size`, the width of the concepts.
    token_intermediate_size (`int`, *optional*):
        Width of the gated MLP in token layers. Defaults to twice `token_hidden_size`.
    token_mixer (`str`, *optional*, defaults to `"local"`):
        How tokens see their neighbours: `"local"` (layers of windowed self-attention), `"shifted"` (self-attention in
        blocks, shifted by half a block in every other layer), `"conv"` (depthwise convolution) or `"none"` (no token
        layers).
    num_token_layers (`int`, *optional*, defaults to 1):
        Token layers before the first read.
    num_interleaved_token_layers (`int`, *optional*, defaults to 2):
        Token layers at the end of every stage of the core (a stage is one read and `read_every` concept layers).
    local_attention (`int`, *optional*, defaults to 128):
        Window of local attention in tokens: a token sees `local_attention // 2` visible neighbours on each side. The
        width of a block with `token_mixer="shifted"`.
    conv_kernel_size (`int`, *optional*, defaults to 7):
        Width of the convolution in tokens, odd. Only with `token_mixer="conv"`.
    num_funnel_stages (`int`, *optional*, defaults to 0):
        Stages behind the stem that halve the token stream which concepts read (Funnel-Transformer, arXiv 2006.03236).
        The decoder still sees a state for every token.
    concept_init (`str`, *optional*, defaults to `"anchored"`):
        `"anchored"`: concept `i` starts as the mean of its span of tokens plus a shared vector and sits at the span's
        centre. `"learned"`: a table of `num_concepts` vectors without positions.
    concept_positions (`str`, *optional*):
        What concepts know of their places: `"rope"` (rotary positions in reads, concept layers and decoder), `"cope"`
        (the same, but concept layers count positions by content, arXiv 2405.18719), `"sinusoidal"` or `"learned"`
        (added at the start, no rotation) or `"none"`. Defaults to `"rope"` for anchored concepts in a model with
        rotary positions, to `"none"` else.
    cope_distances (`int`, *optional*, defaults to 64):
        Distances in either direction that have a vector of their own. Only with `concept_positions="cope"`.
    concept_ratio (`int`, *optional*, defaults to 8):
        Tokens per anchored concept, N / C.
    min_concepts (`int`, *optional*, defaults to 4):
        Fewest anchored concepts of a document.
    max_concepts (`int`, *optional*, defaults to 2048):
        Most anchored concepts of a document; from there on the cost is linear in N.
    num_global_concepts (`int`, *optional*, defaults to 4):
        Free learned concepts put before the anchored ones.
    nested_dropout (`float`, *optional*, defaults to 0.0):
        Probability that training keeps only a share of a row's concepts, drawn uniformly; every share keeps what
        smaller ones do (arXiv 1402.0915), so that one checkpoint serves several numbers of concepts.
    read_every (`int`, *optional*):
        Concept layers per read of the tokens. Must divide `num_hidden_layers`. Defaults to half of it, for two reads
        of the tokens, or to all of an odd number, for one.
    read_attention (`str`, *optional*, defaults to `"softmax"`):
        How concepts read tokens: `"softmax"` (attention) or `"slot"` (concepts compete for tokens, arXiv 2006.15055).
    share_reads (`bool`, *optional*, defaults to `False`):
        Whether all reads have the same weights.
    num_iterations (`int`, *optional*, defaults to 1):
        How often the core runs, with the same weights: its input is put in again each time, with a learned vector for
        the iteration (arXiv 2502.05171).
    sample_iterations (`bool`, *optional*, defaults to `False`):
        Whether training draws the number of iterations from 1 to `num_iterations`.
    tracked_iterations (`int`, *optional*):
        The last so many iterations carry gradients. Defaults to all. With fewer and `concept_init="learned"` nothing
        trains the word embeddings as they are read, nor the token layers before the first read.
    write_back (`bool`, *optional*, defaults to `True`):
        Whether tokens read the concepts at the end of every stage (BiXT, arXiv 2402.12138); zero at initialisation.
    qk_norm (`bool`, *optional*, defaults to `True`):
        Whether queries and keys are layer-normalised per head (ViT-22B, arXiv 2302.05442).
    num_decoder_layers (`int`, *optional*, defaults to 2):
        Layers of the decoder.
    num_decoder_mixing_layers (`int`, *optional*, defaults to 0):
        Layers of local self-attention (window `local_attention`) among the decoded positions, behind the reads. Every
        position is decoded then, whatever is wanted.
    decoder_reads (`str`, *optional*, defaults to `"perceiver"`):
        How queries read concepts: `"perceiver"` (attention) or `"weighted"` (a mixture that each position has learned,
        the same for every text; needs learned positions and a learned table of concepts).
    decoder_query (`str`, *optional*, defaults to `"position"`):
        `"position"`: a query is one learned vector and its position. `"token+position"`: the word embedding (of
        the mask token, where masked) is added.
    decoder_token_residual (`bool`, *optional*, defaults to `True`):
        Whether a `"token+position"` query keeps its word embedding in the residual stream of the masked-LM decoder.
    decoder_tokens (`str`, *optional*, defaults to `"window"`):
        `"window"`: queries also read the visible token states around them (hybrid family). `"none"`: they read
        concepts only (bottleneck family).
    decoder_window (`int`, *optional*, defaults to 32):
        Window of those reads in visible tokens, half on each side.
    classifier_token_residual (`bool`, *optional*, defaults to `False`):
        As `decoder_token_residual`, for classification through the decoder. With `True` a bag of words can bypass the
        concepts.
    readout (`str`, *optional*, defaults to `"decoder"`):
        What a document is classified by: the mean of the decoded states of all positions (`"decoder"`), a weighted
        mean of its concepts (`"concepts"`), what a learned query reads from them (`"cls_query"`) or the mean of the
        encoder's token states (`"tokens"`).
    masked_tokens (`str`, *optional*, defaults to `"drop"`):
        `"drop"`: tokens equal to `mask_token_id` are removed before the encoder. `"mask"`: it sees the mask embedding.
    mask_token_id (`int`, *optional*, defaults to 4):
        Id of the mask token.
    norm_eps (`float`, *optional*, defaults to 1e-5):
        Epsilon of the normalisation layers.
    format_version (`int`, *optional*, defaults to 2):
        Version of the checkpoint format. Code refuses a checkpoint of another one.

    Raises:
        `ValueError`: for every value or combination of values that no model can be built from; it names the field.

    Example:

    ```python
    >>> from configuration_concept import ConceptEncoderConfig
    >>> from modeling_concept import ConceptEncoder

    >>> config = ConceptEncoderConfig.from_preset("nano", concept_ratio=16)
    >>> model = ConceptEncoder(config)
    ```"""

    model_type = "concept_encoder"
    default_theta = 10_000.0

    vocab_size: int = 30522
    embedding_size: int | None = None
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    cls_token_id: int | None = 2
    sep_token_id: int | None = 3
    mask_token_id: int | None = 4
    position_embedding: str = "rope"
    max_position_embeddings: int = 512
    rope_parameters: dict | None = None

    token_hidden_size: int | None = None
    token_intermediate_size: int | None = None
    token_mixer: str = "local"
    num_token_layers: int = 1
    num_interleaved_token_layers: int = 2
    local_attention: int = 128
    conv_kernel_size: int = 7
    num_funnel_stages: int = 0

    hidden_size: int = 512
    intermediate_size: int | None = None
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    concept_init: str = "anchored"
    concept_positions: str | None = None
    cope_distances: int = 64
    num_concepts: int = 128
    concept_ratio: int = 8
    min_concepts: int = 4
    max_concepts: int = 2048
    num_global_concepts: int = 4
    nested_dropout: float | int = 0.0
    read_every: int | None = None
    read_attention: str = "softmax"
    share_reads: bool = False
    num_iterations: int = 1
    sample_iterations: bool = False
    tracked_iterations: int | None = None
    write_back: bool = True
    qk_norm: bool = True

    num_decoder_layers: int = 2
    num_decoder_mixing_layers: int = 0
    decoder_reads: str = "perceiver"
    decoder_query: str = "position"
    decoder_token_residual: bool = True
    decoder_tokens: str = "window"
    decoder_window: int = 32
    classifier_token_residual: bool = False
    readout: str = "decoder"
    masked_tokens: str = "drop"

    hidden_activation: str = "gelu_pytorch_tanh"
    norm_eps: float | int = 1e-5
    initializer_range: float | int = 0.02
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    classifier_dropout: float | int = 0.0
    tie_word_embeddings: bool = True
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        self._default(token_hidden_size=self.hidden_size, intermediate_size=2 * self.hidden_size)
        self._default(read_every=self.num_hidden_layers if self.num_hidden_layers % 2 else self.num_hidden_layers // 2)
        self._default(embedding_size=self.token_hidden_size, token_intermediate_size=2 * self.token_hidden_size)
        rotates = self.position_embedding == "rope" and self.concept_init == "anchored"
        self.concept_positions = self.concept_positions or ("rope" if rotates else "none")
        self._check()
        self._check_labels(kwargs.get("num_labels"))
        super().__post_init__(**kwargs)
        self._check_rope()

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "ConceptEncoderConfig":
        """
        Build the configuration called `name` in `PRESETS`, with single fields overridden.

        Raises:
            `ValueError`: if there is no such preset, or no such field. The constructor keeps what it does not know, as
                every configuration of transformers does.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        config = cls(**PRESETS[name])
        if unknown := [field for field in overrides if field not in TAKEN_OVER and not hasattr(config, field)]:
            raise ValueError(f"{cls.__name__} has no field {', '.join(map(repr, unknown))}.")
        return cls(**(PRESETS[name] | overrides))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "ConceptEncoderConfig":
        """
        As `PreTrainedConfig.from_dict`.

        Raises:
            `ValueError`: if it is the configuration of another architecture.
        """
        if (kind := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise ValueError(f"This is a checkpoint of model_type={kind!r}, not {cls.model_type!r}.")
        return super().from_dict(config_dict, **kwargs)

    @property
    def head_dim(self) -> int:
        """Width of an attention head, the same for token, concept and decoder attention."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_stages(self) -> int:
        """Number of reads of the tokens by the concepts."""
        return self.num_hidden_layers // self.read_every

    @property
    def family(self) -> str:
        """`"hybrid"` if the decoder sees token states, `"bottleneck"` if all it sees are concepts."""
        return {"window": "hybrid", "none": "bottleneck"}[self.decoder_tokens]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save `config.json`; from a source tree also the code and its `auto_map`, so that the folder loads alone."""
        # Classes that came with a checkpoint have `_auto_class` set, and transformers copies their code by itself.
        if self._auto_class is None:
            self.auto_map = dict(AUTO_MAP)
            export_code(save_directory)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _check(self) -> None:
        if self.format_version != FORMAT_VERSION:
            age = "a newer" if self.format_version > FORMAT_VERSION else "an older"
            raise ValueError(
                f"format_version={self.format_version}: this checkpoint was written by {age} version of the code, "
                f"which reads format {FORMAT_VERSION}. Load it with `trust_remote_code=True`, by its own code."
            )
        checks = (self._check_choices, self._check_ranges, self._check_widths, self._check_depth)
        for check in (*checks, self._check_combinations):
            check()

    def _default(self, **values: int) -> None:
        """Give fields that are not set these values."""
        for field, value in values.items():
            if getattr(self, field) is None:
                setattr(self, field, value)

    def _check_choices(self) -> None:
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field}={getattr(self, field)!r} is not one of {', '.join(map(repr, choices))}.")

    def _check_ranges(self) -> None:
        lowest = {
            **dict.fromkeys(("num_token_layers", "num_interleaved_token_layers", "num_global_concepts"), 0),
            **dict.fromkeys(("num_decoder_mixing_layers", "num_funnel_stages"), 0),
            **dict.fromkeys(("local_attention", "decoder_window"), 2),
            **dict.fromkeys((*POSITIVE, "max_concepts"), 1),
        }
        for field, low in lowest.items():
            high = MOST_AT_ONCE if field in AT_ONCE else LARGEST
            if getattr(self, field) < low:
                raise ValueError(f"{field}={getattr(self, field)} must be at least {low}.")
            if getattr(self, field) > high:
                raise ValueError(f"{field}={getattr(self, field)} must be at most {high}.")
        for field in ("attention_dropout", "hidden_dropout", "classifier_dropout", "nested_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must lie in [0, 1).")
        if not 1e-12 <= self.norm_eps <= 1:
            raise ValueError(f"norm_eps={self.norm_eps} must lie in [1e-12, 1].")
        if not 0 <= self.initializer_range <= 1:
            raise ValueError(f"initializer_range={self.initializer_range} must lie in [0, 1].")
        for field in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
            if (token_id := getattr(self, field)) is not None and not 0 <= token_id < self.vocab_size:
                raise ValueError(f"{field}={token_id} lies outside the vocabulary of {self.vocab_size} (vocab_size).")

    def _check_widths(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}."
            )
        if self.token_hidden_size % self.head_dim:
            raise ValueError(
                f"token_hidden_size={self.token_hidden_size} is not a multiple of the head width {self.head_dim} "
                "(hidden_size / num_attention_heads)."
            )
        if self.max_concepts < self.min_concepts:
            raise ValueError(f"max_concepts={self.max_concepts} is less than min_concepts={self.min_concepts}.")
        if self.num_hidden_layers % self.read_every:
            raise ValueError(
                f"num_hidden_layers={self.num_hidden_layers} is not a multiple of read_every={self.read_every}."
            )

    def _check_depth(self) -> None:
        core = self.num_hidden_layers + self.num_stages * self.num_interleaved_token_layers
        layers = core * self.num_iterations + sum(getattr(self, field) for field in ONCE)
        if layers > MOST_LAYERS:
            raise ValueError(f"{', '.join(REPEATED + ONCE)}: together {layers} layers, more than {MOST_LAYERS}.")

    def _check_labels(self, number: Any) -> None:
        # Some versions of transformers check it, too.
        if self.problem_type not in PROBLEM_TYPES:
            raise ValueError(
                f"problem_type={self.problem_type!r} is not one of {', '.join(map(repr, PROBLEM_TYPES))}."
            )
        names = self.id2label
        number = (2 if number is None else number) if names is None else len(names)
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= LARGEST:
            raise ValueError(
                f"num_labels={number!r} (or as many id2label) must be a whole number from 1 to {LARGEST}."
            )

    def _check_rope(self) -> None:
        given = self.rope_parameters or {}
        kind = given.get("rope_type", "default")
        kinds = ("default", *ROPE_INIT_FUNCTIONS)
        if kind not in kinds:
            raise ValueError(f"rope_parameters: rope_type={kind!r} is not one of {', '.join(kinds)}.")
        for name in ("rope_theta", "factor", "original_max_position_embeddings"):
            value = given.get(name, 1)
            if not isinstance(value, int | float) or not 1 <= value < float("inf"):
                raise ValueError(f"rope_parameters: {name}={value!r} must be a number of at least 1.")

    def _check_combinations(self) -> None:
        if self.position_embedding == "rope" and self.head_dim % 2:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} makes heads of odd width; position_embedding='rope' "
                "needs an even one."
            )
        if self.concept_positions in ("rope", "cope") and self.position_embedding != "rope":
            raise ValueError(
                f"concept_positions={self.concept_positions!r} needs rotary positions, position_embedding='rope'."
            )
        fixed = self.position_embedding == "learned" and self.concept_init == "learned"
        if self.decoder_reads == "weighted" and not fixed:
            raise ValueError(
                "decoder_reads='weighted' has a weight for each position and concept: it needs "
                "position_embedding='learned' and concept_init='learned'."
            )
        if self.conv_kernel_size % 2 == 0:
            raise ValueError(f"conv_kernel_size={self.conv_kernel_size} must be odd, to have a middle.")
        if self.tracked_iterations is not None and self.tracked_iterations < 1:
            raise ValueError(f"tracked_iterations={self.tracked_iterations} must be at least 1.")
        if self.masked_tokens == "drop" and self.mask_token_id is None:
            raise ValueError("masked_tokens='drop' needs a mask_token_id.")
        if self.mask_token_id is not None and self.mask_token_id == self.pad_token_id:
            raise ValueError(f"mask_token_id={self.mask_token_id} is pad_token_id too: padding would be predicted.")


__all__ = ["ConceptEncoderConfig"]
