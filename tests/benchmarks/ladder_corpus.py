# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A corpus and models of the ladder small enough for tests."""

import json
from pathlib import Path

import numpy as np
import yaml

from benchmarks.ladder.corpus import select_corpus
from training_concept.export import export
from training_concept.recipes import read_recipe
from training_concept.tokenization import train_tokenizer

LENGTH = 32
# Every word is a token; what is left of the embeddings has no token.
VOCABULARY = 320
WORDS = ["red", "green", "blue", "river", "mountain", "house", "letter", "number", "seven", "night", "day", "window"]
SHAPE = "hidden_size=32,num_attention_heads=2,num_hidden_layers=2"
HYBRID = f"hybrid:{SHAPE},concept_ratio=4,local_attention=8"
BERT = f"bert:{SHAPE},intermediate_size=64"
MODERNBERT = f"modernbert:{SHAPE},intermediate_size=64,local_attention=8"
PERCEIVER = f"perceiver_v1:{SHAPE},num_concepts=4,intermediate_size=64,max_position_embeddings=32"
TOY = (HYBRID, f"bottleneck:{SHAPE}", BERT, MODERNBERT, PERCEIVER)


def write_export(folder: Path) -> Path:
    """Two sources with weights 3 and 1, whose words follow one another in a fixed order: a recipe and its parts."""
    generator = np.random.default_rng(0)
    tokenizer = train_tokenizer([f" {' '.join(WORDS)}"] * 3, VOCABULARY)
    tokenizer.save_pretrained(folder / "tokenizer")
    sources = {}
    for name, weight in (("books", 3), ("mail", 1)):
        files = {}
        for split, count in (("train", 120), ("validation", 12), ("test", 12)):
            path = folder / f"{name}-{split}.jsonl"
            starts, sizes = generator.integers(0, len(WORDS), count), generator.integers(6, 40, count)
            texts = [
                " ".join(WORDS[(start + place) % len(WORDS)] for place in range(size))
                for start, size in zip(starts, sizes, strict=True)
            ]
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
            files[split] = str(path)
        sources[name] = {"data_files": files, "weight": weight}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"sources": sources}), encoding="utf-8")
    export(folder / "recipe.yaml", str(folder / "tokenizer"), folder / "parts")
    return folder


def select(folder: Path, output: Path, train_tokens: float = 1e6, held_out_tokens: float = 1e6) -> Path:
    """A selection of that export."""
    select_corpus(
        folder / "parts",
        read_recipe(folder / "recipe.yaml").weights,
        output,
        train_tokens=train_tokens,
        held_out_tokens=held_out_tokens,
        part_mb=0.005,
    )
    return output
