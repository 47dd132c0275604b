# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Nothing runs code out of data, and malformed checkpoints end in an error."""
