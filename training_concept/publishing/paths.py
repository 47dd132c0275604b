# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of this machine, which nobody else has, in what a run wrote: they say who trained where, and help no one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from training_concept.publishing.patterns import CARD, matches

# Data of tokenizers hold any text there is.
TEXTS = ("*.md", "*.json")
NO_TEXTS = ("*tokenizer.json", "*vocab.json", "*added_tokens.json", "*special_tokens_map.json")
PART = r"[^\s\"'`<>|*?,;:()\[\]{}\\/]+"
IN_TEXT = re.compile(rf"(?<![\w.:/\\~!-])(?:/|[A-Za-z]:[\\/]){PART}(?:[\\/]{PART})+")


def hide_folders(folder: Path) -> None:
    """
    Call files and folders of this machine by their last names in the texts of a folder.

    Which they are is told by what a run wrote as JSON, where an absolute path stands for itself, and by looking for
    those that stand in a sentence. Code, weights and tokenizers are left alone.
    """
    names = {path: path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    texts = {
        path: path.read_text(encoding="utf-8", errors="surrogateescape")
        for path, name in names.items()
        if matches(name, TEXTS) and not matches(name, NO_TEXTS)
    }
    found = sorted({place for text in texts.values() for place in _places(text)}, key=len, reverse=True)
    for path, text in texts.items():
        shown = _forget_base(text, found) if path.name == CARD else text
        for place in found:
            name = _pure(place).name
            for long, short in ((place, name), (_in_json(place), _in_json(name))):
                # No part of an address on the web, nor of another name.
                pattern = rf"(?<![\w.-]){re.escape(long)}(?!\w)"
                shown = re.sub(pattern, short.replace("\\", r"\\"), shown)
        if shown != text:
            path.write_text(shown, encoding="utf-8", errors="surrogateescape")


def _places(text: str) -> Iterator[str]:
    try:
        strings = [*_strings(json.loads(text))]
    except json.JSONDecodeError:
        strings = [text]
    for string in strings:
        if "\n" not in string and _is_absolute(string):
            yield string
        else:
            yield from (place for place in IN_TEXT.findall(string) if _is_here(place))


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _strings(item)


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _pure(place: str) -> PurePath:
    return PurePosixPath(place) if place.startswith("/") else PureWindowsPath(place)


def _is_absolute(place: str) -> bool:
    """Whether it is the whole path of something below a folder."""
    path = _pure(place)
    return path.is_absolute() and len(path.parts) > 2


def _is_here(place: str) -> bool:
    """Whether it is on this machine, or was a moment ago, and is no part of every other."""
    path = Path(place)
    if not path.is_absolute() or path.parts[1] in ("bin", "dev", "etc", "lib", "proc", "sbin", "sys", "usr"):
        return False
    try:
        return path.exists() or (len(path.parts) > 3 and path.parent.exists())
    except OSError:  # a name that no file may have
        return False


def _forget_base(text: str, places: list[str]) -> str:
    """The text of a card whose metadata name no folder as the model that this one was made from."""
    for place in places:
        text = re.sub(rf"^base_model: *['\"]?{re.escape(place)}['\"]?\n", "", text, flags=re.MULTILINE)
    return text
