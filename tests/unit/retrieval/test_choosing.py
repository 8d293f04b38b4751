from __future__ import annotations

import numpy as np
import pytest

from tandem.retrieval.choosing import diverse, near_enough, rescored
from tandem.retrieval.store import Hit


def hit(id: str, score: float, *vector: float) -> Hit:
    unit = np.array(vector, dtype=np.float32)
    return Hit(id, score, {}, (unit / np.linalg.norm(unit)).tolist() if vector else None)


HITS = [hit("a", 0.9, 1, 0), hit("a2", 0.8, 1, 0.01), hit("b", 0.7, 0, 1), hit("c", 0.1, -1, 1)]


def names(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def test_what_is_too_far_from_the_question_is_dropped_in_its_order() -> None:
    question = np.array([1, 0], dtype=np.float32)
    assert names(near_enough(HITS, question, 0.5)) == ["a", "a2"]
    assert names(near_enough(HITS, question, 0.0)) == ["a", "a2", "b"]
    assert names(near_enough(HITS, question, -1.0)) == names(HITS)
    assert near_enough([], question, 0.5) == []


def test_a_cosine_is_one_whatever_the_lengths() -> None:
    long = [Hit(each.id, each.score, {}, [7 * value for value in each.vector]) for each in HITS]
    question = np.array([3, 0], dtype=np.float32)
    assert names(near_enough(long, question, 0.5)) == ["a", "a2"]
    assert names(diverse(long, 0.5, 3)) == names(diverse(HITS, 0.5, 3))


def test_other_scores_order_anew_and_drop() -> None:
    again = rescored(HITS, [0.2, 0.9, 0.2, 0.05], 0.1)
    assert [(hit.id, hit.score) for hit in again] == [("a2", 0.9), ("a", 0.2), ("b", 0.2)]
    assert names(rescored(HITS, [0.2, 0.9, 0.2, 0.05], None)) == ["a2", "a", "b", "c"]


@pytest.mark.parametrize(
    ("diversity", "expected"),
    [(0.0, ["a", "a2", "b"]), (0.5, ["a", "b", "a2"]), (1.0, ["a", "c", "b"])],
)
def test_the_more_diversity_the_fewer_twins(diversity: float, expected: list[str]) -> None:
    chosen = diverse(HITS, diversity, 3)
    assert names(chosen) == expected
    assert all(hit in HITS for hit in chosen)


def test_equal_scores_and_few_hits_are_no_trouble() -> None:
    equal = [hit("x", 0.5, 1, 0), hit("y", 0.5, 1, 0), hit("z", 0.5, 0, 1)]
    assert names(diverse(equal, 0.5, 2)) == ["x", "z"]
    assert names(diverse(equal, 0.5, 10)) == ["x", "z", "y"]
    assert diverse([], 0.5, 3) == []
