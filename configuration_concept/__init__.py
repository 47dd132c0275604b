# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The one configuration of the concept encoder. It travels with every checkpoint."""

from .configuration_concept import AUTO_MAP, PRESETS, ConceptEncoderConfig, export_code

__all__ = ["AUTO_MAP", "PRESETS", "ConceptEncoderConfig", "export_code"]
