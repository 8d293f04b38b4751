from __future__ import annotations

from itertools import combinations

import pytest

from tandem.evaluation.figures.pairs import PairTest
from tandem.evaluation.figures.power import items_for_tie, items_needed
from tandem.evaluation.figures.verdict import Candidate, Verdict, decide, join, p_text, rule

SPREAD = 0.5


def verdict(
    scores: dict[str, float],
    p: dict[str, float] | None = None,
    *,
    ci90: dict[str, tuple[float, float]] | None = None,
    items: int = 100,
    margin: float = 0.05,
    spread: float = SPREAD,
    unknown: str = "",
    **costs: float,
) -> Verdict:
    """Pairs are named by their arms' letters; those not named have p = 0.001, and an interval wider than the margin."""
    arms = [Candidate(name, score, costs.get(name, 1.0), name not in unknown) for name, score in scores.items()]
    pairs = [
        PairTest(
            a,
            b,
            "em",
            "mcnemar",
            diff=scores[a] - scores[b],
            ci95=(-0.5, 0.5),
            ci90=(ci90 or {}).get(a + b, (-0.2, 0.2)),
            p=0.0001,  # of one pair alone: what counts is adjusted
            p_adjusted=(p or {}).get(a + b, 0.001),
            n=items,
            wins=1,
            losses=1,
            effect=None,
            spread=spread,
            detectable=0.1,
        )
        for a, b in combinations(scores, 2)
    ]
    return decide(arms, pairs, metric="em", items=items, margin=margin)


NARROW = (-0.04, 0.03)


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
    assert (result.winner, result.choose, result.tied) == (winner, winner, tied)
    assert result.kind == ("winner" if winner else "not_enough_data")
    assert (result.cheapest is None) == (winner is not None)


def test_no_significant_difference_alone_is_no_tie() -> None:
    result = verdict({"a": 0.5, "b": 0.48}, {"ab": 0.8})
    assert (result.kind, result.choose) == ("not_enough_data", None)
    assert "nor are they shown to be within 5 points" in result.reason


def test_a_tie_is_shown_and_the_cheaper_arm_chosen() -> None:
    result = verdict({"a": 0.5, "b": 0.48, "c": 0.1}, {"ab": 0.8}, ci90={"ab": NARROW}, a=3.0, b=2.0, c=0.1)
    assert (result.kind, result.winner, result.tied) == ("tie", None, ("a", "b"))
    assert (result.cheapest, result.choose, result.more_items) == ("b", "b", None)
    assert "b costs least" in result.reason


def test_every_arm_that_is_left_must_be_near_the_best() -> None:
    close = {"ab": 0.8, "ac": 0.6}
    scores = {"a": 0.5, "b": 0.49, "c": 0.46}
    assert verdict(scores, close, ci90={"ab": NARROW}).kind == "not_enough_data"
    assert verdict(scores, close, ci90={"ab": NARROW, "ac": NARROW}).kind == "tie"
    # On the margin isn't within it.
    assert verdict(scores, close, ci90={"ab": NARROW, "ac": (-0.05, 0.0)}).kind == "not_enough_data"


def test_equal_scores_are_ranked_by_cost_then_by_name() -> None:
    assert verdict({"b": 0.5, "a": 0.5, "c": 0.5}, ci90=dict.fromkeys(("ba", "bc", "ac"), NARROW), c=0.5).tied == (
        "c",
        "a",
        "b",
    )


def test_an_arm_whose_training_nobody_knows_the_price_of_is_not_called_cheapest() -> None:
    result = verdict({"a": 0.5, "b": 0.5}, {"ab": 1.0}, ci90={"ab": NARROW}, unknown="a", a=0.1, b=2.0)
    assert result.choose == "b"
    assert "not what training a cost" in result.reason
    assert verdict({"a": 0.5, "b": 0.5}, {"ab": 1.0}, ci90={"ab": NARROW}, unknown="ab", a=0.1, b=2.0).choose == "a"


def test_too_few_items_are_called_that() -> None:
    result = verdict({"a": 1.0, "b": 0.0}, {"ab": 0.0625}, items=5)
    assert result.kind == "not_enough_data"
    assert "no difference between 2 arms could be significant" in result.reason
    assert "could be significant" not in verdict({"a": 1.0, "b": 0.9}, {"ab": 0.5}, items=6).reason
    # More pairs, a stricter level.
    three = verdict({"a": 1.0, "b": 0.9, "c": 0.8}, {"ab": 0.5, "ac": 0.5}, items=6)
    assert "could be significant" in three.reason


def test_how_many_more_items_would_settle_it() -> None:
    # Near each other: to show that they are equal takes fewer.
    near = verdict({"a": 0.5, "b": 0.495}, {"ab": 0.9})
    assert near.more_items == items_for_tie(SPREAD, 0.5 - 0.495, 0.05) - 100
    # Far from each other: to tell them apart does.
    far = verdict({"a": 0.5, "b": 0.4}, {"ab": 0.1})
    assert far.more_items == items_needed(SPREAD, 0.5 - 0.4, 1) - 100
    # The pair that takes most decides, at Holm's level for three pairs.
    both = verdict({"a": 0.5, "b": 0.495, "c": 0.4}, {"ab": 0.9, "ac": 0.1})
    assert both.more_items == near.more_items > items_needed(SPREAD, 0.1, 3) - 100


def test_arms_that_never_differed_need_more_items_too() -> None:
    assert verdict({"a": 0.5, "b": 0.5}, {"ab": 1.0}, items=30, spread=0.0).more_items == 59 - 30
    # Every item speaks for one arm, of which there are too few.
    assert verdict({"a": 1.0, "b": 0.0}, {"ab": 0.25}, items=3, spread=0.0).more_items == 6 - 3


def test_without_a_margin_equal_arms_can_not_be_told_apart_by_any_number_of_items() -> None:
    result = verdict({"a": 0.5, "b": 0.5}, {"ab": 1.0}, margin=0.0)
    assert (result.kind, result.more_items) == ("not_enough_data", None)


def test_nobody_right_is_no_tie_between_good_arms() -> None:
    result = verdict({"a": 0.0, "b": 0.0}, {"ab": 1.0}, ci90={"ab": (0.0, 0.0)})
    assert (result.kind, result.winner, result.choose, result.tied) == ("no_contest", None, None, ("a", "b"))
    assert "no arm answered anything right" in result.reason


def test_one_arm_alone_can_not_win() -> None:
    assert verdict({"a": 0.9}).kind == "no_contest"
    assert verdict({"a": 0.9}).reason == "nothing to compare: a is the only candidate"
    assert decide([], [], metric="em", items=10, margin=0.05).winner is None


def test_the_rule_states_the_margin() -> None:
    assert "within 2.5 points of the best" in rule(0.025)


def test_how_names_and_p_values_are_printed() -> None:
    assert p_text(0.0) == p_text(0.00099) == "p < 0.001"
    assert p_text(0.0312) == "p = 0.031"
    assert [join(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
