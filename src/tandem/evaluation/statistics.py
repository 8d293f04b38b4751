"""Intervals, paired tests and their correction. Arms answer the same items, so all tests are paired."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEVEL = 0.95
ALPHA = 0.05
PERMUTATIONS = 9_999
# Resamples are drawn in blocks of about this many numbers: 64 MB, whatever the number of items.
BLOCK = 8_000_000

Test = Literal["mcnemar", "permutation"]
TESTS: dict[str, Test] = {"em": "mcnemar", "f1": "permutation"}


def stream(seed: int, *names: str) -> np.random.Generator:
    """A random generator of its own for each figure, so that adding an arm or a slice changes no other figure.

    Args:
        seed: The spec's.
        *names: What the figure is: arm, metric, slice.
    """
    import numpy as np

    return np.random.default_rng([seed, crc32("\x1f".join(names).encode())])


def mean_interval(
    values: Floats, *, low: float, high: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of a mean over items: bias-corrected and accelerated bootstrap (Efron 1987), as scipy computes it.

    Where all values are equal a bootstrap knows nothing: it would claim certainty. Then the interval says what so many
    items can rule out: the share of items of another kind is at most u = 1 - 0.025^(1/n) (Clopper and Pearson 1934),
    and those could lie anywhere in [low, high]. Where BCa is undefined for another reason: the percentile bootstrap.

    Args:
        values: (items,) float64.
        low: The least value that an item can have.
        high: The greatest.
        resamples: Bootstrap resamples.
        rng: See `stream`.
    """
    import numpy as np
    from scipy.stats import bootstrap

    value = float(values[0])
    if np.all(values == value):
        unseen = 1.0 - ((1.0 - LEVEL) / 2.0) ** (1.0 / len(values))
        return value - unseen * (value - low), value + unseen * (high - value)
    batch = max(1, BLOCK // len(values))
    options: dict[str, Any] = {"n_resamples": resamples, "batch": batch, "confidence_level": LEVEL}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns and gives NaN where BCa is undefined: that is looked at below
        result = bootstrap((values,), np.mean, method="BCa", rng=rng, **options)
        interval = result.confidence_interval
        if not np.isfinite([interval.low, interval.high]).all():
            interval = bootstrap(
                (values,), np.mean, method="percentile", bootstrap_result=result, **(options | {"n_resamples": 0})
            ).confidence_interval
    return float(interval.low), float(interval.high)


def counts_interval(
    counts: npt.NDArray[np.int64],
    statistic: Callable[[npt.NDArray[np.int64]], float],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic of summed counts, such as corpus BLEU (Koehn 2004).

    Args:
        counts: (items, k) int64.
        statistic: From (1, k) summed counts to a figure.
        resamples: Bootstrap resamples.
        rng: See `stream`.
    """
    import numpy as np

    items = len(counts)
    figures = [statistic(counts[rng.integers(0, items, items)].sum(axis=0, keepdims=True)) for _ in range(resamples)]
    tail = 100.0 * (1.0 - LEVEL) / 2.0
    low, high = np.percentile(figures, [tail, 100.0 - tail])
    return float(low), float(high)


def mcnemar(a: Floats, b: Floats) -> float:
    """Two-sided p of McNemar's exact test (McNemar 1947): of the items that one arm alone gets right, half each?

    Args:
        a: (items,) float64, 0 or 1.
        b: The other arm on the same items.
    """
    from scipy.stats import binomtest

    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def permutation(a: Floats, b: Floats, *, rng: np.random.Generator) -> float:
    """Two-sided p of a paired permutation test of the means: of like arms, a difference has either sign as likely.

    Exact where there are few enough signs to try them all, else over random ones (Fisher 1935; Noreen 1989).

    Args:
        a: (items,) float64.
        b: The other arm on the same items.
        rng: See `stream`.
    """
    import numpy as np
    from scipy.stats import permutation_test

    differences = a - b
    differences = differences[differences != 0.0]  # a zero has no sign: leaving it out changes no permutation's sum
    if len(differences) < 2:  # none, or one whose signs are equally likely
        return 1.0
    result = permutation_test(
        (differences,),
        np.sum,
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        batch=max(1, BLOCK // len(differences)),
        rng=rng,
    )
    return float(min(1.0, result.pvalue))


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
        diff: Mean of a minus mean of b.
        ci95: Its interval.
        p: As tested.
        p_adjusted: After Holm, over all the pairs of this metric.
        n: Items.
    """

    a: str
    b: str
    metric: str
    test: Test
    diff: float
    ci95: tuple[float, float]
    p: float
    p_adjusted: float
    n: int


def compare_pairs(scores: Mapping[str, Floats], metric: str, *, resamples: int, seed: int) -> list[PairTest]:
    """Every pair of arms on one metric.

    Args:
        scores: Each arm's (items,) float64 in [0, 1], items in the same order.
        metric: `em` (0 or 1: McNemar) or `f1` (permutation).
        resamples: Bootstrap resamples for the interval of the difference.
        seed: The spec's.
    """
    pairs = list(combinations(scores, 2))
    drafts: list[tuple[float, tuple[float, float], float]] = []
    for a, b in pairs:
        differences = scores[a] - scores[b]
        interval = mean_interval(
            differences, low=-1.0, high=1.0, resamples=resamples, rng=stream(seed, "pair", a, b, metric)
        )
        if TESTS[metric] == "mcnemar":
            p = mcnemar(scores[a], scores[b])
        else:
            p = permutation(scores[a], scores[b], rng=stream(seed, "test", a, b, metric))
        drafts.append((float(differences.mean()), interval, p))
    adjusted = holm([p for _, _, p in drafts])
    return [
        PairTest(a, b, metric, TESTS[metric], diff, interval, p, p_adjusted, len(scores[a]))
        for (a, b), (diff, interval, p), p_adjusted in zip(pairs, drafts, adjusted, strict=True)
    ]


def smallest_p(items: int) -> float:
    """The least p that either paired test can give on so many items: all of them differ, all in one direction."""
    return min(1.0, 2.0 * 0.5**items)
