# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""How far a run has come: a clock of seconds or tokens, and the loss curve, neither of which a GPU waits for."""

import time
from collections import deque
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.timing import synchronise

# Steps that may be queued on a device beside the one that it works on.
AHEAD = 2
CURVE_POINTS = 200


class Point(NamedTuple):
    """
    Some stretch of training.

    Attributes:
        seconds: of training until its end.
        tokens: until its end.
        loss: mean of its steps.
    """

    seconds: float
    tokens: int
    loss: float


class Progress:
    """
    Counts what was trained and tells how much of the budget is used up.

    The host is kept at most `AHEAD` steps before the device, so that its clock is the device's but for these; losses
    are read when all is over.

    Args:
        clock: `seconds` or `tokens`.
        budget: how many.
        device: that trains.
    """

    def __init__(self, clock: str, budget: float, device: torch.device) -> None:
        self.clock = clock
        self.budget = budget
        self.device = device
        self.tokens = 0
        self.seconds = 0.0
        self.times: list[float] = []
        self.seen: list[int] = []
        self.losses: list[torch.Tensor] = []
        self._pending: deque[torch.cuda.Event | None] = deque()
        self._begin = time.perf_counter()

    def start(self) -> None:
        """Let time count from now on."""
        synchronise(self.device)
        self._begin = time.perf_counter()

    @property
    def share(self) -> float:
        """Of the budget, how much is used up; 1 and more is the end."""
        used = self.tokens if self.clock == "tokens" else time.perf_counter() - self._begin
        return used / self.budget

    def count(self, tokens: int, loss: torch.Tensor) -> None:
        """A step on so many tokens was queued. Waits until no more than `AHEAD` steps are."""
        self.tokens += tokens
        self.seen.append(self.tokens)
        self.losses.append(loss.detach())
        self._pending.append(_record(self.device))
        while len(self._pending) > AHEAD:
            self._finish_one()

    def finish(self) -> None:
        """Wait for the last step."""
        while self._pending:
            self._finish_one()
        synchronise(self.device)
        self.seconds = time.perf_counter() - self._begin

    def curve(self) -> list[Point]:
        """The losses of all steps, in at most `CURVE_POINTS` means."""
        if not self.losses:
            return []
        losses = torch.stack(self.losses).float().tolist()
        groups = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
        means = [float(np.mean([losses[it] for it in group])) for group in groups]
        ends = [int(group[-1]) for group in groups]
        return [Point(self.times[end], self.seen[end], mean) for end, mean in zip(ends, means, strict=True)]

    def _finish_one(self) -> None:
        event = self._pending.popleft()
        if event is not None:
            event.synchronize()
        self.times.append(time.perf_counter() - self._begin)


def _record(device: torch.device) -> torch.cuda.Event | None:
    """An event behind all that is queued; `None` where nothing ever is."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event
