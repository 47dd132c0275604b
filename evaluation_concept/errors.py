# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""How a script ends when something is wrong that its user can put right."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
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
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, FinishedRunError) else 2
    return 0
