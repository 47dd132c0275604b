# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line of scripts whose settings are dataclasses: what `--help` shows, how mistyped flags are met."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from enum import Enum
from inspect import cleandoc
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from configuration_concept import ConceptEncoderConfig

# More choices than this are named behind the explanation instead of in the place of the value.
MOST_CHOICES = 6
STOCK_TITLE = "Settings of transformers' Trainer"
OVERRIDES = "--config_overrides"
SETTINGS_SUFFIXES = (".yaml", ".yml", ".json")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """One spelling of each flag, the kind of its value, and its default if that says something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.dest == "help" or not action.option_strings:
            return super()._format_action_invocation(action)
        value = _value(action)
        return f"{action.option_strings[0]} {value}" if value else action.option_strings[0]

    def _get_help_string(self, action: argparse.Action) -> str:
        parts = [action.help or ""]
        if action.choices and len(list(action.choices)) > MOST_CHOICES:
            parts.append(f"One of {', '.join(map(str, action.choices))}.")
        default = action.default.value if isinstance(action.default, Enum) else action.default
        if default not in (None, False, "", argparse.SUPPRESS) and action.option_strings:
            parts.append(f"(default: {default})".replace("%", "%%"))
        return " ".join(parts)


def _value(action: argparse.Action) -> str:
    """What stands behind a flag: nothing where the flag alone turns something on."""
    if action.nargs == 0 or (action.nargs == "?" and not action.default):
        return ""
    if action.nargs == "?":
        return str(not action.default)
    choices = [str(choice) for choice in action.choices or ()]
    kind = getattr(action.type, "__name__", "")
    kind = {"int": "N", "float": "X", "string_to_bool": "True|False"}.get(kind, action.dest.split("_")[-1].upper())
    kind = "|".join(choices) if 0 < len(choices) <= MOST_CHOICES else kind
    return f"{kind} [{kind} ...]" if action.nargs == "+" else kind


class SettingsParser(HfArgumentParser):
    """
    Fills dataclasses from a command line.

    `--help` has a section for each dataclass, under the first sentence of its docstring, and those of the settings of
    transformers' Trainer that no dataclass here adds come last.

    Args:
        types: the dataclasses.
        description: text above the settings, such as the docstring of a script.
    """

    def __init__(self, types: Sequence[type], description: str | None = None) -> None:
        super().__init__(
            types,
            prog=_program(),
            usage="%(prog)s [SETTINGS.yaml] [--setting VALUE ...]",
            description=description and cleandoc(description),
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self._arrange(types)

    def error(self, message: str) -> NoReturn:
        # Stock prints the two hundred options first.
        raise ValueError(message)

    def check_known(self, arguments: Sequence[str]) -> None:
        """
        Refuse what is no setting.

        Raises:
            ValueError: naming it, and the setting that it may have been meant for.
        """
        _, unknown = self.parse_known_args(arguments)
        if not unknown:
            return
        flags = [word for word in unknown if word.startswith("--")]
        if flags:
            name = flags[0].partition("=")[0]
            raise ValueError(f"There is no {name}{self.suggestion(name)}; --help lists all settings.")
        place = " A file of settings comes first." if Path(unknown[0]).suffix in SETTINGS_SUFFIXES else ""
        raise ValueError(f"{unknown[0]!r} belongs to no setting.{place}")

    def suggestion(self, name: str) -> str:
        """` (did you mean --learning_rate?)`, where a field of the model is set, or nothing, for the flag `name`."""
        field = name.removeprefix("--").replace("-", "_")
        if field in ConceptEncoderConfig.__annotations__ and OVERRIDES in self._option_string_actions:
            return f" (a field of the model's configuration is set by {OVERRIDES} {field}=VALUE)"
        close = get_close_matches(name, self._option_string_actions, n=1)
        return f" (did you mean {close[0]}?)" if close else ""

    def _arrange(self, types: Sequence[type]) -> None:
        """Sort what `--help` lists into sections."""
        stock = {item.name for item in fields(TrainingArguments)}
        titles: dict[str, str] = {}
        for kind in types:
            for item in fields(kind):
                ours = item.name not in stock or item.name in kind.__annotations__
                titles[item.name] = _title(kind) if ours else STOCK_TITLE
        actions: list[Any] = [action for action in self._optionals._group_actions if action.dest in titles]
        ordered = sorted(dict.fromkeys(titles.values()), key=STOCK_TITLE.__eq__)
        groups = {title: self.add_argument_group(title) for title in ordered}
        for action in actions:
            self._optionals._group_actions.remove(action)
            # `--no_x` says what `--x False` does.
            if not isinstance(action, argparse._StoreFalseAction):
                groups[titles[action.dest]]._group_actions.append(action)


def _title(kind: type) -> str:
    return cleandoc(kind.__doc__ or kind.__name__).split("\n")[0].partition(". ")[0].rstrip(".").replace("`", "")


def _program() -> str:
    """How the running command is called."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
