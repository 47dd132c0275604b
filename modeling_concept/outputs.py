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
from transformers.modeling_outputs import MaskedLMOutput
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
    token_states (`torch.FloatTensor` of shape `(batch_size, num_visible, token_hidden_size)`, *optional*):
        States of the visible tokens, moved to the front of their rows. Given if `output_token_states=True`.
    token_index (`torch.LongTensor` of shape `(batch_size, num_visible)`, *optional*):
        Index in `input_ids` of each of `token_states`; `None` if they are in place.
    token_mask (`torch.BoolTensor` of shape `(batch_size, num_visible)`, *optional*):
        Which of `token_states` are in use; `None` if all are.
    """

    last_hidden_state: torch.FloatTensor | None = None
    concept_mask: torch.LongTensor | None = None
    concept_positions: torch.FloatTensor | None = None
    concept_documents: torch.LongTensor | None = None
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
    concept_states (`torch.FloatTensor` of shape `(batch_size, num_concepts, hidden_size)`, *optional*):
        The concepts, see [`ConceptEncoderOutput`], for losses on them. Given if `return_concepts=True` or
        `only_concepts=True`, as is what follows.
    concept_mask (`torch.LongTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Concepts in use.
    concept_documents (`torch.LongTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Which document of its row each concept belongs to, for rows of several.
    """

    concept_states: torch.FloatTensor | None = None
    concept_mask: torch.LongTensor | None = None
    concept_documents: torch.LongTensor | None = None


@auto_docstring(
    custom_intro="""
    Embeddings of documents.
    """
)
@dataclass
class ConceptEmbeddingOutput(ModelOutput):
    r"""
    embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)` or `(batch_size, documents, hidden_size)`):
        One vector of length 1 for each document: the mean of its concepts, normalised. For rows of several documents,
        one for each of `document_lengths`, zeros behind the last.
    concept_embeddings (`torch.FloatTensor` of shape `(batch_size, num_concepts, hidden_size)`):
        Its concepts, each of length 1, for late interaction (ColBERT, arXiv 2004.12832). Zeros where `concept_mask`
        is 0.
    concept_mask (`torch.LongTensor` of shape `(batch_size, num_concepts)`):
        Concepts in use.
    concept_documents (`torch.LongTensor` of shape `(batch_size, num_concepts)`, *optional*):
        Which document of its row each concept belongs to. Given for rows of several.
    """

    embeddings: torch.FloatTensor | None = None
    concept_embeddings: torch.FloatTensor | None = None
    concept_mask: torch.LongTensor | None = None
    concept_documents: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
