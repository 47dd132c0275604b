# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Examine a checkpoint with its own code, and say on the last line of stdout, as JSON, what was found.

Run as a script, `python -I health_alone.py FOLDER`, in a process of its own.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


def main(folder: str) -> list[dict[str, Any]]:
    """The findings of `check_health`, with the folder's own code."""
    from evaluation_concept.health import check_health

    return [asdict(finding) for finding in check_health(folder, trust_remote_code=True)]


if __name__ == "__main__":
    # The checks of this repository, whatever version of it is installed.
    sys.path.insert(0, str(REPOSITORY))
    print(json.dumps(main(str(Path(sys.argv[1]).resolve()))))
