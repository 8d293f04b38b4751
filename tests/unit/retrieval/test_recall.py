from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tandem.errors import InputError, NotFoundError
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.recall import EFS, Measured, RecallCheck, check_recall, find_themselves
from tandem.retrieval.store import HNSW_EF, Hit, Point, Query
from tandem.specs.index import VectorIndexSpec

DIMENSION = 24


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    store = EdgeStore(tmp_path / "index")
    yield store
    store.close()


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def fill(store: EdgeStore, points: int, *, copies: int = 1, vectors: VectorIndexSpec | None = None) -> None:
    store.create_collection("c", dimension=DIMENSION, sparse=False, vectors=vectors or VectorIndexSpec())
    chance = np.random.default_rng(0)
    rows = np.repeat(chance.normal(size=(points // copies, DIMENSION)), copies, axis=0)
    ids = [str(uuid.UUID(int=number)) for number in chance.permutation(points).tolist()]
    store.upsert("c", [Point(id, row.tolist(), None, {}) for id, row in zip(ids, rows, strict=True)])


def test_a_search_that_compares_with_everything_finds_everything(store: EdgeStore) -> None:
    fill(store, 300)
    calls = []
    found = check_recall(
        store, "c", k=5, questions=20, target=1.0, progress=lambda done, total: calls.append((done, total))
    )
    assert (found.points, found.questions, found.k, found.good) == (300, 20, 5, True)
    assert [(each.ef, each.recall) for each in found.measured] == [(ef, 1.0) for ef in EFS]
    assert calls == [(done, 140) for done in range(1, 141)]
    assert found.advice.startswith(f"nothing to set: ef {HNSW_EF}, the default, suffices")


def test_a_threshold_is_what_chance_seldom_reaches(store: EdgeStore) -> None:
    fill(store, 300)
    found = check_recall(store, "c", k=5, questions=300, target=1.0, progress=quiet)
    # Cosines of random directions have a variance of one by the dimension; 2.33 is the normal's 99th percentile.
    assert found.chance == pytest.approx(2.33 / DIMENSION**0.5, rel=0.1)
    assert f"min_similarity: {found.chance:.2f}" in found.threshold_advice
    alone = check_recall(store, "c", k=5, questions=1, target=1.0, progress=quiet)
    assert alone.chance == 1


def test_copies_of_a_text_are_as_good_as_each_other(store: EdgeStore) -> None:
    fill(store, 400, copies=20)
    assert check_recall(store, "c", k=5, questions=20, target=1.0, progress=quiet).good


class Forgetful(EdgeStore):
    """Finds the nearest only, unless it is asked widely or exactly."""

    def search(self, collection: str, queries: Sequence[Query], *, within_s: float | None = None) -> list[list[Hit]]:
        (query,) = queries
        (hits,) = super().search(collection, queries, within_s=within_s)
        return [hits if query.exact or (query.ef or HNSW_EF) >= 256 else hits[:2]]


def test_what_is_missed_is_measured_and_the_smallest_ef_that_suffices_is_named(tmp_path: Path) -> None:
    store = Forgetful(tmp_path / "index")
    fill(store, 100)
    found = check_recall(store, "c", k=4, questions=10, target=0.99, progress=quiet)
    assert [each.recall for each in found.measured] == [0.25] * 4 + [1.0] * 2
    assert not found.good
    assert "set `ef: 256`" in found.advice
    store.close()


def test_who_asks_for_many_searches_widely_by_default() -> None:
    measured = tuple(Measured(ef, 0.99 if ef >= 128 else 0.5, 1.0) for ef in EFS)
    assert RecallCheck(999, 9, 100, 0.98, measured, 0.3).good
    assert not RecallCheck(999, 9, 10, 0.98, measured, 0.3).good


def test_a_graph_that_is_too_thin_is_to_be_built_anew() -> None:
    thin = RecallCheck(9, 9, 1, 0.99, tuple(Measured(ef, 0.9, 1.0) for ef in EFS), 0.3)
    assert "double `vectors.m`" in thin.advice


def test_what_cannot_be_measured_is_said(store: EdgeStore) -> None:
    fill(store, 5)
    with pytest.raises(InputError, match="5 points have no 5 neighbours each"):
        check_recall(store, "c", k=5, questions=20, target=1.0, progress=quiet)
    with pytest.raises(NotFoundError):
        check_recall(store, "none", k=5, questions=20, target=1.0, progress=quiet)


@pytest.mark.parametrize("distance", ["cosine", "dot"])
def test_every_point_finds_itself_or_what_is_as_near(store: EdgeStore, distance: str) -> None:
    fill(store, 100, vectors=VectorIndexSpec(distance=distance))
    ids = [str(uuid.UUID(int=number)) for number in range(40)]
    assert find_themselves(store, "c", ids) == 40
    assert find_themselves(store, "c", [*ids, str(uuid.UUID(int=1000))]) == 40


class Astray(EdgeStore):
    """Looks in the opposite direction."""

    def search(self, collection: str, queries: Sequence[Query], *, within_s: float | None = None) -> list[list[Hit]]:
        opposite = [replace(query, vector=[-value for value in query.vector]) for query in queries]
        return super().search(collection, opposite, within_s=within_s)


def test_a_store_that_answers_with_others_is_found_out(tmp_path: Path) -> None:
    class Lost(EdgeStore):
        def search(
            self, collection: str, queries: Sequence[Query], *, within_s: float | None = None
        ) -> list[list[Hit]]:
            opposite = [replace(query, vector=[-value for value in query.vector]) for query in queries]
            return super().search(collection, opposite, within_s=within_s)

    store = Lost(tmp_path / "lost")
    fill(store, 50, vectors=VectorIndexSpec(distance="dot"))
    assert find_themselves(store, "c", [str(uuid.UUID(int=number)) for number in range(10)]) == 0
    store.close()
