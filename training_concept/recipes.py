# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Which texts a run reads: a recipe of one or several sources and their weights, from a YAML file or from flags."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

PACKAGE_PREFIX = "package:"
ROLES = ("train", "validation", "test")
DEFAULT_HOLD_OUT = 5.0


@dataclass(frozen=True)
class Source:
    """One source of texts.

    Attributes:
        label: what reports, metrics and errors call it.
        path: a dataset on the Hub, a folder, a file (txt, json, jsonl, csv, parquet) or `package:NAME`; `None` where
            `data_files` name files of this machine.
        name: configuration of the dataset.
        revision: branch, tag or commit on the Hub.
        data_files: which files to read, a path, a list of paths, or these by split.
        text_column: column that holds the text. Defaults to "text", else to the first column.
        splits: by role (train, validation, test) the split that plays it. A role that is not in here is played by the
            split of that name, if there is one.
        weight: share of the training rows, relative to the other sources' weights.
        license: a note for people.
    """

    label: str
    path: str | None = None
    name: str | None = None
    revision: str | None = None
    data_files: str | list[str] | dict[str, Any] | None = None
    text_column: str | None = None
    splits: Mapping[str, str] | None = None
    weight: float | None = None
    license: str | None = None

    def split_of(self, role: str) -> str:
        """The split that plays `role` (train, validation or test)."""
        return (self.splits or {}).get(role, role)

    def demands(self, role: str) -> bool:
        """Whether it is an error if no split plays `role`."""
        return role in (self.splits or {})


@dataclass(frozen=True)
class DataRecipe:
    """Sources of texts and how they are read.

    Attributes:
        sources: at least one; all have a weight or none has (then each counts by its size).
        streaming: read while training, rather than tokenising all of it before.
        validation_split_percentage: percentage of the training documents that are held out of a source without a
            validation split.
    """

    sources: tuple[Source, ...]
    streaming: bool = False
    validation_split_percentage: float = DEFAULT_HOLD_OUT

    @property
    def weights(self) -> dict[str, float] | None:
        """Weight by source, `None` if sources count by their size."""
        if any(source.weight is None for source in self.sources):
            return None
        return {source.label: float(source.weight or 0) for source in self.sources}

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return asdict(self)


class RecipeArguments(Protocol):
    """The fields of the training script's data arguments that make a recipe."""

    data_recipe: str | None
    dataset_name: str | None
    dataset_config_name: str | None
    train_file: str | None
    validation_file: str | None
    text_column_name: str | None
    validation_split: str
    validation_split_percentage: float
    streaming: bool


def read_recipe(path: str | Path) -> DataRecipe:
    """Read the recipe in the YAML file `path`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a recipe: naming file, source and key.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    settings = _known_keys(content, DataRecipe, str(path))
    sources = settings.pop("sources", None)
    if not isinstance(sources, dict) or not sources:
        raise ValueError(f"{path} names no sources: it needs a mapping `sources` of names to settings")
    recipe = DataRecipe(tuple(_read_source(label, sources[label], path) for label in sources), **settings)
    _check_recipe(recipe, str(path))
    return recipe


def recipe_from_arguments(data_args: RecipeArguments) -> DataRecipe:
    """The recipe that `--data_recipe` names, or one of the single source that the other flags describe.

    With a recipe, `--streaming` turns streaming on, and `--validation_split` names the role (validation, test) or
    split to evaluate on.

    Raises:
        FileNotFoundError, ValueError: as `read_recipe`, or flags that exclude each other.
    """
    flags = {name: getattr(data_args, name) for name in ("dataset_name", "train_file", "validation_file")}
    given = [name for name, value in flags.items() if value]
    if data_args.data_recipe:
        if given:
            raise ValueError(f"--data_recipe and --{given[0]} exclude each other.")
        recipe = read_recipe(data_args.data_recipe)
        sources = tuple(_evaluated_on(source, data_args.validation_split) for source in recipe.sources)
        recipe = replace(recipe, sources=sources, streaming=recipe.streaming or data_args.streaming)
        _check_streaming(recipe, data_args.data_recipe)
        return recipe
    if not given or (data_args.dataset_name and len(given) > 1):
        raise ValueError("give either dataset_name or train_file and validation_file as the source of texts")
    return DataRecipe(
        (_source_from_flags(data_args),),
        streaming=data_args.streaming,
        validation_split_percentage=data_args.validation_split_percentage,
    )


def _source_from_flags(data_args: RecipeArguments) -> Source:
    named = {"train": data_args.train_file, "validation": data_args.validation_file}
    files = {role: path for role, path in named.items() if path}
    name = data_args.dataset_name or next(iter(files.values()))
    label = Path(name.removeprefix(PACKAGE_PREFIX)).stem if files else Path(name.removeprefix(PACKAGE_PREFIX)).name
    # The default is taken if it is there, another split has to be.
    chosen = data_args.validation_split if data_args.dataset_name else "validation"
    return Source(
        label=re.sub(r"[^\w.-]", "_", label) or "text",
        path=data_args.dataset_name,
        name=data_args.dataset_config_name,
        data_files=files or None,
        text_column=data_args.text_column_name,
        splits=None if chosen == "validation" else {"validation": chosen},
    )


def _evaluated_on(source: Source, wanted: str) -> Source:
    if wanted == "validation":
        return source
    return replace(source, splits={**(source.splits or {}), "validation": source.split_of(wanted)})


def _read_source(label: Any, content: Any, path: str | Path) -> Source:
    where = f"{path}, source {label!r}"
    if not isinstance(label, str) or not re.fullmatch(r"[\w.-]+", label):
        raise ValueError(f"{where}: a source's name is made of letters, digits, '_', '-' and '.'")
    settings = _known_keys(content, Source, where, without="label")
    if not settings.get("path") and not settings.get("data_files"):
        raise ValueError(f"{where} sets no path")
    if unknown := sorted(set(settings.get("splits") or {}) - set(ROLES)):
        raise ValueError(f"{where}, splits: {unknown[0]!r} is not one of {', '.join(ROLES)}")
    weight = settings.get("weight")
    if weight is not None and not weight > 0:
        raise ValueError(f"{where}: weight must be more than 0, got {weight}")
    return Source(label=label, **settings)


# What YAML may hold under a key; a number is no truth value, although Python counts one as the other.
_KINDS: dict[str, tuple[type, ...]] = {
    "sources": (dict,),
    "streaming": (bool,),
    "validation_split_percentage": (int, float),
    "weight": (int, float),
    "data_files": (str, list, dict),
    "splits": (dict,),
}


def _known_keys(content: Any, kind: type, where: str, without: str = "") -> dict[str, Any]:
    """`content` if it is a mapping of fields of the dataclass `kind` to values that they can have."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} is not a mapping of settings to values")
    known = {item.name for item in fields(kind)} - {without}
    if unknown := sorted(map(str, content.keys() - known)):
        raise ValueError(f"{where} sets what does not exist: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    for key, value in content.items():
        kinds = _KINDS.get(key, (str,))
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) != (kinds == (bool,))):
            wanted = " or ".join(item.__name__ for item in kinds)
            raise ValueError(f"{where}: {key} is {value!r}, which is not of the kind {wanted}")
    return {key: value for key, value in content.items() if value is not None}


def _check_recipe(recipe: DataRecipe, where: str) -> None:
    missing = [source.label for source in recipe.sources if source.weight is None]
    if missing and len(missing) < len(recipe.sources):
        raise ValueError(f"{where}: all sources have a weight or none has; there is none for {', '.join(missing)}")
    if not 0 < recipe.validation_split_percentage < 100:
        raise ValueError(
            f"{where}: validation_split_percentage must lie between 0 and 100 (both excluded), got "
            f"{recipe.validation_split_percentage}"
        )
    _check_streaming(recipe, where)


def _check_streaming(recipe: DataRecipe, where: str) -> None:
    if recipe.streaming and recipe.weights is None and len(recipe.sources) > 1:
        raise ValueError(f"{where}: sources that are streamed need weights, since their sizes are not known")
