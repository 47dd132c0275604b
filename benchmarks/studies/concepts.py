# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""What comes of the study of objectives and losses on concepts, for benchmarks/results/concepts.json."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Figure, Table
from benchmarks.studies.records import Record
from benchmarks.studies.settling import BASELINE, PACE

SWEEP, EQUAL_STEPS = "sweep", "equal_steps"
HYBRID = "hybrid"
UNTRAINED = "untrained"
# Beginnings of groups that are there for others.
UNMEASURED = (PACE, "prepare")
# What rank may cost, and what is asked for.
MOST_COST, WANTED_RANK, WANTED_ORDER = 0.01, 0.5, 0.95
COMMAND = "python -m benchmarks.studies run recipes/studies/concepts.yaml --tasks TEXT --work WORK --output FILE"
# Of the kinds of likeness, the one that figures are of: cosine, the mean of all texts taken off.
LIKENESS = "centred"
LIKENESSES = ("cosine", LIKENESS, "late_interaction")
# Of `measure_concepts`; the first three are shares that each can be high for a bad reason.
GEOMETRY = ("entropy_rank_share", "input_share", "distinct_share", "centred_cosine", "dimension_entropy")
SLOTS = ("dead", "duplicates")
Measure = Callable[[Record], float]


def loss_of(record: Record) -> float:
    """Held-out masked-LM loss, in nats per masked token."""
    return record["results"]["mlm_loss"]


def rank_of(record: Record) -> float:
    """Centred entropy rank over the highest there can be."""
    return record["results"]["geometry"]["entropy_rank_share"]


def meaning_of(record: Record) -> float:
    """
    The least of three shares: rank, what depends on the text, and slots that differ. Each of them by itself is high in
    concepts that mean nothing (docs/analysis.md), such as those of random weights.
    """
    return min(record["results"]["geometry"][name] for name in GEOMETRY[:3])


def worth_of(record: Record) -> float:
    """What the loss rises by without concepts, in nats per masked token."""
    losses = record["results"]["ablation"]
    return losses["without_concepts"] - losses["full"]


def order_of(record: Record) -> float:
    """Accuracy of the order probe, given both sentences of a pair."""
    return record["results"]["order"]["paired_accuracy"]


def similarity_of(record: Record) -> float:
    """Agreement with the scores of pairs, mean over the sets of pairs."""
    return statistics.fmean(found[LIKENESS] for found in record["results"]["similarity"].values())


def choose_weight(plain: Sequence[Record], by_weight: Mapping[float, Sequence[Record]]) -> float:
    """
    Of the weights that cost at most `MOST_COST` nats of masked-LM loss the one with the highest `meaning_of`, else the
    one that costs least.

    Args:
        plain: records of the baseline.
        by_weight: records of a loss; compared are those of seeds that the baseline has.
    """
    costs = {weight: _mean(paired(loss_of, records, plain)) for weight, records in by_weight.items()}
    cheap = [weight for weight, cost in costs.items() if cost <= MOST_COST]
    if not cheap:
        return min(costs, key=lambda weight: costs[weight])
    return max(cheap, key=lambda weight: _mean([meaning_of(record) for record in by_weight[weight]]))


def paired(measure: Measure, ours: Iterable[Record], theirs: Iterable[Record]) -> list[float]:
    """By how much ours are above theirs, for each seed that both have."""
    known = {record["seed"]: measure(record) for record in theirs}
    return [measure(record) - known[record["seed"]] for record in ours if record["seed"] in known]


@dataclass(frozen=True)
class Row:
    """
    The records of a variant of a model.

    Attributes:
        part: `SWEEP`, `EQUAL_STEPS`, or "" for those of equal time.
        model, variant: names.
        records: by seed, in their order.
        plain: those of the baseline.
    """

    part: str
    model: str
    variant: str
    records: list[Record]
    plain: list[Record]

    @property
    def label(self) -> str:
        """As tables and notes call it."""
        weights = sorted({record["weight"] for record in self.records if "weight" in record})
        return " ".join([self.variant.replace("_", " "), *(f"({weight:g})" for weight in weights)])

    def values(self, measure: Measure) -> list[float]:
        """Of each seed."""
        return [measure(record) for record in self.records]

    @property
    def costs(self) -> list[float]:
        """Masked-LM loss less that of the baseline of the same seed."""
        return paired(loss_of, self.records, self.plain)


def summarise(records: Mapping[str, Record]) -> tuple[dict[str, Figure], list[Table]]:
    """Figures and tables of all records."""
    found = find_rows(records)
    rows = [row for row in found if not row.part]
    figures, tables = find_figures(rows), []
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        tables += [_concepts_table(model, own), _meaning_table(model, own)]
    if same := [row for row in found if row.part == EQUAL_STEPS and row.plain]:
        tables.append(_steps_table(same, rows))
    if swept := [row for row in found if row.part == SWEEP]:
        tables.append(_sweep_table(swept))
    if paces := [record for record in records.values() if record["group"].startswith(PACE)]:
        tables.append(_pace_table(paces))
    return figures, tables


def find_rows(records: Mapping[str, Record]) -> list[Row]:
    """All variants, baselines first; of the sweep one for each weight."""
    found: dict[tuple, list[Record]] = {}
    for record in records.values():
        if not record["group"].startswith(UNMEASURED):
            part = record["group"] if record["group"] in (SWEEP, EQUAL_STEPS) else ""
            weight = record.get("weight") if part == SWEEP else None
            found.setdefault((part, record["model"], record["variant"], weight), []).append(record)
    rows = []
    for (part, model, variant, _), own in found.items():
        plain = found.get((SWEEP if part == SWEEP else "", model, BASELINE, None), [])
        rows.append(Row(part, model, variant, sorted(own, key=lambda record: record["seed"]), plain))
    # Hybrids first; the rest as it comes.
    first = {UNTRAINED: 0, BASELINE: 1}
    return sorted(rows, key=lambda row: (row.model != HYBRID, row.model, first.get(row.variant, 2)))


def find_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """
    Rank and cost of the hybrid that is best of those that cost little, MLM alone among them; the best order probe and
    similarity.
    """
    trained = [row for row in rows if row.variant != UNTRAINED]
    compared = [row for row in trained if row.model == HYBRID and row.costs]
    beside = [row for row in rows if row.model == HYBRID and row.variant in (BASELINE, UNTRAINED)]
    return (_rank_figures(compared, beside) if compared else {}) | (_meaning_figures(trained) if trained else {})


def _rank_figures(rows: Sequence[Row], beside: Sequence[Row]) -> dict[str, Figure]:
    """Of the best row, of which the baseline is one; what others have stands in its note."""
    best = max((row for row in rows if _mean(row.costs) <= MOST_COST), key=_mean_of(meaning_of))
    which = f"of {len(rows)} variants the best that costs so little: {best.model}, {best.label}; rank, "
    which += "and what the loss rises by without concepts: "
    which += ", ".join(
        f"{row.label} {_mean(row.values(rank_of)):.3f}, {_mean(row.values(worth_of)):.3f}"
        for row in (best, *(row for row in beside if row is not best))
    )
    rank = f"centred entropy rank over min(C - 1, H) at N = 512; {which}; required: at least {WANTED_RANK}"
    cost = "held-out masked-LM loss less that of MLM alone, equal time, paired by seed; "
    cost += f"{which}; required: at most {MOST_COST}"
    return {
        "entropy_rank_share_512": _figure(best.values(rank_of), best, "fraction", rank),
        "mlm_cost_nats": _figure(best.costs, best, "nats", cost),
    }


def _meaning_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    ordered, alike = (max(rows, key=_mean_of(measure)) for measure in (order_of, similarity_of))
    sets = ", ".join(f"{name} (TF-IDF {value:.3f})" for name, value in _tfidf(alike).items())
    order = "accuracy in telling which of two held-out sentences has two words swapped, from mean concepts; "
    order += "a bag of words: 0.5; "
    similarity = f"area under the ROC curve, centred cosine, without training, mean over {sets}; "
    best = f"the best of {len(rows)} variants: "
    return {
        "order_probe": _figure(
            ordered.values(order_of),
            ordered,
            "fraction",
            f"{order}{best}{ordered.model}, {ordered.label}; required: at least {WANTED_ORDER}",
        ),
        "zero_shot_similarity": _figure(
            alike.values(similarity_of), alike, "fraction", f"{similarity}{best}{alike.model}, {alike.label}"
        ),
    }


def _mean_of(measure: Measure) -> Callable[[Row], float]:
    return lambda row: _mean(row.values(measure))


def _tfidf(row: Row) -> dict[str, float]:
    return row.records[0]["results"]["tfidf"]


def _figure(values: Sequence[float], row: Row, unit: str, note: str) -> Figure:
    facts = {key: ", ".join(sorted({str(it[key]) for it in row.records})) for key in ("commit", "device")}
    date = max(record["date"] for record in row.records)
    return Figure.of_runs(values, unit=unit, command=COMMAND, date=date, note=note, **facts)


def _concepts_table(model: str, rows: Sequence[Row]) -> Table:
    columns = ["variant", "seeds", "steps", "M tokens", "held-out loss", "cost (nats)", "entropy rank share"]
    columns += ["input share", "distinct share", "centred cosine", "dimension entropy", "dead, duplicate slots"]
    note = (
        f"{model}, equal time: as many steps as {_seconds(rows)} of training allow on this device alone. Mean ± "
        "standard deviation over seeds; cost: loss less that of MLM alone, by seed. Weights in brackets were chosen "
        "by the sweep, with another seed."
    )
    return Table(f"{model}_concepts", columns, [_concepts_row(row) for row in rows], note)


def _concepts_row(row: Row) -> list[Any]:
    tokens = [record["results"]["tokens"] / 1e6 for record in row.records]
    of_geometry = [_spread([_geometry(record, name) for record in row.records], 3) for name in GEOMETRY]
    slots = ", ".join(f"{_mean([_geometry(record, name) for record in row.records]):g}" for name in SLOTS)
    cost = "" if row.variant in (BASELINE, UNTRAINED) else _spread(row.costs, 4, signed=True)
    steps = f"{_mean([record['results']['steps'] for record in row.records]):.0f}"
    told = [row.label, len(row.records), steps, f"{_mean(tokens):.1f}", _spread(row.values(loss_of), 4), cost]
    return [*told, *of_geometry, slots]


def _geometry(record: Record, name: str) -> float:
    return record["results"]["geometry"][name]


def _meaning_table(model: str, rows: Sequence[Row]) -> Table:
    """What concepts carry and are worth to the decoder."""
    sets = list(_tfidf(rows[0]))
    kinds = [f"{name}, {kind.replace('_', ' ')}" for name in sets for kind in LIKENESSES]
    columns = ["variant", "order probe", "one sentence alone", *kinds, "loss, no concepts", "loss, tokens alone"]
    words = ", ".join(f"{name} {value:.3f}" for name, value in _tfidf(rows[0]).items())
    note = (
        f"{model}. Order probe: .5 for a bag of words, {rows[0].records[0]['results']['order']['num_pairs']} pairs. "
        f"Likeness of {' and '.join(sets)}: areas under the ROC curve (TF-IDF: {words}). Losses: what they rise by "
        "without concepts, and without what concepts wrote back to tokens too."
    )
    return Table(f"{model}_meaning", columns, [_meaning_row(row, sets) for row in rows], note)


def _meaning_row(row: Row, sets: Sequence[str]) -> list[str]:
    results = [record["results"] for record in row.records]
    shares = [[each["order"][name] for each in results] for name in ("paired_accuracy", "single_accuracy")]
    shares += [[each["similarity"][name][kind] for each in results] for name in sets for kind in LIKENESSES]
    losses = [each["ablation"] for each in results]
    rises = [row.values(worth_of), [loss["tokens_alone"] - loss["full"] for loss in losses]]
    return [row.label, *(_spread(some, 3) for some in shares), *(_spread(some, 3, signed=True) for some in rises)]


def _steps_table(rows: Sequence[Row], timed: Sequence[Row]) -> Table:
    """What a loss does apart from the time that it takes."""
    in_time = {(row.model, row.variant): row for row in timed}
    table = []
    for row in rows:
        other = in_time.get((row.model, row.variant))
        costs = [_spread(each.costs, 4, signed=True) if each else "" for each in (row, other)]
        ranks = [_spread(each.values(rank_of), 3) if each else "" for each in (row, other)]
        table.append([row.model, row.label, len(row.records), *costs, *ranks])
    columns = ["model", "variant", "seeds", "cost, equal steps", "equal time", "entropy rank share, equal steps"]
    note = "Cost in nats, paired by seed. Of equal steps are those that MLM alone makes in the time of the study."
    return Table("equal_steps", [*columns, "equal time "], table, note)


def _sweep_table(rows: Sequence[Row]) -> Table:
    """Costs and ranks of all weights, and which one is taken."""
    weighted = [row for row in rows if row.variant != BASELINE and row.plain]
    by_weight: dict[tuple[str, str], dict[float, list[Record]]] = {}
    for row in weighted:
        by_weight.setdefault((row.model, row.variant), {})[row.records[0]["weight"]] = row.records
    table = []
    for row in sorted(weighted, key=lambda row: (row.model, row.variant, row.records[0]["weight"])):
        weight = row.records[0]["weight"]
        taken = choose_weight(row.plain, by_weight[row.model, row.variant]) == weight
        shares = [_spread([_geometry(record, name) for record in row.records], 3) for name in GEOMETRY[:3]]
        cost = _spread(row.costs, 4, signed=True)
        table.append([row.variant.replace("_", " "), weight, cost, *shares, "yes" if taken else ""])
    shares = [name.replace("_", " ") for name in GEOMETRY[:3]]
    columns = ["loss on concepts", "weight", "cost (nats)", *shares, "taken"]
    note = (
        f"{_seconds(rows)} of training each, a seed that is reported nowhere else. Taken: of the weights that cost at "
        f"most {MOST_COST} nats the one whose least share of rank, input and distinct slots is highest, else the one "
        "that costs least."
    )
    return Table("sweep", columns, table, note)


def _pace_table(paces: Sequence[Record]) -> Table:
    slowest_first = sorted(paces, key=lambda record: -record["results"]["seconds_per_step"])
    known = {(record["model"], record["variant"]): record["results"] for record in slowest_first}
    rows = []
    for (model, variant), results in sorted(known.items(), key=lambda item: (item[0][0] != HYBRID, item[0])):
        plain = known.get((model, BASELINE), results)
        seconds, tokens = results["seconds_per_step"], results["tokens"] / results["steps"]
        ratio = f"{seconds / plain['seconds_per_step']:.2f}"
        rows.append([model, variant.replace("_", " "), f"{1000 * seconds:.1f}", ratio, f"{tokens / seconds:,.0f}"])
    columns = ["model", "variant", "ms a step", "of MLM alone", "tokens/s"]
    devices = ", ".join(sorted({record["device"] for record in paces}))
    note = f"Each alone on the device ({devices}); numbers of steps follow from these."
    return Table("pace", columns, rows, note)


def _seconds(rows: Sequence[Row]) -> str:
    found = {record["calibration"]["seconds"] for row in rows for record in row.records if record.get("calibration")}
    return " or ".join(f"{seconds:g} s" for seconds in sorted(found)) or "the same number of steps"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _spread(values: Sequence[float], digits: int, signed: bool = False) -> str:
    """Mean and, of several, standard deviation."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{_mean(values):{'+' if signed else ''}.{digits}f}{spread}"
