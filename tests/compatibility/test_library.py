# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Pipelines and the stock Trainer, with nothing of ours but the models."""

import pytest
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.utils.generic import find_labels

import modeling_concept
from configuration_concept import AUTO_MAP
from modeling_concept import (
    ConceptEncoder,
    ConceptEncoderForMaskedLM,
    ConceptEncoderForQuestionAnswering,
    ConceptEncoderForSequenceClassificationViaDecoder,
    ConceptEncoderForTokenClassification,
    register_auto_classes,
)
from tests.evaluation.checkpoints import SPECIAL_TOKENS, small_tokenizer, write_texts
from tests.modeling.tiny import tiny_config, tiny_model

TEXTS = [text[:80] for text in write_texts(6)]


@pytest.fixture(scope="module")
def tokenizer():
    register_auto_classes()
    return small_tokenizer()


def settings(tokenizer):
    return {name: getattr(tokenizer, name) for name in SPECIAL_TOKENS} | {"vocab_size": len(tokenizer)}


def build(model_class, tokenizer, **overrides):
    return tiny_model(model_class, dtype=torch.float32, **settings(tokenizer), **overrides)


def build_fresh(model_class, tokenizer, **overrides):
    return model_class(tiny_config(**settings(tokenizer), **overrides))


@torch.no_grad()
def test_text_classification_gives_the_model_s_scores_in_any_batch(tokenizer):
    model = build(ConceptEncoderForSequenceClassificationViaDecoder, tokenizer, num_labels=3)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    alone, batched = ([classify(TEXTS, top_k=None, batch_size=size) for size in (1, 4)][i] for i in (0, 1))
    for text, one, other in zip(TEXTS, alone, batched, strict=True):
        scores = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        expected = {model.config.id2label[i]: pytest.approx(float(score), abs=1e-5) for i, score in enumerate(scores)}
        assert {answer["label"]: answer["score"] for answer in one} == expected
        assert {answer["label"]: answer["score"] for answer in other} == expected


@torch.no_grad()
def test_fill_mask_gives_the_model_s_guesses(tokenizer):
    model = build(ConceptEncoderForMaskedLM, tokenizer)
    text = f"The river keeps its {tokenizer.mask_token} name."
    inputs = tokenizer(text, return_tensors="pt")
    place = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
    expected = model(**inputs).logits[0, place].softmax(-1).topk(4)
    guesses = pipeline("fill-mask", model=model, tokenizer=tokenizer)(text, top_k=4)
    assert [guess["token"] for guess in guesses] == expected.indices.tolist()
    assert [guess["score"] for guess in guesses] == pytest.approx(expected.values.tolist(), abs=1e-5)


@torch.no_grad()
def test_feature_extraction_gives_the_concepts(tokenizer):
    model = build(ConceptEncoder, tokenizer)
    extract = pipeline("feature-extraction", model=model, tokenizer=tokenizer)
    for text, features in zip(TEXTS, extract(TEXTS, return_tensors=True), strict=True):
        expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_token_classification_labels_words_of_the_text(tokenizer):
    model = build(ConceptEncoderForTokenClassification, tokenizer, num_labels=3)
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
    for text, groups in zip(TEXTS, tag(TEXTS, batch_size=3), strict=True):
        assert groups
        assert all(0 <= group["start"] < group["end"] <= len(text) for group in groups)


def test_question_answering_finds_a_span(tokenizer):
    model = build(ConceptEncoderForQuestionAnswering, tokenizer)
    inputs = tokenizer("Where is the mill?", TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    assert outputs.start_logits.shape == outputs.end_logits.shape == inputs["input_ids"].shape


@pytest.mark.parametrize("target", [name for name in AUTO_MAP.values() if ".ConceptEncoderFor" in name])
def test_the_trainer_finds_the_labels_and_nothing_else(target):
    """Every parameter with "label" in its name is one to it, and without all of them there is no `eval_loss`."""
    model_class = getattr(modeling_concept, target.rpartition(".")[2])
    expected = {"labels"} if "QuestionAnswering" not in target else {"start_positions", "end_positions"}
    assert set(find_labels(model_class)) == (set() if "TextEncoding" in target else expected)


def arguments(folder, **changes):
    settings = {
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 6,
        "save_steps": 6,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(folder, **settings | changes)


def accuracy(results):
    asked = results.label_ids != -100
    return {"accuracy": (results.predictions.argmax(-1) == results.label_ids)[asked].mean()}


def test_the_stock_trainer_and_collator_pretrain(tokenizer, tmp_path):
    rows = [tokenizer(text, truncation=True, max_length=48) for text in write_texts(24)]
    trainer = Trainer(
        build_fresh(ConceptEncoderForMaskedLM, tokenizer),
        arguments(tmp_path, load_best_model_at_end=True, gradient_accumulation_steps=2),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3, seed=0),
        train_dataset=rows,
        eval_dataset=rows[:8],
        compute_metrics=accuracy,
        processing_class=tokenizer,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_accuracy"] > before["eval_accuracy"]
    assert trainer.state.best_model_checkpoint is not None


def test_the_stock_trainer_fine_tunes_and_predicts(tokenizer, tmp_path):
    texts = [f"{word} {text}" for text in TEXTS for word in ("river river river", "mill mill mill")]
    rows = [tokenizer(text) | {"label": index % 2} for index, text in enumerate(texts)]
    trainer = Trainer(
        build_fresh(ConceptEncoderForSequenceClassificationViaDecoder, tokenizer, num_labels=2),
        arguments(tmp_path, max_steps=40, eval_steps=40),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda results: {"accuracy": (results.predictions.argmax(-1) == results.label_ids).mean()},
        processing_class=tokenizer,
    )
    trainer.train()
    predicted = trainer.predict(rows)
    assert predicted.predictions.shape == (len(rows), 2)
    assert predicted.metrics["test_accuracy"] > 0.7
