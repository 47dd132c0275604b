# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The check before any timing: it passes where all ways agree, and names what does not."""

import pytest
import torch
from transformers import AttentionInterface

from benchmarks.agreement import (
    TOLERANCE,
    check_agreement,
    compiled_difference,
    largest_difference,
    main,
    packed_rows,
    small_model,
)
from modeling_concept.attention import VARLEN, varlen_attention_forward


def test_all_ways_agree_on_this_device(capsys):
    assert main() == 0
    assert "varlen = eager" in capsys.readouterr().out


def test_help_computes_nothing(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.agreement.check_agreement", None)
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "Compare all ways" in capsys.readouterr().out


def test_a_backend_that_reads_one_key_too_few_is_named():
    def short(module, query, key, value, attention_mask, segments=None, **kwargs):
        if segments is not None and segments.window is not None:
            segments = segments._replace(window=segments.window - 4)
        return varlen_attention_forward(module, query, key, value, attention_mask, segments=segments, **kwargs)

    AttentionInterface.register(VARLEN, short)
    try:
        with pytest.raises(ValueError, match="hybrid: varlen = eager"):
            check_agreement(torch.device("cpu"))
    finally:
        AttentionInterface.register(VARLEN, varlen_attention_forward)


def test_compiled_regions_are_compared_with_the_model_as_it_is(fresh_compiler):
    cpu = torch.device("cpu")
    batch = packed_rows(cpu, [[40, 24]], 64)
    assert compiled_difference(small_model(cpu), batch, "regions", backend="eager") < TOLERANCE

    def doubled(graph, inputs):
        return lambda *args: tuple(2 * it if it.is_floating_point() else it for it in graph(*args))

    assert compiled_difference(small_model(cpu), batch, "regions", backend=doubled) > TOLERANCE


def test_numbers_that_are_not_finite_are_no_agreement():
    values = {"loss": torch.tensor([1.0, float("nan")])}
    with pytest.raises(ValueError, match="not finite"):
        largest_difference(values, values)
