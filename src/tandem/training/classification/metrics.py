"""What a classifier is worth: figures from its confusion matrix, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 5_000
LEVEL = 0.95
_BLOCK = 4_000_000  # numbers drawn at once: 32 MB, whatever the number of classes

_Counts = np.ndarray[Any, np.dtype[np.int64]]
_Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class ClassScores:
    """One class, measured against all others; a figure whose denominator is 0 is 0.

    Args:
        precision: Share of those predicted to be of the class that are.
        recall: Share of those of the class that were found.
        f1: Harmonic mean of the two.
        support: Rows of the class.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """A classifier on held-out rows.

    Args:
        n: Rows.
        accuracy: Share of them that are right.
        accuracy_ci95: Its interval by Wilson (1927).
        macro_f1: Mean F1 of the classes that the rows, or the predictions, have.
        macro_f1_ci95: Its percentile bootstrap interval over rows; None where every row is right, since a bootstrap
            of equal items knows of no error.
        per_class: By label.
        confusion: (classes, classes) counts, row: what it is, column: what was predicted.
    """

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    macro_f1: float
    macro_f1_ci95: tuple[float, float] | None
    per_class: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...]


def confusion_matrix(truth: Sequence[int] | _Counts, predicted: Sequence[int] | _Counts, classes: int) -> _Counts:
    """(classes, classes) int64 counts; row: what it is, column: what was predicted."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)), 1)
    return counts


def f1_scores(confusion: _Counts) -> _Floats:
    """F1 of each class: (…, classes) float64 from (…, classes, classes); NaN for one that is nowhere."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    involved = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        scores: _Floats = 2.0 * right / involved
    return scores


def macro_f1(confusion: _Counts) -> _Floats:
    """Mean F1 over the classes that rows or predictions have: (…) float64 from (…, classes, classes)."""
    scores: _Floats = np.nanmean(f1_scores(confusion), axis=-1)
    return scores


def score(truth: Sequence[int], predicted: Sequence[int], labels: Sequence[str], *, seed: int) -> Scores:
    """Every figure of a classifier, with 95 % intervals.

    Args:
        truth: The class of each row, an index into `labels`; at least one row.
        predicted: What was predicted for it.
        labels: Names of the classes.
        seed: Of the bootstrap.
    """
    from scipy.stats import binomtest

    confusion = confusion_matrix(truth, predicted, len(labels))
    n, right = len(truth), int(np.trace(confusion))
    wilson = binomtest(right, n).proportion_ci(confidence_level=LEVEL, method="wilson")
    return Scores(
        n=n,
        accuracy=right / n,
        accuracy_ci95=(float(wilson.low), float(wilson.high)),
        macro_f1=float(macro_f1(confusion)),
        macro_f1_ci95=None if right == n else _interval(confusion, seed),
        per_class=_per_class(confusion, labels),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _per_class(confusion: _Counts, labels: Sequence[str]) -> dict[str, ClassScores]:
    right, support, chosen = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = np.nan_to_num(f1_scores(confusion))
    return {
        label: ClassScores(
            precision=float(right[at] / max(1, chosen[at])),
            recall=float(right[at] / max(1, support[at])),
            f1=float(f1[at]),
            support=int(support[at]),
        )
        for at, label in enumerate(labels)
    }


def _interval(confusion: _Counts, seed: int) -> tuple[float, float]:
    # Rows drawn with replacement fall into the cells of the matrix as a multinomial: no row need be touched.
    chance = np.random.default_rng(seed)
    n, cells = int(confusion.sum()), confusion.size
    block = max(1, _BLOCK // cells)
    drawn = [
        macro_f1(
            chance.multinomial(n, confusion.ravel() / n, size=min(block, RESAMPLES - at)).reshape(-1, *confusion.shape)
        )
        for at in range(0, RESAMPLES, block)
    ]
    tail = 100.0 * (1.0 - LEVEL) / 2.0
    low, high = np.percentile(np.concatenate(drawn), [tail, 100.0 - tail])
    return float(low), float(high)


def draw_confusion(scores: Scores, path: Path) -> None:
    """The confusion matrix as a PNG: shares of each row, with counts where there is room for them.

    Args:
        scores: Of the held-out rows.
        path: The file.
    """
    from matplotlib.figure import Figure

    labels, counts = list(scores.per_class), np.array(scores.confusion)
    size = min(16.0, 3.5 + 0.55 * len(labels))
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(
        xlabel="predicted", ylabel="label", title=f"accuracy {scores.accuracy:.3f}, macro-F1 {scores.macro_f1:.3f}"
    )
    if len(labels) <= 25:
        for (row, column), count in np.ndenumerate(counts):
            dark = count > counts[row].sum() / 2
            axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    figure.colorbar(image, label="share of the label's rows")
    figure.savefig(path, dpi=120)
