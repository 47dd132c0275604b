# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""
What came of the runs: standings by contest, differences to controls, tables, and figures for `results/ladder.json`.

A contest is a length and a budget, in seconds those of one kind of device. In it every variant stands with its best
learning rate (chosen on validation, by the seeds that all its rates have) and the mean over the seeds of that rate. A
control of a shape is represented by the best of its sizes, tested or not.
"""

import itertools
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ladder.settings import Settings
from benchmarks.ladder.variants import REFERENCE, Variant, find_variant, size_of, size_ratio
from benchmarks.results import Figure, Table, write_archive, write_results
from benchmarks.tables import to_markdown

COMMAND = "python -m benchmarks.ladder"
CONTROLS = ("bert", "modernbert")
VALIDATION, TEST = "validation", "test"
# With fewer seeds a variant is not chosen before one that has so many.
ENOUGH_SEEDS = 3
# As many as fit side by side on a page.
MOST_COLUMNS = 8


@dataclass(frozen=True)
class Outcome:
    """
    A finished run.

    Attributes:
        settings: of the run.
        record: what was written of it.
    """

    settings: Settings
    record: Mapping[str, Any]

    def scores(self, split: str) -> Mapping[str, Any] | None:
        """Of a split, `None` if it was not evaluated."""
        return self.record["evaluation"].get(split)

    @property
    def contest(self) -> tuple[int, str]:
        """Length and budget, where that is time with the kind of device that it was spent on."""
        budget = self.settings.contest
        if self.settings.clock == "seconds":
            budget += f"_{re.sub(r'[^A-Za-z0-9]+', '_', self.record['device'].split(',')[0])}"
        return self.settings.length, budget

    @property
    def loss(self) -> float:
        """On validation."""
        return float(self.record["evaluation"][VALIDATION]["loss"])


@dataclass(frozen=True)
class Standing:
    """
    A variant in a contest.

    Attributes:
        variant: name of it and what it is.
        recipe: what of the recipe is not as by default.
        rates: learning rates that were tried.
        outcomes: of the best one, by seed.
    """

    variant: Variant
    recipe: str
    rates: int
    outcomes: tuple[Outcome, ...]

    @property
    def label(self) -> str:
        """Variant and recipe."""
        return f"{self.variant.name} ({self.recipe})" if self.recipe else self.variant.name

    @property
    def learning_rate(self) -> float:
        """The best one."""
        return self.outcomes[0].settings.learning_rate

    def losses(self, split: str = VALIDATION) -> dict[int, float]:
        """By seed, for the runs that were evaluated on the split."""
        scored = [(it.settings.seed, it.scores(split)) for it in self.outcomes]
        return {seed: scores["loss"] for seed, scores in scored if scores is not None}

    @property
    def loss(self) -> float:
        """Mean over seeds, on validation."""
        return statistics.fmean(self.losses().values())

    def field(self, name: str) -> Any:
        """Of the model's configuration."""
        return self.outcomes[0].record["config"].get(name)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the validation loss over seeds, `None` of a single one."""
        losses = list(self.losses().values())
        return statistics.stdev(losses) if len(losses) > 1 else None

    @property
    def body(self) -> int:
        """Parameters without those that have a row for each token of the vocabulary."""
        return self.outcomes[0].record["parameters"]["body"]

    def mean(self, key: str) -> float:
        """Mean over seeds of a number of the records."""
        return statistics.fmean(it.record[key] for it in self.outcomes)


Contest = tuple[int, str]


def read_runs(folders: Iterable[Path]) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """
    All records in these folders and below, or in archives (see `archive_runs`): finished runs, each once on each kind
    of device, and the records of failed ones.

    Raises:
        OSError: a folder or archive that is not there.
        ValueError: a file that is no record.
    """
    finished: dict[tuple[str, Contest], Outcome] = {}
    failed: dict[str, dict[str, Any]] = {}
    for record in itertools.chain.from_iterable(map(_records, folders)):
        if "error" in record:
            failed[record["run"]] = record
        else:
            outcome = Outcome(Settings.from_json(record["settings"]), record)
            finished[record["run"], outcome.contest] = outcome
    done = {name for name, _ in finished}
    return list(finished.values()), [it for name, it in failed.items() if name not in done]


def archive_runs(outcomes: Iterable[Outcome], path: Path) -> None:
    """Write the records to `path`, by name."""
    ordered = sorted(outcomes, key=lambda it: (it.record["run"], it.contest))
    write_archive((it.record for it in ordered), path)


def standings(outcomes: Iterable[Outcome]) -> dict[Contest, list[Standing]]:
    """By contest, the variants with their best learning rates, the best variant first."""
    entries: dict[Contest, dict[tuple[str, str], list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        entries[outcome.contest][outcome.settings.variant, outcome.settings.recipe].append(outcome)
    return {
        contest: sorted((_stand(*name, runs) for name, runs in group.items()), key=lambda it: it.loss)
        for contest, group in sorted(entries.items())
    }


def best(group: Iterable[Standing], kind: str | None = None, family: str | None = None, **fields: Any) -> Standing:
    """
    The best of a kind or family whose configuration has these fields, by validation loss: of those that were tested if
    there are any, and of those with the most seeds, up to `ENOUGH_SEEDS`.

    Raises:
        LookupError: there is none.
    """
    fitting = [it for it in group if kind in (None, it.variant.kind) and family in (None, it.variant.family)]
    fitting = [it for it in fitting if all(it.field(name) == value for name, value in fields.items())]
    if not fitting:
        raise LookupError(f"no finished run of kind {kind or 'any'} and family {family or 'any'}")
    ranks = {id(it): (bool(it.losses(TEST)), min(len(it.losses()), ENOUGH_SEEDS)) for it in fitting}
    finalists = [it for it in fitting if ranks[id(it)] == max(ranks.values())]
    return min(finalists, key=lambda it: it.loss)


def best_control(group: Iterable[Standing], kind: str) -> Standing:
    """
    The control of a shape that has the lowest validation loss, whatever its size, its seeds and whether it was tested:
    to pass over one that is better would be an advantage of ours.

    Raises:
        LookupError: there is none.
    """
    fitting = [it for it in group if it.variant.kind == kind]
    if not fitting:
        raise LookupError(f"no finished run of a control of kind {kind}")
    return min(fitting, key=lambda it: it.loss)


@dataclass(frozen=True)
class Difference:
    """
    What came of a goal in a contest.

    Attributes:
        key: of the goal.
        contest: it was had in.
        ours: the best that fits the goal and had a recipe that the control had.
        control: the best of its shape.
        values: loss of ours less that of the control, by seed.
        split: of the losses.
    """

    key: str
    contest: Contest
    ours: Standing
    control: Standing
    values: tuple[float, ...]
    split: str

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Which contest answers for a goal: one of enough seeds on the test split, else the longest in seconds."""
        settings = self.ours.outcomes[0].settings
        final = self.split == TEST and len(self.values) >= ENOUGH_SEEDS
        return final, settings.clock == "seconds", settings.budget

    def row(self) -> list[Any]:
        """For `differences_table`."""
        losses = [it.losses(self.split) for it in (self.ours, self.control)]
        # Means of other seeds would not differ by what the row says.
        means = [statistics.fmean(it[seed] for seed in losses[0].keys() & losses[1].keys()) for it in losses]
        spread = round(statistics.stdev(self.values), 3) if len(self.values) > 1 else ""
        labels = self.ours.label, self.control.label
        numbers = (*(round(it, 3) for it in means), f"{statistics.fmean(self.values):+.3f}", spread)
        return [*self.contest, *labels, self.split, len(self.values), *numbers]


def difference(ours: Standing, control: Standing) -> tuple[list[float], str]:
    """
    Loss of ours less that of the control, for each seed that both have, and the split: test if both were tested.

    Raises:
        LookupError: no seed in common.
    """
    for split in (TEST, VALIDATION):
        mine, theirs = ours.losses(split), control.losses(split)
        if seeds := sorted(mine.keys() & theirs.keys()):
            return [mine[seed] - theirs[seed] for seed in seeds], split
    raise LookupError(f"{ours.label} and {control.label} have no seed in common")


def ladder_table(contest: Contest, group: Sequence[Standing]) -> Table:
    """The standings of a contest."""
    length, budget = contest
    columns = ["variant", "family", "loss", "spread", "seeds", *(f"less {kind}" for kind in CONTROLS)]
    columns += ["nats/byte", "learning rate", "rates", "M tokens", "tok/s", f"body of {REFERENCE}'s"]
    rows = [_standing_row(standing, group) for standing in group]
    unigram = group[0].outcomes[0].record["evaluation"][VALIDATION]["unigram"]
    note = (
        f"Validation loss in nats per masked token, documents of {length} tokens, {budget} of training on "
        f"{group[0].outcomes[0].record['device']}. Guessing by frequency: {unigram:.3f}. Spread: standard deviation "
        f"over seeds. Less {' or '.join(CONTROLS)}: to the best control of that shape in the table, by seed. The last "
        "column is the ratio of parameters without those of single words; `!` is a difference of more than 10 %."
    )
    return Table(f"{length}_{budget}", columns, rows, note)


def parts_table(contest: Contest, group: Sequence[Standing], part: str) -> Table:
    """Validation loss `by_source` or `by_position` of the best variants, a row for each source or octave."""
    shown = list(group[:MOST_COLUMNS])
    means = [_part_means(standing, part) for standing in shown]
    names = [name for name in means[0] if all(name in it for it in means)]
    rows = [[name, *(round(it[name], 3) for it in means)] for name in names]
    title = {"by_source": "source", "by_position": "last place"}[part]
    note = {"by_source": "", "by_position": "Places in the document; each row begins behind the one above. "}[part]
    columns = [title, *(standing.label for standing in shown)]
    return Table(f"{contest[0]}_{contest[1]}_{part}", columns, rows, f"{note}Validation loss, mean over seeds.")


def differences_table(outcomes: Sequence[Outcome]) -> Table:
    """All goals in all contests that give an answer, so that what a longer budget changes can be seen."""
    columns = ["length", "contest", "ours", "control", "split", "seeds", "our loss", "its loss", "less it", "spread"]
    rows = [it.row() for it in differences(outcomes)]
    note = (
        "Loss in nats per masked token of the best of ours less that of the best control of the shape, by seed; the "
        "variant is chosen on validation. Spread: standard deviation of the differences over seeds."
    )
    return Table("differences", columns, rows, note)


def runs_table(outcomes: Iterable[Outcome]) -> Table:
    """All finished runs, one line each, contest by contest and the best first."""
    columns = ["length", "contest", "variant", "recipe", "learning rate", "seed", "loss", "M tokens", "tok/s"]
    rows = [
        [
            *it.contest,
            it.settings.variant,
            it.settings.recipe,
            f"{it.settings.learning_rate:g}",
            it.settings.seed,
            round(it.loss, 4),
            round(it.record["tokens"] / 1e6, 1),
            round(it.record["tokens_per_second"]),
        ]
        for it in sorted(outcomes, key=lambda it: (it.contest, it.loss))
    ]
    return Table("runs", columns, rows, "Validation loss, nats per masked token.")


def report(outcomes: Sequence[Outcome], failed: Sequence[Mapping[str, Any]]) -> str:
    """Everything in Markdown."""
    sections = [f"# The ladder\n\n{len(outcomes)} finished runs, {len(failed)} failed.\n"]
    for contest, group in standings(outcomes).items():
        sections.append(f"## Documents of {contest[0]} tokens, {contest[1]}\n")
        sections.append(to_markdown(ladder_table(contest, group)))
        sections += [to_markdown(parts_table(contest, group, part)) for part in ("by_source", "by_position")]
    if outcomes:
        sections += ["## Differences\n", to_markdown(differences_table(outcomes))]
        sections += ["## All runs\n", to_markdown(runs_table(outcomes))]
    if failed:
        sections.append("## Failed\n")
        sections += [f"- `{it['run']}`: {it['error']}" for it in failed]
    return "\n".join(sections) + "\n"


def differences(outcomes: Iterable[Outcome]) -> list[Difference]:
    """By goal, the contests in which it has an answer, in the order of their ranks."""
    found = []
    for contest, group in standings(outcomes).items():
        for key, goal in GOALS.items():
            if contest[0] == goal.length:
                # A contest without one of the two sides answers nothing.
                with suppress(LookupError):
                    found.append(_difference(key, goal, contest, group))
    return sorted(found, key=lambda it: (list(GOALS).index(it.key), it.rank))


def figures(outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """
    The figures of the ladder that the runs give: for each goal, of the contest that answers for it, and where there is
    a longer one, of that too, with `LONGEST` behind its name.
    """
    found = differences(outcomes)
    answers = {it.key: it for it in found}
    longest = {it.key: it for it in sorted(found, key=lambda it: it.rank[1:])}
    others = {f"{key}{LONGEST}": it for key, it in longest.items() if it is not answers[key]}
    return {"runs_logged": _count_figure(outcomes), **{key: _figure(it) for key, it in (answers | others).items()}}


def merge(outcomes: Sequence[Outcome], path: Path) -> dict[str, Figure]:
    """Make figures and the standings of all contests the results file `path`. Returns the figures."""
    found = figures(outcomes)
    tables = [ladder_table(contest, group) for contest, group in standings(outcomes).items()]
    tables += [differences_table(outcomes), runs_table(outcomes)]
    write_results(path, found, tables)
    return found


@dataclass(frozen=True)
class Goal:
    """
    A difference that the ladder is to show.

    Attributes:
        length: of documents.
        control: kind of the control.
        target: what is required, in words.
        ours: kind, family and fields of the configuration of the other side.
    """

    length: int
    control: str
    target: str
    ours: Mapping[str, Any]


# Presets are hybrids of other sizes than the controls.
HYBRID = {"kind": "concepts", "family": "hybrid"}
# Behind the key of a goal: the answer of its longest contest.
LONGEST = "_longest"
GOALS = {
    "hybrid_512_minus_bert": Goal(512, "bert", "at most 0.05", HYBRID),
    "hybrid_4096_minus_modernbert": Goal(4096, "modernbert", "below 0", HYBRID),
    "hybrid_8192_minus_modernbert": Goal(8192, "modernbert", "below 0", HYBRID),
    "bottleneck_512_minus_bert": Goal(512, "bert", "at most 0.35", {"family": "bottleneck", "concept_ratio": 4}),
    "perceiver_v1_512_minus_bert": Goal(512, "bert", "none", {"kind": "perceiver_v1"}),
}


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The records in a folder and below, or in an archive."""
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            yield _parse(file, file.read_text(encoding="utf-8"))
    elif path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield _parse(path, line)
    else:
        raise FileNotFoundError(f"{path} is no folder of records")


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
        if not isinstance(record["run"], str) or not ("error" in record or record["evaluation"]):
            raise KeyError("evaluation")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a run: {error!r}") from error
    return record


def _stand(name: str, recipe: str, outcomes: Sequence[Outcome]) -> Standing:
    by_rate: dict[float, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_rate[outcome.settings.learning_rate].append(outcome)
    losses = {rate: {it.settings.seed: it.loss for it in runs} for rate, runs in by_rate.items()}
    shared = set.intersection(*map(set, losses.values()))
    rate = min(losses, key=lambda it: statistics.fmean(losses[it][seed] for seed in shared or losses[it]))
    # A run that was also tested takes the place of the same one that was not.
    chosen = {it.settings.seed: it for it in sorted(by_rate[rate], key=lambda it: it.settings.final)}
    return Standing(find_variant(name), recipe, len(by_rate), tuple(chosen[seed] for seed in sorted(chosen)))


def _standing_row(standing: Standing, group: Sequence[Standing]) -> list[Any]:
    settings, record = standing.outcomes[0].settings, standing.outcomes[0].record
    reference = size_of(REFERENCE, settings.length, record["vocabulary"]).body
    per_byte = record["evaluation"][VALIDATION].get("nats_per_byte")
    return [
        standing.label,
        standing.variant.family,
        round(standing.loss, 4),
        "" if standing.spread is None else round(standing.spread, 4),
        len(standing.outcomes),
        *(_difference_cell(standing, group, kind) for kind in CONTROLS),
        "" if per_byte is None else round(per_byte, 4),
        f"{standing.learning_rate:g}",
        standing.rates,
        round(standing.mean("tokens") / 1e6, 1),
        round(standing.mean("tokens_per_second")),
        size_ratio(standing.body, reference),
    ]


def _difference_cell(standing: Standing, group: Sequence[Standing], kind: str) -> str:
    try:
        mine, theirs = standing.losses(), best_control(group, kind).losses()
    except LookupError:
        return ""
    seeds = mine.keys() & theirs.keys()
    return f"{statistics.fmean(mine[seed] - theirs[seed] for seed in seeds):+.3f}" if seeds else ""


def _part_means(standing: Standing, part: str) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for outcome in standing.outcomes:
        for name, scores in outcome.record["evaluation"][VALIDATION][part].items():
            values[name].append(scores["loss"])
    names = sorted(values, key=int) if part == "by_position" else sorted(values)
    return {name: statistics.fmean(values[name]) for name in names}


def _difference(key: str, goal: Goal, contest: Contest, group: Sequence[Standing]) -> Difference:
    control = best_control(group, goal.control)
    # A recipe that the control was not trained by would be an advantage of the recipe.
    fair = {it.recipe for it in group if it.variant.kind == goal.control}
    ours = best([it for it in group if it.recipe in fair], **goal.ours)
    values, split = difference(ours, control)
    return Difference(key, contest, ours, control, tuple(values), split)


def _figure(found: Difference) -> Figure:
    ours, control, values = found.ours, found.control, found.values
    record = ours.outcomes[0].record
    note = (
        f"{found.split} loss (nats per masked token) of {ours.label} less that of {control.label}, documents of "
        f"{found.contest[0]} tokens, {found.contest[1]} of training each, {len(values)} seeds, each at the best of "
        f"its learning rates ({ours.rates} and {control.rates}); parameters of the body {ours.body / 1e6:.1f}M and "
        f"{control.body / 1e6:.1f}M; required: {GOALS[found.key].target}"
    )
    mine, theirs = (it.outcomes[0].settings for it in (ours, control))
    command = (
        f"{COMMAND} run --data SELECTION --output RUNS --variants {mine.variant} {theirs.variant} "
        f"--lengths {mine.length} --{mine.clock} {mine.budget:g}"
    )
    facts = {"commit": record.get("commit", "unknown"), "device": record["device"], "date": record["date"]}
    return Figure.of_runs(values, unit="nats", command=command, note=note, **facts)


def _count_figure(outcomes: Sequence[Outcome]) -> Figure:
    note = "finished runs of the ladder, the losers too; required: 60 as a start"
    return Figure.of_runs([len(outcomes)], unit="runs", command=f"{COMMAND} merge", device="none: counted", note=note)
