"""Paired tests and their correction: all arms answer the same items, so two arms are compared item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from tandem.evaluation.figures.power import detectable
from tandem.evaluation.figures.statistics import BLOCK, Figure, bootstrap, interval, mean_of, stream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

PERMUTATIONS = 9_999
# Up to so many items that differ, all ways to swap them are tried: 8,192.
EXACT_ITEMS = 13

Test = Literal["mcnemar", "permutation"]


def mcnemar(a: Floats, b: Floats) -> Floats:
    """Two-sided p of McNemar's exact test (McNemar 1947): of the items that one arm alone gets right, half each?

    Args:
        a: (…, items) float64, 0 or 1.
        b: The other arm on the same items.

    Returns:
        (…) float64; 1 where the arms agree on every item.
    """
    import numpy as np
    from scipy.stats import binom

    only_a, only_b = ((a == 1) & (b == 0)).sum(axis=-1), ((a == 0) & (b == 1)).sum(axis=-1)
    p: Floats = np.minimum(1.0, 2.0 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))
    return p


def permutation(pairs: Sequence[tuple[Figure, Figure]], *, seed: int) -> list[float]:
    """Two-sided p of paired permutation tests: were the arms alike, either could have given either answer.

    The arms' items are swapped at random, and the figures' difference is looked at again (Fisher 1935; for statistics
    that are no means: approximate randomisation, Noreen 1989). Exact where few items differ; else p counts the
    observed difference as one of the draws (Phipson & Smyth 2010).

    Args:
        pairs: Of figures over the same items; where one of two has no value for an item, the other hasn't either.
        seed: The spec's.
    """
    import numpy as np

    found = [1.0] * len(pairs)
    drawn = []
    for at, (a, b) in enumerate(pairs):
        differs = np.flatnonzero((a.counts != b.counts).any(axis=1))
        if len(differs) > EXACT_ITEMS:
            drawn.append(at)
        elif len(differs) >= 2:  # of one, either sign is as likely
            swaps = ((np.arange(2 ** len(differs))[:, None] >> np.arange(len(differs))) & 1).astype(np.float64)
            found[at] = float(_as_far(a, b, swaps @ (b.counts - a.counts)[differs]).mean())
    if drawn:
        counts = np.zeros(len(drawn))
        apart = [pairs[at][1].counts - pairs[at][0].counts for at in drawn]
        together = np.concatenate(apart, axis=1)
        ends = np.cumsum([each.shape[1] for each in apart])[:-1]
        items = len(together)
        rng = stream(seed, "permutation")
        block = max(1, BLOCK // items)
        for begin in range(0, PERMUTATIONS, block):
            rows = min(block, PERMUTATIONS - begin)
            packed = np.frombuffer(rng.bytes(rows * -(-items // 8)), dtype=np.uint8).reshape(rows, -1)
            swaps = np.unpackbits(packed, axis=1)[:, :items].astype(np.float64)
            moved = np.split(swaps @ together, ends, axis=1)
            counts += [_as_far(*pairs[at], sums).sum() for at, sums in zip(drawn, moved, strict=True)]
        for at, far in zip(drawn, counts, strict=True):
            found[at] = float((far + 1) / (PERMUTATIONS + 1))
    return found


def _as_far(a: Figure, b: Figure, moved: Floats) -> npt.NDArray[np.bool_]:
    """For (n, k) sums that went from one arm to the other: is the difference as large as the observed one?"""
    import numpy as np

    difference = a.statistic(a.counts.sum(axis=0) + moved) - b.statistic(b.counts.sum(axis=0) - moved)
    far: npt.NDArray[np.bool_] = np.abs(difference) >= abs(a.value - b.value) - a.rounding
    return far


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): the chance of any false finding among all stays at or below alpha.

    Args:
        p_values: Of one family of tests.

    Returns:
        Adjusted p, in the order given.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class PairTest:
    """Two arms on the same items.

    Attributes:
        a: The first arm.
        b: The second.
        metric: What is compared.
        test: Which test `p` is from.
        diff: The figure of a minus that of b, over the items for which both have a value.
        ci95: Its interval.
        ci90: The same at 90 %: within the margin on both sides, the arms count as equal (TOST, Schuirmann 1987).
        p: As tested.
        p_adjusted: After Holm, over all the pairs of this metric.
        n: Those items.
        wins: Items on which a is better; None where the figure is no mean over items.
        losses: Items on which b is better.
        effect: Mean difference in standard deviations of an item's difference (Cohen's d_z).
        spread: That standard deviation; of a figure that is no mean, what its resamples make it.
        detectable: See there.
    """

    a: str
    b: str
    metric: str
    test: Test
    diff: float
    ci95: tuple[float, float]
    ci90: tuple[float, float]
    p: float
    p_adjusted: float
    n: int
    wins: int | None
    losses: int | None
    effect: float | None
    spread: float
    detectable: float


def compare_pairs(figures: Mapping[str, Figure], metric: str, *, resamples: int, seed: int) -> list[PairTest]:
    """Every pair of arms on one metric.

    Args:
        figures: Each arm's, items in the same order. A pair of means of 0s and 1s is tested by McNemar's test, all else
            by permutation. A pair that has no item in common isn't compared.
        metric: Its name.
        resamples: Bootstrap resamples for the interval of the difference.
        seed: The spec's.
    """
    import numpy as np

    names, two = [], []
    for a, b in combinations(figures, 2):
        if (shared := _in_common(figures[a], figures[b])) is not None:
            names.append((a, b))
            two.append(shared)
    if not two:
        return []
    tests: list[Test] = ["mcnemar" if _whole(a) and _whole(b) else "permutation" for a, b in two]
    permuted = iter(
        permutation([pair for pair, test in zip(two, tests, strict=True) if test == "permutation"], seed=seed)
    )
    p_values = [_mcnemar(*pair) if test == "mcnemar" else next(permuted) for pair, test in zip(two, tests, strict=True)]
    adjusted = holm(p_values)
    differences = [_difference(a, b) for a, b in two]
    resampled = bootstrap(differences, resamples=resamples, seed=seed)
    found = []
    for at, (one, test) in enumerate(zip(differences, tests, strict=True)):
        apart = None if one.values is None else one.values[np.isfinite(one.values)]
        items = len(one.counts) if apart is None else len(apart)
        # Of a figure that is no mean, the standard error times the root of the items.
        spread = _deviation(resampled[:, at], one) * items**0.5 if apart is None else _deviation(apart, one)
        found.append(
            PairTest(
                *names[at],
                metric,
                test,
                diff=one.value,
                ci95=interval(one, resampled[:, at]),
                ci90=interval(one, resampled[:, at], level=0.9),
                p=p_values[at],
                p_adjusted=adjusted[at],
                n=items,
                wins=None if apart is None else int((apart > 0).sum()),
                losses=None if apart is None else int((apart < 0).sum()),
                effect=one.value / spread if spread else None,
                spread=spread,
                detectable=detectable(spread, items, len(two), reach=one.high, whole=test == "mcnemar"),
            )
        )
    return found


def _in_common(a: Figure, b: Figure) -> tuple[Figure, Figure] | None:
    """Both over the items for which both have a value; None without any."""
    import numpy as np

    if a.values is None or b.values is None:
        return a, b
    both = np.isfinite(a.values) & np.isfinite(b.values)
    if not both.any():
        return None
    return _only(a, a.values, both), _only(b, b.values, both)


def _only(figure: Figure, values: Floats, kept: npt.NDArray[np.bool_]) -> Figure:
    import numpy as np

    return replace(figure, counts=figure.counts * kept[:, None], values=np.where(kept, values, np.nan))


def _whole(figure: Figure) -> bool:
    """Whether every item is right or wrong."""
    import numpy as np

    return figure.values is not None and bool(np.isin(figure.values[np.isfinite(figure.values)], (0.0, 1.0)).all())


def _mcnemar(a: Figure, b: Figure) -> float:
    assert a.values is not None
    assert b.values is not None
    return float(mcnemar(a.values, b.values))


def _deviation(values: Floats, figure: Figure) -> float:
    import numpy as np

    # Equal values deviate by rounding, which is nothing to divide by.
    return 0.0 if np.ptp(values) <= figure.rounding else float(np.std(values, ddof=1))


def _difference(a: Figure, b: Figure) -> Figure:
    import numpy as np

    low, high = a.low - b.high, a.high - b.low
    if a.values is not None and b.values is not None:
        return mean_of(a.values - b.values, low=low, high=high)
    width = a.counts.shape[1]
    return Figure(
        np.concatenate([a.counts, b.counts], axis=1),
        lambda sums: a.statistic(sums[:, :width]) - b.statistic(sums[:, width:]),
        low,
        high,
    )
