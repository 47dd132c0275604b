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
"""What the concept encoder and its heads return."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput, auto_docstring


@auto_docstring(
    custom_intro="""
    Concepts of a batch of documents.
    """
)
@dataclass
class ConceptEncoderOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_concepts, hidden_size)`):
        The concepts. Free concepts first, then those anchored on the text, in its order. Zeros where
        `concept_mask` is 0.
    concept_mask (`torch.LongTensor` of shape `(batch_size, num_concepts)`):
        Concepts in use; a short document in a long batch uses fewer.
    concept_positions (`torch.FloatTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Where each concept sits in its document, in tokens; 0 for free concepts. `None` unless `concept_positions` is
        `"rope"` or `"cope"`.
    concept_documents (`torch.LongTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Which document of its row each concept belongs to. Given with `document_lengths`, for rows of several.
    pooled_mask (`torch.LongTensor` of shape `(batch_size, num_concepts)`):
        Concepts whose mean is the embedding of their document: those in use without the free ones, whose share of a
        mean would depend on the length of the text.
    token_states (`torch.FloatTensor` of shape `(batch_size, num_visible, token_hidden_size)`, *optional*):
        States of the visible tokens, moved to the front of their rows. Given if `output_token_states=True`.
    token_index (`torch.LongTensor` of shape `(batch_size, num_visible)`, *optional*):
        Index in `input_ids` of each of `token_states`; `None` if they are in place.
    token_mask (`torch.BoolTensor` of shape `(batch_size, num_visible)`, *optional*):
        Which of `token_states` are in use; `None` if all are.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*):
        Concepts `(batch_size, num_concepts, hidden_size)` after the first read and after each concept layer, the last
        of them normalised. Given if `output_hidden_states=True`.
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Weights `(batch_size, num_heads, num_concepts, num_concepts)` of each concept layer, by which concepts read
        each other. Given if `output_attentions=True`, with `attn_implementation="eager"`.
    cross_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Weights `(batch_size, num_heads, num_concepts, num_visible)` of each read, by which concepts read tokens. Given
        as `attentions` are.
    """

    last_hidden_state: torch.FloatTensor | None = None
    concept_mask: torch.LongTensor | None = None
    concept_positions: torch.FloatTensor | None = None
    concept_documents: torch.LongTensor | None = None
    pooled_mask: torch.LongTensor | None = None
    token_states: torch.FloatTensor | None = None
    token_index: torch.LongTensor | None = None
    token_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(
    custom_intro="""
    What the masked language model gives: loss or logits, and on request the concepts that they were decoded from.
    """
)
@dataclass
class ConceptMaskedLMOutput(MaskedLMOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Cross-entropy of the masked tokens in nats. Given with `labels`.
    logits (`torch.FloatTensor` of shape `(batch_size, num_decoded, vocab_size)`, *optional*):
        Scores of each word at the positions that were decoded.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of the encoder's concepts, see [`ConceptEncoderOutput`].
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on concepts in the encoder, see [`ConceptEncoderOutput`].
    cross_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on tokens in the encoder, see [`ConceptEncoderOutput`].
    concept_states (`torch.FloatTensor` of shape `(batch_size, num_concepts, hidden_size)`, *optional*):
        The concepts, see [`ConceptEncoderOutput`], for losses on them. Given if `return_concepts=True` or
        `only_concepts=True`, as is what follows.
    concept_mask (`torch.LongTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Concepts in use.
    concept_documents (`torch.LongTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Which document of its row each concept belongs to, for rows of several.
    pooled_mask (`torch.LongTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Concepts whose mean is the embedding of their document, see [`ConceptEncoderOutput`].
    """

    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    concept_states: torch.FloatTensor | None = None
    concept_mask: torch.LongTensor | None = None
    concept_documents: torch.LongTensor | None = None
    pooled_mask: torch.LongTensor | None = None


@auto_docstring(
    custom_intro="""
    Embeddings of documents.
    """
)
@dataclass
class ConceptEmbeddingOutput(ModelOutput):
    r"""
    embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)` or `(batch_size, documents, hidden_size)`):
        One vector of length 1 for each document: the mean of its concepts but the free ones, normalised. For rows of
        several documents, one for each of `document_lengths`, zeros behind the last.
    concept_embeddings (`torch.FloatTensor` of shape `(batch_size, num_concepts, hidden_size)`):
        Its concepts, each of length 1, for late interaction (ColBERT, arXiv 2004.12832). Zeros where `concept_mask`
        is 0.
    concept_mask (`torch.LongTensor` of shape `(batch_size, num_concepts)`):
        Concepts in use.
    concept_documents (`torch.LongTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Which document of its row each concept belongs to. Given for rows of several.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of the encoder's concepts, see [`ConceptEncoderOutput`].
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on concepts in the encoder, see [`ConceptEncoderOutput`].
    cross_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on tokens in the encoder, see [`ConceptEncoderOutput`].
    """

    embeddings: torch.FloatTensor | None = None
    concept_embeddings: torch.FloatTensor | None = None
    concept_mask: torch.LongTensor | None = None
    concept_documents: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(
    custom_intro="""
    What the classifier of documents gives.
    """
)
@dataclass
class ConceptSequenceClassifierOutput(SequenceClassifierOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Given with `labels`.
    logits (`torch.FloatTensor` of shape `(batch_size, num_labels)` or `(batch_size, num_documents, num_labels)`):
        Scores of each class, or the values of a regression.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of the encoder's concepts, see [`ConceptEncoderOutput`].
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on concepts in the encoder, see [`ConceptEncoderOutput`].
    cross_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on tokens in the encoder, see [`ConceptEncoderOutput`].
    """

    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(
    custom_intro="""
    What the model of choices gives. What the encoder recorded has a row for each choice.
    """
)
@dataclass
class ConceptMultipleChoiceOutput(MultipleChoiceModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Given with `labels`.
    logits (`torch.FloatTensor` of shape `(batch_size, num_choices)`):
        Scores of each choice.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of the encoder's concepts, see [`ConceptEncoderOutput`].
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on concepts in the encoder, see [`ConceptEncoderOutput`].
    cross_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on tokens in the encoder, see [`ConceptEncoderOutput`].
    """

    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(
    custom_intro="""
    What the classifier of tokens gives.
    """
)
@dataclass
class ConceptTokenClassifierOutput(TokenClassifierOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Given with `labels`.
    logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, num_labels)`):
        Scores of each class at every position.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of the encoder's concepts, see [`ConceptEncoderOutput`].
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on concepts in the encoder, see [`ConceptEncoderOutput`].
    cross_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on tokens in the encoder, see [`ConceptEncoderOutput`].
    """

    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(
    custom_intro="""
    What the model of answers gives.
    """
)
@dataclass
class ConceptQuestionAnsweringOutput(QuestionAnsweringModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Mean of the cross-entropies of both ends in nats. Given with `start_positions` and `end_positions`.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of the encoder's concepts, see [`ConceptEncoderOutput`].
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on concepts in the encoder, see [`ConceptEncoderOutput`].
    cross_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
        Of concepts on tokens in the encoder, see [`ConceptEncoderOutput`].
    """

    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


def recorded(outputs: ConceptEncoderOutput) -> dict[str, tuple[torch.FloatTensor, ...] | None]:
    """What the encoder recorded because it was asked to, for the output of a head."""
    return {
        "hidden_states": outputs.hidden_states,
        "attentions": outputs.attentions,
        "cross_attentions": outputs.cross_attentions,
    }


def concepts_of(outputs: ConceptEncoderOutput) -> dict[str, torch.Tensor | None]:
    """The concepts of the encoder, for the output of the masked language model."""
    return {
        "concept_states": outputs.last_hidden_state,
        "concept_mask": outputs.concept_mask,
        "concept_documents": outputs.concept_documents,
        "pooled_mask": outputs.pooled_mask,
    }
