from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.errors import NotFoundError
from tandem.retrieval.catalog import catalog, roll_back
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.snapshot import IndexSnapshot, write_snapshot

FIRST, SECOND = "docs-00000001", "docs-00000002"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    store = EdgeStore(tmp_path / "index")
    yield store
    store.close()


def build(store: EdgeStore, storage: Path, collection: str, *, described: bool = True) -> None:
    store.create_collection(collection, dimension=2, sparse=False)
    if described:
        folder = storage / "artifacts" / "docs" / collection
        folder.mkdir(parents=True)
        values = dict.fromkeys(IndexSnapshot.__dataclass_fields__, 1) | {"embedder": "hf:some/embedder"}
        snapshot = IndexSnapshot(**values | {"id": f"of {collection}", "collection": "docs", "points": collection})
        write_snapshot(folder, snapshot, name="docs", id=collection, figures={})


def test_the_way_back_and_forth(store: EdgeStore, tmp_path: Path) -> None:
    for collection in (FIRST, SECOND):
        build(store, tmp_path, collection)
        store.set_alias("docs", collection)
    build(store, tmp_path, "docs-more-00000001")  # of another name
    assert [(entry.collection, entry.current) for entry in catalog(store, tmp_path)] == [(SECOND, True), (FIRST, False)]
    for expected in (FIRST, SECOND, FIRST):
        entry = roll_back(store, tmp_path, "docs")
        assert (entry.collection, entry.current) == (expected, True)
        assert entry.snapshot is not None
        assert entry.snapshot.id == f"of {expected}"
        assert store.aliases() == {"docs": expected}


def test_without_anything_to_go_back_to_nothing_changes(store: EdgeStore, tmp_path: Path) -> None:
    build(store, tmp_path, FIRST)
    store.set_alias("docs", FIRST)
    build(store, tmp_path, SECOND, described=False)  # of a job that never ended
    with pytest.raises(NotFoundError, match="no earlier collection"):
        roll_back(store, tmp_path, "docs")
    with pytest.raises(NotFoundError, match=r"no collection 'other'.*there are: docs"):
        roll_back(store, tmp_path, "other")
    assert store.aliases() == {"docs": FIRST}
