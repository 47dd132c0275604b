# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
The models that are timed, ours and the library's, all with random weights and one vocabulary.

Every one of them trains on the same exact number of masked tokens and gives states of these alone to its output layer:
what ModernBERT calls sparse prediction, with static shapes.

Operations of a forward pass are counted as executed: 2 x in x out x rows for each linear layer on the rows that it is
run on, the output layer's being the masked tokens; and 4 x heads x head_dim for each pair of query and key that the
mathematics asks for, inside windows where there are windows, whatever blocks a kernel computes. Training counts three
times the forward pass.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LongformerConfig,
    LongformerForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PerceiverConfig,
    PerceiverForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from benchmarks.control_attention import SKIPPED, UNPADDED
from benchmarks.workload import MASK, MASKED, PAD, VOCABULARY, Batch
from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForTextEncoding, ConceptEncoderPreTrainedModel
from modeling_concept.losses import linear_cross_entropy
from training_concept.throughput import TRAINING_PASSES

MODES = ("train", "encode")
SPECIAL = {"pad_token_id": PAD, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

Inputs = dict[str, Any]


def window_pairs(length: int, reach: int) -> int:
    """Pairs of query and key in a document of `length` tokens that see `reach` neighbours on each side."""
    reach = min(reach, length - 1)
    return length * (2 * reach + 1) - reach * (reach + 1)


class LinearProducts(TorchDispatchMode):
    """Counts the products that linear layers run, by shape (rows, in, out). Those of two activations are batched."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, int, int]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = args[-2:]
            self.shapes[left.shape[0], left.shape[1], right.shape[1]] += 1
        return func(*args, **kwargs or {})

    @property
    def flops(self) -> int:
        """Operations of all of them."""
        return sum(2 * rows * width * out * count for (rows, width, out), count in self.shapes.items())


class MaskedLM(nn.Module):
    """
    One of the library's models for masked language modelling, cut at the masked tokens.

    Args:
        body: from inputs to token states `[B, N, width]`.
        head: from states of masked tokens `[M, width]` to what the output layer takes.
        output: the output layer.
    """

    def __init__(self, body: nn.Module, head: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.loss = PredictionLoss(head, output)

    def forward(self, masked: torch.Tensor, targets: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Mean loss in nats of the tokens `masked` `[M]` (see `Batch`), which were `targets` `[M]`."""
        return self.loss(self.body(**inputs), masked, targets)


class PredictionLoss(nn.Module):
    """Head, and the loss of our own models, on the masked tokens; one module, so that it compiles as one."""

    def __init__(self, head: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.head, self.output = head, output

    def forward(self, states: torch.Tensor, masked: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of `states` `[B, N, width]` at `masked` `[M]` against `targets` `[M]`."""
        states = self.head(states.flatten(0, -2)[masked])
        return linear_cross_entropy(states, self.output.weight, self.output.bias, targets)


class LastState(nn.Module):
    """A model of the library that returns its last hidden states only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> torch.Tensor:
        return self.model(**inputs).last_hidden_state


class LongformerBody(nn.Module):
    """Longformer without global attention. Its own `forward` asks the device whether there is any, in every step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.embeddings, self.layers = model.embeddings, model.encoder.layer

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        states = self.embeddings(input_ids, position_ids=position_ids)
        mask = torch.zeros_like(input_ids, dtype=states.dtype)
        none = torch.zeros_like(input_ids, dtype=torch.bool)
        for layer in self.layers:
            states = layer(states, mask, none, none, is_global_attn=False)[0]
        return states


class PerceiverBody(nn.Module):
    """Perceiver IO: latents from tokens and, where `wanted` is given, states decoded at these positions alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.preprocessor, self.embeddings = model.input_preprocessor, model.embeddings
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, input_ids: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """`[B, N]` and `[B, K]` to `[B, latents | K, width]`."""
        tokens = self.preprocessor(input_ids)[0]
        latents = self.encoder(self.embeddings(batch_size=len(tokens)), inputs=tokens)[0]
        if wanted is None:
            return latents
        return self.decoder(self.decoder.output_position_encodings.position_embeddings[wanted], z=latents).logits


class ConceptMaskedLM(nn.Module):
    """Our model with its loss alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> torch.Tensor:
        return self.model(**inputs).loss


@dataclass(frozen=True, kw_only=True)
class Contender:
    """
    A model of a shape.

    Attributes:
        shape: fields of its configuration, or `preset` and overrides of ours.
        compiles: how it is compiled, the first way first: `regions` (blocks one by one), `whole` or `none`.
        attentions: the ways it can attend, likely the fastest first; `own` is code of its own.
        variable: whether it takes documents of variable length.
    """

    shape: dict[str, Any]
    compiles: tuple[str, ...] = ("regions",)
    attentions: tuple[str, ...] = ("varlen", "sdpa")
    variable: bool = True

    def config(self, attention: str, length: int) -> PreTrainedConfig:
        """Configuration for documents of at most `length` tokens."""
        raise NotImplementedError

    def build(self, attention: str, length: int, mode: str) -> nn.Module:
        """
        A new model on the current default device, which takes `inputs` and gives the loss, or states in mode `encode`.

        Raises:
            ValueError: if there is no such attention, or not so many positions.
        """
        raise NotImplementedError

    def pretrained(self, model: nn.Module, length: int) -> PreTrainedModel:
        """The library's model with the weights of `model`, built to train on documents of `length` tokens."""
        raise NotImplementedError

    def inputs(self, batch: Batch, mode: str) -> Inputs:
        """Arguments of the model."""
        raise NotImplementedError

    def packs(self, attention: str, variable: bool) -> bool:
        """Whether this attention takes all documents of a batch in one row, rather than padded rows."""
        return attention == "varlen"

    def attention_flops(self, config: PreTrainedConfig, lengths: list[int], masked: list[int]) -> int:
        """Operations of attention in a forward pass of training on documents of `lengths`, `masked` tokens in each."""
        raise NotImplementedError

    def regions(self, model: nn.Module) -> list[nn.Module]:
        """The modules of `model` that are worth compiling one by one."""
        blocks = [it for it in model.modules() if type(it).__name__ in REGIONS]
        return [*blocks, *(it for it in model.modules() if isinstance(it, PredictionLoss))]

    def forward_flops(self, batch: Batch, length: int) -> int:
        """Operations of a forward pass of training on a batch of fixed length, counted as the module says."""
        attention = "own" if "own" in self.attentions else SKIPPED
        with torch.device("meta"):
            model = self.build(attention, length, "train").eval()
        shapes = {name: _to_meta(value) for name, value in self.inputs(batch, "train").items() if name != "labels"}
        # Weights keep `requires_grad`: without it some linear layers become batched products, taken for attention.
        with LinearProducts() as products, torch.no_grad():
            model(**shapes)
        lengths = batch.lengths.flatten().tolist()
        masked = [len(batch.masked) // len(lengths)] * len(lengths)
        return products.flops + self.attention_flops(self.config(attention, length), lengths, masked)

    def training_flops(self, batch: Batch, length: int) -> int:
        """Operations of a training step on a batch of fixed length."""
        return TRAINING_PASSES * self.forward_flops(batch, length)


@dataclass(frozen=True, kw_only=True)
class ConceptContender(Contender):
    """Ours: `shape` holds `preset` and overrides."""

    def config(self, attention: str, length: int) -> ConceptEncoderConfig:
        overrides = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "mask_token_id": MASK} | self.shape
        config = ConceptEncoderConfig.from_preset(overrides.pop("preset"), **overrides)
        config._attn_implementation = attention
        return config

    def build(self, attention: str, length: int, mode: str) -> nn.Module:
        config = self.config(attention, length)
        if mode == "train":
            return ConceptMaskedLM(ConceptEncoderForMaskedLM(config))
        return ConceptEncoderForTextEncoding(config)

    def pretrained(self, model: nn.Module, length: int) -> PreTrainedModel:
        return cast(ConceptMaskedLM, model).model

    def inputs(self, batch: Batch, mode: str) -> Inputs:
        rows, length = batch.input_ids.shape
        inputs: Inputs = {"input_ids": batch.input_ids}
        if batch.padded or batch.packed:
            inputs |= {"document_lengths": batch.lengths, "max_document_length": batch.longest}
        if mode == "encode":
            return inputs
        labels = torch.full((rows * length,), -100, device=batch.input_ids.device)
        labels = labels.scatter(0, batch.masked, batch.targets).view(rows, length)
        return inputs | {"masked_positions": positions_by_row(batch), "labels": labels}

    def packs(self, attention: str, variable: bool) -> bool:
        return attention == "varlen" and variable

    def regions(self, model: nn.Module) -> list[nn.Module]:
        names = ConceptEncoderPreTrainedModel._compiled_modules
        return [it for it in model.modules() if type(it).__name__ in names]

    def attention_flops(self, config: ConceptEncoderConfig, lengths: list[int], masked: list[int]) -> int:
        documents = zip(lengths, masked, strict=True)
        return 4 * sum(sum(concept_reads(config, *document).values()) for document in documents)


def concept_reads(config: ConceptEncoderConfig, length: int, masked: int) -> dict[str, int]:
    """
    Pairs of query and key of our model in a document, each times the width of its attention, by who reads what, all
    layers together.
    """
    width, token_width = config.hidden_size, int(config.token_hidden_size or 0)
    visible = length - masked if config.masked_tokens == "drop" else length
    concepts = config.num_concepts
    if config.concept_init == "anchored":
        spans = min(max(-(-length // config.concept_ratio), config.min_concepts), config.max_concepts)
        concepts = spans + config.num_global_concepts
    hybrid = config.decoder_tokens == "window"
    stages = config.num_stages if hybrid else config.num_stages - 1
    mixing = config.num_token_layers + config.num_interleaved_token_layers * stages
    # Masked positions lie anywhere, so their windows are on average those of the visible tokens.
    windows = masked * window_pairs(visible, config.decoder_window // 2) // visible
    return {
        "tokens, local": token_width * mixing * _mixed_pairs(config, visible),
        "concepts read tokens": width * config.num_stages * concepts * visible,
        "concepts": width * config.num_hidden_layers * concepts**2,
        "tokens read concepts": token_width * stages * visible * concepts * config.write_back,
        "decoder reads tokens": width * config.num_decoder_layers * windows * hybrid,
        "decoder reads concepts": width * config.num_decoder_layers * masked * concepts,
    }


def _mixed_pairs(config: ConceptEncoderConfig, visible: int) -> int:
    return window_pairs(visible, config.local_attention // 2) if config.token_mixer == "local" else 0


@dataclass(frozen=True, kw_only=True)
class ControlContender(Contender):
    """
    One of the library's models.

    Attributes:
        model_class: its class for masked language modelling.
        parts: from such a model to body, head and output layer.
        positions: learned positions besides those of the documents; `None` if there are none to learn.
        reads: from configuration, tokens of a document and masked ones among them to the pairs of query and key that
            all its layers compare, each times the width of its attention.
        defaults: fields of the configuration that are no shape.
    """

    model_class: type[PreTrainedModel]
    parts: Callable[[Any], tuple[nn.Module, nn.Module, nn.Module]]
    reads: Callable[[Any, int, int], int]
    positions: int | None = None
    defaults: dict[str, Any] = field(default_factory=dict)

    def config(self, attention: str, length: int) -> PreTrainedConfig:
        learned = {} if self.positions is None else {"max_position_embeddings": length + self.positions}
        fields = {"vocab_size": VOCABULARY, **SPECIAL, **self.defaults, **learned, **self.shape}
        config = self.model_class.config_class(**fields)
        if attention != "own":
            config._attn_implementation = UNPADDED if attention == "varlen" else attention
        return config

    def build(self, attention: str, length: int, mode: str) -> nn.Module:
        body, head, output = self.parts(self.model_class(self.config(attention, length)))
        return MaskedLM(body, head, output) if mode == "train" else body

    def pretrained(self, model: nn.Module, length: int) -> PreTrainedModel:
        whole = self.model_class(self.config(self.attentions[0], length))
        MaskedLM(*self.parts(whole)).load_state_dict(model.state_dict())
        return whole

    def inputs(self, batch: Batch, mode: str) -> Inputs:
        inputs: Inputs = {"input_ids": batch.input_ids}
        length = batch.input_ids.shape[1]
        if batch.packed:
            ends = nn.functional.pad(batch.lengths[0].cumsum(0), (1, 0))
            starts = torch.repeat_interleave(ends[:-1], batch.lengths[0])
            positions = torch.arange(length, device=starts.device) - starts
            inputs |= {"position_ids": positions[None], "cu_seqlens": ends.int(), "max_length": batch.longest}
        elif batch.padded:
            places = torch.arange(length, device=batch.lengths.device)
            inputs["attention_mask"] = (places < batch.lengths).long()
        return inputs | ({"masked": batch.masked, "targets": batch.targets} if mode == "train" else {})

    def attention_flops(self, config: PreTrainedConfig, lengths: list[int], masked: list[int]) -> int:
        return 4 * sum(self.reads(config, *document) for document in zip(lengths, masked, strict=True))


@dataclass(frozen=True, kw_only=True)
class LongformerContender(ControlContender):
    """Longformer, which attends in its own code."""

    attentions: tuple[str, ...] = ("own",)
    variable: bool = False

    def inputs(self, batch: Batch, mode: str) -> Inputs:
        # Positions begin behind the padding index.
        places = torch.arange(PAD + 1, PAD + 1 + batch.longest, device=batch.input_ids.device)
        inputs = {"input_ids": batch.input_ids, "position_ids": places.expand_as(batch.input_ids)}
        return inputs | ({"masked": batch.masked, "targets": batch.targets} if mode == "train" else {})


@dataclass(frozen=True, kw_only=True)
class PerceiverContender(ControlContender):
    """Perceiver IO, which attends in its own code and whose decoder is asked for the masked positions alone."""

    attentions: tuple[str, ...] = ("own",)
    variable: bool = False

    def inputs(self, batch: Batch, mode: str) -> Inputs:
        if mode == "encode":
            return {"input_ids": batch.input_ids}
        every = torch.arange(len(batch.masked), device=batch.masked.device)
        wanted = positions_by_row(batch)
        return {"input_ids": batch.input_ids, "wanted": wanted, "masked": every, "targets": batch.targets}


def positions_by_row(batch: Batch) -> torch.Tensor:
    """Int64 `[B, K]`, the masked positions of each row, -1 filling those that have fewer."""
    rows, length = batch.input_ids.shape
    row, place = batch.masked // length, batch.masked % length
    counts = torch.bincount(row, minlength=rows)
    # What a document of the greatest length has, whichever lengths this batch drew.
    most = round(MASKED * batch.longest) + 1 if batch.padded else int(counts.max())
    number = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    positions = torch.full((rows, most), -1, device=row.device)
    return positions.index_put((row, number), place)


def _to_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def _bert_parts(model: BertForMaskedLM) -> tuple[nn.Module, nn.Module, nn.Module]:
    return LastState(model.bert), model.cls.predictions.transform, model.cls.predictions.decoder


def _modernbert_parts(model: ModernBertForMaskedLM) -> tuple[nn.Module, nn.Module, nn.Module]:
    return LastState(model.model), model.head, model.decoder


def _longformer_parts(model: LongformerForMaskedLM) -> tuple[nn.Module, nn.Module, nn.Module]:
    head = nn.Sequential(model.lm_head.dense, nn.GELU(), model.lm_head.layer_norm)
    return LongformerBody(model.longformer), head, model.lm_head.decoder


def _perceiver_parts(model: PerceiverForMaskedLM) -> tuple[nn.Module, nn.Module, nn.Module]:
    words = model.perceiver.input_preprocessor.embeddings.weight
    output = nn.Linear(words.shape[1], words.shape[0], device=words.device, dtype=words.dtype)
    output.weight = words
    return PerceiverBody(model.perceiver), nn.Identity(), output


def _bert_reads(config: BertConfig, length: int, masked: int) -> int:
    return config.num_hidden_layers * config.hidden_size * length**2


def _modernbert_reads(config: ModernBertConfig, length: int, masked: int) -> int:
    pairs = {"full_attention": length**2, "sliding_attention": window_pairs(length, config.sliding_window)}
    return config.hidden_size * sum(pairs[kind] for kind in config.layer_types)


def _longformer_reads(config: LongformerConfig, length: int, masked: int) -> int:
    windows = config.attention_window
    windows = [windows] * config.num_hidden_layers if isinstance(windows, int) else windows
    return config.hidden_size * sum(window_pairs(length, window // 2) for window in windows)


def _perceiver_reads(config: PerceiverConfig, length: int, masked: int) -> int:
    latents = config.num_latents
    own = config.num_blocks * config.num_self_attends_per_block * config.d_latents * latents**2
    # Keys of the decoder are 256 wide, its values as wide as the tokens.
    decoder = (8 * 32 + config.d_model) // 2 * masked * latents
    return own + config.d_model * latents * length + decoder


def _bert(width: int, layers: int) -> ControlContender:
    shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    shape["num_attention_heads"] = width // 64
    return ControlContender(
        shape=shape,
        model_class=BertForMaskedLM,
        parts=_bert_parts,
        reads=_bert_reads,
        positions=0,
        defaults=NO_DROPOUT,
    )


def _modernbert(width: int, layers: int) -> ControlContender:
    shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 3 * width // 2}
    shape["num_attention_heads"] = width // 64
    attentions = ("varlen", "sdpa", "flex_attention")
    return ControlContender(
        shape=shape,
        attentions=attentions,
        model_class=ModernBertForMaskedLM,
        parts=_modernbert_parts,
        reads=_modernbert_reads,
    )


def _ours(preset: str, **overrides: Any) -> ConceptContender:
    return ConceptContender(shape={"preset": preset, **overrides}, compiles=("regions", "whole"))


REGIONS = {"BertLayer", "ModernBertEncoderLayer", "LongformerLayer", "PerceiverLayer"}
REFERENCE, CPU_REFERENCE = "modernbert_768x22", "modernbert_256x9"
CONTENDERS: dict[str, Contender] = {
    "mini": _ours("mini"),
    "small": _ours("small"),
    "base": _ours("base"),
    "base_bottleneck": _ours("base", decoder_tokens="none"),
    "base_ratio_4": _ours("base", concept_ratio=4),
    # Has all its concepts at 8,192 tokens.
    "base_1024": _ours("base", max_concepts=1024),
    "base_ratio_16": _ours("base", concept_ratio=16),
    "perceiver_v1": _ours("perceiver_v1"),
    # In parameters: BERT-base, and the equals of `mini`, `small` and `base`.
    "bert_768x12": _bert(768, 12),
    "bert_256x6": _bert(256, 6),
    "bert_512x10": _bert(512, 10),
    "bert_768x15": _bert(768, 15),
    # The equal of `mini`, and the shapes of Ettin-32M, -68M and -150M, the last of which is ModernBERT-base.
    "modernbert_256x9": _modernbert(256, 9),
    "modernbert_384x10": _modernbert(384, 10),
    "modernbert_512x19": _modernbert(512, 19),
    REFERENCE: _modernbert(768, 22),
    # The equals of `base`.
    "longformer_768x12": LongformerContender(
        shape={"num_hidden_layers": 12, "attention_window": 512},
        model_class=LongformerForMaskedLM,
        parts=_longformer_parts,
        reads=_longformer_reads,
        positions=PAD + 1,
        defaults=NO_DROPOUT,
    ),
    "perceiver_1280x10": PerceiverContender(
        shape={"num_self_attends_per_block": 10},
        model_class=PerceiverForMaskedLM,
        parts=_perceiver_parts,
        reads=_perceiver_reads,
        positions=0,
        defaults={"attention_probs_dropout_prob": 0.0},
    ),
}


def with_shape(contender: Contender, **overrides: Any) -> Contender:
    """The same contender with other fields of its configuration."""
    return replace(contender, shape=contender.shape | overrides)
