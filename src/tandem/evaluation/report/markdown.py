"""report.md: the report for a place that shows text."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.evaluation.report.explain import explanation
from tandem.evaluation.report.tables import (
    BREAK_EVEN_HEADER,
    PAIR_HEADER,
    break_even_rows,
    heat_maps,
    pair_rows,
    summary_header,
    summary_rows,
)
from tandem.evaluation.report.text import (
    Data,
    headline,
    how_sure,
    meaning,
    measures,
    ranked,
    scope,
    sureness,
    things,
    verdict_sentence,
)


def markdown(report: Data) -> str:
    """The whole report but for its items.

    Args:
        report: A report.json, as data.
    """
    dataset, verdict = report["dataset"], report["verdict"]
    arms = ranked(report)
    parts = [
        f"# {report['name']}",
        f"**{_escape(headline(report))}.** {_escape(verdict_sentence(report))}",
        f"How sure: {how_sure(report)}. {_escape(sureness(report))} {scope(report)}",
        f"{things(report)} from `{_code(dataset['eval'])}` (split `{dataset['split_sha256'][:16]}`).",
        "## Arms",
        _table(summary_header(report), summary_rows(report)),
        "\n".join(f"- {name}: {meaning(report)[name]}" for name in arms),
        "## Pairs",
        _table(PAIR_HEADER, pair_rows(report)) if report["pairs"] else "Only one candidate: nothing to compare.",
    ]
    if report["break_even"]:
        parts += ["## When training has paid for itself", _table(BREAK_EVEN_HEADER, break_even_rows(report))]
    if said := explanation(report):
        parts += ["## Why this order", _escape(" ".join(said))]
    for heat in heat_maps(report):
        rows = [[value, str(n), *(f"{text} ({ci})" for text, ci, _, _ in cells)] for value, n, cells in heat.rows]
        parts += [f"## {heat.measure.head} by {_escape(heat.column)}", _table([heat.column, "n", *arms], rows)]
    if report["notes"]:
        parts += ["## Before you believe it", "\n".join(f"- {_escape(note)}" for note in report["notes"])]
    measured = "\n".join(f"- {_escape(measure.head)}: {_escape(measure.says)}" for measure in measures(report))
    lineage = "\n".join(f"- {key}: `{_code(str(value))}`" for key, value in report["lineage"].items())
    parts += ["## Method", verdict["rule"], measured, "## Lineage", lineage]
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    for character in "\\|<>*_`":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split("\n"))


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split("\n"))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_escape(cell) for cell in header], ["---"] * len(header)]
    lines += [[_escape(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
