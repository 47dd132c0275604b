# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast a run trains: tokens and masked tokens, model FLOPs, and the share of the hardware's peak (MFU)."""

import copy
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from modeling_concept.losses import IGNORED

# Dense bfloat16 operations a second, from the vendors' data sheets; the more specific name comes first.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}

# The backward pass differentiates every matrix product with respect to both of its factors.
TRAINING_PASSES = 3


def device_peak_flops(device: torch.device) -> float | None:
    """Peak dense bfloat16 operations a second of `device`, `None` for a device that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if re.search(rf"\b{key}\b", name)), None)


def count_forward_flops(model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
    """
    Floating-point operations of one forward pass of `model` on a batch shaped like `inputs`, labels left out.

    Counted on a copy without weights or data, whose attention is plain matrix products: what the model asks for,
    whichever kernel computes it.
    """
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        twin = type(model)(config)
    shapes = {name: value for name, value in inputs.items() if name != "labels"}
    shapes = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in shapes.items()}
    with FlopCounterMode(display=False) as counter:
        twin.requires_grad_(False).eval()(**shapes)
    return counter.get_total_flops()


@dataclass
class Amounts:
    """What was trained on in some stretch of time, on all processes together."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    masked_tokens: int = 0
    flops: float = 0.0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    def rates(self, peak_flops: float | None) -> dict[str, float]:
        """Figures to log; `mfu`, a fraction of `peak_flops` (operations a second), only where that is known."""
        if not self.steps:
            return {}
        rates = {
            "tokens_per_second": self.tokens / self.seconds,
            "masked_tokens_per_second": self.masked_tokens / self.seconds,
            "masked_tokens_per_step": self.masked_tokens / self.steps,
            "model_flops_per_second": self.flops / self.seconds,
        }
        return rates | ({"mfu": rates["model_flops_per_second"] / peak_flops} if peak_flops else {})


class ThroughputMeter:
    """
    Counts what goes through training between two reports, and the time it takes without evaluation and saving.

    Counting adds to a tensor on the device and never waits for it; a report does, once per logged line.

    Args:
        accelerator: the run's; its processes' counts are added up.
        peak_flops: of one device, operations a second. Defaults to the table's, if the device is in it.
    """

    def __init__(self, accelerator: Accelerator, peak_flops: float | None = None) -> None:
        peak = peak_flops or device_peak_flops(accelerator.device)
        self.peak_flops = peak * accelerator.num_processes if peak else None
        self.total = Amounts()
        self._accelerator = accelerator
        self._start = time.perf_counter()
        self._clear()

    def update(self, inputs: Mapping[str, torch.Tensor], flops: float) -> None:
        """
        Count a batch on its way in: `input_ids [B, N]`, `labels [B, N]`, and where rows are padded `attention_mask
        [B, N]` or `document_lengths [B, D]`.
        """
        real = inputs.get("document_lengths", inputs.get("attention_mask"))
        tokens = inputs["input_ids"].numel() if real is None else real.sum()
        self._tokens += tokens
        self._masked_tokens += inputs["labels"].ne(IGNORED).sum()
        self._flops += flops

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time spent inside; what was queued on the device before is waited for and counts."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        pause = time.perf_counter()
        yield
        self._start += time.perf_counter() - pause

    def report(self, steps: int) -> dict[str, float]:
        """Rates since the last report, `steps` optimizer steps ago. Every process must take part."""
        counts = torch.stack([self._tokens, self._masked_tokens])
        tokens, masked_tokens = self._accelerator.reduce(counts).tolist()
        now = time.perf_counter()
        flops = self._flops * self._accelerator.num_processes
        window = Amounts(now - self._start, steps, tokens, masked_tokens, flops)
        self.total += window
        self._start = now
        self._clear()
        return window.rates(self.peak_flops)

    def restart(self) -> None:
        """Let time count from now on."""
        self._start = time.perf_counter()

    def _clear(self) -> None:
        self._tokens = torch.zeros((), dtype=torch.int64, device=self._accelerator.device)
        self._masked_tokens = torch.zeros_like(self._tokens)
        self._flops = 0.0
