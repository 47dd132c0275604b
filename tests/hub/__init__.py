# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what leaves the repository: saved folders, Hub repositories, and loading them where only they exist."""
