# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""transformers' common model tests on the concept encoder. `run_peer_suite.py` puts this file where its imports work.

The classes are those of the repository or, when the environment variable CONCEPT_PEER_CHECKPOINT names a saved
checkpoint, those of the code in that folder, loaded the way `trust_remote_code=True` does.
"""

import os
import sys
import unittest
from importlib import import_module

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto import modeling_auto

from ...test_configuration_common import ConfigTester
from ...test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from ...test_training_mixin import TrainingTesterMixin

# With each Auto class the static table of names that the mixins tell heads apart by, which `register` does not fill.
HEADS = {
    "AutoModel": (AutoModel, modeling_auto.MODEL_MAPPING_NAMES),
    "AutoModelForMaskedLM": (AutoModelForMaskedLM, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "AutoModelForSequenceClassification": (
        AutoModelForSequenceClassification,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    ),
    "AutoModelForMultipleChoice": (AutoModelForMultipleChoice, modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES),
    "AutoModelForTokenClassification": (
        AutoModelForTokenClassification,
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    ),
    "AutoModelForQuestionAnswering": (
        AutoModelForQuestionAnswering,
        modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    ),
}


def classes_of_repository() -> dict[str, type]:
    """Return the classes of this repository by the name of their Auto class."""
    from configuration_concept import AUTO_MAP

    references = {auto: reference.split(".") for auto, reference in AUTO_MAP.items()}
    return {auto: getattr(import_module(module), name) for auto, (module, name) in references.items()}


def classes_of_checkpoint(folder: str) -> dict[str, type]:
    """Return the classes whose code lies in the checkpoint `folder` by the name of their Auto class."""
    auto_map = PreTrainedConfig.from_pretrained(folder).auto_map
    classes = {auto: get_class_from_dynamic_module(reference, folder) for auto, reference in auto_map.items()}
    for auto, loaded in classes.items():
        loaded.register_for_auto_class(auto)
    if "modeling_concept" in sys.modules:
        raise ImportError("the code of the checkpoint imported this repository instead of its own files")
    return classes


CHECKPOINT = os.environ.get("CONCEPT_PEER_CHECKPOINT")
CLASSES = classes_of_checkpoint(CHECKPOINT) if CHECKPOINT else classes_of_repository()
CONFIG_CLASS = CLASSES["AutoConfig"]
AutoConfig.register(CONFIG_CLASS.model_type, CONFIG_CLASS, exist_ok=True)
for name, (auto_class, names) in HEADS.items():
    auto_class.register(CONFIG_CLASS, CLASSES[name], exist_ok=True)
    names[CONFIG_CLASS.model_type] = CLASSES[name].__name__


class ConceptModelTester:
    """Tiny configuration and inputs, under the attribute names that the mixins read."""

    batch_size = 7
    seq_length = 13
    vocab_size = 99
    mask_token_id = 20
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    concept_ratio = 4
    num_global_concepts = 2
    num_choices = 3
    # What the mixins call encoder states and keys lies on the concept axis: ceil(13 / 4) anchored concepts and 2 free.
    encoder_seq_length = key_length = -(-seq_length // concept_ratio) + num_global_concepts
    is_training = True
    # TrainingTesterMixin trains the class of this name; ours is no causal model.
    causal_lm_class = CLASSES["AutoModelForMaskedLM"]

    def get_config(self) -> PreTrainedConfig:
        """Return a hybrid configuration that has every part of the architecture."""
        return CONFIG_CLASS(
            vocab_size=self.vocab_size,
            mask_token_id=self.mask_token_id,
            hidden_size=self.hidden_size,
            embedding_size=16,
            intermediate_size=48,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_token_layers=1,
            num_interleaved_token_layers=1,
            read_every=1,
            local_attention=4,
            decoder_window=4,
            concept_ratio=self.concept_ratio,
            min_concepts=1,
            num_global_concepts=self.num_global_concepts,
            max_position_embeddings=64,
            num_labels=3,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        """Return the configuration and a padded batch `[7, 13]` without mask tokens, which the encoder would drop."""
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        input_ids[input_ids == self.mask_token_id] += 1
        return self.get_config(), {
            "input_ids": input_ids,
            "attention_mask": random_attention_mask([self.batch_size, self.seq_length]),
        }


class ConceptModelTest(ModelTesterMixin, TrainingTesterMixin, unittest.TestCase):
    all_model_classes = tuple(CLASSES[name] for name in HEADS)
    model_tester = None
    # The thresholds of the test are for wider models, which 1e-3 takes there in its 300 steps.
    training_overfit_learning_rate = 3e-3

    def setUp(self) -> None:
        self.model_tester = ConceptModelTester()
        self.config_tester = ConfigTester(self, config_class=CONFIG_CLASS, hidden_size=32)

    def test_config(self) -> None:
        self.config_tester.run_common_tests()
