"""One Ray actor owns the embedded store; jobs and replicas reach it by name.

It is detached and restarted without end: killed under writes it comes back with every acknowledged point, and callers
wait meanwhile instead of failing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import StoreError, TandemError, UnreachableError
from tandem.retrieval.store import USUAL_VECTORS, Filter, Hit, Page, Point, Query, VectorStore
from tandem.specs.index import VectorIndexSpec

if TYPE_CHECKING:
    from tandem.config.cluster import Cluster

NAME = "tandem-store"
NAMESPACE = "tandem"
INDEX = "index"
CALL_TIMEOUT_S = 300  # a call waits through a restart of the actor
OWNER_WAIT_S = 60.0  # for a killed one to have ended
# A graph that the actor's memory is too small for kills it again and again: somebody must be told.
_OPTIMIZE_RETRIES = 2
QDRANT_TIMEOUT_S = 60
_UPSERT_BATCH = 512  # points in one call
# A thread of its own: questions are answered while a graph is built.
_MAINTENANCE = "maintenance"
# Ray's name for the head's machine. On another one, cut off from the head, the actor would keep the folder open while
# its successor opens it too; and an autoscaler takes machines away on which nothing holds a CPU.
_ON_HEAD = {"node:__internal_head__": 0.001}


class ActorStore:
    """A `VectorStore` whose every call goes to the actor.

    Args:
        find: Returns the actor's handle. It is asked again when the actor has died for good, which Ray doesn't mend: it
            restarts one that was killed, but not one that could not be made.
        timeout_s: Seconds that one call may take.
    """

    def __init__(self, find: Callable[[], Any], timeout_s: float) -> None:
        self._find = find
        self._actor: Any | None = find()
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"ActorStore({NAME!r})"

    def create_collection(
        self, collection: str, *, dimension: int, sparse: bool, vectors: VectorIndexSpec = USUAL_VECTORS
    ) -> None:
        """Make a collection; nothing happens if it is there with the same shape."""
        self._call("create_collection", collection, dimension=dimension, sparse=sparse, vectors=vectors)

    def drop_collection(self, collection: str) -> None:
        """Delete a collection with all that it holds."""
        self._call("drop_collection", collection)

    def collections(self) -> list[str]:
        """The names of the collections, sorted."""
        names: list[str] = self._call("collections")
        return names

    def aliases(self) -> dict[str, str]:
        """The collection that each alias stands for."""
        aliases: dict[str, str] = self._call("aliases")
        return aliases

    def set_alias(self, alias: str, collection: str) -> None:
        """Let an alias stand for a collection from now on."""
        self._call("set_alias", alias, collection)

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, in place of those with the same ids; when it returns they are durable."""
        for begin in range(0, max(len(points), 1), _UPSERT_BATCH):
            self._call("upsert", collection, list(points[begin : begin + _UPSERT_BATCH]))

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Delete points; ids that aren't there don't matter."""
        self._call("delete", collection, list(ids))

    def search(self, collection: str, queries: Sequence[Query], *, within_s: float | None = None) -> list[list[Hit]]:
        """The best hits of each query, best first, equal scores by id; in the order of the queries."""
        hits: list[list[Hit]] = self._call("search", collection, list(queries), within_s=within_s)
        return hits

    def scroll(
        self, collection: str, *, fields: Sequence[str], limit: int, offset: str | None, vectors: bool = False
    ) -> Page:
        """One page of all records, in the order of their ids."""
        page: Page = self._call("scroll", collection, fields=list(fields), limit=limit, offset=offset, vectors=vectors)
        return page

    def count(self, collection: str, *, tenant: str | None, filter: Filter | None) -> int:
        """How many points a search with this tenant and filter can see."""
        return int(self._call("count", collection, tenant=tenant, filter=filter))

    def optimize(self, collection: str) -> None:
        """Build the graph; returns when it is built, however long that takes: of a million vectors, many minutes.

        It goes on without its caller: the next call waits for it, and finds nothing left to do.
        """
        options = {"concurrency_group": _MAINTENANCE, "max_task_retries": _OPTIMIZE_RETRIES}
        self._call_with("optimize", [collection], {}, options, timeout_s=None)

    def close(self) -> None:
        """Nothing to let go of: the actor stays for others."""

    def _call(self, method: str, *args: Any, within_s: float | None = None, **kwargs: Any) -> Any:
        timeout_s = self._timeout_s if within_s is None else max(0.0, min(within_s, self._timeout_s))
        return self._call_with(method, args, kwargs, {}, timeout_s)

    def _call_with(
        self,
        method: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        timeout_s: float | None,
    ) -> Any:
        import ray
        from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

        actor = self._actor
        if actor is None:
            actor = self._actor = self._find()
        remote = getattr(actor, method).options(**options)
        try:
            return ray.get(remote.remote(*args, **kwargs), timeout=timeout_s)
        except RayTaskError as error:
            # Ray's wrapper carries the actor's traceback in its text; a person needs the cause alone.
            if isinstance(error.cause, TandemError):
                raise error.cause from error
            raise StoreError(f"{method}: {error.cause}", where=f"actor {NAME}") from error
        except (GetTimeoutError, RayActorError) as error:
            if isinstance(error, ActorDiedError):
                self._actor = None
            raise UnreachableError(
                f"{method}: no answer from the store in {timeout_s:.3g} s"
                if isinstance(error, GetTimeoutError)
                else f"{method}: the store's actor is gone",
                where=f"actor {NAME}",
                remedy="look at the actor's log in the Ray dashboard",
            ) from error


def join_ray(cluster: Cluster) -> None:
    """Connect this process to the cluster's Ray, if it isn't connected.

    Raises:
        UnreachableError: It can't be: it is down, or this machine isn't one of the cluster's.
    """
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address=cluster.ray_address, namespace=NAMESPACE, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnreachableError(
            f"Ray can't be joined: {' '.join(str(error).split())}",
            where=cluster.ray_address,
            remedy="`tandem status` shows how it stands; only a machine of the cluster can join it",
        ) from error


def connect(cluster: Cluster) -> VectorStore:
    """The cluster's store: its Qdrant server if it names one, else the actor, started if it isn't there.

    Args:
        cluster: Names the server and the storage folder; for the actor this process must be connected to Ray.

    Raises:
        StoreError: The variable that should hold the server's key isn't set.
        UnreachableError: Ray isn't connected.
    """
    if cluster.qdrant_url is not None:
        from tandem.retrieval.qdrant import QdrantStore

        key = None
        if cluster.qdrant_api_key_env is not None:
            key = os.environ.get(cluster.qdrant_api_key_env)
            if not key:
                raise StoreError(
                    f"${cluster.qdrant_api_key_env} isn't set, and Qdrant's key should be in it",
                    where=cluster.qdrant_url,
                )
        return QdrantStore(cluster.qdrant_url, key, QDRANT_TIMEOUT_S)
    return ActorStore(partial(_actor, cluster.storage / INDEX), CALL_TIMEOUT_S)


def _actor(folder: Path) -> Any:
    import ray

    from tandem.retrieval.embedded import EdgeStore

    if not ray.is_initialized():
        raise UnreachableError("this process isn't connected to Ray", remedy="call join_ray first")
    # Two that start it at once get the same one: the name is taken by the first.
    return (
        ray.remote(concurrency_groups={_MAINTENANCE: 1})(EdgeStore)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=-1,
            num_cpus=0,
            resources=_ON_HEAD,
        )
        .remote(folder, OWNER_WAIT_S)
    )
