# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What of a checkpoint's folder travels to the Hub, what stays, and what has to be asked about."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from configuration_concept import AUTO_MAP, ConceptEncoderConfig, export_code
from training_concept.publishing.paths import hide_folders
from training_concept.publishing.patterns import CARD as CARD
from training_concept.publishing.patterns import PICKLES, STAYS, TOKENIZER, TRAVELS, WEIGHTS, matches

DRAFT = ".upload-"
# Access tokens of the Hub, those of others and of yesterday as well.
HUB_TOKEN = re.compile(rb"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}")


@dataclass(frozen=True)
class Contents:
    """
    A folder, sorted by what becomes of its files.

    Attributes:
        travels: files to upload, by their path in the repository.
        stays: names of files and folders that are left behind.
        strays: names of those that are neither.
    """

    travels: dict[str, Path]
    stays: list[str]
    strays: list[str]


def survey(folder: Path, *, include: Sequence[str] = (), leave_out: Sequence[str] = ()) -> Contents:
    """
    Sort the files of a checkpoint. Of folders in it, files travel only if they are included.

    Args:
        folder: with configuration, weights and tokenizer.
        include: patterns of paths that travel as well, such as `onnx/*`.
        leave_out: patterns of paths that stay.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it holds no model, a link that leads nowhere, or a pickle that is to travel.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder.")
    contents = Contents({}, [], [])
    for path in sorted(folder.iterdir()):
        name = path.name + "/" * path.is_dir()
        inside = _inside(path, include) if path.is_dir() else {}
        contents.travels.update(inside)
        if matches(name, (*leave_out, *STAYS)):
            contents.stays.append(name)
        elif path.is_file() and matches(name, (*include, *TRAVELS)):
            contents.travels[name] = path
        elif path.is_symlink() and not path.exists():
            raise ValueError(
                f"{path} is a link to {path.readlink()}, which is not there: copy folders with links by cp -rL."
            )
        elif not inside:
            contents.strays.append(name)
    _check_complete(folder, contents.travels)
    return contents


def is_pickle(name: str) -> bool:
    """Whether a file of this name may run code when it is loaded."""
    return matches(name, PICKLES)


@contextmanager
def staged(files: Mapping[str, Path], beside: Path | None = None) -> Iterator[Path]:
    """
    Lay out files as they are to lie in the repository: with the code that they lack, and no folders of this machine.

    The originals are left alone.

    Args:
        files: by path in the repository.
        beside: folder to do it in, by which what is large is kept as it is even if the originals are removed (hard
            links); by default it lies elsewhere and only points at them.

    Yields:
        A folder with these files and nothing else, removed at the end.

    Raises:
        ValueError: `config.json` is no configuration.
    """
    with TemporaryDirectory(prefix=DRAFT, dir=beside, ignore_cleanup_errors=True) as scratch:
        # Its name is a part of those of the modules that transformers loads from it.
        folder = Path(scratch) / "checkpoint"
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not matches(name, (*WEIGHTS, *PICKLES)) or not _linked(source.resolve(), target, hard=bool(beside)):
                shutil.copyfile(source, target)
        if lacks_code(folder):
            add_code(folder)
        hide_folders(folder)
        yield folder


def files_in(folder: Path) -> dict[str, Path]:
    """All files of a folder and its folders, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def read_config(folder: Path) -> dict[str, Any]:
    """
    What `config.json` holds.

    Raises:
        ValueError: it is no configuration.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config.json cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError("config.json holds no configuration.")
    return config


def lacks_code(folder: Path) -> bool:
    """
    Whether a concept encoder's folder does not hold all the code that its configuration should name.

    Raises:
        ValueError: the configuration is none, or names code in no way that is known.
    """
    config = read_config(folder)
    if config.get("model_type") != ConceptEncoderConfig.model_type:
        return False
    auto_map = config.get("auto_map") or {}
    if not isinstance(auto_map, dict) or not all(isinstance(reference, str) for reference in auto_map.values()):
        raise ValueError("config.json has an auto_map that is no table of names of classes.")
    modules = {reference.split(".")[0] for reference in auto_map.values()}
    try:
        for module in modules:
            get_relative_import_files(folder / f"{module}.py")
    except FileNotFoundError:  # it looks through all of them for imports
        return True
    return not modules


def add_code(folder: Path) -> None:
    """Give a concept encoder's folder the code of this installation, and the names by which Auto classes find it."""
    export_code(folder)
    path = folder / "config.json"
    config = read_config(folder) | {"auto_map": AUTO_MAP}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_secret(files: Mapping[str, Path], secret: str | None) -> None:
    """
    Refuse to publish an access token: `secret`, or what looks like one of the Hub's.

    Raises:
        ValueError: it stands in one of the files, weights and pickles excepted.
    """
    for name, path in files.items():
        if matches(name, (*WEIGHTS, *PICKLES)):
            continue
        content = path.read_bytes()
        if secret and secret.encode() in content:
            raise ValueError(f"{name} holds your access token: take it out, and revoke it if others have seen it.")
        if found := HUB_TOKEN.search(content):
            raise ValueError(
                f"{name} holds what looks like an access token ({found[0][:6].decode()}...): take it out, and revoke "
                "it if others have seen it."
            )


def _check_complete(folder: Path, travels: Mapping[str, Path]) -> None:
    if pickles := [name for name in travels if is_pickle(name)]:
        raise ValueError(f"{pickles[0]} may run code when it is loaded, and is not published (--include).")
    if "config.json" not in travels:
        raise ValueError(f"{folder} holds no model: there is no config.json.")
    if not any(name.endswith(".safetensors") for name in travels):
        raise ValueError(f"{folder} holds no weights in safetensors files; save the model with save_pretrained.")
    if not any(name in travels for name in TOKENIZER):
        raise ValueError(f"{folder} holds no tokenizer; save it there with save_pretrained.")


def _inside(folder: Path, include: Sequence[str]) -> dict[str, Path]:
    inside = {f"{folder.name}/{name}": path for name, path in files_in(folder).items()} if include else {}
    return {name: path for name, path in inside.items() if matches(name, include)}


def _linked(source: Path, target: Path, hard: bool) -> bool:
    try:
        os.link(source, target) if hard else target.symlink_to(source)
    except OSError:  # not every file system has links
        return False
    return True
