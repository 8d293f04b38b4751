"""What an index job does, step by step: which files, which changes; embed and write, inside Ray Data."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.data.documents import list_files
from tandem.data.quarantine import Fault
from tandem.data.sources import DataFile
from tandem.retrieval.bm25 import DESCRIPTION, document_terms
from tandem.retrieval.chunk_ids import pack, union, within
from tandem.retrieval.chunking import Chunk
from tandem.retrieval.markup import VERSION
from tandem.retrieval.store import Point as StorePoint
from tandem.retrieval.store import SparseVector, VectorStore
from tandem.specs.index import EmbedderSpec, IndexSpec, SourceSpec, VectorIndexSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tandem.config.cluster import Cluster
    from tandem.retrieval.chunk_ids import ChunkIds
    from tandem.retrieval.embedding import Embedder

logger = logging.getLogger(__name__)

_OPTIONAL = ("tenant", "page", "line", "modified_at")


@dataclass(frozen=True)
class InputFile:
    """A file to read, and its path relative to its source."""

    file: DataFile
    source: str


@dataclass(frozen=True)
class Plan:
    """What of an index has to change.

    Args:
        embed: Ids of chunks that aren't in the collection yet, sorted.
        delete: Ids in the collection that no document has any more, sorted.
        keep: How many chunks stay as they are.
    """

    embed: ChunkIds
    delete: ChunkIds
    keep: int


def plan_changes(wanted: ChunkIds, held: Iterable[str]) -> Plan:
    """Compare the chunks that the documents make with those that the collection holds.

    An id stands for a chunk's content, place, settings and embedder, so equal ids need no second look; a job that was
    cut short goes on where it was.

    Args:
        wanted: Ids of the documents' chunks, sorted, each once.
        held: Ids in the collection.

    Raises:
        StoreError: The collection holds something that isn't a chunk.
    """
    have = union([pack(held)])
    new = ~within(wanted, have)
    return Plan(embed=wanted[new], delete=have[~within(have, wanted)], keep=len(wanted) - int(new.sum()))


def gather_files(sources: Iterable[tuple[SourceSpec, str]]) -> tuple[list[InputFile], list[Fault]]:
    """The files of all sources; where two would be the same source, the second is a fault.

    Args:
        sources: Each with the folder or file that its URI stands for: a path, or a URI with a filesystem.

    Raises:
        DataError: A source has nothing that can be read.
    """
    files: dict[str, DataFile] = {}
    faults: list[Fault] = []
    for source, root in sources:
        for name, file in list_files(source, root):
            first = files.setdefault(name, file)
            if _place(first) != _place(file):
                faults.append(Fault(file.name, None, f"{first.name} is called {name} too: index their common folder"))
    return [InputFile(file, name) for name, file in files.items()], faults


def _place(file: DataFile) -> str:
    return file.name if file.filesystem else str(Path(file.path).resolve())


def collection_of(name: str, settings: str, vectors: VectorIndexSpec) -> str:
    """The collection that holds an index made with these settings: another embedder, chunking or graph has its own.

    Args:
        name: The alias under which it is searched.
        settings: See `identity_settings`.
        vectors: The graph, and quantization.
    """
    # The distance is one of the settings already.
    digest = hashlib.sha256(f"{settings}\0{vectors.model_dump_json(exclude={'distance'})}".encode()).hexdigest()
    return f"{name}-{digest[:8]}"


def collections_of(name: str, collections: Iterable[str]) -> list[str]:
    """Of these collections those that index jobs made for an alias, with whatever settings."""
    return [each for each in collections if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{8}}", each)]


def identity_settings(spec: IndexSpec, embedder_sha256: str) -> str:
    """All but the documents that decides what is stored: part of every chunk's id and of the snapshot's."""
    sparse = DESCRIPTION if spec.sparse else "no sparse vectors"
    settings = (embedder_sha256, VERSION, sparse, spec.chunk.model_dump_json())
    # Named where they aren't the usual ones, so that a choice that is added later changes no ids. A question's prompt
    # changes no vector, but what is found: with another one it is another index, to be followed and rolled back.
    distance = () if spec.vectors.unit else (spec.vectors.distance,)
    embedder = spec.embedder
    dtype = None if embedder.dtype == "auto" else embedder.dtype
    chosen = {"dtype": dtype, "query_prompt": embedder.query_prompt, "passage_prompt": embedder.passage_prompt}
    named = tuple(f"{name} {value!r}" for name, value in chosen.items() if value is not None)
    return "\0".join(settings + distance + named)


class Embed:
    """Ray Data stage, an actor with the model in it: chunks to chunks with vectors. Several threads may call it.

    Args:
        embedder: The embedder's folder.
        embedder_sha256: Its fingerprint.
        spec: How it is run.
        threads: That compute, in this process.
        storage: The cluster's storage folder, where vectors are cached.
        unit: Whether vectors are scaled to length 1.
    """

    def __init__(
        self, embedder: Path, embedder_sha256: str, spec: EmbedderSpec, threads: int, storage: Path, unit: bool = True
    ) -> None:
        from tandem.retrieval.embedding_cache import open_caches
        from tandem.retrieval.prompts import find_prompts

        self._prompts = find_prompts(embedder, spec.query_prompt, spec.passage_prompt)
        self._caches = open_caches(storage, embedder_sha256, spec.dtype, unit=unit, prompt=self._prompts.passage)
        self._path = embedder
        self._spec = spec
        self._unit = unit
        self._threads = threads
        self._model: Embedder | None = None  # not loaded if all is cached
        self._reading, self._opening = threading.Lock(), threading.Lock()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns ``data`` (as it came), ``vector`` float32 (chunks, dimension), ``embedded``: was it computed now."""
        import numpy as np

        texts = [Chunk(**json.loads(data)).embedding_text for data in batch["data"]]
        known: dict[str, NDArray[np.float32]] = {}
        missing = list(dict.fromkeys(texts))
        with self._reading:
            for cache in self._caches.values():
                known |= cache.get(missing)
                missing = [text for text in missing if text not in known]
        if missing:
            model = self._open(missing)
            vectors = model.encode(missing)
            self._caches[model.dtype].put(missing, vectors)
            known |= dict(zip(missing, vectors, strict=True))
        computed = set(missing)
        return {
            "data": batch["data"],
            "vector": np.stack([known[text] for text in texts]),
            "embedded": np.array([text in computed for text in texts]),
        }

    def _open(self, samples: list[str]) -> Embedder:
        from tandem.config.machine import limit_threads
        from tandem.retrieval.embedding import Embedder

        with self._opening:
            if self._model is None:
                limit_threads(self._threads)
                self._model = Embedder(
                    self._path,
                    self._spec.batch_size,
                    self._spec.dtype,
                    unit=self._unit,
                    passes=self._threads,
                    samples=samples,
                    prompts=self._prompts,
                )
        return self._model


class Write:
    """Ray Data stage, an actor that writes while the next batch is embedded.

    Args:
        cluster: Where the store is.
        collection: Where the points go.
        average_length: For BM25; None to write no term weights.
    """

    def __init__(self, cluster: Cluster, collection: str, average_length: float | None) -> None:
        from tandem.retrieval.actor import connect

        self._store: VectorStore = connect(cluster)
        self._collection = collection
        self._average_length = average_length

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """How many were written, and how many of their vectors were computed now."""
        chunks = [Chunk(**json.loads(data)) for data in batch["data"]]
        texts = [chunk.embedding_text for chunk in chunks]
        terms: list[SparseVector] | list[None]
        terms = [None] * len(texts) if self._average_length is None else document_terms(texts, self._average_length)
        points = [
            StorePoint(chunk.id, vector, sparse, payload(chunk))
            for chunk, vector, sparse in zip(chunks, batch["vector"], terms, strict=True)
        ]
        self._store.upsert(self._collection, points)
        return {"written": [len(points)], "embedded": [int(batch["embedded"].sum())]}


def payload(chunk: Chunk) -> dict[str, Any]:
    """What the store keeps of a chunk."""
    # Without a tenant a point belongs to nobody and is shown to everyone.
    return {
        name: value
        for name, value in vars(chunk).items()
        if name != "id" and (name not in _OPTIONAL or value is not None)
    }
