# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of files: which belong to a checkpoint, which to a run, and which run code when they are loaded."""

from collections.abc import Sequence
from fnmatch import fnmatch

CARD = "README.md"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
FIGURES = ("*.png", "*.svg")
LEGAL = ("LICENSE*", "NOTICE*")
TRAVELS = (
    *("config.json", "generation_config.json", "adapter_config.json", "*.py", *WEIGHTS),
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model"),
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    *(CARD, *LEGAL, *FIGURES),
    *("*results.json", "results.md", "retrieval.json", "data.json", "training_args.json", "trainer_state.json"),
)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
# What runs keep beside their model, for themselves.
STAYS = (
    *(
        ".*",
        "_*",
        "run.json",
        "runs/",
        "checkpoint-*/",
        "cells/",
        "compare/",
        "models/",
        "predictions/",
        "submission/",
    ),
)
# Files that run code when they are loaded, or are suspected of it.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npy", "*.npz", "*.h5", "*.msgpack")
# What others left in a repository that could be taken for a part of the model.
OUTDATED = (*TRAVELS, "pytorch_model*", "adapter_model*", "training_args.bin")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def is_outdated(name: str, files: Sequence[str]) -> bool:
    """
    Whether a file of an earlier model has to go from a repository when `files` come.

    What says who may do what with the repository stays, and a card with its figures, if no other card comes.
    """
    if "/" in name or name in files or name == CARD or matches(name, LEGAL):
        return False
    return matches(name, OUTDATED) and (CARD in files or not matches(name, FIGURES))
