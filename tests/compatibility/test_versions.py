# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every version of the format load by the present code, and compute what they once did."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from configuration_concept.configuration_concept import FORMAT_VERSION
from tests.compatibility.fixtures import EXPECTED, FOLDER, HEADS, TEXTS, compute, write_version

VERSIONS = sorted(path.name for path in FOLDER.iterdir())
MOST_BYTES = 200_000


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_checkpoint_computes_what_it_did(version, name):
    folder = FOLDER / version / name
    expected = load_file(folder / EXPECTED)
    model, loaded = HEADS[name].from_pretrained(folder, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for output, values in compute(model, expected).items():
        torch.testing.assert_close(values, expected[output], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_tokenizer_gives_the_same_ids(version, name):
    folder = FOLDER / version / name
    expected = load_file(folder / EXPECTED)
    encoded = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    assert set(encoded) == set(expected) - {"logits", "concepts"}
    assert all(torch.equal(encoded[key], expected[key]) for key in encoded)


def test_the_present_version_has_a_fixture():
    """Whoever raises FORMAT_VERSION writes one, and keeps the older ones loading: docs/upgrading.md."""
    assert f"format_{FORMAT_VERSION}" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_fixtures_are_small(version):
    assert sum(path.stat().st_size for path in (FOLDER / version).rglob("*") if path.is_file()) < MOST_BYTES


def test_fixtures_are_never_written_again(tmp_path):
    written = write_version(tmp_path)
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    assert {path.name for path in written.iterdir()} == set(HEADS)
    with pytest.raises(ValueError, match="fixtures never change"):
        write_version(tmp_path)
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == before
