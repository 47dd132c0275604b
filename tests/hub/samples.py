# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models and a tokenizer to save, with what they compute before they are saved.

Run as a module, `python -m tests.hub.samples FOLDER` saves them, and `--push USER` also pushes them to the Hub.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerFast, set_seed

from configuration_concept import ConceptEncoderConfig
from modeling_concept import ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder
from training_concept.tokenization import train_tokenizer

PAIRS = [
    ("The river keeps its [MASK] in the hills.", "It tells no one."),
    ("A short line.", "And another [MASK], a little longer than the first one was."),
]


class Samples(NamedTuple):
    """A masked language model, a classifier of its own weights, and the tokenizer of both."""

    mlm: PreTrainedModel
    classifier: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    def encode(self) -> BatchEncoding:
        """Return a padded batch of sentence pairs that hold mask tokens."""
        return self.tokenizer(*zip(*PAIRS, strict=True), padding=True, return_tensors="pt")

    @torch.no_grad()
    def expected(self) -> dict[str, torch.Tensor]:
        """Return that batch, and what the models make of it."""
        inputs = self.encode()
        return {
            **inputs,
            "concepts": self.mlm.model(**inputs).last_hidden_state,
            "mlm_logits": self.mlm(**inputs).logits,
            "classifier_logits": self.classifier(**inputs).logits,
        }


@torch.no_grad()
def build_samples() -> Samples:
    """Build the samples with every weight off its initial value, so that one not loaded shows."""
    set_seed(0)
    tokenizer = train_tokenizer([" ".join(pair) for pair in PAIRS], vocab_size=300, min_frequency=1)
    config = ConceptEncoderConfig.from_preset(
        "nano",
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_attention_heads=4,
        embedding_size=16,
        num_hidden_layers=2,
        num_token_layers=1,
        local_attention=4,
        decoder_window=4,
        num_labels=3,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        mask_token_id=tokenizer.mask_token_id,
    )
    models = [
        head(config).eval() for head in (ConceptEncoderForMaskedLM, ConceptEncoderForSequenceClassificationViaDecoder)
    ]
    for model in models:
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Samples(*models, tokenizer)


def save_samples(samples: Samples, folder: Path) -> None:
    """Save to `folder` the models, `mlm` and `classifier`, each with its tokenizer, and `expected.safetensors`."""
    expected = samples.expected()
    for name in ("mlm", "classifier"):
        getattr(samples, name).save_pretrained(folder / name)
        samples.tokenizer.save_pretrained(folder / name)
    save_file(expected, folder / "expected.safetensors")


def push_samples(samples: Samples, folder: Path, user: str) -> None:
    """Push to `user/mlm` and `user/classifier`, each by one of the two ways that transformers has for it."""
    samples.mlm.push_to_hub(f"{user}/mlm")
    samples.classifier.save_pretrained(str(folder / "pushed"), push_to_hub=True, repo_id=f"{user}/classifier")
    for name in ("mlm", "classifier"):
        samples.tokenizer.push_to_hub(f"{user}/{name}")


def main() -> None:
    """Save the samples, and push them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--push", metavar="USER")
    args = parser.parse_args()
    samples = build_samples()
    save_samples(samples, args.folder)
    if args.push:
        push_samples(samples, args.folder, args.push)


if __name__ == "__main__":
    main()
