"""The index job: documents in, a searchable collection out; run again, only what changed is embedded."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tandem.artifacts.filesystems import is_remote
from tandem.artifacts.job import JobContext
from tandem.artifacts.uris import resolve
from tandem.errors import InputError
from tandem.retrieval.actor import connect, join_ray
from tandem.retrieval.embedder_files import configured_dimension, fingerprint
from tandem.retrieval.indexing import collection_of, collections_of, gather_files, identity_settings
from tandem.retrieval.prompts import find_prompts
from tandem.retrieval.snapshot import IndexSnapshot, made_by, snapshot_id, write_snapshot
from tandem.retrieval.staging import Stage
from tandem.retrieval.store import name_is_taken
from tandem.retrieval.survey import read_and_stage, staging, survey_documents
from tandem.retrieval.sync import Target, check, sync
from tandem.specs.index import IndexSpec

_BLOCK_BYTES = 4 * 2**20  # what Ray Data hands on at once: bounds a worker's memory, and is some seconds' work


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
        InputError: A collection has the name that the index is searched by; or it is another job's; or the cluster
            hasn't the GPUs.
        ModelError: The embedder can't be used.
        StoreError: The collection doesn't come to hold what was written, or doesn't find it.
        UnreachableError: A file can't be read now: what is indexed stays as it is.
    """
    started = time.monotonic()
    _connect_ray(context)
    _check_gpus(spec, context)
    context.quarantine_path.unlink(missing_ok=True)
    embedder = resolve(spec.embedder.model, storage=context.storage)
    prompts = find_prompts(embedder, spec.embedder.query_prompt, spec.embedder.passage_prompt)
    files, collisions = gather_files((source, _located(source.uri, context)) for source in spec.sources)
    embedder_sha256 = fingerprint(embedder)
    settings = identity_settings(spec, embedder_sha256)

    with staging(context) as folder:
        stage = Stage(folder, embedder, spec.chunk, settings, spec.tenant_field)
        survey = survey_documents(read_and_stage(files, stage), len(files), collisions, spec, context)

        store = connect(context.cluster)
        name = spec.collection_name
        collection = collection_of(name, settings, spec.vectors)
        dimension = configured_dimension(embedder)
        if name in store.collections():
            raise name_is_taken(name, "a collection", context.cluster.qdrant_url or str(context.storage))
        if current := store.aliases().get(name):
            _check_maker(spec, context, current)
        store.create_collection(collection, dimension=dimension, sparse=spec.sparse, vectors=spec.vectors)
        target = Target(store, collection, embedder, embedder_sha256)
        changes = sync(survey, spec, context, target)
    check(target, survey.wanted, context)

    snapshot = IndexSnapshot(
        id=snapshot_id(survey.wanted, settings),
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
        documents=survey.documents,
        chunks=len(survey.wanted),
        distance=spec.vectors.distance,
        dtype=spec.embedder.dtype,
        query_prompt=prompts.query,
        passage_prompt=prompts.passage,
    )
    figures: dict[str, Any] = {
        **asdict(changes),
        "quarantined": survey.faults,
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
    context.progress("done", snapshot.chunks, snapshot.chunks, **figures)
    return {
        "documents": snapshot.documents,
        "chunks": snapshot.chunks,
        **figures,
        "snapshot": snapshot.id,
        "collection": name,
        "artifact": str(folder),
    }


def _check_maker(spec: IndexSpec, context: JobContext, current: str) -> None:
    maker = made_by(context.storage, spec.collection_name, current)
    if maker not in (None, context.name, spec.takes_over):
        raise InputError(
            f"the collection {spec.collection_name!r} is of the job {maker!r}: its documents would be deleted",
            where="collection",
            remedy=f"give this one a collection of its own; or, if it replaces that job, `takes_over: {maker}`",
        )


def _located(uri: str, context: JobContext) -> str:
    return uri if is_remote(uri) else str(resolve(uri, storage=context.storage))


def _connect_ray(context: JobContext) -> None:
    import ray

    join_ray(context.cluster)
    data_context = ray.data.DataContext.get_current()
    # Progress is ours to tell, and once: bars fill a log file.
    data_context.enable_progress_bars = False
    data_context.target_max_block_size = _BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that the bars are off


def _check_gpus(spec: IndexSpec, context: JobContext) -> None:
    import ray

    wanted, there = spec.embedder.workers * spec.embedder.gpus, ray.cluster_resources().get("GPU", 0)
    if wanted > max(there, context.cluster.grows_to.get("GPU", 0)):
        # Ray Data would wait for them without end.
        raise InputError(
            f"{wanted:g} GPUs for the actors that embed, and the cluster has {there:g}",
            where="embedder.gpus",
            remedy="ask for a smaller share, or fewer `workers`",
        )


def _portable(uri: str, path: Path) -> str:
    """A URI that means the same from any folder: what is local or may move on becomes an absolute path."""
    return uri if uri.startswith(("hf:", "pypi:")) else str(path)
