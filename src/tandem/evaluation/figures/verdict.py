"""From arms and paired tests to a winner, a tie or "not enough data": a pure function with a stated rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tandem.evaluation.figures.measures import BY_NAME
from tandem.evaluation.figures.pairs import PairTest
from tandem.evaluation.figures.power import items_for_tie, items_needed, smallest_p
from tandem.evaluation.figures.statistics import ALPHA

Kind = Literal["winner", "tie", "not_enough_data", "no_contest"]


def rule(margin: float) -> str:
    """The rule, as a report states it."""
    return (
        "Quality first: an arm wins if it is significantly better than every other candidate on the primary metric "
        f"(paired tests, Holm-adjusted p < {ALPHA}). Else the best arm and all that it doesn't significantly beat are "
        f"left. If all of them are shown to be within {100 * margin:g} points of the best (90 % interval of the "
        "difference, two one-sided tests), it is a tie, and the cheapest of them, training included, is to be chosen. "
        "If that can't be shown either, there is not enough data. oracle, which is given the gold documents, is a "
        "ceiling and no candidate."
    )


@dataclass(frozen=True)
class Candidate:
    """An arm that may win.

    Attributes:
        name: The arm.
        score: Its primary metric.
        cost: Of a thousand questions, with training spread over as many as the prices say.
        cost_known: False where nobody knows what training cost, which is then left out; such an arm isn't called
            cheaper than one whose cost is known.
    """

    name: str
    score: float
    cost: float
    cost_known: bool = True


@dataclass(frozen=True)
class Verdict:
    """What the comparison says.

    Attributes:
        kind: A winner, a tie, not enough data; or no contest: one candidate, or nothing right in any arm.
        winner: The arm that is significantly better than every other, or None.
        tied: The best arms among which these items can't decide, best first; empty with a winner.
        cheapest: The cheapest of those tied, or None.
        choose: The arm to choose: the winner, or in a tie the cheapest; None where nothing can be said.
        more_items: So many more items would settle it, if what was seen so far holds; None where that isn't the
            question.
        reason: One sentence.
    """

    kind: Kind
    winner: str | None
    tied: tuple[str, ...]
    cheapest: str | None
    choose: str | None
    more_items: int | None
    reason: str


def decide(
    candidates: Sequence[Candidate], pairs: Sequence[PairTest], *, metric: str, items: int, margin: float
) -> Verdict:
    """The verdict under `rule`.

    Args:
        candidates: Arms but for the oracle.
        pairs: Tests of every pair of them on the primary metric, adjusted.
        metric: Its name.
        items: Questions that all arms answered.
        margin: Differences below it don't matter; in units of the metric.
    """
    label = BY_NAME[metric].head
    within = f"within {BY_NAME[metric].points(margin):g} points"
    ranked = sorted(candidates, key=lambda arm: (-arm.score, arm.cost, arm.name))
    if not ranked:
        return _no_contest("no arm that could win was compared: oracle is a ceiling and no candidate")
    if len(ranked) == 1:
        return _no_contest(f"nothing to compare: {ranked[0].name} is the only candidate")
    tests = {frozenset((pair.a, pair.b)): pair for pair in pairs}
    best, others = ranked[0], ranked[1:]
    if best.score == 0.0:
        names = tuple(arm.name for arm in ranked)
        return _no_contest(f"no arm answered anything right: {label} is 0 on all {items} questions", names)
    left = [arm for arm in others if not _beats(best, arm, tests)]
    if not left:
        worst_p = max(tests[frozenset((best.name, arm.name))].p_adjusted for arm in others)
        reason = f"{best.name} has the highest {label} ({best.score:.2f}), significantly above every other arm "
        reason += f"(largest adjusted {p_text(worst_p)}, {items} questions)"
        return Verdict("winner", best.name, (), None, best.name, None, reason)
    names = tuple(arm.name for arm in (best, *left))
    cheapest = min((best, *left), key=lambda arm: (not arm.cost_known, arm.cost, -arm.score, arm.name)).name
    ends = f"{best.name} {best.score:.2f} to {left[-1].name} {left[-1].score:.2f}"
    close = [tests[frozenset((best.name, arm.name))] for arm in left]
    if all(max(abs(bound) for bound in pair.ci90) < margin for pair in close):
        reason = f"{join(names)} are equally good: shown to be {within} of {label} of the best "
        reason += f"({ends}, {items} questions); {cheapest} costs least"
        if unknown := [arm.name for arm in (best, *left) if not arm.cost_known]:
            reason += f", as far as is known: not what training {join(unknown)} cost"
        return Verdict("tie", None, names, cheapest, cheapest, None, reason)
    if len(pairs) * smallest_p(items) >= ALPHA:
        reason = f"on {items} questions no difference between {len(ranked)} arms could be significant"
    else:
        reason = f"no significant difference in {label} between {join(names)} ({ends}, {items} questions), "
        reason += f"nor are they shown to be {within}"
    more = _more(close, len(pairs), items, margin)
    return Verdict("not_enough_data", None, names, cheapest, None, more, reason)


def _no_contest(reason: str, names: tuple[str, ...] = ()) -> Verdict:
    return Verdict("no_contest", None, names, None, None, None, reason)


def _more(close: Sequence[PairTest], tests: int, items: int, margin: float) -> int | None:
    """Items that are missing to tell each pair apart, or to show it to be equal, whichever takes fewer."""
    wanted = [_settles(pair, tests, margin) for pair in close]
    return None if None in wanted else max(1, max(each for each in wanted if each is not None) - items)


def _settles(pair: PairTest, tests: int, margin: float) -> int | None:
    seen, ways = abs(pair.diff), []
    if seen > 0.0:
        ways.append(items_needed(pair.spread, seen, tests))
    if seen < margin:
        ways.append(items_for_tie(pair.spread, seen, margin))
    return min(ways, default=None)


def _beats(best: Candidate, other: Candidate, tests: Mapping[frozenset[str], PairTest]) -> bool:
    return best.score > other.score and tests[frozenset((best.name, other.name))].p_adjusted < ALPHA


def join(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def p_text(p: float) -> str:
    """A p-value as it is printed: three decimals, and never 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
