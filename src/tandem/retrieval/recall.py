"""How much of what an exact search finds the graph's search finds, on a collection's own vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tandem.errors import InputError
from tandem.retrieval.store import Hit, Query, VectorStore, scroll_all, usual_ef

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EFS = (16, 32, 64, 128, 256, 512)
_PAGE = 10_000
_ROUNDING = 1e-5  # scores of one and the same point differ by less, whichever way it was found

_OWN = 1e-3  # share by which a vector's score with itself may be less, quantized or in half precision


@dataclass(frozen=True)
class Measured:
    """What one width of search gave.

    Args:
        ef: Candidates in the graph.
        recall: Share of the exact k nearest that it found, over all questions.
        p50_ms: Median time of one search, with the way to the store.
    """

    ef: int
    recall: float
    p50_ms: float


@dataclass(frozen=True)
class RecallCheck:
    """What a check measured, narrowest search first.

    Args:
        points: In the collection.
        questions: How many were asked.
        k: Neighbours of each.
        target: The recall that is wanted.
        measured: For each ef.
        chance: Cosine below which 99 of 100 pairs of the points that asked lie.
    """

    points: int
    questions: int
    k: int
    target: float
    measured: tuple[Measured, ...]
    chance: float

    @property
    def good(self) -> bool:
        """Whether a search that sets nothing reaches the target."""
        # The widest of those measured that is no wider than the default.
        return [each.recall for each in self.measured if each.ef <= self._usual][-1] >= self.target

    @property
    def _usual(self) -> int:
        return usual_ef(self.k + 1)  # a point that asks finds itself too

    @property
    def advice(self) -> str:
        """What to set."""
        reaching = [each for each in self.measured if each.recall >= self.target]
        if not reaching:
            best = max(each.recall for each in self.measured)
            return (
                f"no ef reaches {self.target:g} (best {best:.4f}): double `vectors.m` and `vectors.ef_construct` in "
                "the index's spec and run it again; it builds a collection beside this one"
            )
        if self.good:
            return f"nothing to set: ef {self._usual}, the default, suffices; {reaching[0].ef} would"
        return f"set `ef: {reaching[0].ef}` where you search (`retriever.ef` of an endpoint)"

    @property
    def threshold_advice(self) -> str:
        """From where on a similarity means something."""
        return (
            f"two chunks drawn by chance are less similar than {self.chance:.2f} in 99 of 100 cases: with "
            f"`retriever.min_similarity: {self.chance:.2f}` an endpoint rather says that it found nothing"
        )


def check_recall(
    store: VectorStore,
    collection: str,
    *,
    k: int,
    questions: int,
    target: float,
    seed: int = 0,
    progress: Callable[[int, int], None],
) -> RecallCheck:
    """Ask for the neighbours of some of the collection's own points, exactly and by the graph.

    Neighbours as near as the k-th count as right: copies of a text are all the same to a reader.

    Args:
        store: Holds the collection.
        collection: Its name.
        k: Neighbours of each point, itself left out.
        questions: Points that ask, at most; chosen at random.
        target: The recall that is wanted, between 0 and 1.
        seed: Of the choice.
        progress: Called with searches done, searches in all.

    Raises:
        InputError: The collection has not more than k points.
        NotFoundError, StoreError, UnreachableError: The store.
    """
    import numpy as np

    ids = [record.id for record in scroll_all(store, collection, fields=(), page_size=_PAGE)]
    if len(ids) <= k:
        raise InputError(
            f"{len(ids)} points have no {k} neighbours each", where=f"collection {collection}", remedy="ask for fewer"
        )
    chosen = np.random.default_rng(seed).choice(len(ids), size=min(questions, len(ids)), replace=False)
    asking = []
    for index in sorted(chosen.tolist()):
        (record,) = store.scroll(collection, fields=(), limit=1, offset=ids[index], vectors=True).records
        asking.append(record)
    total = len(asking) * (len(EFS) + 1)

    def others(number: int, **how: Any) -> list[Hit]:
        record = asking[number]
        (hits,) = store.search(collection, [Query(record.vector, None, k + 1, "dense", **how)])
        return [hit for hit in hits if hit.id != record.id][:k]

    exact = []
    for number in range(len(asking)):
        exact.append(others(number, exact=True))
        progress(len(exact), total)
    measured = []
    for at, ef in enumerate(EFS, start=1):
        shares, times = [], [time.perf_counter()]
        for number, nearest in enumerate(exact):
            shares.append(_share(others(number, ef=ef), nearest))
            times.append(time.perf_counter())
            progress(at * len(asking) + number + 1, total)
        seconds = [end - begin for begin, end in pairwise(times)]
        measured.append(Measured(ef, float(np.mean(shares)), round(1000 * float(np.median(seconds)), 2)))
    chance = _by_chance(np.array([record.vector for record in asking], dtype=np.float32))
    return RecallCheck(len(ids), len(asking), k, target, tuple(measured), chance)


def find_themselves(store: VectorStore, collection: str, ids: Sequence[str]) -> int:
    """How many of these points a search with their own vector finds; a copy of a point counts as it.

    Args:
        store: Holds the collection.
        collection: Its name.
        ids: Points of it; one that isn't there isn't found.

    Raises:
        NotFoundError, StoreError, UnreachableError: The store.
    """
    asking = []
    for id in ids:
        records = store.scroll(collection, fields=(), limit=1, offset=id, vectors=True).records
        asking += [record for record in records if record.id == id]
    answers = store.search(collection, [Query(record.vector, None, 1, "dense") for record in asking])
    # Compared by cosine nothing is nearer than itself; by inner products a longer vector may be, and that is right.
    return sum(
        bool(hits) and hits[0].score >= (1 - _OWN) * sum(value * value for value in record.vector)
        for record, hits in zip(asking, answers, strict=True)
    )


def _by_chance(vectors: NDArray[np.float32]) -> float:
    """The 99th percentile of the cosines of all pairs; 1 where there is none."""
    import numpy as np

    if len(vectors) < 2:
        return 1.0
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
    return round(float(np.percentile(cosines, 99)), 4)


def _share(found: Sequence[Hit], nearest: Sequence[Hit]) -> float:
    threshold = nearest[-1].score - _ROUNDING
    return sum(hit.score >= threshold for hit in found) / len(nearest)
