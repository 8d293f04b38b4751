"""The index job: documents in, a searchable collection out; run again, only what changed is embedded."""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tandem.artifacts.filesystems import is_remote
from tandem.artifacts.job import JobContext
from tandem.artifacts.uris import resolve
from tandem.config.machine import cores
from tandem.data.quarantine import check_quarantined, write_quarantine
from tandem.errors import InputError, StoreError
from tandem.retrieval.actor import connect, join_ray
from tandem.retrieval.embedding import configured_dimension, fingerprint
from tandem.retrieval.embedding_cache import EmbeddingCache
from tandem.retrieval.indexing import (
    CHUNK,
    DOCUMENT,
    FAULT,
    Embed,
    InputFile,
    Plan,
    ReadAndChunk,
    Write,
    collection_of,
    collections_of,
    faults_of,
    gather_files,
    identity_settings,
    plan_changes,
)
from tandem.retrieval.snapshot import IndexSnapshot, snapshot_id, write_snapshot
from tandem.retrieval.store import VectorStore, name_is_taken, scroll_all
from tandem.specs.index import IndexSpec

# Chunks that an embedding actor gets at once: sorted by length among themselves, and one file of the cache.
_EMBED_BATCH = 512
_WRITER_CPUS = 0.1  # it mostly waits for the store
_READ_BLOCKS_PER_CPU = 4
_PASSES = 3
_PAGE = 10_000
_DELETE_BATCH = 1000
# Terms of an average chunk, stop words left out, as a share of its tokens' limit. BM25 wants the corpus's average, but
# a figure that moves with the corpus would change the weights of chunks that didn't change.
_TERMS_PER_TOKEN = 0.4


def run(spec: IndexSpec, context: JobContext) -> dict[str, Any]:
    """Read, chunk, embed what is new, delete what is gone, write the artifact.

    Args:
        spec: What to index.
        context: The job; its cluster names Ray and the store.

    Returns:
        Counts (documents, chunks, written, embedded, deleted, unchanged, quarantined), the snapshot's id, the
        collection, the artifact's path, seconds. Written are new chunks; embedded those whose vectors weren't cached.

    Raises:
        DataError: A source has nothing to read, or too much of it can't be read.
        InputError: A collection has the name that the index is to be searched by, or the cluster hasn't the GPUs.
        ModelError: The embedder can't be used.
        StoreError: The collection doesn't come to hold what was written.
    """
    from ray.data.expressions import col

    started = time.monotonic()
    _connect_ray(context)
    _check_gpus(spec)
    context.quarantine_path.unlink(missing_ok=True)
    embedder = resolve(spec.embedder.model, storage=context.storage)
    files, collisions = gather_files((source, _located(source.uri, context)) for source in spec.sources)
    embedder_sha256 = fingerprint(embedder)
    settings = identity_settings(spec, embedder_sha256)

    context.progress("read", 0, len(files))
    rows = _read(files, ReadAndChunk(embedder, spec.chunk, settings, spec.tenant_field))
    wanted, counts = _survey(rows)
    faults = [*collisions, *faults_of(rows.filter(expr=col("kind") == FAULT).iter_rows())]
    write_quarantine(context.quarantine_path, faults)
    total = counts[DOCUMENT] + len(faults)
    where = ", ".join(source.uri for source in spec.sources)
    check_quarantined(faults, total, spec.max_quarantined, what="documents", where=where, path=context.quarantine_path)
    context.progress("read", len(files), len(files), documents=counts[DOCUMENT], chunks=len(wanted))

    store = connect(context.cluster)
    name = spec.collection_name
    collection = collection_of(name, settings, spec.vectors)
    dimension = configured_dimension(embedder)
    if name in store.collections():
        raise name_is_taken(name, "a collection", context.cluster.qdrant_url or str(context.storage))
    store.create_collection(collection, dimension=dimension, sparse=spec.sparse, vectors=spec.vectors)
    target = _Target(store, collection, embedder, embedder_sha256)
    changes = _sync(rows, frozenset(wanted), spec, context, target)

    snapshot = IndexSnapshot(
        id=snapshot_id(wanted, settings),
        collection=name,
        points=collection,
        embedder=_portable(spec.embedder.model, embedder),
        embedder_sha256=embedder_sha256,
        batch_size=spec.embedder.batch_size,
        dimension=dimension,
        sparse=spec.sparse,
        tenant_field=spec.tenant_field,
        chunk_tokens=spec.chunk.tokens,
        chunk_overlap=spec.chunk.overlap,
        documents=counts[DOCUMENT],
        chunks=len(wanted),
        distance=spec.vectors.distance,
    )
    figures: dict[str, Any] = {
        **asdict(changes),
        "quarantined": len(faults),
        "seconds": round(time.monotonic() - started, 1),
    }
    folder = context.artifact_dir()
    write_snapshot(
        folder, snapshot, name=context.name, id=context.id, figures={**figures, "spec_sha256": spec.digest()}
    )
    # Only now, complete and described, is it what the name stands for; the one before stays, for a way back.
    before = store.aliases().get(name)
    if before != collection:
        store.set_alias(name, collection)
        for old in collections_of(name, store.collections()):
            if old not in (collection, before):
                store.drop_collection(old)
    context.progress("done", len(wanted), len(wanted), **figures)
    return {
        "documents": snapshot.documents,
        "chunks": snapshot.chunks,
        **figures,
        "snapshot": snapshot.id,
        "collection": name,
        "artifact": str(folder),
    }


def _located(uri: str, context: JobContext) -> str:
    return uri if is_remote(uri) else str(resolve(uri, storage=context.storage))


def _connect_ray(context: JobContext) -> None:
    import ray

    join_ray(context.cluster)
    data_context = ray.data.DataContext.get_current()
    # Progress is ours to tell, and once: bars fill a log file.
    data_context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that the bars are off


def _check_gpus(spec: IndexSpec) -> None:
    import ray

    wanted, there = spec.embedder.workers * spec.embedder.gpus, ray.cluster_resources().get("GPU", 0)
    if wanted > there:
        # Ray Data would wait for them without end.
        raise InputError(
            f"{wanted:g} GPUs for the actors that embed, and the cluster has {there:g}",
            where="embedder.gpus",
            remedy="ask for a smaller share, or fewer `workers`",
        )


def _read(files: list[InputFile], stage: ReadAndChunk) -> Any:
    """Read and chunk all files; the rows stay in the object store, since they are looked at twice."""
    import ray

    blocks = min(len(files), _READ_BLOCKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1))))
    source = ray.data.from_items([{"file": pickle.dumps(file)} for file in files], override_num_blocks=blocks)
    return source.flat_map(stage.__call__).materialize()


def _survey(rows: Any) -> tuple[list[str], Counter[str]]:
    """The chunks' ids, and how many rows there are of each kind."""
    ids: list[str] = []
    counts: Counter[str] = Counter()
    for batch in rows.select_columns(["kind", "id"]).iter_batches(batch_size=_PAGE, batch_format="numpy"):
        for kind, chunk_id in zip(batch["kind"], batch["id"], strict=True):
            counts[str(kind)] += 1
            if kind == CHUNK:
                ids.append(str(chunk_id))
    return ids, counts


@dataclass(frozen=True)
class _Target:
    """Where the points go, and what makes their vectors."""

    store: VectorStore
    collection: str
    embedder: Path
    embedder_sha256: str


@dataclass(frozen=True)
class _Changes:
    """What a sync did."""

    written: int = 0
    embedded: int = 0
    deleted: int = 0
    unchanged: int = 0


def _sync(rows: Any, wanted: frozenset[str], spec: IndexSpec, context: JobContext, target: _Target) -> _Changes:
    """Write what is new and delete what is gone, until the collection holds the wanted chunks and no others.

    Once is enough, but for what an attempt that was killed still wrote while this one had begun.

    Raises:
        StoreError: It holds others again and again.
    """
    store, collection = target.store, target.collection
    changes = _Changes()
    for _ in range(_PASSES):
        plan = plan_changes(wanted, (record.id for record in scroll_all(store, collection, fields=(), page_size=_PAGE)))
        if not plan.embed and not plan.delete:
            return changes if changes.written or changes.deleted else replace(changes, unchanged=plan.keep)
        embedded = _embed(rows, plan, spec, context, target)
        for begin in range(0, len(plan.delete), _DELETE_BATCH):
            context.progress("delete", begin, len(plan.delete))
            store.delete(collection, plan.delete[begin : begin + _DELETE_BATCH])
        context.progress("optimize", 0)
        store.optimize(collection)
        changes = _Changes(
            changes.written + len(plan.embed),
            changes.embedded + embedded,
            changes.deleted + len(plan.delete),
            plan.keep if not changes.written else changes.unchanged,
        )
    raise StoreError(
        f"the collection {collection!r} doesn't come to hold what the documents make",
        remedy="does another job write to it? Give each its own `collection`",
    )


def _embed(rows: Any, plan: Plan, spec: IndexSpec, context: JobContext, target: _Target) -> int:
    """Embed and write what is new; returns how many vectors had to be computed."""
    import ray

    total = len(plan.embed)
    context.progress("embed", 0, total, unchanged=plan.keep)
    if not total:
        return 0
    wanted = ray.put(plan.embed)

    def select(batch: dict[str, Any]) -> dict[str, Any]:
        ids = ray.get(wanted)
        chosen = [str(chunk_id) in ids for chunk_id in batch["id"]]
        return {"data": batch["data"][chosen]}

    fresh = rows.map_batches(select, batch_format="numpy")
    workers = min(spec.embedder.workers, -(-total // _EMBED_BATCH))
    vectors = fresh.map_batches(
        Embed,
        fn_constructor_kwargs={
            "embedder": target.embedder,
            "embedder_sha256": target.embedder_sha256,
            "spec": spec.embedder,
            "threads": max(1, cores() // workers),
            "storage": context.storage,
            "unit": spec.vectors.unit,
        },
        batch_size=_EMBED_BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=spec.embedder.gpus or None,
    )
    stage = vectors.map_batches(
        Write,
        fn_constructor_kwargs={
            "cluster": context.cluster,
            "collection": target.collection,
            "average_length": spec.chunk.tokens * _TERMS_PER_TOKEN if spec.sparse else None,
        },
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=_WRITER_CPUS,
    )
    done, embedded, started = 0, 0, time.monotonic()
    for batch in stage.iter_batches(batch_size=None, batch_format="numpy"):
        done += int(batch["written"].sum())
        embedded += int(batch["embedded"].sum())
        context.progress("embed", done, total, per_second=done / (time.monotonic() - started), embedded=embedded)
    EmbeddingCache(context.storage, target.embedder_sha256, spec.vectors.unit).compact()
    return embedded


def _portable(uri: str, path: Path) -> str:
    """A URI that means the same from any folder: what is local or may move on becomes an absolute path."""
    return uri if uri.startswith(("hf:", "pypi:")) else str(path)
