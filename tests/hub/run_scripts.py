# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.hub.run_scripts CALLS [SILENCE]`: scripts with arguments, [[name, arguments], ...] in JSON, one by
one, for which the Hub may be silent so many seconds.

What they import is imported once, in a process whose Hub is the one that its environment names.
"""

import importlib
import json
import sys
from pathlib import Path

from training_concept.publishing import waiting

if __name__ == "__main__":
    path, *silence = sys.argv[1:]
    if silence:
        waiting.LONGEST_SILENCE = float(silence[0])
    for name, arguments in json.loads(Path(path).read_text(encoding="utf-8")):
        importlib.import_module(name).main(arguments)
