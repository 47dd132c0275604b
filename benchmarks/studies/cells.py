# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A study as a YAML file lists it: runs of a script for all models and tasks of a group, by their settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SCRIPTS = ("run_glue", "run_long_context", "run_mlm")
# Stand for folders that every machine has elsewhere: where pretrained models are, tasks, and what cells leave.
MODELS, TASKS, CELLS = "MODELS", "TASKS", "CELLS"
PLACES = (MODELS, TASKS, CELLS)
KEYS = {"script", "arguments", "models", "groups"}
GROUP_KEYS = {"script", "arguments", "models", "tasks", "variants"}


@dataclass(frozen=True)
class Cell:
    """
    One run of a script.

    Attributes:
        group: part of the study that it belongs to.
        model: nickname of what is trained.
        variant: of the group's settings; "" if it has none.
        task: name; "" for a run that has none.
        script: one of `SCRIPTS`.
        arguments: of the script, places by their names.
    """

    group: str
    model: str
    variant: str
    task: str
    script: str
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Unique in the study, and a name for a folder."""
        return "-".join(filter(None, (self.group, self.model, self.variant, self.task)))

    @property
    def command(self) -> str:
        """As it is typed in the root of the repository, the places put in."""
        return f"python {self.script}.py {' '.join(as_flags(self.arguments))}"

    @property
    def needs(self) -> set[str]:
        """Names of the cells whose folders it reads."""
        return {name for name in self._in(CELLS) if name != self.name}

    @property
    def needs_models(self) -> set[str]:
        """Names of the models that it reads."""
        return self._in(MODELS)

    def flags(self, places: Mapping[str, Path]) -> list[str]:
        """The command line of the script on a machine where the places are these."""
        output = {"output_dir": str(places[CELLS] / self.name)}
        return as_flags({name: resolve(value, places) for name, value in self.arguments.items()} | output)

    def _in(self, place: str) -> set[str]:
        values = [value for value in self.arguments.values() if isinstance(value, str)]
        parts = [value.split("/") for value in values]
        return {rest[0] for first, *rest in parts if first == place and rest}


def as_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Settings as a command line."""
    flags = []
    for name, value in arguments.items():
        flags += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}", str(value)]
    return flags


def resolve(value: Any, places: Mapping[str, Path]) -> Any:
    """A value that begins with the name of a place as a path on this machine, any other as it is."""
    first, slash, rest = value.partition("/") if isinstance(value, str) else ("", "", "")
    return str(places[first] / rest if slash else places[first]) if first in places else value


def read_study(path: Path, only: Sequence[str] = ()) -> list[Cell]:
    """
    The cells of a study in their order: task by task, in it all variants, in these all models.

    Args:
        path: of the YAML file.
        only: names of groups; all by default.

    Raises:
        OSError: no such file.
        ValueError: keys, scripts, models or groups that there are not, or cells of the same name.
    """
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(study, dict) or not isinstance(study.get("groups"), dict):
        raise ValueError(f"{path} has no groups of runs")
    _check_keys(path, study, KEYS)
    if unknown := [name for name in only if name not in study["groups"]]:
        raise ValueError(f"{path} has no group {unknown[0]!r}; it has: {', '.join(study['groups'])}")
    names = only or list(study["groups"])
    cells = [cell for name in names for cell in _read_group(path, study, name)]
    if len({cell.name for cell in cells}) < len(cells):
        raise ValueError(f"{path} lists some cells twice")
    return cells


def _read_group(path: Path, study: Mapping[str, Any], name: str) -> Iterator[Cell]:
    group = study["groups"][name]
    _check_keys(path, group, GROUP_KEYS)
    script = group.get("script", study.get("script"))
    if script not in SCRIPTS:
        raise ValueError(f"{path}, {name}: the script is {script!r}, not one of {', '.join(SCRIPTS)}")
    known = study.get("models", {})
    if unknown := [model for model in group["models"] if model not in known]:
        raise ValueError(f"{path}, {name}: there is no model {unknown[0]!r}; there are: {', '.join(known)}")
    shared = study.get("arguments", {}) if script == study.get("script") else {}
    for task, own in (group.get("tasks") or {"": {}}).items():
        for variant, changes in (group.get("variants") or {"": {}}).items():
            for model in group["models"]:
                asked = {"task_name": [task]} if task else {}
                parts = (shared, known[model], asked, group.get("arguments"), own, changes)
                arguments = {key: value for part in parts for key, value in (part or {}).items()}
                yield Cell(name, model, variant, task, script, arguments)


def _check_keys(path: Path, content: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(content) - known):
        raise ValueError(f"{path} has a key {unknown[0]!r}; known: {', '.join(sorted(known))}")
