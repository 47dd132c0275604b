# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of JSON lines in a folder or a zip file, where a benchmark publishes them or on this machine."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from evaluation_concept.long_context.tasks import Sources


def find_archive(sources: Sources, family: str, repository: str, name: str, members: Iterable[str]) -> Path:
    """
    A zip file, or the folder that it was unpacked to.

    Args:
        sources: where data is.
        family: the folder of the benchmark in `sources.data_dir`.
        repository: of the benchmark on the Hub, for who has no such folder.
        name: of the zip file, without its suffix.
        members: paths in it of which one must be there for a folder to count.

    Raises:
        FileNotFoundError: neither is in the folder.
        OSError: the Hub cannot be reached or has no such file.
    """
    if sources.data_dir is None:
        return Path(
            hf_hub_download(
                repository, f"{name}.zip", repo_type="dataset", cache_dir=sources.cache_dir, token=sources.token
            )
        )
    folder = sources.data_dir / family
    archive = folder / f"{name}.zip"
    if archive.is_file():
        return archive
    if any((folder / member).is_file() for member in members):
        return folder
    raise FileNotFoundError(f"There is neither {archive} nor what is in it, such as {folder / next(iter(members))}.")


def read_member(archive: Path, member: str) -> Iterator[dict[str, Any]]:
    """
    The rows of a file of JSON lines in a zip file or folder; nothing if there is no such file.

    Raises:
        ValueError: a file that is no zip file or a line that is no JSON, named.
    """
    if archive.is_dir():
        path = archive / member
        lines: Iterable[bytes] = path.read_bytes().splitlines() if path.is_file() else ()
    else:
        lines = _zipped_lines(archive, member)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{archive}, {member}, line {number} is no JSON: {error}") from error


def _zipped_lines(archive: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(archive) as file:
            if member in file.namelist():
                with file.open(member) as lines:
                    yield from lines
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no zip file or is damaged ({error}).") from error
