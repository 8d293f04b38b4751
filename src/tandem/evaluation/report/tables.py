"""A report in rows, for terminals, Markdown and the page. Takes report.json as data and imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.evaluation.figures.measures import BY_NAME, Measure
from tandem.evaluation.figures.slices import GOLD_RETRIEVED
from tandem.evaluation.figures.statistics import ALPHA
from tandem.evaluation.figures.verdict import p_text
from tandem.evaluation.report.text import (
    NOTHING,
    Data,
    interval,
    measures,
    money,
    number,
    primary,
    ranked,
    signed_number,
    whole,
)

Rows = list[list[str]]

PAIR_HEADER = [
    "pair", "metric", "difference", "95 %", "90 %", "better : worse", "d_z", "p", "p adjusted", "detectable", "says",
]  # fmt: skip
BREAK_EVEN_HEADER = ["arm", "against", "cheaper after", "cheaper per right answer after"]
# A heat map's colours span at least so much: small differences don't look like great ones.
LEAST_SPAN = 0.2
YES_NO = {"yes", "no"}


def summary_header(report: Data) -> list[str]:
    """Columns of `summary_rows`."""
    first, *others = measures(report)
    return ["arm", first.head, "95 %", *(m.head for m in others), "p50 ms", "p95 ms", "per 1,000", "failed"]


def summary_rows(report: Data) -> Rows:
    """One row per arm, best first, under `summary_header`.

    Args:
        report: A report.json, as data.
    """
    first, *others = measures(report)
    rows = []
    for name in ranked(report):
        arm = report["arms"][name]
        latency = arm["latency_ms"]
        rows.append(
            [
                name if arm["candidate"] else f"{name} (ceiling)",
                first.number(arm["metrics"][first.name]),
                interval(arm["ci95"].get(first.name)),
                *(measure.number(arm["metrics"].get(measure.name)) for measure in others),
                whole(latency["p50"]),
                whole(latency["p95"]),
                money(arm["cost"]["per_1k"]),
                f"{arm['failures']} of {arm['n']}",
            ]
        )
    return rows


def pair_rows(report: Data, metric: str | None = None) -> Rows:
    """One row per pair and metric under `PAIR_HEADER`, the better arm first, the best arms' pairs on top.

    Args:
        report: A report.json, as data.
        metric: Only this one.
    """
    place = {name: number for number, name in enumerate(ranked(report))}
    found = []
    for pair in report["pairs"]:
        a, b, sign = (pair["a"], pair["b"], 1) if place[pair["a"]] < place[pair["b"]] else (pair["b"], pair["a"], -1)
        diff = sign * pair["diff"]
        row = [
            f"{a} − {b}",
            BY_NAME[pair["metric"]].head,
            signed_number(diff),
            interval(_turned(pair["ci95"], sign), signed=True),
            interval(_turned(pair["ci90"], sign), signed=True),
            _score(pair, sign),
            NOTHING if pair["effect"] is None else signed_number(sign * pair["effect"]),
            bare_p(pair["p"]),
            bare_p(pair["p_adjusted"]),
            number(pair["detectable"]),
            says(report, pair, a if diff > 0 else b),
        ]
        if metric in (None, pair["metric"]):
            found.append(((pair["metric"] != report["verdict"]["metric"], place[a], place[b]), row))
    return [row for _, row in sorted(found)]


def pairs_on(report: Data, metric: str) -> tuple[list[str], Rows]:
    """Heading and rows of one metric's pairs, without the column that would name it in each row."""
    return [PAIR_HEADER[0], *PAIR_HEADER[2:]], [[row[0], *row[2:]] for row in pair_rows(report, metric)]


def bare_p(p: float) -> str:
    """A p-value under a heading that says what it is."""
    return p_text(p).removeprefix("p").removeprefix(" =").strip()


def says(report: Data, pair: Data, better: str) -> str:
    """What a pair's test says: one is better, both are equal, or one can't tell."""
    # The verdict's is in units of its own metric.
    within = primary(report).points(report["verdict"]["margin"])
    if pair["p_adjusted"] < ALPHA:
        return f"{better} is better"
    if BY_NAME[pair["metric"]].points(max(map(abs, pair["ci90"]))) < within:
        return f"equal within {within:g} points"
    return "can't tell"


def _turned(bounds: Sequence[float], sign: int) -> list[float]:
    return list(bounds) if sign > 0 else [-bounds[1], -bounds[0]]


def _score(pair: Data, sign: int) -> str:
    if pair["wins"] is None:
        return NOTHING
    won, lost = (pair["wins"], pair["losses"])[::sign]
    return f"{won} : {lost}"


def break_even_rows(report: Data) -> Rows:
    """One row per trained and untrained arm, under `BREAK_EVEN_HEADER`."""
    return [
        [each["arm"], each["against"], *(_after(each[key]) for key in ("questions", "questions_per_correct"))]
        for each in report["break_even"]
    ]


def _after(questions: int | None) -> str:
    return "never" if questions is None else f"{questions:,} questions" if questions > 1 else "the first question"


@dataclass(frozen=True)
class Cell:
    """A figure in a table of the page.

    Attributes:
        text: As it is printed.
        small: What stands below it, in small type.
        best: Whether no candidate does better.
    """

    text: str
    small: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table whose columns are arms.

    Attributes:
        head: Its name.
        says: What it is, for a reader who doesn't know it.
        cells: One for each arm, as ranked.
    """

    head: str
    says: str
    cells: tuple[Cell, ...]


def measure_lines(report: Data) -> list[Line]:
    """All that was measured: a row per measure, a column per arm, as ranked."""
    lines = []
    for measure in measures(report):
        digits = 2 if measure.high <= 1 else 1
        texts = {name: measure.number(arm["metrics"].get(measure.name)) for name, arm in report["arms"].items()}
        small = {name: interval(arm["ci95"].get(measure.name), digits=digits) for name, arm in report["arms"].items()}
        lines.append(_line(report, measure.head, measure.says, texts, small, max if measure.better else None))
    return lines


def cost_lines(report: Data) -> list[Line]:
    """What it takes: prices, machine time, latency, tokens and failures; a column per arm, as ranked."""
    spread = f"{report['lineage']['prices']['questions']:,}"
    each = {name: _spent(arm) for name, arm in report["arms"].items()}
    rows: tuple[tuple[str, str, Callable[[float | None], str], Callable[..., float] | None], ...] = (
        ("1,000 questions", "retrieval and generation: machine time at the spec's prices", money, min),
        ("with training", f"the same, training spread over {spread} questions", money, min),
        ("1,000 right answers", "the questions that it takes to get them; without training", money, min),
        ("training", "once", money, None),
        ("core-seconds", "of processors, for 1,000 questions", whole, min),
        ("GPU-seconds", "for 1,000 questions", whole, min),
        ("latency, p50 ms", "half of the questions are answered faster; retrieval included", whole, min),
        ("latency, p95 ms", "19 of 20 are answered faster; of a question in its batch", whole, min),
        ("prompt tokens", "mean", whole, None),
        ("answer tokens", "mean", lambda value: number(value, 1), None),
        ("failed", "without an answer; each counts as wrong", whole, None),
    )
    lines = []
    for at, (head, says_what, form, best) in enumerate(rows):
        values = {name: figures[at] for name, figures in each.items()}
        if head != "GPU-seconds" or any(values.values()):
            lines.append(
                _line(report, head, says_what, {name: form(value) for name, value in values.items()}, {}, best)
            )
    return lines


def _spent(arm: Data) -> tuple[float | None, ...]:
    cost, tokens, latency = arm["cost"], arm["tokens"], arm["latency_ms"]
    right = cost["per_correct"]
    return (
        cost["per_1k"], cost["per_1k_with_training"], right and 1000 * right, cost["train"], cost["cpu_s_per_1k"],
        cost["gpu_s_per_1k"], latency["p50"], latency["p95"], tokens["prompt"] / arm["n"], tokens["completion_mean"],
        arm["failures"],
    )  # fmt: skip


def _line(
    report: Data,
    head: str,
    says_what: str,
    texts: Mapping[str, str],
    small: Mapping[str, str],
    best: Callable[..., float] | None,
) -> Line:
    arms = ranked(report)
    # As printed: a lead that can't be seen is none.
    values = {name: float(texts[name].replace(",", "")) for name in arms if texts[name] != NOTHING}
    rivals = [value for name, value in values.items() if report["arms"][name]["candidate"]]
    top = best(rivals) if best is not None and len(set(rivals)) > 1 else None
    cells = tuple(
        Cell(
            texts[name], small.get(name, ""), report["arms"][name]["candidate"] and values.get(name) == top is not None
        )
        for name in arms
    )
    return Line(head, says_what, cells)


@dataclass(frozen=True)
class HeatMap:
    """One column of the questions: its values down, the arms across.

    Attributes:
        column: Its name.
        measure: What is shown.
        low: The figure of the palest colour.
        high: That of the darkest.
        rows: For each value: it, its questions, and a cell for each arm as ranked: the figure, its interval, how many
            questions it is of, and how dark it is, 0 to 1.
    """

    column: str
    measure: Measure
    low: float
    high: float
    rows: tuple[tuple[str, int, tuple[tuple[str, str, int, float], ...]], ...]


def heat_maps(report: Data) -> list[HeatMap]:
    """Slices by the primary metric; whether the gold document was retrieved first, since that explains most."""
    measure, arms = BY_NAME[report["verdict"]["metric"]], ranked(report)
    maps = []
    for column, values in sorted(report["slices"].items(), key=lambda entry: entry[0] != GOLD_RETRIEVED):
        found = [by_arm[arm]["metrics"][measure.name] for by_arm in values.values() for arm in arms]
        known = [value for value in found if value is not None]
        high = max(known, default=0.0)
        span = LEAST_SPAN * measure.high
        low = max(0.0, min(min(known, default=0.0), high - span))
        top = max(high, low + span)
        rows = tuple(
            (value, by_arm[arms[0]]["n"], tuple(_heat_cell(by_arm[arm], measure, low, top) for arm in arms))
            for value, by_arm in sorted(values.items(), key=lambda entry: set(values) == YES_NO and entry[0] != "yes")
        )
        maps.append(HeatMap(column, measure, low, top, rows))
    return maps


def _heat_cell(part: Any, measure: Measure, low: float, high: float) -> tuple[str, str, int, float]:
    value = part["metrics"][measure.name]
    shade = 0.0 if value is None else round(min(1.0, max(0.0, (value - low) / (high - low))), 3)
    digits = 2 if measure.high <= 1 else 1
    return measure.number(value), interval(part["ci95"].get(measure.name), digits=digits), part["n"], shade
