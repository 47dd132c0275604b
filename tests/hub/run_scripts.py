# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.hub.run_scripts CALLS`: scripts with arguments, [[name, arguments], ...] in JSON, one by one.

What they import is imported once, in a process whose Hub is the one that its environment names.
"""

import importlib
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    for name, arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        importlib.import_module(name).main(arguments)
