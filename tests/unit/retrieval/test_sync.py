from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import StoreError
from tandem.retrieval import sync as module
from tandem.retrieval.chunk_ids import pack
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.store import Point, Query
from tandem.retrieval.survey import Survey
from tandem.retrieval.sync import Target, check, sync

IDS = [str(uuid.UUID(int=number)) for number in range(1, 41)]


@dataclass
class Context:
    """Remembers the phases, and calls `told` at each."""

    phases: list[str] = field(default_factory=list)
    told: Any = None

    def progress(self, phase: str, *_: object, **__: object) -> None:
        self.phases.append(phase)
        if self.told:
            self.told()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    store = EdgeStore(tmp_path / "index")
    store.create_collection("c", dimension=4, sparse=False)
    store.upsert("c", [Point(id, [1.0, at, at % 7, at % 3], None, {}) for at, id in enumerate(IDS)])
    yield store
    store.close()


def target(store: Any) -> Target:
    return Target(store, "c", Path("embedder"), "")


def test_a_graph_that_an_attempt_left_unbuilt_is_built_where_nothing_changed(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    monkeypatch.setattr(store, "optimize", built.append)
    spec: Any = None  # nothing is embedded
    changes = sync(Survey(wanted=pack(IDS)), spec, Context(), target(store))  # type: ignore[arg-type]
    assert (changes.written, changes.deleted, changes.unchanged) == (0, 0, len(IDS))
    assert built == ["c"]


def test_the_job_says_that_it_lives_while_the_graph_is_built(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPTIMIZE_PROGRESS_S", 0.01)
    enough = threading.Event()
    context = Context(told=lambda: enough.set() if context.phases.count("optimize") >= 3 else None)
    monkeypatch.setattr(store, "optimize", lambda _: enough.wait(30))
    spec: Any = None
    sync(Survey(wanted=pack(IDS)), spec, context, target(store))  # type: ignore[arg-type]
    assert enough.is_set()


def test_a_graph_that_cannot_be_built_fails_the_job(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(store, "optimize", broken)
    spec: Any = None
    with pytest.raises(StoreError, match="no space left"):
        sync(Survey(wanted=pack(IDS)), spec, Context(), target(store))  # type: ignore[arg-type]


def test_what_is_whole_and_finds_itself_passes(store: EdgeStore) -> None:
    check(target(store), pack(IDS), Context())  # type: ignore[arg-type]


def test_a_collection_that_is_not_whole_is_refused(store: EdgeStore) -> None:
    with pytest.raises(StoreError, match=r"40 points in the collection 'c', not 39.*the name stands for what"):
        check(target(store), pack(IDS[1:]), Context())  # type: ignore[arg-type]
    others = pack([*IDS[2:], str(uuid.uuid4()), str(uuid.uuid4())])
    check(target(store), others, Context())  # type: ignore[arg-type]  # two of forty: within what a graph may miss
    strangers = pack(str(uuid.uuid4()) for _ in IDS)
    with pytest.raises(StoreError, match="only 0 of 32 chunks"):
        check(target(store), strangers, Context())  # type: ignore[arg-type]


def test_a_collection_that_does_not_find_its_chunks_is_refused(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = store.search
    # As an index whose vectors went to the wrong points: the nearest is another, further away.
    monkeypatch.setattr(
        store, "search", lambda name, queries: search(name, [_turned_round(query) for query in queries])
    )
    with pytest.raises(StoreError, match="find themselves"):
        check(target(store), pack(IDS), Context())  # type: ignore[arg-type]


def _turned_round(query: Query) -> Query:
    return replace(query, vector=[-value for value in query.vector])
