from __future__ import annotations

import pytest

from tandem.evaluation.figures.costs import Machine, arm_cost, break_even, mean_cost
from tandem.evaluation.schema import ArmReport, Cost, Latency, Tokens
from tandem.specs.compare import PriceSpec

PRICES = PriceSpec(cpu_hour=0.36, gpu_hour=3.6, questions=10_000)
BOX = Machine(cpus=4.0, gpus=1.0)


def test_the_price_of_an_hour() -> None:
    assert BOX.price(3600.0, PRICES) == pytest.approx(4 * 0.36 + 3.6)
    assert Machine(2.0, 0.0).price(1800.0, PRICES) == pytest.approx(0.36)


def test_the_cost_of_several_adapters_is_their_mean_where_it_is_known_of_all() -> None:
    assert mean_cost([1.0, 2.0]) == 1.5
    assert mean_cost([1.0, None]) is None
    assert mean_cost([]) is None


def test_what_an_arm_costs() -> None:
    # Half a second each on 4 cores and a GPU: 0.5 × (4 × 0.0001 + 0.001) = 0.0007.
    cost = arm_cost([0.4, 0.6, 0.5, 0.5], 2.0, 14.0, BOX, PRICES)
    assert cost.per_1k == pytest.approx(0.7)
    assert cost.per_1k_with_training == pytest.approx(0.7 + 1.4)
    assert cost.per_correct == pytest.approx(4 * 0.0007 / 2)
    assert (cost.cpu_s_per_1k, cost.gpu_s_per_1k) == pytest.approx((2000.0, 500.0))
    assert cost.train == 14.0


def test_what_is_not_known_is_not_made_up() -> None:
    cost = arm_cost([1.0], 0.0, None, BOX, PRICES)
    assert cost.per_correct is None
    assert cost.per_1k_with_training is None
    assert arm_cost([1.0], 1.0, 0.0, BOX, PRICES).per_1k_with_training == pytest.approx(1.4)


def arm(em: float | None, per_1k: float, train: float | None = 0.0, *, candidate: bool = True) -> ArmReport:
    return ArmReport(
        n=100,
        failures=0,
        candidate=candidate,
        metrics={"em": em},
        ci95={},
        seeds=None,
        latency_ms=Latency(p50=None, p95=None),
        tokens=Tokens(prompt=0, completion=0, completion_mean=0.0),
        cost=Cost(
            train=train, per_1k=per_1k, per_1k_with_training=None, per_correct=None, cpu_s_per_1k=0, gpu_s_per_1k=0
        ),
    )


def after(trained: ArmReport, other: ArmReport) -> tuple[int | None, int | None]:
    (found,) = break_even({"tuned": trained, "rag": other}, "em")
    assert (found.arm, found.against) == ("tuned", "rag")
    return found.questions, found.questions_per_correct


def test_when_training_has_paid_for_itself() -> None:
    # It saves 0.003 a question: 6 / 0.003. Per right answer: (6 + 0.001 n) / 0.5 n = 0.004 / 0.25, so n = 6 / 0.007.
    assert after(arm(0.5, 1.0, 6.0), arm(0.25, 4.0)) == (2000, 858)
    # Dearer per question, but so much more often right.
    assert after(arm(0.8, 3.0, 1.0), arm(0.2, 1.0)) == (None, 1000)
    # Dearer and worse: never.
    assert after(arm(0.1, 3.0, 1.0), arm(0.2, 1.0)) == (None, None)
    # As dear: never cheaper.
    assert after(arm(0.2, 1.0, 1.0), arm(0.2, 1.0)) == (None, None)


def test_arms_that_are_never_right() -> None:
    assert after(arm(0.0, 1.0, 6.0), arm(0.25, 4.0)) == (2000, None)
    assert after(arm(0.5, 1.0, 6.0), arm(0.0, 4.0)) == (2000, 1)
    assert after(arm(0.0, 1.0, 6.0), arm(0.0, 4.0))[1] is None


def test_what_divides_evenly_is_not_one_more_by_rounding() -> None:
    for tenths in range(1, 60):
        assert after(arm(0.5, 1.0, tenths * 0.1), arm(0.5, 1.1))[0] == tenths * 1000


def test_who_is_set_against_whom() -> None:
    arms = {
        "base": arm(0.1, 1.0),
        "rag": arm(0.3, 2.0),
        "tuned": arm(0.3, 0.5, 3.0),
        "raft": arm(0.5, 1.5, 4.0),
        "elsewhere": arm(0.5, 1.5, None),  # nobody knows what training it cost
        "oracle": arm(0.9, 2.0, candidate=False),
    }
    assert [(each.arm, each.against) for each in break_even(arms, "em")] == [
        ("tuned", "base"),
        ("tuned", "rag"),
        ("raft", "base"),
        ("raft", "rag"),
    ]
