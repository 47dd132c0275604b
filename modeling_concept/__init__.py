# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The concept encoder. Its files travel with every checkpoint; they need torch and transformers only."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from configuration_concept import ConceptEncoderConfig

from .modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderOutput,
    ConceptEncoderPreTrainedModel,
)


def register_auto_classes() -> None:
    """Make the Auto classes of transformers build these classes for `model_type="concept_encoder"`."""
    AutoConfig.register(ConceptEncoderConfig.model_type, ConceptEncoderConfig, exist_ok=True)
    heads = {
        AutoModel: ConceptEncoder,
        AutoModelForMaskedLM: ConceptEncoderForMaskedLM,
        AutoModelForSequenceClassification: ConceptEncoderForSequenceClassificationViaDecoder,
    }
    for auto_class, model_class in heads.items():
        auto_class.register(ConceptEncoderConfig, model_class, exist_ok=True)


__all__ = [
    "ConceptEncoder",
    "ConceptEncoderForMaskedLM",
    "ConceptEncoderForSequenceClassificationViaDecoder",
    "ConceptEncoderOutput",
    "ConceptEncoderPreTrainedModel",
    "register_auto_classes",
]
