# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Commands in documents have the flags that they are given, and name recipes, targets and files that exist."""

import argparse
import re
import runpy
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec

import pytest
from accelerate.commands.launch import launch_command_parser

from tests.docs.markdown import ROOT, anchors, commands, documents, links, name_of

DOCUMENTS = {name_of(path): path for path in documents()}
# These tell what was: a flag or file may be gone since.
HISTORIES = {"CHANGELOG.md", "docs/log.md"}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
LAUNCH = set(launch_command_parser()._option_string_actions)


class ParserFound(Exception):
    """Ends a program when it has been asked for help."""


@cache
def flags_of(program: str, *subcommand: str) -> frozenset[str]:
    """Options of `run_x.py` or of a module, and of its subcommand if it has such."""
    found: list[argparse.ArgumentParser] = []

    def print_help(parser, file=None):
        found.append(parser)
        raise ParserFound

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "print_help", print_help)
        patch.setattr(sys, "argv", [program, *subcommand, "--help"])
        with suppress(ParserFound):
            if program.endswith(".py"):
                runpy.run_path(str(ROOT / program), run_name="__main__")
            else:
                runpy.run_module(program, run_name="__main__", alter_sys=False)
    return frozenset(found[-1]._option_string_actions)


def split(words: list[str]) -> tuple[list[str], str | None, list[str]]:
    """What a command tells `accelerate launch`, the program in Python that it runs, if any, and what it tells that."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    words = words[1:] if words[:1] in (["python"], ["python3"]) else words
    launched = words[:2] == ["accelerate", "launch"]
    for place, word in enumerate(words[2:] if launched else words[:2], start=2 if launched else 0):
        if re.fullmatch(r"run_\w+\.py", word):
            return words[2:place], word, words[place + 1 :]
        if word == "-m":
            return words[2:place] if launched else [], words[place + 1], words[place + 2 :]
    return [], None, []


def names(words: list[str]) -> set[str]:
    """Names of the flags among `words`."""
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def ours() -> list[tuple[str, list[str]]]:
    """Commands of all documents that run a program of this repository."""
    found = []
    for name, path in DOCUMENTS.items():
        if name not in HISTORIES:
            found += [(name, words) for words in commands(path) if is_ours(split(words)[1])]
    return found


def is_ours(program: str | None) -> bool:
    return program is not None and (
        program.endswith(".py")
        or program.partition(".")[0] in ("training_concept", "evaluation_concept", "benchmarks")
    )


@pytest.mark.parametrize(("name", "words"), ours(), ids=lambda value: value if isinstance(value, str) else None)
def test_a_command_has_its_flags(name, words):
    launch, program, rest = split(words)
    assert names(launch) <= LAUNCH
    if not names(rest):  # not every program takes any
        return
    first = [word for word in rest[:1] if re.fullmatch(r"[a-z_]+", word)]
    known = flags_of(program) if program.endswith(".py") else flags_of(program) | flags_of(program, *first)
    assert names(rest) <= known, f"{name}: {program} has no {names(rest) - known}"


def test_programs_of_commands_exist():
    programs = {split(words)[1] for _, words in ours()}
    assert [name for name in programs if name.endswith(".py") and not (ROOT / name).is_file()] == []
    assert [name for name in programs if not name.endswith(".py") and not find_spec(name)] == []


def test_there_are_commands():
    assert len(ours()) > 40


def test_a_flag_that_is_not_there_is_found():
    assert "--learning_rate" in flags_of("run_mlm.py")
    assert "--learning_speed" not in flags_of("run_mlm.py")
    assert "--top_k" in flags_of("evaluation_concept.search", "query")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_recipes_and_targets_of_commands_exist(name):
    for words in commands(DOCUMENTS[name]):
        recipes = [word for word in words if re.fullmatch(r"recipes/[\w/.-]+\.(yaml|json)", word)]
        assert [recipe for recipe in recipes if not (ROOT / recipe).is_file()] == []
        if words[0] == "make":
            assert [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word) and word not in TARGETS] == []


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in HISTORIES])
def test_links_lead_somewhere(name):
    for target in links(DOCUMENTS[name]):
        file, _, anchor = target.partition("#")
        path = (DOCUMENTS[name].parent / file).resolve() if file else DOCUMENTS[name]
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target
