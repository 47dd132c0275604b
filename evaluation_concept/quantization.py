# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Linear layers in int8, for faster encoding on a CPU."""

import copy
import warnings

import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import PreTrainedModel


def quantize_int8(model: PreTrainedModel) -> PreTrainedModel:
    """
    A copy of `model` whose linear layers have weights in int8, and multiply inputs that are rounded to int8 as they
    come (dynamic quantisation, arXiv 2106.08295, section 2). Everything else stays as it is. For inference on a CPU;
    it cannot be saved with `save_pretrained`.

    Raises:
        ValueError: if the model is not in float32 on a CPU.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise ValueError(f"int8 is for models in float32 on a CPU; this one is in {model.dtype} on {model.device}.")
    quantized = copy.deepcopy(model).eval()
    for module in quantized.modules():
        # Only plain linear layers are replaced. What a class of its own is good for is over after initialisation.
        if isinstance(module, nn.Linear):
            module.__class__ = nn.Linear
    with warnings.catch_warnings():
        # Its successor, torchao, is a package of its own, and slower here without a compiler (docs/log.md).
        warnings.simplefilter("ignore")
        return quantize_dynamic(quantized, {nn.Linear}, dtype=torch.qint8, inplace=True)
