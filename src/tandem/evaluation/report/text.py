"""A report in sentences, and how its figures are printed. Takes report.json as data and imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tandem.evaluation.figures.measures import BY_NAME, BY_TASK, Measure
from tandem.evaluation.figures.statistics import ALPHA
from tandem.evaluation.figures.verdict import join, p_text

NOTHING = "–"

SCORES = {
    "em": "exactly right", "f1": "token F1", "rouge_l": "ROUGE-L", "bleu": "BLEU", "chrf": "chrF", "accuracy": "right",
    "macro_f1": "macro-F1",
}  # fmt: skip
MEANING = {
    "base": "the model alone",
    "rag": "the model, given retrieved passages",
    "tuned": "fine-tuned, answering alone",
    "tuned_rag": "fine-tuned alone, then given retrieved passages",
    "raft": "fine-tuned with retrieved passages, and given them",
    "oracle": "the model, given passages of the right document: a ceiling, no candidate",
}

LABELS = {
    "base": "the model alone, which says how likely each label is",
    "rag": "the model, shown labelled texts like this one",
    "tuned": "a classifier trained on the labelled texts",
    "tuned_rag": "that classifier, together with the labels of texts like this one",
}

# What a significant result is called, by the largest adjusted p against any other arm.
SURE = ((0.001, "very sure"), (0.01, "sure"), (ALPHA, "fairly sure"))
# From so many questions on, shares are printed with a decimal more.
MANY = 1000

Data = Mapping[str, Any]


def meaning(report: Data) -> Mapping[str, str]:
    """What each arm is, in a few words."""
    return LABELS if report["task"] == "classification" else MEANING


def measures(report: Data) -> list[Measure]:
    """What was measured and came out for an arm at least, the metric of the verdict first."""
    arms, first = report["arms"].values(), report["verdict"]["metric"]
    found = [m for m in BY_TASK[report["task"]] if any(arm["metrics"].get(m.name) is not None for arm in arms)]
    return sorted(found, key=lambda measure: measure.name != first)


def tested_measures(report: Data) -> list[Measure]:
    """Those of them on which pairs of arms are tested."""
    return [measure for measure in measures(report) if measure.tested or measure == primary(report)]


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as per cent, or a dash."""
    return NOTHING if value is None else f"{100.0 * value:.{digits}f} %"


def primary(report: Data) -> Measure:
    """The metric of the verdict."""
    return BY_NAME[report["verdict"]["metric"]]


def share(report: Data, value: float | None) -> str:
    """A figure of the verdict's metric, as exactly as so many questions warrant: a share as per cent."""
    if primary(report).high > 1.0:
        return number(value, 1)
    return percent(value, 1 if report["dataset"]["n"] >= MANY else 0)


def points(report: Data, difference: float) -> str:
    """A difference of the verdict's metric in hundredths of its range, without its sign; small ones with a decimal."""
    size = abs(primary(report).points(difference))
    return f"{size:.1f}" if size < 9.95 and f"{size:.1f}"[-1] != "0" else f"{size:.0f}"


def money(value: float | None) -> str:
    """A price with two decimals, or two significant digits where it is small; or a dash."""
    if value is None:
        return NOTHING
    digits = 2 if value == 0.0 or value >= 0.1 else 1 - math.floor(math.log10(value))
    return f"{value:,.{digits}f}"


def whole(value: float | None) -> str:
    """A figure without decimals, or a dash."""
    return NOTHING if value is None else f"{value:,.0f}"


def interval(bounds: Sequence[float] | None, *, signed: bool = False, digits: int = 2) -> str:
    """An interval as `low to high`."""
    if bounds is None:
        return NOTHING
    return " to ".join(signed_number(bound) if signed else f"{bound:.{digits}f}" for bound in bounds)


def signed_number(value: float) -> str:
    """A difference with its sign, two decimals; nothing has none."""
    said = f"{value:+.2f}"
    return "0.00" if float(said) == 0.0 else said.replace("-", "−")


def ranked(report: Data) -> list[str]:
    """Arms by the primary metric and then by the others that are tested, best first, the oracle last."""
    tested = [measure.name for measure in tested_measures(report)]
    arms: Mapping[str, Any] = report["arms"]

    def order(name: str) -> tuple[bool, list[float]]:
        return not arms[name]["candidate"], [-(arms[name]["metrics"].get(metric) or 0.0) for metric in tested]

    return sorted(arms, key=order)


def leaders(report: Data) -> list[str]:
    """The arms that a reader should look at: the winner, or those tied."""
    verdict = report["verdict"]
    return [verdict["winner"]] if verdict["winner"] else list(verdict["tied"])


def price(arm: Data) -> float:
    """What a thousand questions cost, training spread over them where its cost is known: what the verdict goes by."""
    cost = arm["cost"]
    spread: float | None = cost["per_1k_with_training"]
    return float(cost["per_1k"]) if spread is None else spread


def things(report: Data, count: int | None = None) -> str:
    """How many questions, or texts."""
    count = report["dataset"]["n"] if count is None else count
    noun = "text" if report["task"] == "classification" else "question"
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def headline(report: Data) -> str:
    """Which arm to choose, in as few words as will do."""
    verdict = report["verdict"]
    if verdict["kind"] == "winner":
        return f"Choose {verdict['choose']}"
    if verdict["kind"] == "tie":
        return f"Choose {verdict['choose']}: none is better, and it costs least"
    return "Not enough data to choose" if verdict["kind"] == "not_enough_data" else "Nothing to choose from"


def verdict_sentence(report: Data) -> str:
    """The answer in a sentence, for somebody who knows no statistics.

    Args:
        report: A report.json, as data.
    """
    verdict, arms = report["verdict"], report["arms"]
    metric, tied, items = verdict["metric"], verdict["tied"], things(report)

    def score_of(name: str) -> float:
        return float(arms[name]["metrics"][metric] or 0.0)

    if verdict["kind"] == "no_contest":
        return f"No winner: {verdict['reason']}."
    if verdict["kind"] == "winner":
        winner = verdict["winner"]
        runner_up = next(name for name in ranked(report) if name != winner)
        score = share(report, score_of(winner))
        said = {"em": f"answers {score} of {items} exactly right", "accuracy": f"gets {score} of {items} right"}
        low, high = (share(report, bound) for bound in arms[winner]["ci95"][metric])
        return (
            f"{winner} wins: it {said.get(metric, f'reaches {score} {SCORES[metric]} on {items}')} "
            f"(95 % interval {low} to {high}), "
            f"{points(report, score_of(winner) - score_of(runner_up))} points more than {runner_up}, the next best."
        )
    scores = [f"{name} {share(report, score_of(name))}" for name in (tied[0], tied[-1])]
    span = " and ".join(scores) if len(tied) == 2 else f"from {scores[0]} to {scores[1]}"
    if verdict["kind"] == "tie":
        return (
            f"A tie: {join(tied)} are equally good on {items} ({SCORES[metric]}: {span}). "
            f"{verdict['cheapest']} costs least."
        )
    more = verdict["more_items"]
    wanted = "" if more is None else f" About {_roughly(more):,} more would settle it."
    return f"No clear winner: {items} can't tell {join(tied)} apart ({SCORES[metric]}: {span}).{wanted}"


def _roughly(count: int) -> int:
    """Two digits of a count that is an estimate, upwards."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit


def how_sure(report: Data) -> str:
    """How sure one may be, in a few words; `sureness` says why."""
    kind = report["verdict"]["kind"]
    if kind == "winner":
        worst = _largest_p(report)
        return next((words for limit, words in SURE if worst < limit), "not sure")
    return {"tie": "sure that quality doesn't decide", "not_enough_data": "not sure", "no_contest": "no answer"}[kind]


def sureness(report: Data) -> str:
    """How sure one may be, in a sentence or two."""
    verdict = report["verdict"]
    kind, metric, tied = verdict["kind"], verdict["metric"], verdict["tied"]
    if kind == "no_contest":
        if tied:
            return "Look at the answers below: prompt, answer length or model don't fit these questions."
        return "A verdict needs two arms or more that could be chosen, asked the same questions."
    if kind == "winner":
        worst = _largest_p(report)
        often = "fewer than 1" if worst < 0.001 else f"about {max(1, round(1000 * worst))}"
        return (
            f"Were it no better than the others, chance alone would give it such a lead in {often} of 1,000 "
            f"comparisons like this one ({p_text(worst)}, corrected for the number of pairs)."
        )
    if kind == "tie":
        return (
            f"That they differ by less than {points(report, verdict['margin'])} points is shown with 95 % confidence. "
            "Quality doesn't decide between them, so cost does."
        )
    first = next(p for p in report["pairs"] if p["metric"] == metric and {p["a"], p["b"]} == set(tied[:2]))
    return (
        f"The difference between {tied[0]} and {tied[1]} may be chance ({p_text(first['p_adjusted'])}, corrected for "
        f"the number of pairs): so many {things(report, 2).split()[-1]} show differences of "
        f"{points(report, first['detectable'])} points or more. Until there are more, cost and speed may decide: "
        f"{verdict['cheapest']} costs least."
    )


def _largest_p(report: Data) -> float:
    winner, metric = report["verdict"]["winner"], report["verdict"]["metric"]
    found = [p["p_adjusted"] for p in report["pairs"] if p["metric"] == metric and winner in (p["a"], p["b"])]
    return float(max(found))


def scope(report: Data) -> str:
    """For what the verdict holds, in a sentence: what no test of these questions can say."""
    trained = [arm for arm in report["arms"].values() if arm["cost"]["train"] != 0.0]
    seeds = [arm["seeds"]["n"] for arm in trained if arm["seeds"]]
    said = f"It holds for {things(report, 2).split()[-1]} like these, this model and these settings"
    if not trained:
        return f"{said}."
    if len(seeds) == len(trained):
        return f"{said}; what was trained was trained {min(seeds)} times, with other seeds."
    return f"{said}; training again, with another seed, may give somewhat other figures."
