# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The ladder: designs and honest controls, trained alike for the same time or the same tokens, and compared."""
