from __future__ import annotations

import numpy as np
import pytest

from tandem.data.labelled import LabelledRow
from tandem.evaluation.classification.neighbours import nearest, votes

TRAIN = [LabelledRow(f"t{n}", f"text {n}", label) for n, label in enumerate(("a", "b", "b", "c"))]


def test_the_nearest_are_those_with_the_greatest_inner_product(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    known, asked = chance.normal(size=(50, 8)).astype(np.float32), chance.normal(size=(7, 8)).astype(np.float32)
    whole = nearest(asked, known, 5)
    for row, found in zip(asked, whole, strict=True):
        ranked = sorted(range(50), key=lambda at: -float(row @ known[at]))
        assert [at for at, _ in found] == ranked[:5]
        assert [likeness for _, likeness in found] == pytest.approx([float(row @ known[at]) for at in ranked[:5]])
    monkeypatch.setattr("tandem.evaluation.classification.neighbours.BLOCK", 100)
    assert [[at for at, _ in found] for found in nearest(asked, known, 5)] == [[at for at, _ in f] for f in whole]


def test_equal_ones_come_in_their_order_and_there_may_be_fewer_than_k() -> None:
    known = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], dtype=np.float32)
    assert [at for at, _ in nearest(known[1:2], known, 2)[0]] == [1, 2]
    assert [at for at, _ in nearest(known[1:2], known, 9)[0]] == [1, 2, 3, 0]


def test_votes_are_the_softmax_of_likeness_by_label() -> None:
    found = votes([(0, 0.9), (1, 0.8), (2, 0.8)], TRAIN, ("a", "b", "c"), 0.1)
    weights = np.exp([9.0, 8.0, 8.0])
    weights /= weights.sum()
    assert found == pytest.approx([weights[0], weights[1] + weights[2], 0.0])


def test_a_low_temperature_leaves_the_nearest_alone_and_a_high_one_counts_heads() -> None:
    near = [(0, 0.9), (1, 0.8), (2, 0.8)]
    assert votes(near, TRAIN, ("c", "a", "b"), 1e-3) == pytest.approx([0.0, 1.0, 0.0])
    assert votes(near, TRAIN, ("c", "a", "b"), 1e3) == pytest.approx([0.0, 1 / 3, 2 / 3], abs=1e-3)
