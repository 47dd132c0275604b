# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""A study as a YAML file lists it: runs of a script for all models and tasks of a group, by their settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

SCRIPTS = ("run_glue", "run_long_context", "run_mlm", "benchmarks.studies.pretraining")
# Stand for folders that every machine has elsewhere: where pretrained models are, tasks, and what cells leave.
MODELS, TASKS, CELLS = "MODELS", "TASKS", "CELLS"
PLACES = (MODELS, TASKS, CELLS)
KEYS = {"script", "arguments", "models", "groups"}
GROUP_KEYS = {"script", "arguments", "models", "tasks", "variants", "seeds", "weights"}
# Stands in arguments for what a group lists as `weights`.
WEIGHT = "WEIGHT"


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
        seed: of the run, where the study has a cell for each.
        weight: that stands for `WEIGHT` in its arguments.
        chosen_in: group whose records say which weight that is to be, until it is known.
        calibration: what its number of steps was derived from.
    """

    group: str
    model: str
    variant: str
    task: str
    script: str
    arguments: Mapping[str, Any]
    seed: int | None = None
    weight: float | None = None
    chosen_in: str = ""
    calibration: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Unique in the study, and a name for a folder."""
        weight = "" if self.weight is None or self.chosen_in else f"{self.weight:g}"
        seed = "" if self.seed is None else f"seed_{self.seed}"
        return "-".join(filter(None, (self.group, self.model, self.variant, weight, self.task, seed)))

    @property
    def command(self) -> str:
        """As it is typed in the root of the repository, the places put in."""
        script = f"-m {self.script}" if "." in self.script else f"{self.script}.py"
        return f"python {script} {' '.join(as_flags(self.arguments))}"

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
    """Settings as a command line; one that is a mapping is written `key=value,key=value`."""
    flags = []
    for name, value in arguments.items():
        if isinstance(value, dict):
            value = ",".join(f"{key}={item}" for key, item in value.items())
        flags += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}", str(value)]
    return flags


def resolve(value: Any, places: Mapping[str, Path]) -> Any:
    """A value that begins with the name of a place as a path on this machine, any other as it is."""
    first, slash, rest = value.partition("/") if isinstance(value, str) else ("", "", "")
    return str(places[first] / rest if slash else places[first]) if first in places else value


def read_study(path: Path, only: Sequence[str] = ()) -> list[Cell]:
    """
    The cells of a study in their order: seed by seed, if a cell has one, task by task, all variants, all models.

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
    _check_choices(path, study)
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
    for seed in group.get("seeds") or [None]:
        for task, own in (group.get("tasks") or {"": {}}).items():
            for variant, changes in (group.get("variants") or {"": {}}).items():
                for model in group["models"]:
                    asked = {"task_name": [task]} if task else {}
                    seeded = {} if seed is None else {"seed": seed}
                    arguments = _merge(shared, known[model], asked, group.get("arguments"), own, changes, seeded)
                    cell = Cell(name, model, variant, task, script, arguments, seed)
                    yield from _weigh(path, cell, group.get("weights"))


def _merge(*parts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Later settings replace earlier ones, mappings key by key; one that is nothing is left out."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in (part or {}).items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merged[key] | value if both else value
    return {key: value for key, value in merged.items() if value is not None}


def _weigh(path: Path, cell: Cell, weights: list[float] | str | None) -> Iterator[Cell]:
    """The cell, if it has a place for a weight, with each of `weights`, or with one that is yet to be chosen."""
    if not any(WEIGHT in value for value in cell.arguments.values() if isinstance(value, str)):
        yield cell
    elif isinstance(weights, str):
        yield replace(cell, chosen_in=weights)
    elif weights:
        yield from (with_weight(cell, weight) for weight in weights)
    else:
        raise ValueError(f"{path}, {cell.group}: {cell.variant} has a {WEIGHT}, and the group no weights")


def with_weight(cell: Cell, weight: float) -> Cell:
    """The cell with a number where its arguments have `WEIGHT`."""
    arguments = {
        key: value.replace(WEIGHT, f"{weight:g}") if isinstance(value, str) else value
        for key, value in cell.arguments.items()
    }
    return replace(cell, arguments=arguments, weight=weight)


def _check_choices(path: Path, study: Mapping[str, Any]) -> None:
    for name, group in study["groups"].items():
        weights = group.get("weights")
        if isinstance(weights, str) and weights not in study["groups"]:
            raise ValueError(f"{path}, {name}: weights are those of {weights!r}, which is no group")


def _check_keys(path: Path, content: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(content) - known):
        raise ValueError(f"{path} has a key {unknown[0]!r}; known: {', '.join(sorted(known))}")
