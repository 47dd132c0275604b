# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
What climbs the ladder: the default design, changes of single fields of it, and controls, by name.

`NAME:FIELD=VALUE,FIELD=VALUE` is a variant of the table with other fields of its configuration, so that a search needs
no new entries: `hybrid:concept_ratio=8,num_token_layers=4`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import yaml

from benchmarks.contenders import CONTENDERS, ConceptContender, Contender, with_shape
from benchmarks.results import Table
from benchmarks.workload import make_documents

# Bodies of equal size differ by no more than this fraction of the control's.
EQUAL_SIZE = 0.1
REFERENCE = "bert"
FAMILIES = ("hybrid", "bottleneck", "control")
# Of the library's models this one is pre-norm, rotary and gated, as ours are.
_MODERNBERT = CONTENDERS["modernbert_512x19"]
# Heads of 64 at every width, and six concept layers: in parameters the body is that of 15 layers of the control.
WIDTHS = (256, 384, 512, 768)
DEFAULT_WIDTH, CONCEPT_LAYERS, CONTROL_LAYERS, HEAD_WIDTH = 512, 6, 15, 64
# What the defaults were while it was searched, and what the search began with.
SEARCHED: dict[str, Any] = {"num_token_layers": 2, "num_interleaved_token_layers": 1}
_STARTED_WITH = {
    **SEARCHED,
    "preset": "grid_512_512",
    "num_decoder_layers": 1,
    "read_every": 2,
    "concept_ratio": 4,
}


@dataclass(frozen=True)
class Variant:
    """
    A model that is trained.

    Attributes:
        name: in the table, with the changes made to it.
        family: `hybrid` (the decoder reads token states, too), `bottleneck` (it sees concepts and positions only) or
            `control`.
        kind: `concepts`, `preset` (one of the sizes that ship), or what a control is shaped like: `bert`,
            `modernbert`, `local`, `perceiver_io`, `perceiver_v1`.
        change: what is different from the default design or what the control is, in words.
        contender: builds it.
    """

    name: str
    family: str
    kind: str
    change: str
    contender: Contender

    def changed(self, fields: Mapping[str, Any]) -> "Variant":
        """
        The same with other fields of its configuration.

        Raises:
            ValueError: it has no such field.
        """
        if not fields:
            return self
        known = self.contender.config(self.contender.attentions[0], 1)
        for field in fields:
            # The library's configurations take whatever they are given.
            if field not in self.contender.shape and not hasattr(known, field):
                raise ValueError(f"{self.name} has no field {field!r} to change")
        text = ",".join(f"{field}={value}" for field, value in fields.items())
        contender = with_shape(self.contender, **fields)
        family = self.family if self.family == "control" else _family(contender)
        return replace(
            self, name=f"{self.name}:{text}", family=family, change=f"{self.change}; {text}", contender=contender
        )

    def with_vocabulary(self, size: int) -> "Variant":
        """The same for a vocabulary of `size` tokens."""
        return replace(self, contender=with_shape(self.contender, vocab_size=size))


@dataclass(frozen=True)
class Size:
    """
    How large a variant is, and what training it costs.

    Attributes:
        total: parameters, word embeddings included.
        body: parameters without those that have a row for each token of the vocabulary.
        flops: operations of training on one token, in documents of full length.
    """

    total: int
    body: int
    flops: int


def find_variant(name: str) -> Variant:
    """
    The variant `NAME` or `NAME:FIELD=VALUE,...`, values as in YAML.

    Raises:
        ValueError: no such name or field, or a change that is no `FIELD=VALUE`.
    """
    base, _, text = name.partition(":")
    if base not in VARIANTS:
        raise ValueError(f"there is no variant {base!r}; `variants` lists: {', '.join(VARIANTS)}")
    changes = [change.partition("=") for change in text.split(",") if change]
    for field, equals, _ in changes:
        if not (field and equals):
            raise ValueError(f"variant {name!r}: changes are written FIELD=VALUE,FIELD=VALUE")
    return VARIANTS[base].changed({field: yaml.safe_load(value) for field, _, value in changes})


@lru_cache(maxsize=256)
def size_of(name: str, length: int, vocabulary: int) -> Size:
    """
    Size of a variant for documents of `length` tokens.

    Raises:
        ValueError: if it takes no such documents.
    """
    contender = find_variant(name).with_vocabulary(vocabulary).contender
    check_length(contender, length)
    with torch.device("meta"):
        model = contender.build(contender.attentions[0], length, "train")
    counts = [(it.numel(), it.shape[0] == vocabulary) for it in model.parameters()]
    documents = make_documents(length, length, False, 1, torch.device("cpu"), vocabulary)[0]
    flops = contender.training_flops(documents.to_batch(packed=False, masks=True), length)
    body = sum(count for count, of_words in counts if not of_words)
    return Size(sum(count for count, _ in counts), body, flops // length)


def check_length(contender: Contender, length: int) -> None:
    """
    Refuse documents that are longer than the positions that a model learns.

    Raises:
        ValueError: naming the field.
    """
    config = contender.config(contender.attentions[0], length)
    if getattr(config, "position_embedding", None) == "learned" and length > config.max_position_embeddings:
        raise ValueError(
            f"documents of {length} tokens are longer than the {config.max_position_embeddings} learned positions of "
            "the variant; set max_position_embeddings or train it on shorter ones"
        )


def variants_table(names: Iterable[str], length: int, vocabulary: int) -> Table:
    """Names, families, what is changed, parameters and operations, beside those of the BERT-shaped control."""
    reference = size_of(REFERENCE, length, vocabulary).body
    columns = ["variant", "family", "change", "parameters", "body", f"of {REFERENCE}'s", "MFLOPs a token"]
    note = (
        f"Documents of {length} tokens, a vocabulary of {vocabulary:,}. Body: parameters without those of single "
        f"words. A ratio with `!` differs from 1 by more than {EQUAL_SIZE:.0%}. FLOPs of training, as executed."
    )
    rows = [_row(find_variant(name), length, vocabulary, reference) for name in names]
    return Table("variants", columns, rows, note)


def size_ratio(body: int, reference: int) -> str:
    """`body / reference`, with `!` if the sizes are not equal."""
    ratio = body / reference
    return f"{ratio:.2f}{'' if abs(ratio - 1) <= EQUAL_SIZE else ' !'}"


def _row(variant: Variant, length: int, vocabulary: int, reference: int) -> list[Any]:
    start = [variant.name, variant.family, variant.change]
    try:
        size = size_of(variant.name, length, vocabulary)
    except ValueError as error:
        return [*start, "", "", "", str(error)]
    return [*start, size.total, size.body, size_ratio(size.body, reference), round(size.flops / 1e6)]


def _family(contender: Contender) -> str:
    return "bottleneck" if contender.shape.get("decoder_tokens") == "none" else "hybrid"


def _concepts(name: str, change: str, **fields: Any) -> Variant:
    """A change of what the search began with. Records go by the names, so that must not follow later defaults."""
    contender = ConceptContender(shape={**_STARTED_WITH, **fields})
    return Variant(name, _family(contender), "concepts", change, contender)


def _at_width(width: int, **fields: Any) -> dict[str, Any]:
    return {"hidden_size": width, "num_attention_heads": width // HEAD_WIDTH, **fields}


def _control(name: str, kind: str, every: int, change: str, width: int, layers: int) -> Variant:
    """A control with global attention in `every` so many layers, 0 for none; its MLP is as wide as our blocks'."""
    shape = _at_width(width, intermediate_size=2 * width, num_hidden_layers=layers)
    shape |= {"global_attn_every_n_layers": every} if every else {"layer_types": ["sliding_attention"] * layers}
    if every == 1:
        # What BERT-shaped models rotate by; the library's default is meant for long documents.
        shape["rope_parameters"] = {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}}
    return Variant(name, "control", kind, f"{change}, {width} x {layers}", with_shape(_MODERNBERT, **shape))


def _defaults() -> Iterator[Variant]:
    yield _concepts("hybrid", "what the search began with: a read before every second concept layer")
    for width in WIDTHS:
        if width != DEFAULT_WIDTH:
            yield _concepts(f"hybrid_{width}", f"everything {width} wide", **_at_width(width))
    for name in SIZES:
        present = ConceptContender(shape={"preset": name})
        yield Variant(f"size_{name}", _family(present), "preset", f"the preset {name}", present)
        former = with_shape(present, **SEARCHED, **FORMER_SIZES[name])
        yield Variant(f"preset_{name}", _family(former), "former preset", f"what was the preset {name}", former)


def _hybrids() -> Iterator[Variant]:
    for field, values in HYPOTHESES.items():
        for value in values:
            short = str(value).lower().replace("+", "_")
            yield _concepts(f"{SHORT.get(field, field)}_{short}", f"{field}={value}", **{field: value})
    yield from (_concepts(name, change, **fields) for name, (change, fields) in COMBINED.items())


def _bottlenecks() -> Iterator[Variant]:
    blind = {"decoder_tokens": "none"}
    yield _concepts("bottleneck", "the decoder sees concepts only", **blind)
    for name, (change, fields) in BOTTLENECKS.items():
        yield _concepts(f"bottleneck_{name}", f"the decoder sees concepts only; {change}", **blind, **fields)


def _controls() -> Iterator[Variant]:
    kinds = {"bert": (1, "full attention"), "modernbert": (3, "window 128, global every third layer")}
    for kind, (every, change) in kinds.items():
        yield _control(kind, kind, every, change, DEFAULT_WIDTH, CONTROL_LAYERS)
        for layers in (6, 9, 12, 18):
            yield _control(f"{kind}_x{layers}", kind, every, change, DEFAULT_WIDTH, layers)
        for width in WIDTHS:
            if width != DEFAULT_WIDTH:
                yield _control(f"{kind}_{width}", kind, every, change, width, CONTROL_LAYERS)
    # What is left of a loss without any view of the whole document.
    yield _control("local", "local", 0, "window 128 in every layer", DEFAULT_WIDTH, CONTROL_LAYERS)
    for name, change, fields in PERCEIVERS:
        contender = ConceptContender(shape={"preset": "perceiver_v1", **fields})
        yield Variant(name, "control", name, change, contender)


# Presets of the size dial, the smallest first, and what they were until the search was over.
SIZES = ("nano", "mini", "small", "base")
FORMER_SIZES: dict[str, dict[str, Any]] = {
    "nano": {"num_hidden_layers": 2, "read_every": 2, "num_decoder_layers": 2},
    "mini": {"num_hidden_layers": 6, "read_every": 6, "num_decoder_layers": 1},
    "small": {"num_hidden_layers": 10, "read_every": 10, "num_decoder_layers": 1},
    "base": {"num_hidden_layers": 14, "read_every": 14, "num_decoder_layers": 1},
}
# One field at a time.
HYPOTHESES: dict[str, tuple[Any, ...]] = {
    "write_back": (False,),
    "num_token_layers": (0, 1, 4, 6),
    "num_interleaved_token_layers": (0, 2),
    "token_hidden_size": (256, 384),
    "token_mixer": ("none", "conv", "shifted"),
    "local_attention": (32, 64, 256),
    "concept_ratio": (2, 8, 16, 32),
    "num_hidden_layers": (2, 4, 8, 12),
    "read_every": (1, 3, 6),
    "share_reads": (True,),
    "masked_tokens": ("mask",),
    "num_decoder_layers": (2, 3),
    "decoder_query": ("token+position",),
    "decoder_window": (8, 16, 64, 128),
    "num_decoder_mixing_layers": (1,),
    "concept_init": ("learned",),
    "concept_positions": ("none", "sinusoidal"),
    "max_concepts": (64, 128, 256, 512),
    "num_global_concepts": (0, 16),
    "num_attention_heads": (4, 16),
    "qk_norm": (False,),
    "embedding_size": (128, 256),
    "num_funnel_stages": (1,),
    "num_iterations": (2,),
    "nested_dropout": (0.5,),
}
SHORT = {
    "num_token_layers": "token_layers",
    "num_interleaved_token_layers": "interleaved",
    "token_hidden_size": "token_width",
    "local_attention": "window",
    "concept_ratio": "ratio",
    "num_hidden_layers": "concept_layers",
    "num_decoder_layers": "decoder_layers",
    "num_decoder_mixing_layers": "decoder_mixing",
    "num_global_concepts": "free",
    "num_attention_heads": "heads",
    "num_funnel_stages": "funnel",
    "num_iterations": "iterations",
}
# Several fields that make one change.
COMBINED: dict[str, tuple[str, dict[str, Any]]] = {
    "local_0": (
        "no token layers at all",
        {"num_token_layers": 0, "num_interleaved_token_layers": 0},
    ),
    "local_6": (
        "six token layers, all before the first read",
        {"num_token_layers": 6, "num_interleaved_token_layers": 0},
    ),
    "concept_width_768": (
        "concepts 768 wide, tokens 512",
        _at_width(768, token_hidden_size=512),
    ),
    "concept_width_1024": (
        "concepts 1024 wide, tokens 512",
        _at_width(1024, token_hidden_size=512),
    ),
    "wide_concepts": (
        "concepts 768 wide, tokens 256 (the probe's thin hybrid)",
        _at_width(768, token_hidden_size=256),
    ),
    "no_decoder_residual": (
        "the query holds the word embedding, the residual stream does not",
        {"decoder_query": "token+position", "decoder_token_residual": False},
    ),
    "deep_thin": (
        "384 wide, 12 concept layers",
        _at_width(384, num_hidden_layers=12),
    ),
    "small": (
        "two stages of one concept layer",
        {"num_hidden_layers": 2, "read_every": 1},
    ),
}
BOTTLENECKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ratio_2": ("N/C = 2", {"concept_ratio": 2}),
    "ratio_8": ("N/C = 8", {"concept_ratio": 8}),
    "decoder_2": ("two decoder layers", {"num_decoder_layers": 2}),
    "decoder_4": ("four decoder layers", {"num_decoder_layers": 4}),
    "mixing_2": ("queries see each other in two local layers", {"num_decoder_mixing_layers": 2}),
    "local_4": ("four token layers before the first read", {"num_token_layers": 4}),
    "wide": ("concepts 768 wide, tokens 512", _at_width(768, token_hidden_size=512)),
    "deep": ("ten concept layers", {"num_hidden_layers": 10}),
    "learned": ("a table of concepts", {"concept_init": "learned"}),
}
PERCEIVERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("perceiver_v1", "the plan's design: learned concepts read raw tokens in every layer", {}),
    (
        "perceiver_io",
        "256 learned latents, one read, 13 latent layers, position queries",
        {
            "num_concepts": 256,
            "num_hidden_layers": 13,
            "read_every": 13,
            "decoder_query": "position",
            "intermediate_size": 1024,
        },
    ),
)

VARIANTS: dict[str, Variant] = {
    variant.name: variant for group in (_defaults(), _hybrids(), _bottlenecks(), _controls()) for variant in group
}
