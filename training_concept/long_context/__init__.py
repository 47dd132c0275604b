# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on long documents: heads by kind of task, folds, the first-512 ablation, and what comparing costs."""
