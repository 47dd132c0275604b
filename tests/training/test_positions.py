# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Answers that are places in the document: who is said to have diverged, and who sees the query from afar."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForTokenClassification, LongformerConfig, LongformerForTokenClassification

from evaluation_concept.long_context.tasks import EXTRACTIVE, SELECTION, Example, Task
from tests.training.tiny_glue import tiny_bert, write_checkpoint
from tests.training.tiny_trainer import VOCABULARY, tiny_tokenizer
from training_concept.finetuning.arguments import ClassifierArguments, ExperimentArguments, FineTuningArguments
from training_concept.finetuning.cell import Cell
from training_concept.long_context.forms import PositionExamples, document_task, make_rows
from training_concept.long_context.positions import PositionCollator, PositionTrainer, tokenize_positions
from training_concept.long_context.tuner import PositionTuner

DIVERGED = "the model diverged"


def task_of(kind: str) -> Task:
    return Task("t", "f", kind, "accuracy", lambda sources: {})


def rows_of(kind: str, query: str = "a letter") -> PositionExamples:
    """Documents of which the first has a candidate that is cut off, and the second fewer."""
    candidates = [(0, 2, 390), (2,)]
    examples = [
        Example(
            str(number), "a little text to learn from " * (14 - 13 * number), query, candidates=places, selected=(0,)
        )
        if kind == SELECTION
        else Example(str(number), "a little text", query, spans=((2, 8),))
        for number, places in enumerate(candidates)
    ]
    rows = make_rows(task_of(kind), (), examples)
    assert isinstance(rows, PositionExamples)
    return rows


def tuner_of(folder: Path, kind: str) -> PositionTuner:
    model_args = ClassifierArguments(model_name_or_path=str(write_checkpoint(folder / "model", tiny_bert())))
    args = FineTuningArguments(
        output_dir=str(folder / "out"), use_cpu=True, max_steps=1, save_strategy="no", report_to=[], disable_tqdm=True
    )
    options = ExperimentArguments(max_seq_length=64)
    return PositionTuner(task_of(kind), model_args, options, args, tiny_tokenizer())


def is_said_to_have_diverged(tuner: PositionTuner, folder: Path, kind: str, caplog: pytest.LogCaptureFixture) -> bool:
    rows = rows_of(kind)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        result = tuner.run(document_task(task_of(kind), ()), Cell(folder / "cell", rows, {"scored": rows}, seed=1))
    if kind == SELECTION:
        assert np.isinf(result.logits["scored"]).sum() == 3
    return DIVERGED in caplog.text


@pytest.mark.parametrize("kind", [SELECTION, EXTRACTIVE])
def test_candidates_that_are_cut_off_are_no_divergence(tmp_path, caplog, kind):
    assert not is_said_to_have_diverged(tuner_of(tmp_path, kind), tmp_path, kind, caplog)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [SELECTION, EXTRACTIVE])
def test_what_is_no_number_is_a_divergence(tmp_path, caplog, monkeypatch, kind, value):
    whole = PositionTrainer.predict

    def broken(self: PositionTrainer, *args: object, **kwargs: object) -> object:
        output = whole(self, *args, **kwargs)
        # The first candidate of the second document, or the first token of its answer.
        output.predictions[1, 0] = value
        return output

    monkeypatch.setattr(PositionTrainer, "predict", broken)
    tuner, rows = tuner_of(tmp_path, kind), rows_of(kind)
    with caplog.at_level(logging.WARNING):
        tuner.run(document_task(task_of(kind), ()), Cell(tmp_path / "cell", rows, {"scored": rows}, seed=1))
    assert DIVERGED in caplog.text


def tiny_longformer() -> LongformerForTokenClassification:
    """Each token sees four on both sides in its one layer."""
    widths = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    places = {"attention_window": [8], "max_position_embeddings": 128, "pad_token_id": 0, "sep_token_id": 3}
    torch.manual_seed(0)
    return LongformerForTokenClassification(LongformerConfig(vocab_size=VOCABULARY, **widths, **places)).eval()


def batch_for(model: torch.nn.Module | None, query: str, length: int | None = None) -> dict[str, torch.Tensor]:
    tokenizer = tiny_tokenizer()
    rows = tokenize_positions(task_of(SELECTION), rows_of(SELECTION, query), tokenizer, 64)
    return PositionCollator(tokenizer, length, model)(list(rows))


@pytest.mark.parametrize("length", [None, 96])
def test_a_model_with_global_attention_has_it_on_the_query(length):
    tokenizer = tiny_tokenizer()
    batch = batch_for(tiny_longformer(), "a letter", length)
    mask = batch["global_attention_mask"]
    assert mask.shape == batch["input_ids"].shape == (2, length or 64)
    end = 1 + len(tokenizer("a letter", add_special_tokens=False)["input_ids"])
    assert mask.tolist() == [[1] * end + [0] * (mask.shape[1] - end)] * 2
    assert batch["input_ids"][:, end].tolist() == [tokenizer.sep_token_id] * 2
    alone = batch_for(tiny_longformer(), "")
    assert alone["global_attention_mask"].tolist() == [[1] + [0] * (alone["input_ids"].shape[1] - 1)] * 2


def test_other_models_get_no_mask_of_it():
    names = {"input_ids", "token_type_ids", "attention_mask", "positions", "targets"}
    assert set(batch_for(BertForTokenClassification(tiny_bert().config), "a letter")) == names
    assert set(batch_for(None, "a letter")) == names


def test_a_token_far_from_the_query_sees_it():
    model = tiny_longformer()
    last = []
    for query in ("a letter", "to learn"):
        batch = batch_for(model, query)
        inputs = {name: values[:1, :] for name, values in batch.items() if name not in ("positions", "targets")}
        inputs.pop("token_type_ids")
        with torch.no_grad():
            last.append(model(**inputs)["logits"][0, -8])
    assert not torch.allclose(*last, atol=1e-6)
