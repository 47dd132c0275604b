# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
Settings that other cells have to be run for: how many steps a time allows, and which weight of a loss to take.

A cell that has `seconds` gets the `max_steps` that take so long on this device when nothing else is on it, by the cell
of the same model and variant in a group whose name begins with `pace`. So cells that share a GPU, where clocks mean
nothing, have equal time. With `paced_as` it is the pace of another variant, that is, as many steps as that one has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from benchmarks.studies.cells import WEIGHT, Cell, with_weight
from benchmarks.studies.records import Record

PACE = "pace"
# The variant that weighted losses are compared with.
BASELINE = "mlm"
SECONDS, STEPS, PACED_AS = "seconds", "max_steps", "paced_as"
# From the records of the baseline, and those of a variant by weight, to the weight to take.
Choose = Callable[[Sequence[Record], Mapping[float, Sequence[Record]]], float]


class UnsettledError(Exception):
    """A cell lacks the records that its settings follow from."""


def settle(
    cells: Sequence[Cell], study: Sequence[Cell], records: Mapping[str, Record], device: str, choose: Choose
) -> tuple[list[Cell], dict[str, str]]:
    """
    Put numbers where the settings of cells follow from records; records of other settings than those of the study
    do not count.

    Args:
        cells: to be run.
        study: all cells of the study.
        records: of any of them.
        device: that they are to be run on, as records name it.
        choose: a weight.

    Returns:
        The cells that can be run, and by the names of others what is missing.
    """
    settler = _Settler(study, records, device, choose)
    ready, missing = [], {}
    for cell in cells:
        try:
            ready.append(settler.settle(cell))
        except UnsettledError as error:
            missing[cell.name] = str(error)
    return ready, missing


def holds_here(record: Record, device: str) -> bool:
    """Whether a record spares this device the cell: how long a step takes has to be timed on each kind of device."""
    return not record["group"].startswith(PACE) or record["device"] == device


class _Settler:
    def __init__(self, study: Sequence[Cell], records: Mapping[str, Record], device: str, choose: Choose) -> None:
        self.study, self.records, self.device, self.choose = study, records, device, choose

    def settle(self, cell: Cell) -> Cell:
        """The cell with all its numbers."""
        if cell.chosen_in:
            cell = with_weight(cell, self._weight(cell))
        return self._timed(cell) if SECONDS in cell.arguments else cell

    def _timed(self, cell: Cell) -> Cell:
        kind = cell.model, cell.arguments.get(PACED_AS, cell.variant)
        paces = [it for it in self.study if it.group.startswith(PACE) and (it.model, it.variant) == kind]
        found = [record for it in paces if (record := self._record(it))]
        if not found:
            raise UnsettledError(f"it has {SECONDS}, and there is no record of its {PACE}: run that group first")
        if found[0]["device"] != self.device:
            raise UnsettledError(f"its pace is that of another device: {found[0]['device']}")
        seconds = float(cell.arguments[SECONDS])
        pace = min(record["results"]["seconds_per_step"] for record in found)
        rest = {key: value for key, value in cell.arguments.items() if key not in (SECONDS, PACED_AS)}
        known = {"seconds": seconds, "seconds_per_step": pace, "of": paces[0].name, "device": self.device}
        return replace(cell, arguments=rest | {STEPS: max(round(seconds / pace), 1)}, calibration=known)

    def _weight(self, cell: Cell) -> float:
        """What the records of the group `chosen_in` speak for; those of the same model, if it is there."""
        rivals = [it for it in self.study if it.group == cell.chosen_in]
        rivals = [it for it in rivals if it.model == cell.model] or rivals
        plain = [self._rival(it) for it in rivals if it.variant == BASELINE]
        by_weight: dict[float, list[Record]] = {}
        for it in rivals:
            if it.variant == cell.variant and it.weight is not None:
                by_weight.setdefault(it.weight, []).append(self._rival(it))
        if not (plain and by_weight):
            raise UnsettledError(f"{cell.chosen_in} has no cells to choose its {WEIGHT} by")
        return self.choose(plain, by_weight)

    def _rival(self, cell: Cell) -> Record:
        """The record of a cell that a weight is chosen by; what is there of an unfinished sweep may not hold it."""
        if record := self._record(cell):
            return record
        raise UnsettledError(f"there is no record of {cell.name} to choose its {WEIGHT} by")

    def _record(self, cell: Cell) -> Record | None:
        """Of a cell, if it is of these settings."""
        record = self.records.get(cell.name)
        return record if record and record["command"] == self.settle(cell).command else None
