# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The concept encoder. Its files travel with every checkpoint; they need torch and transformers only."""

import transformers
from transformers import AutoConfig

from configuration_concept import AUTO_MAP, ConceptEncoderConfig

from . import modeling_concept
from .modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForMultipleChoice,
    ConceptEncoderForQuestionAnswering,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderForTextEncoding,
    ConceptEncoderForTokenClassification,
    ConceptEncoderPreTrainedModel,
)
from .outputs import (
    ConceptEmbeddingOutput,
    ConceptEncoderOutput,
    ConceptMaskedLMOutput,
    ConceptMultipleChoiceOutput,
    ConceptQuestionAnsweringOutput,
    ConceptSequenceClassifierOutput,
    ConceptTokenClassifierOutput,
)


def register_auto_classes() -> None:
    """Make the Auto classes of transformers build these classes for `model_type="concept_encoder"`."""
    AutoConfig.register(ConceptEncoderConfig.model_type, ConceptEncoderConfig, exist_ok=True)
    for auto_class, target in AUTO_MAP.items():
        if auto_class != AutoConfig.__name__:
            model_class = getattr(modeling_concept, target.rpartition(".")[2])
            getattr(transformers, auto_class).register(ConceptEncoderConfig, model_class, exist_ok=True)


__all__ = [
    "ConceptEmbeddingOutput",
    "ConceptEncoder",
    "ConceptEncoderForMaskedLM",
    "ConceptEncoderForMultipleChoice",
    "ConceptEncoderForQuestionAnswering",
    "ConceptEncoderForSequenceClassificationViaDecoder",
    "ConceptEncoderForTextEncoding",
    "ConceptEncoderForTokenClassification",
    "ConceptEncoderOutput",
    "ConceptEncoderPreTrainedModel",
    "ConceptMaskedLMOutput",
    "ConceptMultipleChoiceOutput",
    "ConceptQuestionAnsweringOutput",
    "ConceptSequenceClassifierOutput",
    "ConceptTokenClassifierOutput",
    "register_auto_classes",
]
