from __future__ import annotations

import math

import pytest

from tandem.specs.finetune import EarlyStoppingSpec
from tandem.training.early_stopping import Evaluated, best, stop_reason


def evaluations(*losses: float) -> list[Evaluated]:
    return [Evaluated(25 * (n + 1), loss) for n, loss in enumerate(losses)]


SPEC = EarlyStoppingSpec(patience=2)


@pytest.mark.parametrize("losses", [(), (2.0,), (2.0, 1.9, 1.8), (2.0, 2.1), (2.0, 2.1, 1.9, 2.0), (2.0, math.nan)])
def test_it_goes_on_while_the_loss_falls_within_the_patience(losses: tuple[float, ...]) -> None:
    assert stop_reason(evaluations(*losses), SPEC) is None


def test_it_stops_when_the_patience_is_used_up_and_says_what_it_saw() -> None:
    reason = stop_reason(evaluations(2.0, 1.5, 1.6, 1.7), SPEC)
    assert reason == "the evaluation loss hasn't fallen in 2 evaluations: 1.5 at step 50, 1.7 at step 100"


def test_a_loss_that_falls_by_too_little_counts_as_no_better() -> None:
    spec = EarlyStoppingSpec(patience=2, min_delta=0.1)
    assert stop_reason(evaluations(2.0, 1.95, 1.92), spec) is not None
    assert stop_reason(evaluations(2.0, 1.95, 1.85), spec) is None


def test_equal_losses_are_no_better() -> None:
    assert stop_reason(evaluations(2.0, 2.0, 2.0), SPEC) is not None


def test_losses_that_are_no_numbers_neither_stop_a_run_nor_hide_that_others_rise() -> None:
    assert stop_reason(evaluations(math.nan, 2.0, 1.5, 1.0), SPEC) is None
    assert stop_reason(evaluations(math.nan, math.nan, math.nan), SPEC) is None
    assert stop_reason(evaluations(2.0, 2.1, 2.2, math.nan), SPEC) is not None


def test_switched_off_it_never_stops() -> None:
    assert stop_reason(evaluations(1.0, 2.0, 3.0, 4.0), EarlyStoppingSpec(enabled=False, patience=1)) is None


def test_the_best_is_the_lowest_and_of_equals_the_first() -> None:
    assert best(evaluations(2.0, 1.5, 1.5, 1.6)) == Evaluated(50, 1.5)
    assert best(evaluations(math.nan, 3.0)) == Evaluated(50, 3.0)
    assert best(evaluations(math.nan)) is None
    assert best([]) is None
