from __future__ import annotations

from itertools import combinations

import pytest

from tandem.evaluation.statistics import PairTest
from tandem.evaluation.verdict import Candidate, Verdict, decide, p_text


def verdict(scores: dict[str, float], p: dict[str, float], items: int = 100, **costs: float) -> Verdict:
    """Pairs are named by their arms' letters; those not named have p = 0.001."""
    arms = [Candidate(name, score, costs.get(name, 1.0)) for name, score in scores.items()]
    pairs = [
        PairTest(
            a, b, "em", "mcnemar", scores[a] - scores[b], (0.0, 0.0), p.get(a + b, 0.001), p.get(a + b, 0.001), items
        )
        for a, b in combinations(scores, 2)
    ]
    return decide(arms, pairs, metric="em", items=items)


@pytest.mark.parametrize(
    ("scores", "p", "winner", "tied"),
    [
        ({"a": 0.5, "b": 0.3, "c": 0.1}, {}, "a", ()),
        ({"a": 0.1, "b": 0.3, "c": 0.5}, {}, "c", ()),
        ({"a": 0.5, "b": 0.4, "c": 0.1}, {"ab": 0.2}, None, ("a", "b")),
        ({"a": 0.5, "b": 0.4, "c": 0.1}, {"ab": 0.05}, None, ("a", "b")),
        ({"a": 0.5, "b": 0.4, "c": 0.1}, {"ab": 0.049}, "a", ()),
        # That the others differ between themselves changes nothing.
        ({"a": 0.5, "b": 0.3, "c": 0.2}, {"bc": 0.9}, "a", ()),
        # Second and third are both near the best.
        ({"a": 0.5, "b": 0.45, "c": 0.4}, {"ab": 0.5, "ac": 0.1}, None, ("a", "b", "c")),
    ],
)
def test_who_wins(scores: dict[str, float], p: dict[str, float], winner: str | None, tied: tuple[str, ...]) -> None:
    result = verdict(scores, p)
    assert (result.winner, result.tied) == (winner, tied)
    assert (result.cheapest is None) == (winner is not None)


def test_within_a_tie_the_cheaper_is_named() -> None:
    result = verdict({"a": 0.5, "b": 0.48, "c": 0.1}, {"ab": 0.8}, a=3.0, b=2.0, c=0.1)
    assert result.cheapest == "b"
    assert "b costs least" in result.reason


def test_too_few_items_are_called_that() -> None:
    result = verdict({"a": 1.0, "b": 0.0}, {"ab": 0.0625}, items=5)
    assert result.winner is None
    assert "not enough data" in result.reason
    assert "not enough data" not in verdict({"a": 1.0, "b": 0.9}, {"ab": 0.5}, items=6).reason


def test_nobody_right_is_no_tie_between_good_arms() -> None:
    result = verdict({"a": 0.0, "b": 0.0}, {"ab": 1.0})
    assert result.winner is None
    assert "no arm answered anything right" in result.reason


def test_one_arm_alone_can_not_win() -> None:
    assert verdict({"a": 0.9}, {}).reason == "nothing to compare: a is the only candidate"
    assert decide([], [], metric="em", items=10).winner is None


def test_no_p_value_is_printed_as_zero() -> None:
    assert p_text(0.0) == "p < 0.001"
    assert p_text(0.0312) == "p = 0.031"
