# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What only training needs: data, tokenizers, masking, the trainer, publishing. Import the module you need."""
