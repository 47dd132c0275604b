# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What only evaluation needs: baselines, metrics, tasks. Import the module you need."""
