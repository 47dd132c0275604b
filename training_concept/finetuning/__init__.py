# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on tasks: seeds, folds, sweeps, baselines, and the tables that come of them."""
