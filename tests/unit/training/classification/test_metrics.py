from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from tandem.training.classification.metrics import confusion_matrix as ours
from tandem.training.classification.metrics import draw_confusion, macro_f1, score

LABELS = ("business", "sports", "tech")


def predictions(n: int = 200, seed: int = 0) -> tuple[list[int], list[int]]:
    chance = np.random.default_rng(seed)
    truth = chance.choice(3, n, p=[0.6, 0.3, 0.1])
    wrong = chance.random(n) < 0.2
    return truth.tolist(), np.where(wrong, chance.integers(0, 3, n), truth).tolist()


def test_figures_are_those_of_scikit_learn() -> None:
    truth, predicted = predictions()
    scores = score(truth, predicted, LABELS, seed=0)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert scores.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert np.array_equal(scores.confusion, confusion_matrix(truth, predicted))
    table = np.array([(c.precision, c.recall, c.f1, c.support) for c in scores.per_class.values()]).T
    assert np.allclose(table, precision_recall_fscore_support(truth, predicted))


def test_a_class_that_is_nowhere_does_not_count() -> None:
    truth, predicted = [0, 0, 1, 1], [0, 1, 1, 1]
    assert macro_f1(ours(truth, predicted, 3)) == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert score(truth, predicted, LABELS, seed=0).per_class["tech"].support == 0


def test_the_interval_of_accuracy_is_wilsons() -> None:
    truth = [0] * 100
    scores = score(truth, [0] * 95 + [1] * 5, LABELS, seed=0)
    assert scores.accuracy_ci95 == pytest.approx((0.8882, 0.9785), abs=1e-4)


def test_the_interval_of_macro_f1_is_the_bootstrap_over_rows() -> None:
    truth, predicted = predictions()
    low, high = score(truth, predicted, LABELS, seed=0).macro_f1_ci95 or (0.0, 0.0)
    chance = np.random.default_rng(7)
    drawn = []
    for _ in range(2000):
        at = chance.integers(0, len(truth), len(truth))
        drawn.append(macro_f1(ours(np.array(truth)[at], np.array(predicted)[at], 3)))
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.01)
    assert score(truth, predicted, LABELS, seed=0).macro_f1_ci95 == (low, high)


def test_where_nothing_is_wrong_a_bootstrap_claims_nothing() -> None:
    scores = score([0, 1, 2], [0, 1, 2], LABELS, seed=0)
    assert scores.macro_f1_ci95 is None
    assert scores.accuracy_ci95[0] < 0.5


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw_confusion(score(*predictions(), LABELS, seed=0), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
