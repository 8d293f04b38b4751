"""The index job: documents in, a searchable collection out; run again, only what changed is embedded."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.artifacts.uris import resolve
from tandem.config.machine import cores
from tandem.data.quarantine import check_quarantined, write_quarantine
from tandem.errors import InputError, StoreError
from tandem.retrieval.actor import NAMESPACE, connect
from tandem.retrieval.embedding import configured_dimension, fingerprint
from tandem.retrieval.indexing import (
    CHUNK,
    DOCUMENT,
    FAULT,
    EmbedAndWrite,
    InputFile,
    Plan,
    ReadAndChunk,
    faults_of,
    gather_files,
    identity_settings,
    plan_changes,
)
from tandem.retrieval.snapshot import IndexSnapshot, find_snapshot, snapshot_id, write_snapshot
from tandem.retrieval.store import VectorStore, scroll_all
from tandem.specs.index import IndexSpec

_EMBED_BATCH = 128  # chunks that an embedding actor gets at once: sorted by length among themselves
_READ_BLOCKS_PER_CPU = 4
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
        Counts (documents, chunks, embedded, deleted, unchanged, quarantined), the snapshot's id, the collection, the
        artifact's path, seconds.

    Raises:
        DataError: A source has nothing to read, or too much of it can't be read.
        InputError: The collection has vectors of another shape, or of another embedder.
        ModelError: The embedder can't be used.
        StoreError: The collection doesn't hold what was written.
    """
    from ray.data.expressions import col

    started = time.monotonic()
    _connect_ray(context)
    context.quarantine_path.unlink(missing_ok=True)
    embedder = resolve(spec.embedder.model, storage=context.storage)
    sources = [(source, resolve(source.uri, storage=context.storage)) for source in spec.sources]
    files, collisions = gather_files(sources)
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
    collection = spec.collection_name
    dimension = configured_dimension(embedder)
    if collection in store.collections():
        _check_embedder(find_snapshot(context.storage, collection), embedder_sha256)
    store.create_collection(collection, dimension=dimension, sparse=spec.sparse)
    plan = plan_changes(wanted, (record.id for record in scroll_all(store, collection, fields=(), page_size=_PAGE)))
    _embed(rows, plan, spec, context, embedder)
    for begin in range(0, len(plan.delete), _DELETE_BATCH):
        store.delete(collection, plan.delete[begin : begin + _DELETE_BATCH])
    if plan.embed or plan.delete:
        context.progress("optimize", 0)
        store.optimize(collection)
    _check_count(store, collection, len(wanted))

    snapshot = IndexSnapshot(
        id=snapshot_id(wanted, settings),
        collection=collection,
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
    )
    figures: dict[str, Any] = {
        "embedded": len(plan.embed),
        "deleted": len(plan.delete),
        "unchanged": plan.keep,
        "quarantined": len(faults),
        "seconds": round(time.monotonic() - started, 1),
    }
    folder = context.artifact_dir()
    write_snapshot(
        folder, snapshot, name=context.name, id=context.id, figures={**figures, "spec_sha256": spec.digest()}
    )
    context.progress("done", len(wanted), len(wanted), **figures)
    return {
        "documents": snapshot.documents,
        "chunks": snapshot.chunks,
        **figures,
        "snapshot": snapshot.id,
        "collection": collection,
        "artifact": str(folder),
    }


def _connect_ray(context: JobContext) -> None:
    import ray

    if not ray.is_initialized():
        ray.init(address=context.cluster.ray_address, namespace=NAMESPACE, logging_level=logging.WARNING)
    data_context = ray.data.DataContext.get_current()
    # Progress is ours to tell, and once: bars fill a log file.
    data_context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that the bars are off


def _read(files: list[InputFile], stage: ReadAndChunk) -> Any:
    """Read and chunk all files; the rows stay in the object store, since they are looked at twice."""
    import ray

    blocks = min(len(files), _READ_BLOCKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1))))
    source = ray.data.from_items([asdict(file) for file in files], override_num_blocks=blocks)
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


def _embed(rows: Any, plan: Plan, spec: IndexSpec, context: JobContext, embedder: Path) -> None:
    import ray

    total = len(plan.embed)
    context.progress("embed", 0, total, unchanged=plan.keep)
    if not total:
        return
    wanted = ray.put(plan.embed)

    def select(batch: dict[str, Any]) -> dict[str, Any]:
        ids = ray.get(wanted)
        chosen = [str(chunk_id) in ids for chunk_id in batch["id"]]
        return {column: values[chosen] for column, values in batch.items()}

    fresh = rows.map_batches(select, batch_format="numpy")
    workers = min(spec.embedder.workers, -(-total // _EMBED_BATCH))
    stage = fresh.map_batches(
        EmbedAndWrite,
        fn_constructor_kwargs={
            "cluster": context.cluster,
            "collection": spec.collection_name,
            "embedder": embedder,
            "batch_size": spec.embedder.batch_size,
            "threads": max(1, cores() // workers),
            "average_length": spec.chunk.tokens * _TERMS_PER_TOKEN if spec.sparse else None,
        },
        batch_size=_EMBED_BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    done, started = 0, time.monotonic()
    for batch in stage.iter_batches(batch_size=None, batch_format="numpy"):
        done += int(batch["written"].sum())
        context.progress("embed", done, total, per_second=done / (time.monotonic() - started))


def _check_embedder(before: IndexSnapshot | None, embedder_sha256: str) -> None:
    # An endpoint may be searching it now, with the embedder that it knows: until the new vectors were all there, and
    # the endpoint deployed anew, it would find nonsense.
    if before is not None and before.embedder_sha256 != embedder_sha256:
        raise InputError(
            f"the collection {before.collection!r} was made with another embedder, {before.embedder}",
            where="embedder.model",
            remedy="give the new vectors a `collection` of their own, then deploy the endpoint on it",
        )


def _check_count(store: VectorStore, collection: str, wanted: int) -> None:
    held = store.count(collection, tenant=None, filter=None)
    if held != wanted:
        raise StoreError(
            f"the collection {collection!r} holds {held} chunks and should hold {wanted}",
            remedy="run the job again; if two jobs write to this collection, give each its own",
        )


def _portable(uri: str, path: Path) -> str:
    """A URI that means the same from any folder: what is local or may move on becomes an absolute path."""
    return uri if uri.startswith(("hf:", "pypi:")) else str(path)
