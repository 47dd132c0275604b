# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""An analysis as files: JSON for programs, Markdown and one HTML page, with all figures in it, for people."""

import base64
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation_concept.analysis_figures import draw_figures, printable
from evaluation_concept.files import draft, write_json

Results = Mapping[str, Any]
REPORT, MARKDOWN, PAGE, FIGURES = "report.json", "report.md", "index.html", "figures"
TOP_TOKENS = 5
# Whatever a text holds, a browser runs nothing and fetches nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222; }
h2 { border-bottom: 1px solid #ccc; margin-top: 2em; } img { max-width: 100%; }
table { border-collapse: collapse; margin: 1em 0; } caption { text-align: left; font-weight: 600; }
td, th { border-bottom: 1px solid #ddd; padding: .15em .7em; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } img { background: #fff; } }
"""


@dataclass(frozen=True)
class ReportTable:
    """A title, names of columns, rows of numbers and words; `None` is nothing to say."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Section:
    """One part of a report: how to read it, its tables, and its figures (files)."""

    title: str
    text: str
    tables: Sequence[ReportTable]
    figures: Sequence[Path] = ()


def write_report(results: Results, folder: Path) -> list[Path]:
    """
    Write `report.json`, `report.md`, `index.html` and `figures/*.png`, each as a whole or not at all.

    Args:
        results: of `analysis.analyse`, and `settings`.

    Returns:
        The three files.
    """
    drawn = draw_figures(results, folder / FIGURES)
    sections = [_settings(results), *_sections(results, drawn), _not_run(results)]
    write_json(folder / REPORT, finite({**results, "headline": headline(results)}))
    for name, text in ((MARKDOWN, to_markdown(sections, folder)), (PAGE, to_html(sections))):
        with draft(folder / name) as draft_path:
            draft_path.write_text(text, encoding="utf-8")
    return [folder / name for name in (REPORT, MARKDOWN, PAGE)]


def headline(results: Results) -> dict[str, float]:
    """The numbers that a model is compared by, of those parts that were run."""
    found = {}
    for name, path in HEADLINE.items():
        value: Any = results
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            found[name] = value
    return found


def finite(content: Any) -> Any:
    """The same with `None` for numbers that JSON has no way to write."""
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def to_markdown(sections: Sequence[Section], folder: Path) -> str:
    """The report in Markdown, with figures as files below `folder`."""
    lines = ["# Analysis of a concept encoder", ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.text, ""]
        for table in section.tables:
            lines += [f"**{table.title}**", "", _markdown_row(table.columns), "|---" * len(table.columns) + "|"]
            lines += [*(_markdown_row(map(_cell, row)) for row in table.rows), ""]
        lines += [f"![{path.stem}]({path.relative_to(folder).as_posix()})\n" for path in section.figures]
    return "\n".join(lines)


def to_html(sections: Sequence[Section]) -> str:
    """The report as a page that needs no other file."""
    body = "\n".join(_html_section(section) for section in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Analysis of a concept encoder</title><style>{CSS}</style></head>\n"
        f"<body><h1>Analysis of a concept encoder</h1>\n{body}\n</body></html>\n"
    )


def _html_section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>", f"<p>{html.escape(section.text)}</p>"]
    for table in section.tables:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
        rows = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in table.rows)
        caption = html.escape(table.title)
        parts.append(
            f'<div class="wide"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    for path in section.figures:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>')
    return "\n".join(parts)


def _html_cell(value: Any) -> str:
    kind = ' class="number"' if isinstance(value, int | float) else ""
    return f"<td{kind}>{html.escape(_cell(value))}</td>"


def _markdown_row(cells: Any) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(cell: str) -> str:
    """Text that no Markdown reader takes for markup."""
    safe = html.escape(cell, quote=False)
    return "".join(f"\\{mark}" if mark in r"\|`*_[]~" else mark for mark in safe)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))


def _settings(results: Results) -> Section:
    text = "What was analysed. Every number stands beside what chance or random weights give."
    settings = ReportTable("Settings", ("setting", "value"), [*results.get("settings", {}).items()])
    numbers = ReportTable("In short", ("number", "value"), [*headline(results).items()])
    return Section("Overview", text, [settings, numbers])


def _sections(results: Results, drawn: Mapping[str, list[Path]]) -> list[Section]:
    return [
        Section(title, text, tables(results[part]), drawn.get(part, ()))
        for part, (title, text, tables) in SECTIONS.items()
        if part in results
    ]


def _not_run(results: Results) -> Section:
    rows = [[*item] for item in results["not_run"].items()]
    text = "What this report leaves out, and why." if rows else "Everything was run."
    return Section("Not run", text, [ReportTable("Left out", ("part", "reason"), rows)] if rows else [])


def _geometry_tables(geometry: Results) -> list[ReportTable]:
    rows = [
        [label, geometry["model"][name], geometry["random"][name], meaning]
        for name, (label, meaning) in GEOMETRY_ROWS.items()
    ]
    return [ReportTable("Concepts", ("number", "this model", "random weights", "how to read it"), rows)]


def _ablation_tables(ablation: Results) -> list[ReportTable]:
    full = ablation["full"]
    cases = [("all concepts", full)]
    cases += [(f"without {share:.0%} of them, at random", loss) for share, loss in ablation["without_share"]]
    cases += [(f"without concept {slot}", loss) for slot, loss in ablation["without_slot"]]
    cases += [
        ("without any (the token window is left in the hybrid family)", ablation["without_concepts"]),
        ("without any, nor what they wrote back to tokens", ablation["tokens_alone"]),
        ("unigram, fitted to this very text", ablation["unigram"]),
    ]
    tables = [ReportTable("Masked-LM loss", ("decoder sees", "nats", "more"), [[*it, it[1] - full] for it in cases])]
    if ablation["own_span"] is not None:
        rows = [["with it", ablation["own_span"]], ["without it", ablation["own_span_without"]]]
        tables.append(ReportTable("Masked tokens of a span and its own concept", ("concept", "nats"), rows))
    return tables


def _token_tables(recovery: Results) -> list[ReportTable]:
    columns = ("from", "encoder", "AUC", "recall", "recall by frequency alone", "tokens asked for", "test samples")
    keys = ("auc", "recall", "prior_recall", "num_tokens", "num_samples")
    rows = [
        [f"the concept of a {name}" if name == "span" else "the mean concept of a row", _who(who)]
        + [it[key] for key in keys]
        for name, probe in recovery.items()
        for who, it in probe.items()
    ]
    return [ReportTable("Which tokens stand there", columns, rows)]


def _order_tables(recovery: Results) -> list[ReportTable]:
    columns = ("encoder", "given both", "one by one", "bag of words", "test pairs")
    rows = [
        [_who(who), it["paired_accuracy"], it["single_accuracy"], 0.5, it["num_pairs"]] for who, it in recovery.items()
    ]
    return [ReportTable("Which sentence has two words swapped (accuracy)", columns, rows)]


def _reading_tables(reading: Results) -> list[ReportTable]:
    stages = [[number, *(stage[key] for key in STAGE_COLUMNS)] for number, stage in enumerate(reading["stages"], 1)]
    tables = [ReportTable("How sharply and how far", ("read", *STAGE_COLUMNS.values()), stages)]
    for name, it in reading["preferences"].items():
        title = f"By {name}: {it['bits']:.4f} bits about the reader ({it['shuffled_bits']:.4f} by chance)"
        rows = [["share of the text", *it["base"]]]
        rows += [[reader, *ratios] for reader, ratios in zip(it["readers"], it["enrichment"], strict=True)]
        tables.append(ReportTable(title, ("reader", *it["names"]), rows))
    return [*tables, _top_tokens(reading["example"])]


def _top_tokens(example: Results) -> ReportTable:
    rows = []
    for concept, weights in zip(example["concepts"], example["weights"], strict=True):
        order = sorted(range(len(weights)), key=lambda place: -weights[place])[:TOP_TOKENS]
        rows.append([concept, "  ".join(f"{example['tokens'][place]!r} {weights[place]:.2f}" for place in order)])
    return ReportTable("What each concept reads most, in one text", ("concept", "tokens and shares"), rows)


def _who(name: str) -> str:
    return {"model": "this model", "random": "random weights"}[name]


HEADLINE = {
    "entropy_rank_share": ("geometry", "model", "entropy_rank_share"),
    "input_share": ("geometry", "model", "input_share"),
    "distinct_share": ("geometry", "model", "distinct_share"),
    "plan_rank_share": ("geometry", "model", "plan_rank_share"),
    "mlm_loss": ("ablation", "full"),
    "mlm_loss_without_concepts": ("ablation", "without_concepts"),
    "mlm_loss_tokens_alone": ("ablation", "tokens_alone"),
    "unigram_loss": ("ablation", "unigram"),
    "token_probe_auc": ("token_recovery", "document", "model", "auc"),
    "span_probe_auc": ("token_recovery", "span", "model", "auc"),
    "order_probe": ("order_recovery", "model", "paired_accuracy"),
    "order_probe_single": ("order_recovery", "model", "single_accuracy"),
}
GEOMETRY_ROWS = {
    "num_documents": ("rows", ""),
    "num_concepts": ("concepts of a row", "mean C"),
    "width": ("width", "H"),
    "entropy_rank": ("entropy rank", "of each row's concepts around their mean (Roy & Vetterli 2007), mean over rows"),
    "entropy_rank_share": ("... share", "of the highest possible, min(C - 1, H); noise has a high one too"),
    "input_share": ("input-dependent share", "of the variance: 0 is a constant table, high is good"),
    "distinct_share": (
        "distinct share",
        "of the variance lies between the concepts of a row: 0 is copies of one vector",
    ),
    "cosine": ("mean cosine", "of two concepts of a row; a mean that all share drives it to 1 and costs nothing"),
    "centred_cosine": ("... centred", "mean size, the row's mean subtracted: 1 is all on one line"),
    "dimension_entropy": ("dimension entropy", "over how many directions all variance spreads, share of H"),
    "dimensions_used": ("dimensions used", "share of coordinates with 1 % of the mean variance or more"),
    "norm_mean": ("mean norm", ""),
    "norm_max": ("largest norm", ""),
    "dead": ("dead slots", "hardly depend on the input"),
    "duplicates": ("duplicate slots", "say what an earlier one says"),
    "plan_rank": (
        "the plan's effective rank",
        "sum(S) / max(S) of the mean over rows, not centred. It misleads: a mean loses what depends on the input, "
        "so that a constant table scores C, and a shared mean, which costs nothing, pushes it to 1",
    ),
    "plan_rank_share": ("... share", "of the slots"),
}
STAGE_COLUMNS = {
    "entropy_share": "entropy (1: all tokens alike)",
    "free_entropy_share": "of free concepts",
    "distance": "tokens away",
    "even_distance": "if all alike",
    "own_span": "share on own span",
    "even_own_span": "if all alike",
}
SECTIONS: dict[str, tuple[str, str, Callable[[Results], list[ReportTable]]]] = {
    "geometry": (
        "Geometry",
        "Good concepts depend on the input, differ from one another and spread over many directions. None of these "
        "numbers is enough alone, and none is a goal: random weights have a high rank.",
        _geometry_tables,
    ),
    "ablation": (
        "What the loss owes to concepts",
        "Held-out masked tokens are predicted again with concepts taken away from the decoder. Where the loss hardly "
        "rises, the model does not use them.",
        _ablation_tables,
    ),
    "token_recovery": (
        "Token recovery",
        "A ridge regression on concepts ranks frequent tokens by whether they stand in the text. Documents are split "
        "into training, validation and test. Concepts that start as means of spans hold their tokens without any "
        "training: compare with random weights. 0.5 is chance.",
        _token_tables,
    ),
    "order_recovery": (
        "Order recovery",
        "A logistic regression on the mean concept of a sentence tells it from the same with two words that follow "
        "one another swapped. Both have the same tokens, so that any bag of words is at 0.5.",
        _order_tables,
    ),
    "reading": (
        "What concepts read",
        "Attention of concepts on tokens. In the lists of preferences a number is the share of the reading that goes "
        "to a kind of token over the share of that kind in the text: 1 is no preference.",
        _reading_tables,
    ),
}
