# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""The losses on concepts that a run was told of, and how they are weighted against its task."""

import math
import warnings
from typing import NamedTuple

import torch
from torch import nn

from training_concept.concept_losses import LOSSES, ConceptBatch, Pairs, centre
from training_concept.infonce import gather_rows, is_distributed

CENTRED = "@centred"


class Term(NamedTuple):
    """A loss on concepts: its name in `LOSSES`, whether it takes them centred, and its weight."""

    name: str
    centred: bool
    weight: float

    @property
    def label(self) -> str:
        """As it is written in `--concept_losses`."""
        return f"{self.name}{CENTRED if self.centred else ''}"


def parse_weights(text: str, flag: str) -> dict[str, float]:
    """
    Read `name:weight` pairs, such as `"mlm:1,contrastive:0.1"`; a name alone has weight 1.

    Args:
        flag: what the user set, for messages.

    Raises:
        ValueError: a name that is missing or comes twice, a weight that is no number above 0.
    """
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, colon, number = (part.strip() for part in item.partition(":"))
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            raise ValueError(f"{flag} {text!r}: {item!r} is not of the form name:weight, with a weight above 0.")
        if name in weights:
            raise ValueError(f"{flag} {text!r} names {name} twice.")
        weights[name] = weight
    return weights


def parse_concept_losses(text: str | None) -> list[Term]:
    """
    Read `--concept_losses`, such as `"vicreg@centred:0.05,orthogonality:0.02"`; nothing, or `"none"`, has no terms.

    Raises:
        ValueError: as `parse_weights`, and for a loss that there is not.
    """
    if text in (None, "", "none"):
        return []
    terms = []
    for label, weight in parse_weights(str(text), "--concept_losses").items():
        name = label.removesuffix(CENTRED)
        if name not in LOSSES:
            raise ValueError(
                f"--concept_losses has no loss {label!r}; it has {', '.join(LOSSES)}, each also as NAME{CENTRED}."
            )
        terms.append(Term(name, label.endswith(CENTRED), weight))
    return terms


class FixedWeighting(nn.Module):
    """
    The task, and the losses with the weights that were configured.

    Args:
        weights: of the losses, in their order.
    """

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.register_buffer("configured", torch.tensor(weights), persistent=False)

    def forward(self) -> torch.Tensor:
        """Factors of the task and of each loss, `[1 + K]`."""
        return torch.cat([torch.ones_like(self.configured[:1]), self.configured])

    def penalty(self) -> torch.Tensor:
        """What the choice of weights itself costs, a scalar."""
        return self.configured.new_zeros(())


class LearnableWeighting(FixedWeighting):
    """
    What the losses weigh together stays as configured; how they share it is learned, as a softmax that begins with the
    configured shares. The task keeps its weight of 1.

    Gradients move weight to the loss that is lowest already, and with one loss there is nothing to learn.
    """

    def __init__(self, weights: list[float]) -> None:
        super().__init__(weights)
        self.logits = nn.Parameter(torch.zeros(len(weights)))

    def forward(self) -> torch.Tensor:
        shares = (self.configured.log() + self.logits).softmax(dim=0)
        return torch.cat([torch.ones_like(shares[:1]), self.configured.sum() * shares])


class KendallGalWeighting(FixedWeighting):
    """
    Weights by uncertainty (arXiv 1705.07115, section 3.2): each loss, the task among them, times exp(-s), plus s / 2,
    s being its learned log-variance; for a loss L above 0 with the configured weight w, exp(s) = 2 w L is best.

    Log-variances are held within +-`BOUND`. Left alone, that of the task grows with the loss of the task until nothing
    trains the model but the regularisers, and that of a negative loss falls for ever. Held, the task weighs 1/2 at
    least, and nothing gains more than a factor of 4 on it. One at its bound moves as soon as its gradient turns.

    A task above 1 nat beside losses of small weight (w L below 1/4) ends at the bounds, all of them: then this is
    `FixedWeighting` with four times the weights that were configured, at half the task's gradient.
    """

    BOUND = math.log(2)

    def __init__(self, weights: list[float]) -> None:
        super().__init__(weights)
        self.log_variances = nn.Parameter(torch.zeros(1 + len(weights)))

    def forward(self) -> torch.Tensor:
        with torch.no_grad():
            self.log_variances.clamp_(-self.BOUND, self.BOUND)
        return super().forward() * (-self.log_variances).exp()

    def penalty(self) -> torch.Tensor:
        return self.log_variances.sum() / 2


WEIGHTINGS: dict[str, type[FixedWeighting]] = {
    "fixed": FixedWeighting,
    "learnable": LearnableWeighting,
    "kendall_gal": KendallGalWeighting,
}


class ConceptLossManager(nn.Module):
    """
    Computes the losses on concepts and adds them to the task's.

    Args:
        terms: of `parse_concept_losses`.
        weighting: a name in `WEIGHTINGS`.
    """

    def __init__(self, terms: list[Term], weighting: str = "fixed") -> None:
        super().__init__()
        self.terms = terms
        self.weighting = WEIGHTINGS[weighting]([term.weight for term in terms])

    def losses(
        self, states: torch.Tensor, mask: torch.Tensor, documents: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Of each term, by label, this process's part of the mean over the documents of all processes: the parts add up.

        Args:
            states: concepts `[B, C, H]`; computed with in float32 at least.
            mask: `[B, C]`, not 0 for those in use.
            documents: int64 `[B, C]`, see `ConceptBatch`.
        """
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        values: dict[str, torch.Tensor] = {}
        with torch.autocast(states.device.type, enabled=False):
            raw = ConceptBatch(states, mask.bool(), documents)
            self._warn_of_one_document(raw)
            for centred in sorted({term.centred for term in self.terms}):
                concepts = centre(raw) if centred else raw
                pairs = Pairs.of(concepts)
                part = pairs.documents / gather_rows(pairs.documents.view(1)).sum().clamp(min=1)
                named = [term for term in self.terms if term.centred == centred]
                values |= {term.label: LOSSES[term.name](concepts.states, pairs) * part for term in named}
        return {term.label: values[term.label] for term in self.terms}

    def _warn_of_one_document(self, concepts: ConceptBatch) -> None:
        alone = concepts.documents is None and len(concepts.states) == 1 and not is_distributed()
        if alone and any(term.centred for term in self.terms):
            warnings.warn(
                "--concept_losses with @centred compare the documents of a batch, and are 0 where there is one: raise "
                "--per_device_train_batch_size.",
                stacklevel=3,
            )

    def total(
        self, task: torch.Tensor, losses: torch.Tensor, everywhere: torch.Tensor, penalty_share: float = 1.0
    ) -> torch.Tensor:
        """
        Task and losses, weighted; its mean over processes is what one process with all documents would have.

        Args:
            task: a scalar, this process's part of the task's loss times the number of processes.
            losses: `[K]`, in the same way.
            everywhere: `[1 + K]`, task and losses of all processes together. Weights learn from these, by the same
                gradient on every process, so that nothing has to be exchanged for them.
            penalty_share: of the step's penalty, where the step has several batches.
        """
        weights, everywhere = self.weighting(), everywhere.detach()
        total = (weights.detach() * torch.cat([task.view(1), losses])).sum()
        learned = (weights * everywhere).sum()
        # The value of `learned` is in `total` already; of its gradient nothing is.
        return total + (learned - learned.detach()) + penalty_share * self.weighting.penalty()
