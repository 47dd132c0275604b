# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What `run_long_context.py` reads texts by."""

import pytest

from evaluation_concept.long_context.registry import TASKS
from evaluation_concept.long_context.tasks import Sources
from evaluation_concept.long_context.vocabularies import VOCABULARIES
from tests.training.tiny_glue import write_checkpoint
from training_concept.finetuning.arguments import ClassifierArguments
from training_concept.long_context.arguments import LongContextArguments
from training_concept.long_context.setup import task_tokenizer

LISTOPS = TASKS["lra_listops"]


@pytest.mark.parametrize("own", [True, False])
def test_another_vocabulary_than_that_of_the_task_is_warned_of(tmp_path, caplog, own):
    checkpoint = tmp_path / "checkpoint"
    write_checkpoint(checkpoint)
    if own:
        # As it is after self-pretraining on the task.
        VOCABULARIES["listops"]().save_pretrained(checkpoint)
    arguments = ClassifierArguments(model_name_or_path=str(checkpoint))
    found = task_tokenizer(LISTOPS, Sources(), arguments, LongContextArguments(task_name=["lra_listops"]))
    assert (found.get_vocab() == VOCABULARIES["listops"]().get_vocab()) == own
    assert ("lra_listops is defined on its own vocabulary" in caplog.text) != own
