from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tandem.errors import InputError, NotFoundError
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.recall import EFS, Measured, RecallCheck, check_recall
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


def test_a_graph_that_is_too_thin_is_to_be_built_anew() -> None:
    thin = RecallCheck(9, 9, 1, 0.99, tuple(Measured(ef, 0.9, 1.0) for ef in EFS))
    assert "double `vectors.m`" in thin.advice


def test_what_cannot_be_measured_is_said(store: EdgeStore) -> None:
    fill(store, 5)
    with pytest.raises(InputError, match="5 points have no 5 neighbours each"):
        check_recall(store, "c", k=5, questions=20, target=1.0, progress=quiet)
    with pytest.raises(NotFoundError):
        check_recall(store, "none", k=5, questions=20, target=1.0, progress=quiet)
