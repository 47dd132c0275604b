# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The tests, one folder a package; `peer` holds transformers' common model tests and runs by `make test-peer`."""
