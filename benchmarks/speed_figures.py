# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""From what the speed benchmark wrote to figures and tables. A ratio is only made of numbers of one run."""

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cells import Measurement
from benchmarks.contenders import CPU_REFERENCE, REFERENCE
from benchmarks.results import Figure, Table, merge_results, read_results

Record = dict[str, Any]

FACTS = ("commit", "date", "device", "device_type", "command", "reference")
GB = 1e9
MFU_LENGTHS = (512, 1024)
FLOPS_NOTE = (
    "operations as executed, three times those of the forward pass: 2 x in x out x rows for each linear layer, the "
    "output layer's rows being the masked tokens, and 4 x width for each pair of query and key that is asked for"
)
RATIO = "x reference"
RATE_COLUMNS = [
    "model",
    "parameters (M)",
    "tokens of a document",
    "tokens a step",
    "attention",
    "compiled",
    "tokens/s",
    "spread",
    RATIO,
    "memory (GB)",
    "MFU",
]


@dataclass(frozen=True)
class Pick:
    """Which cell of a record: the fastest way of a contender."""

    contender: str
    mode: str
    length: int
    variable: bool = False


BASE, CAPPED, OTHER = "base", "base_1024", REFERENCE
# Presets by size, and the ModernBERT in Ettin's shapes that each stands beside.
PEERS = {"mini": "modernbert_384x10", "small": "modernbert_512x19", BASE: OTHER}
# What the tables of measurements without a GPU begin with.
CPU_PREFIX = "cpu_"
FAILURES = {"failures", f"{CPU_PREFIX}failures"}
# By table, what makes a row the same as another one, in the order of rows; those of rates have `_rate_identity`.
IDENTITIES: dict[str, Callable[[list[Any]], tuple[Any, ...]]] = {
    "sizes": lambda row: (row[4], list(PEERS).index(row[0]), row[5], row[2]),
    "ceilings": lambda row: tuple(row[:1]),
    "failures": lambda row: tuple(row[:-1]),
}
# Key: cell, the cell it is divided by, and what the number is and is required to be.
RATE_RATIOS: dict[str, tuple[Pick, Pick, str]] = {
    **{
        f"{mode}_x_modernbert_{length}": (
            Pick(BASE, mode, length),
            Pick(OTHER, mode, length),
            f"tokens a second of base over those of ModernBERT (768 x 22), {mode}, documents of {length} tokens; "
            f"required: at least {target}",
        )
        for mode, length, target in (
            ("train", 512, 1.3),
            ("train", 8192, 2.5),
            ("encode", 512, 1.5),
            ("encode", 8192, 5),
            ("encode", 65536, 20),
        )
    },
    **{
        f"variable_over_fixed_{length}": (
            Pick(BASE, "encode", length, variable=True),
            Pick(BASE, "encode", length),
            f"tokens a second of base, encode, on documents of normally distributed lengths (mean {length // 2}, "
            f"deviation {length // 8}) over those on documents of {length} tokens; required: at least 0.95",
        )
        for length in (512, 8192)
    },
    "time_per_token_64k_over_8k": (
        Pick(CAPPED, "encode", 8192),
        Pick(CAPPED, "encode", 65536),
        "time per token of base with at most 1,024 concepts, which it has at 8,192 tokens, encode, on documents of "
        "65,536 tokens over that on documents of 8,192; required: at most 1.15",
    ),
}


def merge_records(paths: Sequence[Path], results: Path) -> None:
    """
    Put figures and tables of the records in `paths` into the file `results`, whose other figures and rows stay.

    Raises:
        OSError: if a file is not there.
        ValueError: if one is no such record, or none holds a measurement.
    """
    records = [read_record(path) for path in paths]
    if not any(record["cells"] or record["first_steps"] or record["ddp"] for record in records):
        raise ValueError(f"{', '.join(map(str, paths))}: nothing was measured.")
    known, tried = read_results(results).tables, {_way(cell) for record in records for cell in record["cells"]}
    for name in FAILURES & known.keys():
        known[name] = replace(known[name], rows=[row for row in known[name].rows if tuple(row[:-1]) not in tried])
    found = [with_rows_of(known[table.name], table) if table.name in known else table for table in tables(records)]
    merge_results(results, figures(records), [*known.values(), *found])


def with_rows_of(old: Table, new: Table) -> Table:
    """
    `new` with those rows of `old` that it has none instead of. A row without a ratio, of a run that timed another
    reference, stands for none that has one.
    """
    if old.columns != new.columns:
        return new
    identity = IDENTITIES.get(new.name.removeprefix(CPU_PREFIX), _rate_identity)
    rows = {identity(row): row for row in old.rows}
    for row in new.rows:
        if RATIO not in new.columns or row[RATE_COLUMNS.index(RATIO)] != "" or not _has_ratio(rows.get(identity(row))):
            rows[identity(row)] = row
    return replace(new, rows=[rows[key] for key in sorted(rows)])


def read_record(path: Path) -> Record:
    """
    One record, its cells as `Measurement`.

    Raises:
        OSError, ValueError: see `merge_records`.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    try:
        cells = [Measurement(**cell | {"seconds": tuple(cell["seconds"])}) for cell in record.get("cells", [])]
        lists = {name: list(record.get(name, [])) for name in ("first_steps", "ddp")}
        named = {name: record[name] for name in FACTS}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of the speed benchmark: {error!r}") from error
    return record | named | lists | {"cells": cells}


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """All figures that the records have numbers for, by key; what a CPU measured makes none."""
    records = [record for record in records if not on_cpu(record)]
    found: dict[str, Figure | None] = {}
    for key, (above, below, note) in RATE_RATIOS.items():
        found[key] = _figure(records, partial(rate_ratio, above=above, below=below), "ratio", note)
    memory = partial(memory_ratio, above=Pick(BASE, "train", 8192), below=Pick(OTHER, "train", 8192))
    note = (
        "peak memory of training base over that of ModernBERT (768 x 22), documents of 8192 tokens, same batch; "
        "required: at most 0.4"
    )
    found["train_memory_x_modernbert_8192"] = _figure(records, memory, "ratio", note)
    for name, target in (("small", 0.3), ("base", 0.4)):
        note = f"share of the peak in training {name}, the lower one at N = 512 and 1024; {FLOPS_NOTE}; required: "
        shares = partial(lowest_mfu, contender=name)
        found[f"mfu_{name}"] = _figure(records, shares, "fraction", f"{note}at least {target}")
    for number, target in ((2, 1.9), (4, 3.7)):
        note = f"training tokens a second of base on {number} GPUs over those on one, DDP; required: at least {target}"
        found[f"ddp_{number}"] = _figure(records, partial(scaling, processes=number), "ratio", note)
    note = (
        "from the start of the process to the end of the first compiled training step of base, nothing compiled "
        "before; required: below 90"
    )
    found["first_step_s"] = _figure(records, first_steps, "s", note)
    return {key: figure for key, figure in found.items() if figure is not None}


def fastest(record: Record, pick: Pick) -> Measurement | None:
    """The best way of a contender in a cell; `None` if none ran."""
    wanted = (pick.contender, pick.mode, pick.length, pick.variable)
    ways = [it for it in record["cells"] if (it.contender, it.mode, it.length, it.variable) == wanted and it.seconds]
    return min(ways, key=lambda it: statistics.median(it.seconds), default=None)


def rate_ratio(record: Record, above: Pick, below: Pick) -> list[float]:
    """Tokens a second of one cell over those of another, by repeat; empty if one of them is not in the record."""
    first, second = fastest(record, above), fastest(record, below)
    if first is None or second is None:
        return []
    return [a / b for a, b in zip(first.tokens_per_second, second.tokens_per_second, strict=False)]


def memory_ratio(record: Record, above: Pick, below: Pick) -> list[float]:
    """Peak memory of one cell over that of another, by the fastest ways whose memory is known."""
    known = record | {"cells": [cell for cell in record["cells"] if cell.peak_bytes]}
    first, second = fastest(known, above), fastest(known, below)
    if first is None or second is None or first.peak_bytes is None or second.peak_bytes is None:
        return []
    return [first.peak_bytes / second.peak_bytes]


def mfu(record: Record, measurement: Measurement | None) -> list[float]:
    """Share of the device's peak, by repeat; empty where operations or peak are not known."""
    if measurement is None or not measurement.flops or not record.get("peak_flops"):
        return []
    return [measurement.flops / seconds / record["peak_flops"] for seconds in measurement.seconds]


def lowest_mfu(record: Record, contender: str) -> list[float]:
    """MFU of training at the one of `MFU_LENGTHS` that has the lower one; empty if one was not measured."""
    shares = [mfu(record, fastest(record, Pick(contender, "train", length))) for length in MFU_LENGTHS]
    return min(shares, key=statistics.fmean) if all(shares) else []


def scaling(record: Record, processes: int) -> list[float]:
    """Tokens a second of `processes` GPUs over the mean of one, by repeat."""
    rates = {it["processes"]: [it["tokens"] / seconds for seconds in it["seconds"]] for it in record["ddp"]}
    if processes not in rates or 1 not in rates:
        return []
    return [rate / statistics.fmean(rates[1]) for rate in rates[processes]]


def first_steps(record: Record) -> list[float]:
    """Seconds to the first step of base, by process."""
    return [it["seconds"] for it in record["first_steps"] if it["contender"] == BASE]


def tables(records: Sequence[Record]) -> list[Table]:
    """Rates by mode and layout, ceilings, and what failed; those of a CPU apart."""
    found = []
    measured = [record for record in records if record["cells"]]
    for prefix, cpu in (("", False), (CPU_PREFIX, True)):
        group = [record for record in measured if on_cpu(record) == cpu]
        kinds = sorted({(cell.mode, cell.variable) for record in group for cell in record["cells"]})
        found += [rate_table(group, mode, variable, prefix) for mode, variable in kinds]
        found += [sizes_table(group, prefix), ceilings_table(group, prefix), failures_table(group, prefix)]
    return [table for table in found if table.rows]


def rate_table(records: Sequence[Record], mode: str, variable: bool, prefix: str) -> Table:
    """
    The best way of every contender at every length and size of a step; of several runs the last one that has it.

    Runs that time another reference have no ratios, and give only rows that no other run has.
    """
    reference = CPU_REFERENCE if prefix else REFERENCE
    rows: dict[tuple[Any, ...], list[Any]] = {}
    for record in sorted(records, key=lambda record: bool(record["reference"] == reference)):
        cells = [it for it in record["cells"] if it.mode == mode and it.variable == variable]
        for pick in {Pick(it.contender, mode, it.length, variable): None for it in cells}:
            if (best := fastest(record, pick)) is not None:
                row = _rate_row(record, pick, best)
                if record["reference"] != reference:
                    row[RATE_COLUMNS.index(RATIO)] = ""
                rows[_rate_identity(row)] = row
    layout = "variable" if variable else "fixed"
    last = records[-1]
    note = (
        f"{last['device']}, {last['dtype']}, random weights. Each model by the fastest of its ways to attend and "
        f"compile. x reference: against {reference} in the same run, which every run times anew. Spread: standard "
        f"deviation over the repeats. MFU: {FLOPS_NOTE}."
    )
    return Table(f"{prefix}{mode}_{layout}", RATE_COLUMNS, [rows[key] for key in sorted(rows)], note)


def sizes_table(records: Sequence[Record], prefix: str) -> Table:
    """Each preset beside the ModernBERT of `PEERS` in the same run; of several runs the last one."""
    rows: dict[tuple[str, int, int], list[Any]] = {}
    for record in records:
        for mode, length in {(cell.mode, cell.length): None for cell in record["cells"] if not cell.variable}:
            for order, (preset, peer) in enumerate(PEERS.items()):
                picks = Pick(preset, mode, length), Pick(peer, mode, length)
                best, beside = (fastest(record, pick) for pick in picks)
                if best is not None and beside is not None:
                    ratios = [round(it, 2) for it in _summary(rate_ratio(record, *picks), 1)]
                    sized = [preset, _millions(best), peer, _millions(beside)]
                    rows[mode, order, length] = [*sized, mode, length, *ratios]
    columns = ["preset", "parameters (M)", "beside", "parameters (M)", "mode", "tokens of a document"]
    note = "Tokens a second of the preset over those of the other model in the same run; documents of one length."
    return Table(f"{prefix}sizes", [*columns, "times as fast", "spread"], [rows[key] for key in sorted(rows)], note)


def ceilings_table(records: Sequence[Record], prefix: str) -> Table:
    """What each run's device did at most."""
    rows: list[list[Any]] = []
    for record in records:
        matmul, copy = record["ceilings"]["matmul_flops"], record["ceilings"]["copy_bytes"]
        rows.append([f"`{record['command']}`", *_summary(matmul, 1e12), *_summary(copy, 1e12)])
    columns = ["run", "matrix product, TFLOP/s", "spread", "copy, TB/s", "spread"]
    return Table(f"{prefix}ceilings", columns, rows, "A square matrix product and a copy on the device, read + write.")


def failures_table(records: Sequence[Record], prefix: str) -> Table:
    """Ways that did not run, and why."""
    rows = [
        [*_way(it), reason]
        for record in records
        for it in record["cells"]
        if it.error and (reason := _reason(it.error))
    ]
    columns = ["model", "mode", "tokens of a document", "lengths", "attention", "compiled", "error"]
    return Table(f"{prefix}failures", columns, rows)


def _figure(records: Sequence[Record], values: Callable[[Record], list[float]], unit: str, note: str) -> Figure | None:
    """A figure from the last of the records that have values for it, as tables have the last run's rows."""
    for record in reversed(records):
        if found := values(record):
            described = {name: record[name] for name in ("command", "commit", "device", "date")}
            return Figure.of_runs(found, unit=unit, note=note, **described)
    return None


def _way(cell: Measurement) -> tuple[Any, ...]:
    layout = "variable" if cell.variable else "fixed"
    return cell.contender, cell.mode, cell.length, layout, cell.attention, cell.compiled


def _rate_identity(row: list[Any]) -> tuple[Any, ...]:
    model, _, length, tokens, *_ = row
    return length, model, tokens


def _has_ratio(row: list[Any] | None) -> bool:
    return row is not None and row[RATE_COLUMNS.index(RATIO)] != ""


def _rate_row(record: Record, pick: Pick, best: Measurement) -> list[Any]:
    reference = Pick(record["reference"], pick.mode, pick.length, pick.variable)
    ratios, shares = rate_ratio(record, pick, reference), mfu(record, best)
    rate, spread = _summary(best.tokens_per_second, 1)
    return [
        pick.contender,
        _millions(best),
        pick.length,
        record["tokens"],
        best.attention,
        best.compiled,
        round(rate),
        round(spread) if len(best.seconds) > 1 else "",
        round(statistics.fmean(ratios), 2) if ratios else "",
        "" if best.peak_bytes is None else round(best.peak_bytes / GB, 1),
        round(statistics.fmean(shares), 3) if shares else "",
    ]


def _millions(measurement: Measurement) -> float:
    """Parameters of the model, in millions."""
    return round((measurement.parameters or 0) / 1e6, 1)


def _summary(values: Sequence[float], unit: float) -> list[float]:
    """Mean and standard deviation in `unit`, to three digits."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = statistics.fmean(values) / unit
    return [mean if unit == 1 else float(f"{mean:.3g}"), spread if unit == 1 else float(f"{spread / unit:.2g}")]


def _reason(error: str) -> str:
    """The beginning of an error without paths of the machine it happened on."""
    return re.sub(r"(/[\w.\-]+)+/", "", error)[:120]


def on_cpu(record: Mapping[str, Any]) -> bool:
    """Whether a record was measured without a GPU."""
    return record["device_type"] == "cpu"
