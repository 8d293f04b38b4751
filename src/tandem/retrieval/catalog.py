"""Which collections a cluster's store has under which names, and the way back to the one before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tandem.errors import NotFoundError
from tandem.retrieval.indexing import collections_of
from tandem.retrieval.snapshot import IndexSnapshot, find_snapshot
from tandem.retrieval.store import VectorStore, no_such_collection


@dataclass(frozen=True)
class Entry:
    """A collection that an index job made.

    Args:
        name: By which it is, or was, searched.
        collection: Its own name.
        current: Whether the name stands for it now.
        points: How many it holds.
        snapshot: What it is; None where no artifact says so.
    """

    name: str
    collection: str
    current: bool
    points: int
    snapshot: IndexSnapshot | None


def catalog(store: VectorStore, storage: Path) -> list[Entry]:
    """The collections of all names, those that are searched first.

    Args:
        store: The cluster's.
        storage: The cluster's storage folder, whose artifacts say what a collection is.
    """
    entries = []
    collections = store.collections()
    for name, current in sorted(store.aliases().items()):
        for collection in sorted({current, *collections_of(name, collections)}, key=lambda each: each != current):
            points = store.count(collection, tenant=None, filter=None)
            snapshot = find_snapshot(storage, name, collection)
            entries.append(Entry(name, collection, collection == current, points, snapshot))
    return entries


def roll_back(store: VectorStore, storage: Path, name: str) -> Entry:
    """Let a name stand for the collection that it stood for before; again, and it is as it was.

    Returns:
        What it stands for now.

    Raises:
        NotFoundError: No such name, or nothing was kept from before.
    """
    entries = [entry for entry in catalog(store, storage) if entry.name == name]
    if not entries:
        raise no_such_collection(name, sorted(store.aliases()), str(storage))
    # Without its snapshot nothing could search it: it is the remains of a job that was never finished.
    kept = [entry for entry in entries if not entry.current and entry.snapshot is not None]
    if not kept:
        raise NotFoundError(
            f"{name!r} has no earlier collection to go back to",
            where=entries[0].collection,
            remedy="one is kept when a job with another embedder, chunking or graph has built a new one",
        )
    before = kept[0]
    store.set_alias(name, before.collection)
    return Entry(name, before.collection, True, before.points, before.snapshot)
