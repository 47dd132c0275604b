# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that are written as a whole or not at all, and what tells those of one checkpoint from another's."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from huggingface_hub.utils import WeakFileLock

LOCK_FILE, LOCK_SECONDS = ".lock", 0.1


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """
    Be the only one at work in `folder`, which is made. A lock ends with its process, however that ends, except on file
    systems that know no locks: there a file is one, and stays behind a process that was killed.

    Args:
        folder: to work in.
        option: of the command line, that names the folder.

    Raises:
        ValueError: another process is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = WeakFileLock(folder / LOCK_FILE, timeout=LOCK_SECONDS)
    try:
        lock.__enter__()
    except TimeoutError:
        raise ValueError(
            f"Another run is at work in {folder} (it holds {LOCK_FILE}). Wait for it, or choose another {option}."
        ) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place if all goes well and else is removed."""
    draft_path = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft_path
        draft_path.replace(path)
    finally:
        draft_path.unlink(missing_ok=True)


def make_room(path: Path) -> None:
    """
    Make the folder of a file, before the work that will be written to it, and see whether files can be made there.

    Raises:
        OSError: they cannot, or `path` is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, and no file to write to.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=path.parent):
        pass


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path) as draft_path:
        draft_path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def weights_digest(folder: Path) -> str:
    """What tells the weights of a checkpoint from others: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()
