# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Load a checkpoint where nothing else is, and say on the last line of stdout, as JSON, what came of it.

Run as a script, `python -I load_alone.py FOLDER`, in a process of its own. The packages of this repository cannot be
imported then, installed or not: all code but that of pip packages has to come from the folder.
"""

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

PACKAGES = ("configuration_concept", "modeling_concept", "training_concept", "evaluation_concept")
TEXTS = ["The river keeps its name.", "Another line, which is a little longer than the first one: 12 words."]


class NoRepository(MetaPathFinder):
    """Makes the repository's packages impossible to import."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Refuse the packages, and leave everything else to the other finders."""
        if fullname in PACKAGES:
            raise ModuleNotFoundError(f"{fullname} is not part of the checkpoint", name=fullname)


def auto_class(config: transformers.PreTrainedConfig) -> Any:
    """The class that loads what was saved: the Auto class with a head of the checkpoint's code, or a stock class."""
    architecture = (config.architectures or [""])[0]
    for name, reference in getattr(config, "auto_map", {}).items():
        if reference.rpartition(".")[2] == architecture:
            return getattr(transformers, name)
    return getattr(transformers, architecture, AutoModel)


def problems(model: PreTrainedModel, info: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What is wrong with a model and its tokenizer, each in a few words."""
    found = [f"weights are missing: {_some(info['missing_keys'])}"] if info["missing_keys"] else []
    if info["unexpected_keys"]:
        found.append(f"weights that no part of the model takes: {_some(info['unexpected_keys'])}")
    bad = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if bad:
        found.append(f"weights are NaN or infinite: {_some(bad)}")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    largest = int(inputs["input_ids"].max())
    if largest >= vocabulary or len(tokenizer) > vocabulary:
        return [*found, f"the tokenizer has {max(len(tokenizer), largest + 1):,} tokens, the model {vocabulary:,}"]
    with torch.no_grad():
        states = model.base_model(**inputs)[0]
    if not (bad or states.isfinite().all()):
        found.append("what it computes is NaN or infinite")
    return found


def main(folder: str) -> dict[str, Any]:
    """Load model and tokenizer; return the model's class, its number of parameters, and what is wrong."""
    options = {"trust_remote_code": True, "local_files_only": True}
    config = AutoConfig.from_pretrained(folder, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    model, info = auto_class(config).from_pretrained(folder, output_loading_info=True, **options)
    return {
        "class": type(model).__name__,
        "parameters": model.num_parameters(),
        "problems": problems(model.eval(), info, tokenizer),
    }


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


if __name__ == "__main__":
    sys.meta_path.insert(0, NoRepository())
    print(json.dumps(main(str(Path(sys.argv[1]).resolve()))))
