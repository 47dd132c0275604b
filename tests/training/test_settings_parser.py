# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`--help` can be read, and a flag that does not exist is told which one may have been meant."""

import re
from dataclasses import dataclass, field, fields

import pytest
from transformers import TrainingArguments

import run_analysis
import run_glue
import run_long_context
import run_mlm
from training_concept import inspect_data, retrieval
from training_concept.arguments import ConceptTrainingArguments, DataArguments, ModelArguments, parse_dataclasses
from training_concept.settings_parser import STOCK_TITLE, SettingsParser

SCRIPTS = (run_mlm, run_glue, run_long_context, run_analysis, retrieval, inspect_data)


@dataclass
class Soup:
    """What to cook. The second sentence is no title."""

    salt: float = field(default=0.5, metadata={"help": "Grams, 5 %% at most."})
    bowls: list[int] | None = field(default=None, metadata={"help": "Bowls."})
    hot: bool = field(default=True, metadata={"help": "Whether it is hot."})
    spoon_size: str | None = field(default=None, metadata={"help": "Size."})


def help_of(script, capsys) -> str:
    with pytest.raises(SystemExit, match="0"):
        script.main(["--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_begins_with_a_short_usage_and_says_what_the_script_does(script, capsys):
    usage, purpose, *_ = help_of(script, capsys).split("\n\n")
    assert len(usage.splitlines()) == 1
    assert purpose.endswith((".", "control."))


def test_help_has_a_section_for_each_part_and_stock_settings_come_last(capsys):
    text = help_of(run_mlm, capsys)
    titles = re.findall(r"^(\S.+):$", text, re.M)
    assert len(titles) == len({*titles}) == 5
    assert titles[0] == "options"
    assert titles[-1] == STOCK_TITLE
    ours, stock = text.split(STOCK_TITLE)
    for kind in (ModelArguments, DataArguments):
        assert all(f"\n  --{item.name}" in ours for item in fields(kind))
    assert "\n  --muon" in ours
    assert "\n  --learning_rate" in stock


def test_every_setting_is_listed_once_in_one_spelling(capsys):
    text = help_of(run_mlm, capsys)
    listed = re.findall(r"^  (--\S+)", text, re.M)
    names = {item.name for kind in (ModelArguments, DataArguments, ConceptTrainingArguments) for item in fields(kind)}
    names |= {item.name for item in fields(TrainingArguments)}
    assert sorted(listed) == sorted(f"--{item}" for item in names if f"--{item}" in listed)
    assert len(listed) == len(set(listed)) > 150
    assert not [name for name in listed if "-" in name[2:] or name.startswith("--no_")]


def test_help_shows_the_kind_of_values_and_defaults_that_say_something():
    text = SettingsParser([Soup], "Cook.").format_help()
    assert "What to cook:" in text
    assert re.search(r"--salt X +Grams, 5 % at most. \(default: 0.5\)", text)
    assert re.search(r"--bowls N \[N \.\.\.\] +Bowls.$", text, re.M)
    assert re.search(r"--hot False +Whether it is hot. \(default: True\)", text)
    assert re.search(r"--spoon_size SIZE +Size.$", text, re.M)
    assert "None" not in text


def test_what_help_leaves_out_can_still_be_said():
    assert parse_dataclasses(["--no_hot", "--spoon-size", "big"], Soup) == (Soup(hot=False, spoon_size="big"),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--salty", "3"], r"no --salty \(did you mean --salt\?\)"),
        (["--salty=3"], r"no --salty \(did you mean --salt\?\)"),
        (["--xyzzy"], "There is no --xyzzy; --help lists all"),
        (["--salt", "1", "soup.yaml"], "'soup.yaml' belongs to no setting. A file of settings comes first"),
        (["soup"], "'soup' belongs to no setting.$"),
    ],
)
def test_what_is_no_setting_is_named(words, message):
    with pytest.raises(ValueError, match=message):
        parse_dataclasses(words, Soup)


def test_a_mistyped_flag_is_named_before_others_are_missed():
    with pytest.raises(ValueError, match="did you mean --learning_rate"):
        run_mlm.main(["--learning_rates", "1"])


def test_a_field_of_the_model_is_told_its_flag():
    with pytest.raises(ValueError, match=r"is set by --config_overrides concept_ratio=VALUE"):
        run_mlm.main(["--concept_ratio", "8"])
    with pytest.raises(ValueError, match="There is no --concept_ratio; --help"):
        parse_dataclasses(["--concept_ratio", "8"], Soup)


def test_a_mistyped_key_of_a_file_is_told_which_was_meant(tmp_path):
    (tmp_path / "soup.yaml").write_text("spoon_sise: big\n")
    with pytest.raises(ValueError, match=r"does not exist: spoon_sise \(did you mean --spoon_size\?\)"):
        parse_dataclasses([str(tmp_path / "soup.yaml")], Soup)
