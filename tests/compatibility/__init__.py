# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Other libraries, and checkpoints of earlier versions."""
