"""Figures, their resamples and their intervals.

A figure is a statistic of sums over items: a mean, corpus BLEU, macro-F1. So one set of resamples serves all figures of
all arms at once (a product of matrices), and what is drawn for one arm is drawn for the others too. What is summed lies
on a grid on which float64 adds without rounding: no figure depends on the order of additions, hence on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEVEL = 0.95
ALPHA = 0.05
# Resamples are drawn in blocks of about this many numbers: 16 MB, whatever the number of items.
BLOCK = 2_000_000
# What is equal but for this share of its range counts as equal: values such as 1/3 are rounded to the grid.
ROUNDING = 1e-9
# A float64 holds whole numbers up to 2^53; two bits are left for differences.
EXACT_BITS = 51


@dataclass(frozen=True, eq=False)
class Figure:
    """One arm's figure, from what each item adds to it.

    Attributes:
        counts: (items, k) float64.
        statistic: From (n, k) sums over items to (n,) figures.
        low: The least value that the figure can have.
        high: The greatest.
        values: (items,) float64 of which it is the mean, NaN where an item has none; None for another statistic.
    """

    counts: Floats
    statistic: Callable[[Floats], Floats]
    low: float = 0.0
    high: float = 1.0
    values: Floats | None = None

    @property
    def value(self) -> float:
        """Over all items."""
        return float(self.statistic(self.counts.sum(axis=0, keepdims=True))[0])

    @property
    def rounding(self) -> float:
        """Two of its values that are no further apart are equal."""
        import math

        return ROUNDING * (self.high - self.low if math.isfinite(self.high - self.low) else 1.0)


def mean_of(values: Floats, *, low: float = 0.0, high: float = 1.0) -> Figure:
    """The mean of those items that have a value.

    Args:
        values: (items,) float64; NaN for an item without one. At least one has.
        low: The least value that an item can have.
        high: The greatest.
    """
    import numpy as np

    known = np.isfinite(values)
    reach = max(abs(low), abs(high))
    if not np.isfinite(reach):
        reach = float(np.abs(values[known]).max())
    step = 2.0 ** (np.frexp(len(values) * reach)[1] - EXACT_BITS)
    values = np.rint(values / step) * step
    counts = np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=1)
    return Figure(counts, _ratio, low, high, values)


def _ratio(sums: Floats) -> Floats:
    import numpy as np

    # A resample in which no item has a value says nothing: it is left out by whoever reads NaN.
    with np.errstate(invalid="ignore"):
        ratio: Floats = sums[:, 0] / sums[:, 1]
    return ratio


def stream(seed: int, *names: str) -> np.random.Generator:
    """A random generator of its own for each purpose, so that what is drawn for one changes nothing of another.

    Args:
        seed: The spec's.
        *names: The purpose.
    """
    import numpy as np

    return np.random.default_rng([seed, crc32("\x1f".join(names).encode())])


def bootstrap(figures: Sequence[Figure], *, resamples: int, seed: int) -> Floats:
    """The figures over items drawn with replacement (Efron 1979); every resample is the same items for all figures.

    Args:
        figures: Over the same items.
        resamples: How many.
        seed: The spec's. The same number of items and seed draw the same.

    Returns:
        (resamples, figures) float64; NaN where no drawn item has a value.
    """
    import numpy as np

    items = len(figures[0].counts)
    together = np.concatenate([figure.counts for figure in figures], axis=1)
    ends = np.cumsum([figure.counts.shape[1] for figure in figures])[:-1]
    parts = []
    for weights in _draws(items, resamples, stream(seed, "bootstrap")):
        sums = np.split(weights @ together, ends, axis=1)
        parts.append(np.stack([f.statistic(part) for f, part in zip(figures, sums, strict=True)], axis=1))
    return np.concatenate(parts)


def _draws(items: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each item is drawn: blocks of (resamples, items) float64."""
    import numpy as np

    block = max(1, BLOCK // items)
    for begin in range(0, resamples, block):
        rows = min(block, resamples - begin)
        drawn = rng.integers(0, items, (rows, items)) + items * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)


def interval(figure: Figure, resampled: Floats, *, level: float = LEVEL) -> tuple[float, float]:
    """A figure's confidence interval over items.

    Of a mean it is the bias-corrected and accelerated one (BCa, Efron 1987), of other statistics the percentile one
    (for BLEU: Koehn 2004). Where all resamples are equal a bootstrap knows nothing: it would claim certainty. Then the
    interval says what so many items can rule out (see `unseen`): the items of another kind could lie anywhere between
    low and high. For a statistic that is no mean this is a rule of thumb.

    Args:
        figure: Over the items.
        resampled: (resamples,) of it, from `bootstrap`.
        level: Of confidence.
    """
    import numpy as np

    tail = (1.0 - level) / 2.0
    known = resampled[np.isfinite(resampled)]
    values = None if figure.values is None else figure.values[np.isfinite(figure.values)]
    if np.ptp(known) <= figure.rounding:
        value = figure.value
        if not np.isfinite([figure.low, figure.high]).all():
            return value, value
        share = unseen(len(figure.counts) if values is None else len(values), tail)
        return value - share * (value - figure.low), value + share * (figure.high - value)
    tails = (tail, 1.0 - tail) if values is None else _bca(figure, values, known, tail)
    low, high = np.quantile(known, tails)
    return float(low), float(high)


def unseen(items: int, tail: float) -> float:
    """The greatest share of items of another kind, when none was seen: 1 - tail^(1/items) (Clopper & Pearson 1934)."""
    return float(1.0 - tail ** (1.0 / items))


def _bca(figure: Figure, values: Floats, resampled: Floats, tail: float) -> tuple[float, float]:
    """Which quantiles of the resampled means make the BCa interval."""
    import numpy as np
    from scipy.special import ndtr, ndtri

    mean, near = figure.value, figure.rounding
    below = ((resampled < mean - near).mean() + (resampled <= mean + near).mean()) / 2.0
    if not 0.0 < below < 1.0:
        return tail, 1.0 - tail
    bias = ndtri(below)
    # Of a mean the jackknife's skewness has this closed form.
    apart = values - mean
    acceleration = (apart**3).sum() / (6.0 * (apart**2).sum() ** 1.5)
    low, high = (float(ndtr(bias + (bias + z) / (1.0 - acceleration * (bias + z)))) for z in ndtri([tail, 1.0 - tail]))
    return (low, high) if np.isfinite([low, high]).all() else (tail, 1.0 - tail)
