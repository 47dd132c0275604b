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
"""The concept encoder and its heads: N tokens are read into C concept vectors, and decoded from them."""

from os import PathLike
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import (
    ConceptAttention,
    ConceptBlock,
    ConceptRotaryEmbedding,
    ContextualAttention,
    ResidualLinear,
    Stream,
)
from .concepts import (
    CONCEPT_PLACES,
    CONCEPT_SOURCES,
    AnchoredConcepts,
    Concepts,
    Exchange,
    LearnedConcepts,
    concept_layer,
    count_iterations,
    drawn_shares,
    exchange_arguments,
    keep_concepts,
    read_layer,
    write_layer,
)
from .decoder import ConceptDecoder, ConceptPredictionHead, StaticMixture, encoded_concepts
from .encoding import TextEncodingMixin
from .kernels import Rotation
from .loading import loading_options, rename_former
from .losses import (
    LinearCrossEntropy,
    check_labels,
    classification_loss,
    labelled_positions,
    labels_of,
    labels_of_ends,
    mean_cross_entropy,
    one_for_each,
)
from .outputs import (
    ConceptEmbeddingOutput,
    ConceptEncoderOutput,
    ConceptMaskedLMOutput,
    ConceptMultipleChoiceOutput,
    ConceptQuestionAnsweringOutput,
    ConceptSequenceClassifierOutput,
    ConceptTokenClassifierOutput,
    concepts_of,
    recorded,
)
from .pooling import READOUTS, QueryPooling, document_means, documents_or_one
from .sentence_embedding import ConceptSentenceEmbedding
from .tokens import (
    BatchFunction,
    ConceptTokenEmbedding,
    TokenConvolution,
    TokenFunnel,
    TokenLayout,
    Turns,
    arrange_batch,
    check_inputs,
    check_options,
    given_tokens,
    mixing_arguments,
    place_tokens,
    token_layer,
)

try:  # a checkpoint folder or Hub repository: all code files side by side
    from .configuration_concept import ConceptEncoderConfig
except ImportError:  # the source tree: two packages side by side
    from configuration_concept import ConceptEncoderConfig


@auto_docstring
class ConceptEncoderPreTrainedModel(PreTrainedModel):
    config: ConceptEncoderConfig
    config_class = ConceptEncoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # What other heads than the one at hand have.
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|head|lm_head|pooling|classifier|qa_outputs)\."]
    # What weights of a class were called, and what they are called now.
    _former_names: dict[str, str] = {}
    _no_split_modules = ["ConceptBlock"]
    # What is worth a graph of its own where the model is not compiled as a whole.
    _compiled_modules = ["BatchFunction", "ConceptRotaryEmbedding", "ConceptTokenEmbedding", "AnchoredConcepts"]
    _compiled_modules += ["ConceptBlock", "ConceptPredictionHead", "LinearCrossEntropy"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(ConceptBlock, layer_name="layers"),
        "attentions": OutputRecorder(ConceptAttention, index=1, layer_name="layers"),
        "cross_attentions": OutputRecorder(ConceptAttention, index=1, layer_name="reads"),
    }

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike | None, *model_args: Any, **kwargs: Any
    ) -> PreTrainedModel:
        """As `PreTrainedModel.from_pretrained`."""
        options = loading_options(cls, pretrained_model_name_or_path, kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **options)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, ResidualLinear):
            init.normal_(module.weight, std=0 if module.starts_at_zero else std / self._residual_depth)
        elif isinstance(module, LearnedConcepts):
            init.normal_(module.table, std=std)
        elif isinstance(module, AnchoredConcepts):
            init.normal_(module.shared, std=std)
            init.normal_(module.free, std=std)
        elif isinstance(module, ConceptDecoder | QueryPooling):
            init.normal_(module.query, std=std)
        elif isinstance(module, StaticMixture):
            init.normal_(module.logits, std=std)
        elif isinstance(module, ContextualAttention):
            init.zeros_(module.distances)
        elif isinstance(module, TokenConvolution):
            init.normal_(module.taps, std=module.taps.shape[0] ** -0.5)
        elif isinstance(module, ConceptEncoder) and module.iterations is not None:
            init.zeros_(module.iterations)

    @property
    def _residual_depth(self) -> float:
        """By what residual outputs are scaled down at initialisation, so that depth does not add variance (GPT-2)."""
        return (2 * self.config.num_hidden_layers) ** 0.5

    def _decode(
        self,
        outputs: ConceptEncoderOutput,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        wanted: torch.Tensor | None = None,
        document_lengths: torch.Tensor | None = None,
        max_document_length: int | None = None,
        concept_ratio: int | None = None,
        kept_concepts: float | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Decode input positions from what the encoder gave.

        Args:
            outputs: of the encoder for these inputs, with token states.
            wanted: int64 `[batch, K]`, the positions to decode, -1 for none; `None` decodes all N.

        Returns:
            Decoded states `[batch, K | N, hidden_size]`.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        layout, in_use = place_tokens(
            given.shape[:2], attention_mask, document_lengths, max_document_length, given.device
        )
        layout = layout._replace(index=outputs.token_index, mask=outputs.token_mask)
        concepts = encoded_concepts(self.config, outputs, layout, self.model.concepts, concept_ratio, kept_concepts)
        words = inputs_embeds
        # CODEPATH: only `perceiver_v1` puts the word embedding into the query.
        if inputs_embeds is None and self.config.decoder_query == "token+position":
            words = self.model.get_input_embeddings()(input_ids)
        return self.decoder(concepts, outputs.token_states, layout, self.model.rotate, in_use, wanted, words, **kwargs)

    def _decode_all(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, ConceptEncoderOutput]:
        """Decoded states `[batch, N, hidden_size]` of all positions, for classifiers, and what the encoder gave."""
        inputs = (input_ids, attention_mask, token_type_ids, inputs_embeds)
        outputs = self.model(*inputs, output_token_states=True, return_dict=True, **kwargs)
        residual = self.config.classifier_token_residual
        states = self._decode(outputs, input_ids, inputs_embeds, attention_mask, token_residual=residual, **kwargs)
        return states, outputs


@auto_docstring(
    custom_intro="""
    The bare concept encoder: a document of N tokens in, C concept vectors out.
    """
)
class ConceptEncoder(ConceptEncoderPreTrainedModel):
    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.arrangement = BatchFunction(config, arrange_batch)
        self.mixing = BatchFunction(config, mixing_arguments)
        self.exchange = BatchFunction(config, exchange_arguments)
        self.embeddings = ConceptTokenEmbedding(config)
        # CODEPATH: `perceiver_v1` has learned positions and no rotations.
        self.rotary_emb = ConceptRotaryEmbedding(config) if config.position_embedding == "rope" else None
        # CODEPATH: `perceiver_v1` never mixes tokens; every other preset does.
        mixes = config.token_mixer != "none"
        # CODEPATH: in the bottleneck family nothing reads the tokens after the last read, so they end one stage early.
        self.token_stages = config.num_stages if config.decoder_tokens == "window" else config.num_stages - 1
        interleaved = config.num_interleaved_token_layers * self.token_stages * mixes
        self.token_blocks = nn.ModuleList([token_layer(config) for _ in range(config.num_token_layers * mixes)])
        self.interleaved_blocks = nn.ModuleList([token_layer(config) for _ in range(interleaved)])
        self.funnel = TokenFunnel(config)
        self.concepts = CONCEPT_SOURCES[config.concept_init](config)
        self.places = CONCEPT_PLACES[config.concept_positions](config)
        reads = 1 if config.share_reads else config.num_stages  # CODEPATH: no preset shares its reads.
        self.reads = nn.ModuleList([read_layer(config) for _ in range(reads)])
        self.layers = nn.ModuleList([concept_layer(config) for _ in range(config.num_hidden_layers)])
        writes = self.token_stages if config.write_back else 0  # CODEPATH: `perceiver_v1` never writes back.
        self.writes = nn.ModuleList([write_layer(config) for _ in range(writes)])
        self.iterations = None
        # CODEPATH: no preset repeats its core.
        if config.num_iterations > 1:
            self.iterations = nn.Parameter(torch.empty(config.num_iterations, config.hidden_size))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        masked_positions: torch.LongTensor | None = None,
        document_lengths: torch.LongTensor | None = None,
        max_document_length: int | None = None,
        num_iterations: int | None = None,
        concept_ratio: int | None = None,
        kept_concepts: float | None = None,
        output_token_states: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ConceptEncoderOutput:
        r"""
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
            Word embeddings in the place of `input_ids`, as wide as the model's own (`config.embedding_size`).
        masked_positions (`torch.LongTensor` of shape `(batch_size, num_masked)`, *optional*):
            The positions that hold the mask token, -1 filling rows that have fewer. With `masked_tokens="drop"` it
            fixes the number of visible tokens at `sequence_length - num_masked`, so that shapes are static: no row may
            have more of them, and without an `attention_mask` every row has exactly so many. With `inputs_embeds`,
            where mask tokens cannot be seen, it also says which ones are dropped.
        document_lengths (`torch.LongTensor` of shape `(batch_size, num_documents)`, *optional*):
            For rows that hold several documents end to end: their lengths in tokens, 0 behind the last document of a
            row, which padding follows. Each document is encoded as if it stood alone, and must have a token that is
            not masked. Takes the place of `attention_mask`. Concepts lie end to end in the order of the documents.
        max_document_length (`int`, *optional*):
            No document of `document_lengths` is longer. It spares kernels the search for longer ones in long rows.
        num_iterations (`int`, *optional*):
            How often the core runs, whatever the configuration says.
        concept_ratio (`int`, *optional*):
            Tokens per anchored concept, whatever the configuration says.
        kept_concepts (`float`, *optional*):
            Share of the concepts to keep, in (0, 1]; the others are dropped as in training with `nested_dropout`.
        output_token_states (`bool`, *optional*, defaults to `False`):
            Whether to return the states of the visible tokens.
        """
        given = given_tokens(input_ids, inputs_embeds, token_type_ids, masked_positions)
        check_inputs(self.config, given.shape[:2], attention_mask, document_lengths, max_document_length)
        check_options(self.config, num_iterations, concept_ratio, kept_concepts, kwargs)
        documents = (attention_mask, document_lengths, max_document_length)
        layout = self.arrangement(given.shape[:2], given.device, input_ids, masked_positions, *documents)
        if self.rotary_emb is not None:
            self.rotary_emb.fit(given, layout.positions)
        tokens = self._embed(input_ids, inputs_embeds, token_type_ids, layout)
        slots, rotation, mixing = self.surroundings(tokens, layout)
        tokens = self.mix(tokens, self.token_blocks, mixing, **kwargs)
        stream, short, targets = self.funnel(tokens, layout, self.rotate, **kwargs)
        if targets:
            slots, rotation, mixing = self.surroundings(stream, short)
        concepts = self._keep(self.places(self.concepts(stream, short, concept_ratio)), kept_concepts, given.shape[0])
        exchange = self.exchanging(stream, concepts, slots, rotation)
        concepts, stream = self._exchange(
            stream, concepts, mixing, exchange, num_iterations, output_token_states, **kwargs
        )
        tokens = tokens + self.funnel.widen(stream, targets) if targets else stream
        return self._output(concepts, layout, tokens if output_token_states else None)

    def _embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        layout: TokenLayout,
    ) -> torch.Tensor:
        """Token states `[batch, V, token_hidden_size]` before any layer."""
        if inputs_embeds is None:
            words = self.embed_tokens(layout.to_slots(input_ids))
        else:
            words = layout.to_slots(inputs_embeds)
        types = None if token_type_ids is None else layout.to_slots(token_type_ids)
        return self.embeddings(words, types, layout.to_slots(layout.positions), layout.mask)

    def surroundings(self, tokens: torch.Tensor, layout: TokenLayout) -> tuple[Stream, Rotation | None, Turns]:
        """Tokens as attention takes them, their rotations, and arguments of layers that mix them, which take turns."""
        slots, mixing = self.mixing(layout, tokens.shape[0])
        rotation = self.rotate(tokens, layout.to_slots(layout.positions))
        turned = {"query_rotation": rotation, "key_rotation": rotation}
        return slots, rotation, [turned | turn for turn in mixing]

    def _output(self, concepts: Concepts, layout: TokenLayout, tokens: torch.Tensor | None) -> ConceptEncoderOutput:
        """What `forward` returns, with states `[batch, V, token_hidden_size]` of the tokens of `layout` if given."""
        shape, used = concepts.states.shape[:2], concepts.mask
        if used is None:
            used = concepts.states.new_ones(1, 1, dtype=torch.bool)
        return ConceptEncoderOutput(
            last_hidden_state=concepts.states,
            concept_mask=used.expand(shape).long(),
            pooled_mask=(used & (concepts.rank >= self.concepts.num_free)).expand(shape).long(),
            concept_positions=None if concepts.positions is None else concepts.positions.expand(shape),
            concept_documents=None if concepts.documents is None else concepts.documents.expand(shape),
            token_states=tokens,
            token_index=None if tokens is None else layout.index,
            token_mask=None if tokens is None else layout.mask,
        )

    def _keep(self, concepts: Concepts, kept: float | None, batch: int) -> Concepts:
        """Concepts of a share `kept`, or of one drawn for each row in training with nested dropout."""
        # CODEPATH: no preset drops concepts.
        if kept is None and self.training and self.config.nested_dropout:
            kept = drawn_shares(self.config.nested_dropout, batch, concepts.states.device)
        return concepts if kept is None else keep_concepts(concepts, self.concepts.order(concepts.rank), kept)

    def _exchange(
        self,
        tokens: torch.Tensor,
        concepts: Concepts,
        mixing: Turns,
        exchange: Exchange,
        num_iterations: int | None,
        keep_tokens: bool,
        **kwargs: Any,
    ) -> tuple[Concepts, torch.Tensor]:
        """
        The core, once or again and again. Returns concepts and token states, these of no use without `keep_tokens`.
        """
        states = concepts.states
        total, tracked = count_iterations(self.config, num_iterations, self.training)
        for i in range(total):
            states = self.restart(concepts.states, states, i)
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= total - tracked):
                # Nothing reads the tokens after the last read but the decoder.
                wide = self.config.num_stages if keep_tokens or i + 1 < total else self.config.num_stages - 1
                states, tokens = self._core(states, tokens, mixing, exchange, wide, **kwargs)
        states = self.norm(states)
        states = states if concepts.mask is None else states * concepts.mask.unsqueeze(-1)
        return concepts._replace(states=states), tokens

    def mix(self, tokens: torch.Tensor, layers: nn.ModuleList, mixing: Turns, **kwargs: Any) -> torch.Tensor:
        """Token states after `layers`, with the arguments that `surroundings` gives."""
        for depth, layer in enumerate(layers):
            tokens = layer(tokens, **mixing[depth % len(mixing)], **kwargs)
        return tokens

    def exchanging(
        self, tokens: torch.Tensor, concepts: Concepts, slots: Stream, token_rotation: Rotation | None
    ) -> Exchange:
        """Who may read whom in the core, and where these are."""
        reading, thinking, writing = self.exchange(concepts.stream, slots)
        rotation = self.rotate(tokens, concepts.positions)
        # CODEPATH: no preset counts positions by content.
        own_rotation = None if self.config.concept_positions == "cope" else rotation
        return Exchange(
            reading | {"query_rotation": rotation, "key_rotation": token_rotation},
            thinking | {"query_rotation": own_rotation, "key_rotation": own_rotation},
            writing | {"query_rotation": token_rotation, "key_rotation": rotation},
        )

    def _core(
        self, states: torch.Tensor, tokens: torch.Tensor, mixing: Turns, exchange: Exchange, wide: int, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stages of a read and concept layers; in the first `wide` of them tokens read, too."""
        for stage in range(self.config.num_stages):
            states = self.reads[stage % len(self.reads)](states, tokens, **exchange.reading, **kwargs)
            states = self.think(states, stage, exchange, **kwargs)
            if stage < wide:
                tokens = self.write_back(tokens, states, stage, exchange, mixing, **kwargs)
        return states, tokens

    def restart(self, first: torch.Tensor, states: torch.Tensor, iteration: int) -> torch.Tensor:
        """Concepts that an iteration of the core starts from: `first`, and `states` of the iteration before it."""
        if self.iterations is None:
            return states
        # Where the core starts from is put in again, so that no number of iterations forgets it.
        return first + self.iterations[min(iteration, len(self.iterations) - 1)] + states * (iteration > 0)

    def think(self, states: torch.Tensor, stage: int, exchange: Exchange, **kwargs: Any) -> torch.Tensor:
        """Concepts `[batch, C, hidden_size]` after the concept layers of a stage."""
        deep = self.config.read_every
        for layer in self.layers[stage * deep : (stage + 1) * deep]:
            states = layer(states, **exchange.thinking, **kwargs)
        return states

    def write_back(
        self, tokens: torch.Tensor, states: torch.Tensor, stage: int, exchange: Exchange, mixing: Turns, **kwargs: Any
    ) -> torch.Tensor:
        """Tokens `[batch, V, token_hidden_size]` at the end of a stage: they read concepts, then their neighbours."""
        wide = self.config.num_interleaved_token_layers
        for write in self.writes[stage : stage + 1]:
            tokens = write(tokens, states, **exchange.writing, **kwargs)
        return self.mix(tokens, self.interleaved_blocks[stage * wide : (stage + 1) * wide], mixing, **kwargs)

    def rotate(self, states: torch.Tensor, positions: torch.Tensor | None) -> Rotation | None:
        """Rotations of `positions` `[batch, length]`, on the device of `states`; `None` if there are none to make."""
        if self.rotary_emb is None or positions is None:
            return None
        return self.rotary_emb(states, positions, fit=False)


@auto_docstring(
    custom_intro="""
    The concept encoder with a masked language modelling head: masked tokens are decoded from the concepts.
    """
)
# The configuration lies beside this file in a checkpoint, and in a package of its own in the source tree.
# trf-ignore: TRF015
class ConceptEncoderForMaskedLM(ConceptEncoderPreTrainedModel):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.model = ConceptEncoder(config)
        self.decoder = ConceptDecoder(config)
        self.head = ConceptPredictionHead(config)
        self.lm_head = nn.Linear(config.embedding_size, config.vocab_size)
        self.criterion = LinearCrossEntropy()
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def _loss(self, states: torch.Tensor, targets: torch.Tensor, **options: Any) -> torch.Tensor:
        """Loss of `states` `[batch, K, embedding_size]` at `targets` `[batch, K]`."""
        head = self.lm_head
        states, targets = states.flatten(0, 1), targets.flatten()
        if type(head) is nn.Linear and head.weight.device == states.device:
            return self.criterion(states, head.weight, head.bias, targets, **options)
        # What adapters add and offloading fetches is there only if the layer itself is called.
        options.pop("kernel")
        return mean_cross_entropy(head(states), targets, **options)

    def _decode_elsewhere(
        self,
        outputs: ConceptEncoderOutput,
        shape: torch.Size,
        places: torch.Tensor,
        documents: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        document_lengths: torch.Tensor | None,
        max_document_length: int | None = None,
        concept_ratio: int | None = None,
        kept_concepts: float | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """States `[batch, K, hidden_size]` at `places` of `documents`, both `[batch, K]`, of inputs of `shape`."""
        layout, _ = place_tokens(shape, attention_mask, document_lengths, max_document_length, places.device)
        if (layout.documents is None) != (documents is None):
            raise ValueError("decoded_documents: rows of several documents (document_lengths) need it, others do not.")
        concepts = encoded_concepts(self.config, outputs, layout, self.model.concepts, concept_ratio, kept_concepts)
        word = None
        # CODEPATH: only `perceiver_v1` puts a word embedding into the query; what is unknown is the mask token.
        if self.config.decoder_query == "token+position":
            word = self.model.get_input_embeddings().weight[self.config.mask_token_id]
        return self.decoder.decode_elsewhere(concepts, layout, self.model.rotate, places, documents, word, **kwargs)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        masked_positions: torch.LongTensor | None = None,
        document_lengths: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        return_logits: bool | None = None,
        z_loss: float = 0.0,
        loss_kernel: str = "auto",
        decoded_positions: torch.LongTensor | None = None,
        decoded_documents: torch.LongTensor | None = None,
        return_concepts: bool = False,
        only_concepts: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ConceptMaskedLMOutput:
        r"""
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
            Word embeddings in the place of `input_ids`, as wide as the model's own (`config.embedding_size`).
        masked_positions (`torch.LongTensor` of shape `(batch_size, num_masked)`, *optional*):
            The positions that hold the mask token, -1 filling rows that have fewer. They alone are decoded. See
            [`ConceptEncoder.forward`] for what it promises about the visible tokens.
        document_lengths (`torch.LongTensor` of shape `(batch_size, num_documents)`, *optional*):
            For rows that hold several documents end to end: their lengths in tokens, 0 behind the last one. See
            [`ConceptEncoder.forward`].
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            The tokens to be found, -100 where there is none; with `decoded_positions`, one for each of these. The loss
            is their mean negative log-likelihood in nats, or its sum divided by `num_items_in_batch` where that is
            given. A keyword argument `label_smoothing` spreads that share of each target over the vocabulary.
        return_logits (`bool`, *optional*):
            Whether to return logits although there are labels; by default in evaluation mode only, since in training
            they would take most of the memory. They are `(batch_size, num_masked, vocab_size)` with
            `masked_positions`, `(batch_size, num_decoded, vocab_size)` with `decoded_positions`, and
            `(batch_size, sequence_length, vocab_size)` without.
        z_loss (`float`, *optional*, defaults to 0.0):
            Weight of the squared logarithm of the softmax's denominator (PaLM, arXiv 2204.02311).
        loss_kernel (`str`, *optional*, defaults to `"auto"`):
            How the loss is computed without holding all logits: `"torch"`, `"chunked"`, `"liger"` or `"auto"`, see
            [`~losses.linear_cross_entropy`].
        decoded_positions (`torch.LongTensor` of shape `(batch_size, num_decoded)`, *optional*):
            Places of a text that need not be the input's, such as its original or what follows it, -1 for none: they
            are decoded instead of positions of the input, and from the concepts alone, whatever `decoder_tokens` says.
            With learned positions, places are below `max_position_embeddings`.
        decoded_documents (`torch.LongTensor` of shape `(batch_size, num_decoded)`, *optional*):
            For rows of several documents: which of them each of `decoded_positions` is decoded from.
        return_concepts (`bool`, *optional*, defaults to `False`):
            Whether to return the concepts beside loss or logits.
        only_concepts (`bool`, *optional*, defaults to `False`):
            Whether to end with the concepts, with neither loss nor logits.
        """
        # As a parameter the stock Trainer would take it for labels, by its name, and evaluate without a loss.
        options = {"label_smoothing": kwargs.pop("label_smoothing", 0.0), "z_loss": z_loss, "kernel": loss_kernel}
        elsewhere = decoded_positions is not None
        if elsewhere:
            self.decoder.check_elsewhere(decoded_positions)
        outputs = self.model(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            masked_positions,
            document_lengths,
            output_token_states=not elsewhere and not only_concepts,
            return_dict=True,
            **kwargs,
        )
        shape = (input_ids if inputs_embeds is None else inputs_embeds).shape[:2]
        check_labels(labels, decoded_positions.shape if elsewhere else shape)
        given = recorded(outputs) | (concepts_of(outputs) if return_concepts or only_concepts else {})
        if only_concepts:
            return ConceptMaskedLMOutput(**given)
        wanted, keeps_logits = None, labels is None or (not self.training if return_logits is None else return_logits)
        if elsewhere:
            places = (decoded_positions, decoded_documents, attention_mask, document_lengths)
            states = self._decode_elsewhere(outputs, shape, *places, **kwargs)
        else:
            wanted = masked_positions
            if wanted is None and not keeps_logits:
                wanted = labelled_positions(labels)
            row = (input_ids, inputs_embeds, attention_mask, wanted, document_lengths)
            residual = self.config.decoder_token_residual
            states = self._decode(outputs, *row, token_residual=residual, **kwargs)
        states, loss = self.head(states), None
        if labels is not None:
            targets = labels_of(labels, wanted, decoded_positions)
            loss = self._loss(states, targets, num_items_in_batch=kwargs.get("num_items_in_batch"), **options)
        logits = self.lm_head(states) if keeps_logits else None
        return ConceptMaskedLMOutput(loss=loss, logits=logits, **given)


@auto_docstring(
    custom_intro="""
    What heads on one vector of a document share: how it is read out, and the linear layer on it.
    """
)
class ConceptEncoderPooledModel(ConceptEncoderPreTrainedModel):
    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ConceptEncoder(config)
        readout = READOUTS[config.readout]
        # CODEPATH: presets read out through the decoder; the other read-outs do without.
        self.decoder = ConceptDecoder(config) if readout.states == "decoded" else None
        self.pooling = readout.pooling(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(readout.width(config), self._num_outputs)
        self.post_init()

    @property
    def _num_outputs(self) -> int:
        return self.config.num_labels

    def _classify(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        document_lengths: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, ConceptEncoderOutput]:
        """
        Logits of documents, and what the encoder gave.

        They are `[batch, num_labels]`, or with `document_lengths` `[batch, D, num_labels]`, zeros where a row has no
        document.
        """
        row = (input_ids, attention_mask, token_type_ids, inputs_embeds)
        kwargs["document_lengths"] = document_lengths
        outputs = self.model(*row, output_token_states=True, return_dict=True, **kwargs)
        given = input_ids if inputs_embeds is None else inputs_embeds
        longest = kwargs.get("max_document_length")
        layout, mask = place_tokens(given.shape[:2], attention_mask, document_lengths, longest, given.device)
        documents = layout.documents
        if self.decoder is not None:
            residual = self.config.classifier_token_residual
            states = self._decode(outputs, input_ids, inputs_embeds, attention_mask, token_residual=residual, **kwargs)
        # CODEPATH: no preset pools what the encoder gives.
        elif READOUTS[self.config.readout].states == "concepts":
            states, mask, documents = outputs.last_hidden_state, outputs.concept_mask, outputs.concept_documents
        else:
            states, mask = outputs.token_states, outputs.token_mask
            documents = layout._replace(index=outputs.token_index).slot_documents
        if document_lengths is None:
            return self.classifier(self.dropout(self.pooling(states, mask))), outputs
        pooled = self.pooling(states, mask, documents, document_lengths.shape[1])
        return self.classifier(self.dropout(pooled)) * (document_lengths > 0).unsqueeze(-1), outputs


@auto_docstring(
    custom_intro="""
    The concept encoder with a classifier on the pretrained decoder: it decodes every position as in pretraining, and
    classifies or regresses the mean of the decoded states. `config.readout` puts other vectors in its place.
    """
)
class ConceptEncoderForSequenceClassificationViaDecoder(ConceptEncoderPooledModel):
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        document_lengths: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ConceptSequenceClassifierOutput:
        r"""
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
            Word embeddings in the place of `input_ids`, as wide as the model's own (`config.embedding_size`).
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*):
            Classes (int64), values to regress (one label, or `problem_type="regression"`), or a 0/1 vector of labels
            (float). The loss is a mean, or the sum divided by `num_items_in_batch` where that is given.
        document_lengths (`torch.LongTensor` of shape `(batch_size, num_documents)`, *optional*):
            For rows that hold several documents end to end: their lengths in tokens, 0 behind the last one. Each of
            them is classified: logits are `(batch_size, num_documents, num_labels)`, labels `(batch_size,
            num_documents)` or like the logits. Where there is no document logits are 0 and labels are not read.
        """
        inputs = (input_ids, attention_mask, token_type_ids, inputs_embeds)
        logits, outputs = self._classify(*inputs, document_lengths=document_lengths, **kwargs)
        loss = None
        if labels is not None:
            in_use = None if document_lengths is None else document_lengths > 0
            loss = classification_loss(logits, labels, self.config, in_use, **kwargs)
        return ConceptSequenceClassifierOutput(loss=loss, logits=logits, **recorded(outputs))


@auto_docstring(
    custom_intro="""
    The concept encoder with a score for each of several texts, of which one is the answer; read out as for
    classification.
    """
)
class ConceptEncoderForMultipleChoice(ConceptEncoderPooledModel):
    @property
    def _num_outputs(self) -> int:
        return 1

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ConceptMultipleChoiceOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            The texts to choose from.
        inputs_embeds (`torch.FloatTensor`, *optional*):
            Word embeddings in the place of `input_ids`, with `config.embedding_size` for a last axis.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The right choices.
        """
        if kwargs.get("document_lengths") is not None:
            raise ValueError("document_lengths: each choice has a row of its own, [batch_size, num_choices, N].")
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or given.dim() != (3 if inputs_embeds is None else 4):
            raise ValueError("Choices are input_ids [batch_size, num_choices, N], or inputs_embeds with a width more.")
        inputs = (input_ids, attention_mask, token_type_ids, inputs_embeds)
        flat = (None if values is None else values.flatten(0, 1) for values in inputs)
        logits, outputs = self._classify(*flat, **kwargs)
        logits = logits.view(given.shape[:2])
        check_labels(labels, *one_for_each(given.shape[:1]))
        loss = None if labels is None else mean_cross_entropy(logits, labels, **kwargs)
        return ConceptMultipleChoiceOutput(loss=loss, logits=logits, **recorded(outputs))


@auto_docstring(
    custom_intro="""
    The concept encoder with a classifier of tokens on the decoded state of every position.
    """
)
class ConceptEncoderForTokenClassification(ConceptEncoderPreTrainedModel):
    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ConceptEncoder(config)
        self.decoder = ConceptDecoder(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ConceptTokenClassifierOutput:
        r"""
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
            Word embeddings in the place of `input_ids`, as wide as the model's own (`config.embedding_size`).
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Classes of tokens, -100 where none is scored.
        """
        states, outputs = self._decode_all(input_ids, attention_mask, token_type_ids, inputs_embeds, **kwargs)
        logits = self.classifier(self.dropout(states))
        check_labels(labels, logits.shape[:2])
        loss = None if labels is None else mean_cross_entropy(logits, labels, **kwargs)
        return ConceptTokenClassifierOutput(loss=loss, logits=logits, **recorded(outputs))


@auto_docstring(
    custom_intro="""
    The concept encoder with scores of every position as start and as end of an answer.
    """
)
class ConceptEncoderForQuestionAnswering(ConceptEncoderPreTrainedModel):
    # As in BERT; `classifier` is what heads have that classify.
    _former_names = {"classifier": "qa_outputs"}

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ConceptEncoder(config)
        self.decoder = ConceptDecoder(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.register_load_state_dict_pre_hook(rename_former)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ConceptQuestionAnsweringOutput:
        r"""
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
            Word embeddings in the place of `input_ids`, as wide as the model's own (`config.embedding_size`).
        start_positions, end_positions (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            First and last token of the answer; a position outside the row is not scored. In a row of several documents
            (`document_lengths`) one of them has it.
        """
        states, outputs = self._decode_all(input_ids, attention_mask, token_type_ids, inputs_embeds, **kwargs)
        start_logits, end_logits = self.qa_outputs(self.dropout(states)).unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            ends = labels_of_ends(start_positions, end_positions, states.shape[:2])
            loss = mean_cross_entropy(torch.cat([start_logits, end_logits]), ends, **kwargs)
        return ConceptQuestionAnsweringOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, **recorded(outputs)
        )


@auto_docstring(
    custom_intro="""
    The concept encoder as a sentence encoder: one vector of length 1 for a document, and one for each of its concepts.
    """
)
class ConceptEncoderForTextEncoding(TextEncodingMixin, ConceptEncoderPreTrainedModel):
    # What sentence-transformers wraps it in. Of the code of a checkpoint, transformers keeps only what is imported.
    sentence_embedding_class = ConceptSentenceEmbedding

    def __init__(self, config: ConceptEncoderConfig):
        super().__init__(config)
        self.model = ConceptEncoder(config)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        document_lengths: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ConceptEmbeddingOutput:
        r"""
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
            Word embeddings in the place of `input_ids`, as wide as the model's own (`config.embedding_size`).
        document_lengths (`torch.LongTensor` of shape `(batch_size, num_documents)`, *optional*):
            For rows that hold several documents end to end: their lengths in tokens, 0 behind the last one. See
            [`ConceptEncoder.forward`].
        """
        outputs = self.model(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            document_lengths=document_lengths,
            return_dict=True,
            **kwargs,
        )
        mask, documents = outputs.concept_mask, outputs.concept_documents
        if document_lengths is not None:
            documents = documents_or_one(documents, mask)
        # In half precision sums of many concepts, and what is left after, would order near neighbours by chance.
        dtype = torch.promote_types(outputs.last_hidden_state.dtype, torch.float32)
        concepts = outputs.last_hidden_state.to(dtype)
        number = None if document_lengths is None else document_lengths.shape[1]
        means = document_means(concepts, outputs.pooled_mask, documents, number)
        return ConceptEmbeddingOutput(
            embeddings=nn.functional.normalize(means, dim=-1),
            concept_embeddings=nn.functional.normalize(concepts, dim=-1),
            concept_mask=mask,
            concept_documents=documents,
            **recorded(outputs),
        )


__all__ = [
    "ConceptEncoder",
    "ConceptEncoderForMaskedLM",
    "ConceptEncoderForMultipleChoice",
    "ConceptEncoderForQuestionAnswering",
    "ConceptEncoderForSequenceClassificationViaDecoder",
    "ConceptEncoderForTextEncoding",
    "ConceptEncoderForTokenClassification",
    "ConceptEncoderPreTrainedModel",
]
