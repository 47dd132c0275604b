# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What of the benchmarks is not tested with old versions."""

import transformers
from packaging.version import Version

# transformers 5.4 refuses every ModernBERT all of whose layers are global, of which the ladder's BERT shape is one.
collect_ignore_glob = ["test_ladder*.py"] if Version(transformers.__version__) < Version("5.17") else []
