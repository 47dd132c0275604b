# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""How a script ends when something is wrong that its user can put right."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

DEBUG_VARIABLE = "CONCEPT_DEBUG"


class FinishedRunError(RuntimeError):
    """The output folder holds the finished run that was asked for."""


class NotMeasurableError(ValueError):
    """A model or texts of which something cannot be measured, although nothing is wrong with the call."""


def exit_code(main: Callable[[Sequence[str]], Any], arguments: Sequence[str]) -> int:
    """
    Run `main(arguments)` as a command: 0, 1 if there is nothing left to do, 2 for what the user can put right.

    Such an error is one line on stderr; with CONCEPT_DEBUG=1 in the environment its traceback comes first.
    """
    try:
        main(arguments)
    except (FinishedRunError, ValueError, OSError, ImportError, StrictDataclassError) as error:
        if os.environ.get(DEBUG_VARIABLE, "0") != "0":
            traceback.print_exc()
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(_sentence(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, FinishedRunError) else 2
    return 0


@contextmanager
def naming(name: str) -> Iterator[None]:
    """
    Let an error in loading the checkpoint or tokenizer `name` say what was asked for, and what is missing there.

    Raises:
        OSError: in place of an `OSError`, and of a `ValueError` about a folder that holds none.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        folder = Path(name).expanduser()
        if folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "tokenizer.json")):
            raise OSError(f"{name} holds no checkpoint: it has neither config.json nor tokenizer.json.") from error
        if not folder.exists() and (folder.is_absolute() or name.startswith(".") or name.count("/") > 1):
            raise OSError(f"There is no folder {name}.") from error
        if isinstance(error, ValueError):
            raise
        if "/" in name and folder.parent.is_dir() and not folder.exists():
            raise OSError(f"There is no folder {name}, nor can it be had from the Hub: {error}") from error
        raise OSError(f"{name} cannot be loaded: {error}") from error


def _sentence(error: BaseException) -> str:
    """What an error says, of a file without its number in the operating system."""
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
