# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A selection of which no candidate was read, all being cut off, counts as wrong."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from evaluation_concept.long_context.metrics import score
from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.tasks import Example
from evaluation_concept.long_context.vocabularies import byte_tokenizer
from training_concept.long_context.forms import decide


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.mark.parametrize("name", ["ruler_multi_key", "longbench_passage_retrieval_en"])
def test_what_was_cut_off_is_wrong(tokenizer, name):
    task = TASKS[name]
    paragraphs = ("Paragraph 1", "Paragraph 2")
    example = Example("1", "", answers=paragraphs[:1], choices=paragraphs, candidates=(90, 99), selected=(0,))
    cut_off, read = np.array([[-np.inf, -np.inf]]), np.array([[1.0, -np.inf]])
    wrong, right = (decide(task, (), [example], outputs, tokenizer, 8) for outputs in (cut_off, read))
    assert wrong == [()]
    assert task.text_of(example, wrong[0]) == ""
    assert next(iter(score(task, wrong, [example]).values())) == 0
    assert next(iter(score(task, right, [example]).values())) == 100


def test_the_right_candidate_alone_being_cut_off_is_wrong(tokenizer):
    task = TASKS["ruler_multi_key"]
    example = Example("1", "", choices=("a", "b"), candidates=(0, 99), selected=(1,))
    found = decide(task, (), [example], np.array([[-9.0, -np.inf]]), tokenizer, 8)
    assert next(iter(score(task, found, [example]).values())) == 0
