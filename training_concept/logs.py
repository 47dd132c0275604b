# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What the scripts say while they run."""

import logging

import datasets
import huggingface_hub
import transformers
from transformers import TrainingArguments


def set_up_logging(args: TrainingArguments) -> None:
    """Let our own code, transformers and datasets log at the level of this process."""
    level = args.get_process_log_level()
    logging.basicConfig()
    # These print what they log by themselves; passed on to the root logger it would be there twice.
    for printing in (datasets, huggingface_hub):
        printing.utils.logging.disable_propagation()
    logging.getLogger("training_concept").setLevel(level)
    for library in (datasets, transformers):
        library.utils.logging.set_verbosity(level)
