# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From a folder on this machine to a repository on the Hub: what travels, whether it is sound, and its upload."""
