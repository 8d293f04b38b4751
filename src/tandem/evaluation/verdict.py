"""From arms and paired tests to a winner, a tie or "not enough data": a pure function with a stated rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem.evaluation.statistics import ALPHA, PairTest, smallest_p

RULE = (
    "An arm wins if it is significantly better than every other candidate on the primary metric "
    f"(paired tests, Holm-adjusted p < {ALPHA}). Else the best arm and all that it doesn't significantly beat are "
    "tied, and the cheapest of them is named. oracle, which is given the gold documents, is a ceiling and no candidate."
)


NOT_ENOUGH = "not enough data"


@dataclass(frozen=True)
class Candidate:
    """An arm that may win.

    Attributes:
        name: The arm.
        score: Its mean of the primary metric.
        cost: What training it and answering a thousand questions cost together.
    """

    name: str
    score: float
    cost: float


@dataclass(frozen=True)
class Verdict:
    """What the comparison says.

    Attributes:
        winner: The arm that is significantly better than every other, or None.
        tied: The best arms among which these items can't decide, best first; empty with a winner.
        cheapest: The cheapest of those tied, or None.
        reason: One sentence.
    """

    winner: str | None
    tied: tuple[str, ...]
    cheapest: str | None
    reason: str


def decide(candidates: Sequence[Candidate], pairs: Sequence[PairTest], *, metric: str, items: int) -> Verdict:
    """The verdict under `RULE`.

    Args:
        candidates: Arms but for the oracle.
        pairs: Tests of every pair of them on the primary metric, adjusted.
        metric: Its name.
        items: Questions that all arms answered.
    """
    label = metric.upper()
    ranked = sorted(candidates, key=lambda arm: (-arm.score, arm.cost, arm.name))
    if not ranked:
        return Verdict(None, (), None, "no arm that could win was compared: oracle is a ceiling and no candidate")
    if len(ranked) == 1:
        return Verdict(None, (), None, f"nothing to compare: {ranked[0].name} is the only candidate")
    tests = _by_pair(pairs)
    best, others = ranked[0], ranked[1:]
    tied = [best, *(arm for arm in others if not _beats(best, arm, tests))]
    names = tuple(arm.name for arm in tied)
    if len(tied) == 1:
        worst_p = max(tests[frozenset((best.name, arm.name))].p_adjusted for arm in others)
        reason = f"{best.name} has the highest {label} ({best.score:.2f}), significantly above every other arm "
        return Verdict(best.name, (), None, reason + f"(largest adjusted {p_text(worst_p)}, {items} questions)")
    cheapest = min(tied, key=lambda arm: (arm.cost, -arm.score, arm.name)).name
    if len(pairs) * smallest_p(items) >= ALPHA:
        reason = f"{NOT_ENOUGH}: on {items} questions no difference between {len(ranked)} arms could be significant"
    elif best.score == 0.0:
        reason = f"no arm answered anything right: {label} is 0 on all {items} questions"
    else:
        ends = f"{best.name} {best.score:.2f} to {tied[-1].name} {tied[-1].score:.2f}"
        reason = f"no significant difference in {label} between {join(names)} ({ends}, {items} questions)"
        reason += f"; {cheapest} costs least"
    return Verdict(None, names, cheapest, reason)


def _by_pair(pairs: Sequence[PairTest]) -> Mapping[frozenset[str], PairTest]:
    return {frozenset((pair.a, pair.b)): pair for pair in pairs}


def _beats(best: Candidate, other: Candidate, tests: Mapping[frozenset[str], PairTest]) -> bool:
    return best.score > other.score and tests[frozenset((best.name, other.name))].p_adjusted < ALPHA


def join(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def p_text(p: float) -> str:
    """A p-value as it is printed: three decimals, and never 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
