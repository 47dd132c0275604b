# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Documents are true: their code runs, their commands and links exist."""
