"""How much so many items can show, and how many would settle what these can't."""

from __future__ import annotations

import math
from itertools import count

from tandem.evaluation.figures.statistics import ALPHA

POWER = 0.8


def smallest_p(items: int) -> float:
    """The least p that either paired test can give on so many items: all of them differ, all in one direction."""
    return min(1.0, 2.0 * 0.5**items)


def detectable(spread: float, items: int, tests: int, *, reach: float = 1.0, whole: bool = False) -> float:
    """The smallest true difference that so many items show in four of five comparisons.

    The usual normal approximation for a paired test (Cohen 1988), at Holm's strictest level. What was spread little
    would be spread more, were there such a difference: one of d between arms that are right or wrong has a variance of
    d - d² at least. The same is supposed where items don't differ at all.

    Args:
        spread: Standard deviation of one item's difference.
        items: How many there are.
        tests: In the family.
        reach: The greatest difference that there can be; it is what comes back where no difference can be significant.
        whole: Whether an item is right or wrong, and nothing between.
    """
    if tests * smallest_p(items) >= ALPHA:
        return reach
    z = _z(tests)
    least = z**2 * reach / (items + z**2) if whole or not spread else 0.0
    return float(min(reach, max(z * spread / items**0.5, least)))


def items_needed(spread: float, difference: float, tests: int) -> int:
    """How many items show a true difference in four of five comparisons.

    Args:
        spread: Standard deviation of one item's difference.
        difference: Above 0.
        tests: In the family.
    """
    possible = next(items for items in count(1) if tests * smallest_p(items) < ALPHA)
    return max(possible, math.ceil((_z(tests) * spread / difference) ** 2))


def items_for_tie(spread: float, difference: float, margin: float) -> int:
    """How many items show, in four of five comparisons, that a true difference is within the margin.

    For two one-sided tests at 5 % (Schuirmann 1987; sizes as in Chow, Shao & Wang 2008, on the safe side where the
    difference isn't 0). Where items don't differ at all, as many as `interval` asks for then.

    Args:
        spread: Standard deviation of one item's difference.
        difference: Without its sign, below the margin.
        margin: Above 0.
    """
    from scipy.special import ndtri

    z = float(ndtri(1.0 - ALPHA) + ndtri((1.0 + POWER) / 2.0))
    # 1 - alpha^(1/n) < margin, see `unseen`.
    alike = math.floor(math.log(ALPHA) / math.log1p(-margin)) + 1 if margin < 1.0 else 1
    return max(alike, math.ceil((z * spread / (margin - difference)) ** 2))


def _z(tests: int) -> float:
    from scipy.special import ndtri

    return float(ndtri(1.0 - ALPHA / (2.0 * tests)) + ndtri(POWER))
