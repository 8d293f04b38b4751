from __future__ import annotations

import pytest

from tandem.evaluation.figures.power import detectable, items_for_tie, items_needed, smallest_p
from tandem.evaluation.figures.statistics import ALPHA, unseen

# 1.95996 + 0.84162, squared 7.849: the constant of every table of sample sizes for 5 % and 80 %.
Z = 2.80159


def test_the_usual_constants() -> None:
    assert detectable(0.5, 100, 1) == pytest.approx(0.05 * Z, abs=1e-5)
    assert items_needed(1.0, 0.5, 1) == 32  # Cohen's medium effect: 31.4
    # Holm's strictest level with ten pairs, 0.5 %: 2.80703 + 0.84162.
    assert detectable(0.5, 100, 10) == pytest.approx(0.05 * 3.64865, abs=1e-5)


@pytest.mark.parametrize("items", [50, 120, 3000])
def test_so_many_items_as_are_needed_show_the_difference(items: int) -> None:
    least = detectable(0.4, items, 6)
    assert items_needed(0.4, least, 6) == pytest.approx(items, abs=1)


def test_what_can_not_be_significant_can_not_be_shown() -> None:
    assert 6 * smallest_p(8) < ALPHA <= 6 * smallest_p(7)
    assert detectable(0.1, 7, 6) == 1.0
    assert detectable(0.1, 8, 6) < 1.0
    assert items_needed(0.0, 0.5, 1) == 6  # 2 × 0.5^6 = 0.03
    assert smallest_p(0) == 1.0


def test_right_or_wrong_is_spread_more_where_there_is_a_difference() -> None:
    # One of 120 items differed: a difference of d has a variance of d - d² at least.
    d = detectable(0.09, 120, 1, whole=True)
    assert d == pytest.approx(Z * ((d - d * d) / 120) ** 0.5, rel=1e-4)
    assert detectable(0.09, 120, 1) < d
    assert detectable(0.5, 120, 1, whole=True) == detectable(0.5, 120, 1)
    assert detectable(0.0, 120, 1) == d


def test_items_that_show_a_tie() -> None:
    # (1.64485 + 1.28155)² × 0.25 / 0.0025 = 856.4
    assert items_for_tie(0.5, 0.0, 0.05) == 857
    assert items_for_tie(0.5, 0.025, 0.05) == pytest.approx(4 * 856.4, abs=1)
    # Arms that agree on all items so far.
    alike = items_for_tie(0.0, 0.0, 0.05)
    assert unseen(alike, ALPHA) < 0.05 <= unseen(alike - 1, ALPHA)
    assert items_for_tie(0.0, 0.0, 1.0) == 1
