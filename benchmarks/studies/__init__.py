# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Studies: many runs of the scripts that fine-tune, side by side on a machine, and what comes of them."""
