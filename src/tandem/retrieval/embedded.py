"""The embedded store: Qdrant's engine in this process, one shard per collection in a folder of its own.

A folder has one owner at a time. In a cluster the owner is the actor of `actor.py`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tandem.config.files import write_whole
from tandem.errors import NotFoundError, StoreError, TandemError
from tandem.retrieval import edge_models
from tandem.retrieval import store as contract
from tandem.retrieval.store import DENSE, SPARSE, TENANT, Filter, Hit, Page, Point, Query, Record
from tandem.specs.index import VectorIndexSpec

logger = logging.getLogger(__name__)

_SHAPE = "collection.json"  # written last: without it a collection isn't there
_SHARD = "shard"
_ALIASES = "aliases.json"
_OWNER = ".owner"  # locked by whoever has the folder open
_OWNER_LOOK_S = 0.1


class EdgeStore:
    """A `VectorStore` on `qdrant-edge-py`; safe to call from several threads.

    A collection that can't be opened is there all the same: who uses it is told why, and the others answer.

    Args:
        folder: Where the collections lie; made if it isn't there.
        wait_s: For another owner to let go of it: one that was killed holds it until it has ended.

    Raises:
        StoreError: Another owner has it open.
    """

    def __init__(self, folder: Path, wait_s: float = 0.0) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        # None: it couldn't be opened.
        self._shards: dict[str, Any | None] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._owned = _own(folder, wait_s)
        for shape in sorted(folder.glob(f"*/{_SHAPE}")):
            name = shape.parent.name
            self._shards[name] = None
            with suppress(StoreError):
                self._load(name)
        # An alias whose collection was dropped before the file was written again means nothing.
        written = json.loads((folder / _ALIASES).read_text()) if (folder / _ALIASES).is_file() else {}
        self._aliases = {alias: name for alias, name in written.items() if name in self._shards}

    def __repr__(self) -> str:
        return f"EdgeStore({str(self._folder)!r}, collections={self.collections()})"

    def create_collection(
        self, collection: str, *, dimension: int, sparse: bool, vectors: VectorIndexSpec = contract.USUAL_VECTORS
    ) -> None:
        """Make a collection; nothing happens if it is there with the same shape."""
        from qdrant_edge import EdgeShard, KeywordIndexParams, UpdateOperation

        wanted = {"dimension": dimension, "sparse": sparse, "distance": vectors.distance}
        with self._lock:
            folder = self._folder / collection
            if collection in self._shards:
                contract.check_shape(_shape(folder), wanted, collection, str(folder))
                return
            if collection in self._aliases:
                raise contract.name_is_taken(collection, "an alias", str(self._folder))
            # Without its shape this is the remains of a creation that was cut short.
            shutil.rmtree(folder, ignore_errors=True)
            (folder / _SHARD).mkdir(parents=True)
            with _translated(self._where(collection)):
                shard = EdgeShard.create(str(folder / _SHARD), edge_models.config(dimension, sparse, vectors))
                for field in contract.INDEXED_FIELDS:
                    params = KeywordIndexParams(is_tenant=field == TENANT)
                    shard.update(UpdateOperation.create_field_index(field, params))
                shard.flush()
            write_whole(folder / _SHAPE, json.dumps(wanted))
            self._shards[collection] = shard

    def drop_collection(self, collection: str) -> None:
        """Delete a collection with all that it holds."""
        with self._lock:
            if collection not in self._shards:
                raise self._missing(collection)
            # The shape goes first: if the rest is cut short, the collection is gone all the same.
            (self._folder / collection / _SHAPE).unlink()
            shard = self._shards.pop(collection)
            self._write_aliases({alias: name for alias, name in self._aliases.items() if name != collection})
            if shard is not None:
                with _translated(self._where(collection)):
                    shard.close()
            shutil.rmtree(self._folder / collection)

    def collections(self) -> list[str]:
        """The names of the collections, sorted."""
        with self._lock:
            return sorted(self._shards)

    def aliases(self) -> dict[str, str]:
        """The collection that each alias stands for."""
        with self._lock:
            return dict(self._aliases)

    def set_alias(self, alias: str, collection: str) -> None:
        """Let an alias stand for a collection from now on; the file that says so is replaced whole."""
        with self._lock:
            if collection not in self._shards:
                raise self._missing(collection)
            if alias in self._shards:
                raise contract.name_is_taken(alias, "a collection", str(self._folder))
            self._write_aliases({**self._aliases, alias: collection})

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, in place of those with the same ids; the write-ahead log makes them durable."""
        import numpy as np
        from qdrant_edge import Point as EdgePoint
        from qdrant_edge import SparseVector as EdgeSparse
        from qdrant_edge import UpdateOperation

        shard = self._shard(collection)
        if not points:
            return
        rows = []
        for point in points:
            # Of an array the engine takes each number apart.
            vectors: dict[str, Any] = {DENSE: np.asarray(point.vector).tolist()}
            if point.sparse is not None:
                vectors[SPARSE] = EdgeSparse(point.sparse.indices, point.sparse.values)
            rows.append((point.id, vectors, point.payload))
        with _translated(self._where(collection)):
            shard.update(UpdateOperation.upsert_points([EdgePoint(*row) for row in rows]))

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Delete points; ids that aren't there don't matter."""
        from qdrant_edge import UpdateOperation

        shard = self._shard(collection)
        if not ids:
            return
        with _translated(self._where(collection)):
            shard.update(UpdateOperation.delete_points(list(ids)))

    def search(
        self,
        collection: str,
        queries: Sequence[Query],
        *,
        within_s: float | None = None,  # noqa: ARG002 - it is here, and takes milliseconds
    ) -> list[list[Hit]]:
        """The best hits of each query, best first, equal scores by id; in the order of the queries."""
        from qdrant_edge import QueryBatchRequest

        shard = self._shard(collection)
        asked = [number for number, query in enumerate(queries) if contract.branches(query)]
        hits: list[list[Hit]] = [[] for _ in queries]
        if asked:
            with _translated(self._where(collection)):
                answers = shard.query_batch(
                    QueryBatchRequest([edge_models.query_request(queries[number]) for number in asked])
                )
            for number, found in zip(asked, answers, strict=True):
                plain = [
                    Hit(str(point.id), float(point.score), point.payload or {}, (point.vector or {}).get(DENSE))
                    for point in found
                ]
                hits[number] = contract.ordered(plain, queries[number].top_k)
        return hits

    def scroll(
        self, collection: str, *, fields: Sequence[str], limit: int, offset: str | None, vectors: bool = False
    ) -> Page:
        """One page of all records, in the order of their ids."""
        from qdrant_edge import ScrollRequest

        request = ScrollRequest(
            limit=limit,
            offset=offset,
            with_payload=list(fields) if fields else False,
            with_vector=[DENSE] if vectors else False,
        )
        shard = self._shard(collection)
        with _translated(self._where(collection)):
            points, following = shard.scroll(request)
        records = tuple(Record(str(point.id), point.payload or {}, (point.vector or {}).get(DENSE)) for point in points)
        return Page(records, None if following is None else str(following))

    def count(self, collection: str, *, tenant: str | None, filter: Filter | None) -> int:
        """How many points a search with this tenant and filter can see."""
        from qdrant_edge import CountRequest

        shard = self._shard(collection)
        with _translated(self._where(collection)):
            return int(shard.count(CountRequest(exact=True, filter=edge_models.visible(tenant, filter))))

    def optimize(self, collection: str) -> None:
        """Build the graph: without it every search looks at every point."""
        shard = self._shard(collection)
        with _translated(self._where(collection)):
            shard.optimize()
            shard.flush()

    def close(self) -> None:
        """Flush and let go of the folder."""
        with self._lock:
            for name in list(self._shards):
                shard = self._shards.pop(name)
                if shard is not None:
                    with _translated(self._where(name)):
                        shard.close()
            self._owned.close()

    def _load(self, name: str) -> Any:
        from qdrant_edge import EdgeShard

        try:
            self._shards[name] = EdgeShard.load(str(self._folder / name / _SHARD))
        # The engine raises plain Exception for everything.
        except Exception as error:
            logger.error("the collection %s can't be opened: %s", name, error)
            raise StoreError(
                f"the collection can't be opened: {error}",
                where=str(self._folder / name),
                remedy="if its files are damaged delete the folder and run its index job again: the embedding cache "
                "has its vectors",
            ) from error
        return self._shards[name]

    def _shard(self, collection: str) -> Any:
        with self._lock:
            name = self._aliases.get(collection, collection)
            if name not in self._shards:
                raise self._missing(collection)
            shard = self._shards[name]
            # What kept it from being opened may have gone.
            return self._load(name) if shard is None else shard

    def _missing(self, collection: str) -> NotFoundError:
        return contract.no_such_collection(collection, sorted({*self._aliases, *self._shards}), str(self._folder))

    def _write_aliases(self, aliases: dict[str, str]) -> None:
        if aliases != self._aliases:
            write_whole(self._folder / _ALIASES, json.dumps(aliases, indent=2, sort_keys=True))
            self._aliases = aliases

    def _where(self, collection: str) -> str:
        return f"collection {collection} in {self._folder}"


def _own(folder: Path, wait_s: float) -> IO[str]:
    """The folder's lock file, locked until it is closed or this process ends."""
    file = (folder / _OWNER).open("w")
    ends = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends:
                file.close()
                raise StoreError(
                    "another process has it open",
                    where=str(folder),
                    remedy="one process owns an index at a time: end the other one",
                ) from None
            time.sleep(_OWNER_LOOK_S)
        else:
            return file


def _shape(folder: Path) -> dict[str, Any]:
    # Collections made before there was a choice say nothing of the distance.
    return {"distance": contract.USUAL_VECTORS.distance, **json.loads((folder / _SHAPE).read_text())}


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except TandemError:
        raise
    # The engine raises plain Exception for everything.
    except Exception as error:
        raise StoreError(str(error), where=where) from error
