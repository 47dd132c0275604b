# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What the model costs and reaches: each module measures into `results/*.json`, `tables` writes them into the docs."""
