# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks on long documents: data, metrics, baselines and files of predictions. Import the module you need."""
