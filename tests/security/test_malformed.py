# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Malformed checkpoints end in an error that says what is wrong: never in a hang, nor in all memory taken."""

import json
import struct
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM
from transformers.activations import ACT2FN

from configuration_concept import ConceptEncoderConfig
from configuration_concept.configuration_concept import AT_ONCE, CHOICES, LARGEST, MOST_AT_ONCE, MOST_LAYERS
from evaluation_concept.health import check_health
from modeling_concept import ConceptEncoderForMaskedLM, register_auto_classes

pytest.importorskip("hypothesis")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited by Linux's means")

from hypothesis import HealthCheck, given, settings  # noqa: E402

from benchmarks import fuzz  # noqa: E402
from benchmarks.results import read_results  # noqa: E402

QUICK = settings(max_examples=60, derandomize=True, deadline=None, database=None)
DEEP = settings(max_examples=1500, deadline=None, database=None, print_blob=True)
NONSENSE = {
    "num_hidden_layers": {"num_hidden_layers": 10**9, "read_every": 1},
    "num_iterations": {"num_iterations": MOST_LAYERS},
    "num_decoder_layers": {"num_decoder_layers": 10**9},
    "num_funnel_stages": {"num_funnel_stages": MOST_LAYERS},
    "vocab_size": {"vocab_size": 2**70},
    "hidden_size": {"hidden_size": LARGEST + 8},
    "max_position_embeddings": {"max_position_embeddings": 2**50, "position_embedding": "learned"},
    "max_concepts": {"max_concepts": 2**40},
    "concept_ratio": {"concept_ratio": 2**70},
    "type_vocab_size": {"type_vocab_size": 2**50},
    "norm_eps": {"norm_eps": float("nan")},
    "initializer_range": {"initializer_range": float("inf")},
    "hidden_activation": {"hidden_activation": "decoder"},
    "problem_type": {"problem_type": "guesswork"},
    "num_labels": {"num_labels": 10**15},
    "id2label": {"id2label": {}},
    "rope_type": {"rope_parameters": {"rope_type": "spiral"}},
    "rope_theta": {"rope_parameters": {"rope_theta": "far"}},
    "factor": {"rope_parameters": {"rope_type": "linear", "factor": float("inf")}},
    "mask_token_id": {"mask_token_id": 0, "pad_token_id": 0},
}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    with fuzz.Sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def checkpoint(tmp_path):
    fuzz.write_sample(tmp_path)
    register_auto_classes()
    return tmp_path


def check(sandbox, case):
    outcome = sandbox.run(case)
    assert not fuzz.is_fault(case, outcome), outcome


def explore(kind, sandbox, profile):
    """Fail with the simplest case of a kind that is a fault, if one is found."""

    @settings(profile, suppress_health_check=list(HealthCheck))
    @given(fuzz.KINDS[kind](sandbox.sample))
    def run(case):
        check(sandbox, case)

    run()


@pytest.mark.parametrize("field", NONSENSE)
def test_a_configuration_that_makes_no_sense_is_refused_by_name(field):
    with pytest.raises((ValueError, StrictDataclassError), match=field):
        ConceptEncoderConfig(**NONSENSE[field])


@pytest.mark.parametrize("field", AT_ONCE)
def test_what_the_shortest_document_pays_for_is_bounded(field):
    with pytest.raises(ValueError, match=f"{field}={MOST_AT_ONCE + 1} must be at most {MOST_AT_ONCE}"):
        ConceptEncoderConfig(**{field: MOST_AT_ONCE + 1})


def test_activations_are_known_to_the_library():
    assert set(CHOICES["hidden_activation"]) <= ACT2FN.keys()


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_malformed_files_end_in_an_error(kind, sandbox):
    explore(kind, sandbox, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_many_malformed_files_end_in_an_error(kind, sandbox):
    explore(kind, sandbox, DEEP)


def test_the_sample_itself_is_sound(sandbox):
    assert sandbox.run(fuzz.Case(fuzz.CONFIG, sandbox.sample[fuzz.CONFIG])).verdict == fuzz.LOADED


def test_the_sandbox_ends_what_the_tokenizers_library_does_not(tmp_path, monkeypatch):
    """A tokenizer that doubles a letter forty times is valid, and hangs whoever uses it: SECURITY.md says so."""
    monkeypatch.setattr(fuzz, "SECONDS", 2)
    with fuzz.Sandbox(tmp_path) as sandbox:
        tokenizer = json.loads(sandbox.sample[fuzz.TOKENIZER])
        doubling = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
        tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [doubling] * 40}
        outcome = sandbox.run(fuzz.Case(fuzz.TOKENIZER, json.dumps(tokenizer).encode()))
        assert outcome.verdict in fuzz.FATAL
        assert fuzz.is_fault(fuzz.Case(fuzz.TOKENIZER, b""), outcome)
        assert sandbox.run(fuzz.Case(fuzz.CONFIG, sandbox.sample[fuzz.CONFIG])).verdict == fuzz.LOADED


def test_the_command_records_how_many_cases_there_were_and_how_many_hung(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "KINDS", {"damaged": fuzz.damaged})
    fuzz.main(["--cases", "5"], tmp_path / "hub.json")
    figures = read_results(tmp_path / "hub.json").figures
    assert {name: figure.value for name, figure in figures.items()} == {"fuzz_cases": 5, "fuzz_hangs": 0}
    cases = [fuzz.Case(fuzz.CONFIG, b"")] * 4
    verdicts = (fuzz.LOADED, fuzz.REFUSED, fuzz.HUNG, fuzz.MEMORY)
    counted = fuzz.figures(list(zip(cases, map(fuzz.Outcome, verdicts), strict=True)), "")
    assert {name: figure.value for name, figure in counted.items()} == {"fuzz_cases": 4, "fuzz_hangs": 2}


@pytest.mark.parametrize(
    ("changed", "outcome", "fault"),
    [
        (("norm_eps",), fuzz.Outcome(fuzz.REFUSED, "ValueError: norm_eps=0 must lie in [1e-12, 1]."), False),
        (("norm_eps",), fuzz.Outcome(fuzz.REFUSED, "KeyError: 7"), True),
        (("norm_eps", "dtype"), fuzz.Outcome(fuzz.REFUSED, "AttributeError: foo"), False),
        (("norm_eps",), fuzz.Outcome(fuzz.NOT_FINITE), True),
        ((), fuzz.Outcome(fuzz.NOT_FINITE), False),
        ((), fuzz.Outcome(fuzz.DIED), True),
    ],
)
def test_what_counts_as_a_fault(changed, outcome, fault):
    assert fuzz.is_fault(fuzz.Case(fuzz.CONFIG, b"", changed), outcome) == fault


@pytest.mark.parametrize("told", [2**63, 2**40, 10**6, 1])
def test_a_header_that_lies_about_its_length_is_refused(sandbox, told):
    content = sandbox.sample[fuzz.WEIGHTS]
    outcome = sandbox.run(fuzz.Case(fuzz.WEIGHTS, struct.pack("<Q", told) + content[8:]))
    assert outcome.verdict == fuzz.REFUSED
    assert "SafetensorError" in outcome.error


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
def test_truncated_weights_are_refused(sandbox, kept):
    outcome = sandbox.run(fuzz.Case(fuzz.WEIGHTS, sandbox.sample[fuzz.WEIGHTS][:kept]))
    assert outcome.verdict == fuzz.REFUSED
    assert "Error" in outcome.error


def test_a_tensor_of_another_shape_is_refused_by_name(checkpoint, caplog):
    tensors = load_file(checkpoint / fuzz.WEIGHTS)
    save_file(tensors | {"model.norm.weight": torch.ones(7)}, checkpoint / fuzz.WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="mismatched_sizes"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)
    assert "model.norm.weight | MISMATCH" in caplog.text


@pytest.mark.parametrize("damage", ["missing", "nan"])
def test_what_loads_and_is_sick_is_found_by_the_health_check(checkpoint, damage):
    tensors = load_file(checkpoint / fuzz.WEIGHTS)
    if damage == "missing":
        del tensors["decoder.query"]
    else:
        tensors["decoder.query"].fill_(torch.nan)
    save_file(tensors, checkpoint / fuzz.WEIGHTS, metadata={"format": "pt"})
    sick = [finding for finding in check_health(str(checkpoint)) if finding.status == "sick"]
    assert {"missing": "weights complete", "nan": "weights finite"}[damage] in {finding.check for finding in sick}


def test_weights_that_the_file_lacks_start_afresh(checkpoint):
    """Not with what lay in memory: transformers knows modules that it initialises by the names of their classes."""
    path = checkpoint / fuzz.CONFIG
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 8, "num_decoder_mixing_layers": 2})
    )
    for _ in range(4):
        garbage = [torch.full((size,), torch.nan) for size in (8, 16, 32, 64, 256, 1024) for _ in range(20)]
        del garbage
        model = AutoModelForMaskedLM.from_pretrained(checkpoint)
        assert [name for name, weight in model.named_parameters() if not weight.isfinite().all()] == []


def test_a_huge_model_beside_small_weights_takes_no_memory(checkpoint):
    """Its weights are allocated only after they have been compared with those of the file."""
    path = checkpoint / fuzz.CONFIG
    huge = {
        "hidden_size": LARGEST // 2,
        "token_hidden_size": None,
        "intermediate_size": None,
        "token_intermediate_size": None,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | huge))
    with pytest.raises(RuntimeError, match="mismatched_sizes"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)
    with torch.device("meta"):
        assert ConceptEncoderForMaskedLM(ConceptEncoderConfig.from_pretrained(checkpoint)).num_parameters() > 1e11
