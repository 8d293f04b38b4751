from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tandem.retrieval.remembering import Remembering


class Counting:
    """Embeds a text as its length, and counts what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], *, question: bool = False) -> np.ndarray:
        self.asked += texts
        kind = 2.0 if question else 1.0
        return np.array([[len(text), kind] for text in texts], dtype=np.float32).reshape(len(texts), 2)

    def count_tokens(self, texts: Sequence[str], *, question: bool = False) -> int:
        return len(texts) + (2 if question else 1)


def test_questions_that_come_again_are_not_embedded_again() -> None:
    embedder = Counting()
    remembering = Remembering(embedder, 3)
    first = remembering.encode(["a", "bb", "a"])
    assert first.tolist() == [[1, 1], [2, 1], [1, 1]]
    assert remembering.encode(["bb", "ccc"]).tolist() == [[2, 1], [3, 1]]
    assert embedder.asked == ["a", "bb", "ccc"]
    remembering.encode(["dddd"])  # "a" has not been asked for the longest
    remembering.encode(["bb", "a"])
    assert embedder.asked == ["a", "bb", "ccc", "dddd", "a"]
    many = [str(number) * 5 for number in range(9)]
    assert remembering.encode(many).shape == (9, 2)
    assert remembering.encode([]).shape == (0, 2)
    assert (remembering.hits, remembering.misses) == (2, 5 + len(many))


def test_a_text_as_a_question_and_as_a_passage_has_two_vectors() -> None:
    embedder = Counting()
    remembering = Remembering(embedder, 3)
    for _ in range(2):
        assert remembering.encode(["a"], question=True).tolist() == [[1, 2]]
        assert remembering.encode(["a"]).tolist() == [[1, 1]]
    assert embedder.asked == ["a", "a"]
    assert remembering.count_tokens(["a"], question=True) == 3
    assert remembering.count_tokens(["a"]) == 2
