# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run of the ladder is told: variant, contest, recipe. Everything that a result depends on, and its name."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

CLOCKS = {"seconds": "s", "tokens": "tokens"}
OPTIMIZERS = ("adamw", "muon")
DTYPES = ("bfloat16", "float32")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    One run.

    Attributes:
        variant: `NAME` or `NAME:FIELD=VALUE,...`, see `benchmarks.ladder.variants`.
        length: N, most tokens of a document.
        clock: what is equal for all runs of a contest, `seconds` of training or `tokens` seen.
        budget: how many of them.
        learning_rate: at its greatest.
        seed: of weights, order and masks.
        batch_tokens: of a step, padding included.
        optimizer: `muon` for the matrices of linear layers and AdamW for the rest, or `adamw` for all.
        weight_decay: of the matrices of linear layers.
        beta1, beta2: of AdamW.
        clip: greatest norm of the gradient.
        schedule: one of `SCHEDULES`.
        warm_up: share of the budget in which the learning rate rises.
        decay: share of the budget in which it falls at the end; not for `cosine`, which falls all the time.
        masked_share: of the tokens of a row.
        dtype: of matrix products; weights and optimiser are float32.
        compiled: `regions` (block by block), `regions+graphs` (and replayed as CUDA graphs) or `none`.
        final: whether to report on the test split, too.
        corpus: a name for the texts and their tokenizer, where there are several.
    """

    variant: str
    length: int = 512
    clock: str = "seconds"
    budget: float = 80.0
    learning_rate: float = 2e-3
    seed: int = 0
    batch_tokens: int = 65536
    optimizer: str = "muon"
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    schedule: str = "trapezoid"
    warm_up: float = 0.05
    decay: float = 0.3
    masked_share: float = 0.3
    dtype: str = "bfloat16"
    compiled: str = "regions+graphs"
    final: bool = False
    corpus: str = ""

    def __post_init__(self) -> None:
        self._check_choices()
        if self.batch_tokens < self.length:
            raise ValueError(f"no row of {self.length} tokens fits batch_tokens={self.batch_tokens}: raise it")
        if min(self.budget, self.learning_rate) <= 0:
            raise ValueError(f"budget ({self.budget}) and learning_rate ({self.learning_rate}) must be above 0")
        if min(self.warm_up, self.decay) < 0 or self.warm_up + self.decay > 1:
            raise ValueError(f"warm_up ({self.warm_up}) and decay ({self.decay}) are shares of the budget")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Settings":
        """The settings that a record holds, those of an older record with defaults for what it does not have."""
        return cls(**{item.name: content[item.name] for item in fields(cls) if item.name in content})

    @property
    def rows(self) -> int:
        """Packed rows of a batch."""
        return self.batch_tokens // self.length

    @property
    def name(self) -> str:
        """Name of the run's file: what one looks for, and a hash of all settings that are not as by default."""
        digest = hashlib.sha256(json.dumps(self._own, sort_keys=True).encode()).hexdigest()[:8]
        variant = re.sub(r"[^\w.=+-]+", "_", self.variant)
        return f"{variant}-{self.length}-{self.contest}-{self.learning_rate:g}-seed{self.seed}-{digest}"

    @property
    def contest(self) -> str:
        """The budget and the texts in words, such as `80s` or `1e+08tokens`."""
        return f"{self.budget:g}{CLOCKS[self.clock]}{self.corpus and f'_{self.corpus}'}"

    @property
    def recipe(self) -> str:
        """Everything of the training that is not as by default, but for what a contest or a sweep varies."""
        varied = {"variant", "length", "clock", "budget", "learning_rate", "seed", "final", "corpus"}
        return ",".join(f"{name}={value}" for name, value in self._own.items() if name not in varied)

    def learning_rate_at(self, share: float) -> float:
        """The learning rate when `share` of the budget is used up."""
        return self.learning_rate * SCHEDULES[self.schedule](min(max(share, 0.0), 1.0), self.warm_up, self.decay)

    @property
    def _own(self) -> dict[str, Any]:
        """What is not as by default."""
        default = {item.name: item.default for item in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    def _check_choices(self) -> None:
        choices = {"clock": CLOCKS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "dtype": DTYPES}
        for field, known in {**choices, "compiled": ("regions", "regions+graphs", "none")}.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r} is not one of {', '.join(known)}")


def trapezoid(share: float, warm_up: float, decay: float) -> float:
    """Up in a line, constant, down in a line to 0 (arXiv 2405.18392): as a fraction of the greatest value."""
    rising = share / warm_up if share < warm_up else 1.0
    falling = (1 - share) / decay if share > 1 - decay else 1.0
    return min(rising, falling)


def cosine(share: float, warm_up: float, decay: float) -> float:
    """Up in a line, then down to 0 by half a cosine (arXiv 1608.03983)."""
    if share < warm_up:
        return share / warm_up
    return 0.5 * (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up)))


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {"trapezoid": trapezoid, "cosine": cosine}
