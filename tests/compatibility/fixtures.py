# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of every version of the format, kept for ever, with what they computed when they were made.

    python -m tests.compatibility.fixtures     # writes those of the present version, once

What is there is never written again: a fixture that no longer gives its numbers is what the tests are for.
"""

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from configuration_concept.configuration_concept import FORMAT_VERSION, ConceptEncoderConfig
from evaluation_concept.errors import exit_code
from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder
from training_concept.tokenization import train_tokenizer

FOLDER = Path(__file__).with_name("fixtures")
EXPECTED = "expected.safetensors"
KEPT = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
TEXTS = [
    "The river keeps its [MASK] in the hills.",
    "It tells no one. And [MASK] asks, nor will anyone ever ask again.",
]
SIZE = {
    "hidden_size": 16,
    "intermediate_size": 8,
    "token_intermediate_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_labels": 3,
}
HEADS = {"masked_lm": ConceptEncoderForMaskedLM, "classifier": ConceptEncoderForSequenceClassificationViaDecoder}
# Between them, most parts that presets have.
MODELS = {
    "masked_lm": {"read_every": 1, "num_token_layers": 1, "local_attention": 4, "decoder_window": 4},
    "classifier": {
        "position_embedding": "learned",
        "max_position_embeddings": 64,
        "token_mixer": "none",
        "concept_init": "learned",
        "num_concepts": 6,
        "write_back": False,
        "qk_norm": False,
        "decoder_query": "token+position",
        "decoder_tokens": "none",
        "masked_tokens": "mask",
    },
}


@torch.no_grad()
def compute(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Logits (of the first places) and concepts `[batch, C, hidden_size]` of the inputs that a tokenizer gives."""
    given = {name: inputs[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    return {
        "logits": model.eval()(**given).logits[:, :8].contiguous(),
        "concepts": model.model(**given).last_hidden_state,
    }


def write_version(folder: Path) -> Path:
    """
    Write the fixtures of the present version of the format to a folder in `folder`, and return it.

    Raises:
        ValueError: it is there.
    """
    target = folder / f"format_{FORMAT_VERSION}"
    if target.exists():
        raise ValueError(f"{target} is there, and fixtures never change; a new FORMAT_VERSION makes new ones.")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, vocab_size=270, min_frequency=1)
    for name, head in HEADS.items():
        model = head(ConceptEncoderConfig(vocab_size=len(tokenizer), **(SIZE | MODELS[name]))).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # a weight at its initial value would not show that it was lost
                parameter.add_(0.1 * torch.randn_like(parameter))
        (target / name).mkdir(parents=True)
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            tokenizer.save_pretrained(saved)
            for file in KEPT:
                (target / name / file).write_bytes((Path(saved) / file).read_bytes())
        inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
        save_file(inputs | compute(model, inputs), target / name / EXPECTED)
    return target


def main(arguments: list[str]) -> None:
    """Write the fixtures of this version."""
    print(f"wrote {write_version(FOLDER)}")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
