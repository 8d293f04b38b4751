"""A report in words and rows, for terminals, Markdown and HTML. Takes report.json as data and imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tandem.evaluation.statistics import ALPHA
from tandem.evaluation.verdict import NOT_ENOUGH, join, p_text

Rows = list[list[str]]
NOTHING = "–"

SUMMARY_HEADER = ["arm", "EM", "95 %", "F1", "BLEU", "ROUGE-L", "recall@k", "p50 ms", "p95 ms", "per 1,000", "failed"]
PAIR_HEADER = ["pair", "metric", "difference", "95 %", "p", "p adjusted", "says"]

SCORES = {"em": "exactly right", "f1": "token F1"}
MEANING = {
    "base": "the model alone",
    "rag": "the model, given retrieved passages",
    "tuned": "fine-tuned, answering alone",
    "tuned_rag": "fine-tuned alone, then given retrieved passages",
    "raft": "fine-tuned with retrieved passages, and given them",
    "oracle": "the model, given passages of the right document: a ceiling, no candidate",
}

Data = Mapping[str, Any]


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as whole per cent, or a dash."""
    return NOTHING if value is None else f"{100.0 * value:.0f} %"


def money(value: float | None) -> str:
    """A price with two decimals, or two significant digits where it is small; or a dash."""
    if value is None:
        return NOTHING
    digits = 2 if value == 0.0 or value >= 0.1 else 1 - math.floor(math.log10(value))
    return f"{value:,.{digits}f}"


def milliseconds(value: float | None) -> str:
    """Whole milliseconds, or a dash."""
    return NOTHING if value is None else f"{value:,.0f}"


def interval(ci95: Sequence[float] | None, *, signed: bool = False) -> str:
    """An interval as `low to high`."""
    if ci95 is None:
        return NOTHING
    form = "+.2f" if signed else ".2f"
    return f"{ci95[0]:{form}} to {ci95[1]:{form}}"


def ranked(report: Data) -> list[str]:
    """Arms by the primary metric and then F1, best first, the oracle last."""
    metric = report["verdict"]["metric"]
    arms: Mapping[str, Any] = report["arms"]

    def order(name: str) -> tuple[bool, float, float]:
        metrics = arms[name]["metrics"]
        return not arms[name]["candidate"], -(metrics[metric] or 0.0), -(metrics["f1"] or 0.0)

    return sorted(arms, key=order)


def summary_rows(report: Data) -> Rows:
    """One row per arm, best first, under `SUMMARY_HEADER`.

    Args:
        report: A report.json, as data.
    """
    rows = []
    for name in ranked(report):
        arm = report["arms"][name]
        metrics, latency = arm["metrics"], arm["latency_ms"]
        rows.append(
            [
                name if arm["candidate"] else f"{name} (ceiling)",
                number(metrics["em"]),
                interval(arm["ci95"].get("em")),
                number(metrics["f1"]),
                number(metrics["bleu"], 1),
                number(metrics["rouge_l"]),
                number(metrics["recall_at_k"]),
                milliseconds(latency["p50"]),
                milliseconds(latency["p95"]),
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
        ci95 = pair["ci95"] if sign > 0 else [-pair["ci95"][1], -pair["ci95"][0]]
        diff = sign * pair["diff"]
        better = a if diff > 0 else b
        row = [
            f"{a} − {b}",
            pair["metric"].upper(),
            f"{diff:+.2f}",
            interval(ci95, signed=True),
            p_text(pair["p"]),
            p_text(pair["p_adjusted"]),
            f"{better} is better" if pair["p_adjusted"] < ALPHA else "no significant difference",
        ]
        if metric in (None, pair["metric"]):
            found.append(((pair["metric"] != report["verdict"]["metric"], place[a], place[b]), row))
    return [row for _, row in sorted(found)]


def verdict_sentence(report: Data) -> str:
    """The answer in a sentence, for somebody who knows no statistics.

    Args:
        report: A report.json, as data.
    """
    verdict, arms = report["verdict"], report["arms"]
    metric, winner, tied = verdict["metric"], verdict["winner"], verdict["tied"]
    questions = report["dataset"]["n"]

    def score_of(name: str) -> float:
        return float(arms[name]["metrics"][metric] or 0.0)

    if winner is None:
        if not tied or score_of(tied[0]) == 0.0 or verdict["reason"].startswith(NOT_ENOUGH):
            return f"No winner: {verdict['reason']}."
        scores = " and ".join(f"{name} {percent(score_of(name))}" for name in (tied[0], tied[-1]))
        span = scores if len(tied) == 2 else f"from {scores.replace(' and ', ' to ')}"
        return (
            f"No clear winner: {questions} questions can't tell {join(tied)} apart ({SCORES[metric]}: {span}). "
            f"Of these, {verdict['cheapest']} costs least."
        )
    runner_up = next(name for name in ranked(report) if name != winner)
    said = "answers {} of {} questions exactly right" if metric == "em" else "reaches {} token F1 on {} questions"
    said = said.format(percent(score_of(winner)), questions)
    low, high = map(percent, arms[winner]["ci95"][metric])
    return (
        f"{winner} wins: it {said} (95 % interval {low} to {high}), "
        f"{100 * (score_of(winner) - score_of(runner_up)):.0f} points more than {runner_up}, the next best."
    )


def sureness(report: Data) -> str:
    """How sure one may be, in a sentence or two."""
    verdict = report["verdict"]
    winner, metric, tied = verdict["winner"], verdict["metric"], verdict["tied"]
    tests = {frozenset((p["a"], p["b"])): p["p_adjusted"] for p in report["pairs"] if p["metric"] == metric}
    if winner is None:
        if len(tied) < 2:
            return f"The rule: {verdict['rule']}"
        if not any(report["arms"][name]["metrics"][metric] for name in tied):
            return "Look at the answers below: prompt, answer length or model don't fit these questions."
        p = p_text(tests[frozenset(tied[:2])])
        return (
            f"The difference between {tied[0]} and {tied[1]} may be chance ({p}, corrected for the number of pairs). "
            "More questions could decide it; until then, cost and speed may."
        )
    worst = max(p for pair, p in tests.items() if winner in pair)
    often = "fewer than 1" if worst < 0.001 else f"about {max(1, round(1000 * worst))}"
    return (
        f"Were it no better than the others, chance alone would give it such a lead in {often} of 1,000 comparisons "
        f"like this one ({p_text(worst)}, corrected for the number of pairs)."
    )


def markdown(report: Data) -> str:
    """report.md."""
    dataset, verdict = report["dataset"], report["verdict"]
    parts = [
        f"# {report['name']}",
        f"**{_escape(verdict_sentence(report))}**",
        _escape(sureness(report)),
        f"{dataset['n']} questions from `{dataset['eval']}` (split `{dataset['split_sha256'][:16]}`).",
        "## Arms",
        _table(SUMMARY_HEADER, summary_rows(report)),
        "## Pairs",
        _table(PAIR_HEADER, pair_rows(report)) if report["pairs"] else "Only one candidate: nothing to compare.",
    ]
    for column, values in report["slices"].items():
        arms = ranked(report)
        rows = [
            [value, str(next(iter(by_arm.values()))["n"]), *(number(by_arm[arm]["metrics"]["em"]) for arm in arms)]
            for value, by_arm in values.items()
        ]
        parts += [f"## EM by {_escape(column)}", _table([column, "n", *arms], rows)]
    if report["notes"]:
        parts += ["## Before you believe it", "\n".join(f"- {_escape(note)}" for note in report["notes"])]
    lineage = "\n".join(f"- {key}: `{value}`" for key, value in report["lineage"].items())
    parts += ["## Method", f"{verdict['rule']}", "## Lineage", lineage]
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    for character in "\\|<>*_`":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
