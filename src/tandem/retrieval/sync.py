"""A collection brought to what the documents make: embed and write what is new, delete what is gone, then check it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.artifacts.job import JobContext
from tandem.config.machine import cores, has_gpu_driver
from tandem.errors import StoreError
from tandem.retrieval.chunk_ids import unpack, within
from tandem.retrieval.embedding_cache import open_caches
from tandem.retrieval.indexing import Embed, Plan, Write, plan_changes
from tandem.retrieval.recall import find_themselves
from tandem.retrieval.staging import staged_chunks
from tandem.retrieval.store import VectorStore, scroll_all
from tandem.retrieval.survey import Survey
from tandem.specs.index import IndexSpec

if TYPE_CHECKING:
    from tandem.retrieval.chunk_ids import ChunkIds

# Chunks that an embedding actor gets at once: sorted by length among themselves, and one file of the cache.
EMBED_BATCH = 1024
_EMBED_CALLS = 2  # of an actor at once: where one waits for its last forward pass, the other goes on
# glibc raises this limit, from where a block of memory goes back to the system when it is freed, to the largest block
# that was freed; a model's passes of many lengths then leave twice the memory behind that they need.
_EMBED_ENV = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # bytes: where it begins
_READER_CPUS = 0.5
_WRITER_CPUS = 0.1  # it mostly waits for the store
_PASSES = 3
_PAGE = 10_000
_DELETE_BATCH = 1000
_OPTIMIZE_PROGRESS_S = 2.0
_PROBES = 32  # chunks that must find themselves before the index is used
_PROBES_FOUND = 0.9  # a graph is approximate
# Terms of an average chunk, stop words left out, as a share of its tokens' limit. BM25 wants the corpus's average, but
# a figure that moves with the corpus would change the weights of chunks that didn't change.
_TERMS_PER_TOKEN = 0.4


@dataclass(frozen=True)
class Target:
    """Where the points go, and what makes their vectors."""

    store: VectorStore
    collection: str
    embedder: Path
    embedder_sha256: str


@dataclass(frozen=True)
class Changes:
    """What a sync did."""

    written: int = 0
    embedded: int = 0
    deleted: int = 0
    unchanged: int = 0


def sync(survey: Survey, spec: IndexSpec, context: JobContext, target: Target) -> Changes:
    """Write what is new and delete what is gone, until the collection holds the wanted chunks and no others.

    Once is enough, but for what an attempt that was killed still wrote while this one had begun.

    Raises:
        StoreError: It holds others again and again.
    """
    store, collection = target.store, target.collection
    changes = Changes()
    for _ in range(_PASSES):
        held = (record.id for record in scroll_all(store, collection, fields=(), page_size=_PAGE))
        plan = plan_changes(survey.wanted, held)
        if not len(plan.embed) and not len(plan.delete):
            # Whatever this attempt did: the one before may have been killed before its graph was built.
            _optimize(store, collection, context)
            return changes if changes.written or changes.deleted else replace(changes, unchanged=plan.keep)
        embedded = _embed(survey, plan, spec, context, target)
        for begin in range(0, len(plan.delete), _DELETE_BATCH):
            context.progress("delete", begin, len(plan.delete))
            store.delete(collection, list(unpack(plan.delete[begin : begin + _DELETE_BATCH])))
        changes = Changes(
            changes.written + len(plan.embed),
            changes.embedded + embedded,
            changes.deleted + len(plan.delete),
            plan.keep if not changes.written else changes.unchanged,
        )
    raise StoreError(
        f"the collection {collection!r} doesn't come to hold what the documents make",
        remedy="does another job write to it? Give each its own `collection`",
    )


def _optimize(store: VectorStore, collection: str, context: JobContext) -> None:
    """Build the graph, however long that takes; where it is built already, it takes no time."""
    started = time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        built = thread.submit(store.optimize, collection)
        while True:
            context.progress("optimize", 0, seconds=round(time.monotonic() - started))
            if wait([built], timeout=_OPTIMIZE_PROGRESS_S).done:
                return built.result()


def _embed(survey: Survey, plan: Plan, spec: IndexSpec, context: JobContext, target: Target) -> int:
    """Embed and write what is new; returns how many vectors had to be computed."""
    total = len(plan.embed)
    context.progress("embed", 0, total, unchanged=plan.keep)
    if not total:
        return 0
    workers = min(spec.embedder.workers, -(-total // EMBED_BATCH))
    embed = {
        "embedder": target.embedder,
        "embedder_sha256": target.embedder_sha256,
        "spec": spec.embedder,
        "threads": max(1, cores() // workers),
        "storage": context.storage,
        "unit": spec.vectors.unit,
    }
    write = {
        "cluster": context.cluster,
        "collection": target.collection,
        "average_length": spec.chunk.tokens * _TERMS_PER_TOKEN if spec.sparse else None,
    }
    rows = _to_embed(survey.staged, plan.embed)
    # Actors would take longer to start than one batch takes here. But elsewhere the driver is on the head's machine,
    # which isn't for that; and a GPU that it sees isn't its own.
    few = context.cluster.local and total <= EMBED_BATCH and not spec.embedder.gpus and not has_gpu_driver()
    batches = _here(rows, embed, write) if few else _in_actors(rows, embed, write, workers, spec.embedder.gpus)
    done, embedded, started = 0, 0, time.monotonic()
    for batch in batches:
        done += int(sum(batch["written"]))
        embedded += int(sum(batch["embedded"]))
        context.progress("embed", done, total, per_second=done / (time.monotonic() - started), embedded=embedded)
    dtype, unit = spec.embedder.dtype, spec.vectors.unit
    for cache in open_caches(context.storage, target.embedder_sha256, dtype, unit=unit).values():
        cache.compact()
    return embedded


def _here(rows: list[dict[str, Any]], embed: dict[str, Any], write: dict[str, Any]) -> Iterator[dict[str, Any]]:
    batch = {"data": [chunk["data"] for row in rows for chunk in staged_chunks(row)]}
    yield Write(**write)(Embed(**embed)(batch))


def _in_actors(
    rows: list[dict[str, Any]], embed: dict[str, Any], write: dict[str, Any], workers: int, gpus: float
) -> Iterable[dict[str, Any]]:
    import ray

    fresh = ray.data.from_items(rows).flat_map(staged_chunks, num_cpus=_READER_CPUS)
    vectors = fresh.map_batches(
        Embed,
        fn_constructor_kwargs=embed,
        batch_size=EMBED_BATCH,
        compute=ray.data.ActorPoolStrategy(
            size=workers,
            max_concurrent_calls_per_actor=_EMBED_CALLS,
            # On a GPU two passes at once take twice the memory.
            enable_true_multi_threading=not gpus,
        ),
        num_cpus=1,
        num_gpus=gpus or None,
        runtime_env={"env_vars": _EMBED_ENV},
    )
    stage = vectors.map_batches(
        Write,
        fn_constructor_kwargs=write,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=_WRITER_CPUS,
    )
    batches: Iterable[dict[str, Any]] = stage.iter_batches(batch_size=None, batch_format="numpy")
    return batches


def _to_embed(staged: list[tuple[Path, ChunkIds]], wanted: ChunkIds) -> list[dict[str, Any]]:
    """Of each staged file the places of the wanted chunks, as `staged_chunks` takes them."""
    import numpy as np

    rows = []
    for path, ids in staged:
        places = np.flatnonzero(within(ids, wanted)).astype(np.int64)
        if len(places):
            rows.append({"path": str(path), "places": places.tobytes()})
    return rows


def check(target: Target, wanted: ChunkIds, context: JobContext) -> None:
    """See, before anybody searches it, that the collection is whole and that its chunks are found.

    Raises:
        StoreError: It isn't, or they aren't.
    """
    store, collection = target.store, target.collection
    context.progress("check", 0, _PROBES)
    remedy = "the name stands for what it stood for; run the job again, and look at the store's log"
    points = store.count(collection, tenant=None, filter=None)
    if points != len(wanted):
        raise StoreError(f"{points} points in the collection {collection!r}, not {len(wanted)}", remedy=remedy)
    probes = list(unpack(wanted[:_PROBES]))  # ids are hashes: their order is as good as chance
    found = find_themselves(store, collection, probes)
    if found < _PROBES_FOUND * len(probes):
        raise StoreError(
            f"only {found} of {len(probes)} chunks in the collection {collection!r} find themselves", remedy=remedy
        )
