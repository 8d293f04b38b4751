"""Which of the hits of a search are used: near enough, by other scores, unlike each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tandem.retrieval.store import Hit, ordered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROUNDING = 1e-6  # the cosine of a vector to itself comes out as little below 1


def near_enough(hits: Sequence[Hit], question: NDArray[np.float32], min_similarity: float) -> list[Hit]:
    """The hits whose cosine to the question is at least `min_similarity`, in their order.

    Args:
        hits: With their vectors.
        question: float32, (dimension,).
        min_similarity: Between -1 and 1.
    """
    if not hits:
        return []
    near = _vectors(hits) @ _unit(question) >= min_similarity - _ROUNDING
    return [hit for hit, kept in zip(hits, near, strict=True) if kept]


def rescored(hits: Sequence[Hit], scores: Sequence[float], min_score: float | None) -> list[Hit]:
    """The hits with other scores, best first, equal ones by id; those below `min_score` are dropped."""
    pairs = zip(hits, scores, strict=True)
    kept = [replace(hit, score=float(score)) for hit, score in pairs if min_score is None or score >= min_score]
    return ordered(kept, len(kept))


def diverse(hits: Sequence[Hit], diversity: float, top_k: int) -> list[Hit]:
    """Hits that are good and unlike each other: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

    One after another, the hit is taken whose ``(1 - diversity) * score - diversity * likeness`` is greatest: its score
    stretched to 0 … 1 over all hits (a rank fusion's are tiny), its likeness the greatest cosine to one taken before.

    Args:
        hits: Best first, with their vectors.
        diversity: 0: by score alone; 1: by unlikeness alone, after the first.
        top_k: How many, at most.

    Returns:
        In the order in which they were taken, with the scores that they had.
    """
    import numpy as np

    if not hits:
        return []
    vectors = _vectors(hits)
    scores = np.array([hit.score for hit in hits])
    span = scores.max() - scores.min()
    relevance = (scores - scores.min()) / span if span else np.ones(len(hits))
    # The best hit comes first whatever the weights are.
    taken = [int(relevance.argmax())]
    likeness = vectors @ vectors[taken[0]]
    while len(taken) < min(top_k, len(hits)):
        worth = (1 - diversity) * relevance - diversity * likeness
        worth[taken] = -np.inf
        taken.append(int(worth.argmax()))
        likeness = np.maximum(likeness, vectors @ vectors[taken[-1]])
    return [hits[index] for index in taken]


def _vectors(hits: Sequence[Hit]) -> NDArray[np.float32]:  # (hits, dimension)
    import numpy as np

    return _unit(np.array([hit.vector for hit in hits], dtype=np.float32))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    # A collection compared by inner products has vectors of any length; a cosine is one all the same.
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
    return unit
