"""How far is the embedded store from the fastest thing possible at this size, a product of matrices in memory?

10,000 paragraphs of Django's documentation, really embedded (random vectors say nothing of recall), and 200 others as
queries, sent one at a time. Recall is judged by the exact answer. "Filtered" asks for one tenant of ten.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Result, seconds, versions
from benchmarks.texts import paragraphs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tandem.retrieval.store import Mode

POINTS = 10_000
QUERIES = 200
TENANTS = 10
TOP_K = 10
BATCH = 1_000
Searched = Callable[[int, str | None], list[int]]


def run() -> Result:
    """Embed once, then build and search every contender."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    texts = paragraphs(POINTS + QUERIES)
    vectors = _embed(texts)  # (points + queries, dimension), rows of length 1
    points, queries = vectors[:POINTS], vectors[POINTS:]
    tenants = np.arange(POINTS) % TENANTS
    exact = _brute_force(points, queries, tenants)
    truth = [set(exact(number, None)) for number in range(QUERIES)]
    # The engine answers a query in one thread. So does numpy here: on a busy machine its threads wait for each other.
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        built: list[tuple[str, float, Searched, bool]] = [("numpy, exact", 0.0, exact, True)]
        contenders: dict[str, Callable[[], Searched]] = {
            "qdrant-client, local mode": lambda: _client_local(points, queries),
            "tandem, dense": lambda: _edge(texts, points, queries, Path(folder) / "dense", "dense"),
            "tandem, hybrid": lambda: _edge(texts, points, queries, Path(folder) / "hybrid", "hybrid"),
        }
        for name, build in contenders.items():
            made: list[Searched] = []
            took = seconds(lambda build=build, made=made: made.append(build()))
            built.append((name, took, made[0], "hybrid" not in name))
        rows = [_row(name, took, search, truth if dense else None) for name, took, search, dense in built]
    for row in rows:
        row["p50 ÷ numpy's"] = row["p50, ms"] / rows[0]["p50, ms"]
    return Result(
        "retrieval",
        "time of one search, and how many of the exact ten nearest it finds",
        {"points": POINTS, "queries": QUERIES, "dimension": points.shape[1], "top_k": TOP_K, "tenants": TENANTS},
        versions("numpy", "qdrant-client", "qdrant-edge-py", "sentence-transformers"),
        rows,
    )


def _row(name: str, build_s: float, search: Searched, truth: list[set[int]] | None) -> dict[str, Any]:
    import numpy as np

    search(0, None), search(0, "0")  # warm up
    plain, filtered, hits = [], [], []
    for number in range(QUERIES):
        found: list[int] = []
        plain.append(seconds(lambda number=number, found=found: found.extend(search(number, None))))
        filtered.append(seconds(lambda number=number: search(number, str(number % TENANTS))))
        if truth is not None:
            hits.append(len(truth[number] & set(found)) / TOP_K)
    return {
        "contender": name,
        "build, s": build_s,
        "p50, ms": 1000 * float(np.percentile(plain, 50)),
        "p95, ms": 1000 * float(np.percentile(plain, 95)),
        "filtered p50, ms": 1000 * float(np.percentile(filtered, 50)),
        f"recall@{TOP_K}": float(np.mean(hits)) if hits else "–",
    }


def _embed(texts: list[str]) -> NDArray[np.float32]:
    """The texts' vectors; kept in the cache, since they take a minute and never change."""
    import numpy as np

    from tandem.artifacts.uris import cache_path, resolve
    from tandem.config.cluster import storage_path
    from tandem.retrieval.embedding import Embedder
    from tandem.specs.index import EmbedderSpec

    spec = EmbedderSpec()
    digest = hashlib.sha256("\0".join([spec.model, *texts]).encode()).hexdigest()
    kept = cache_path() / "benchmarks" / f"{digest[:16]}.npy"
    if kept.is_file():
        return np.load(kept, allow_pickle=False)
    print(f"embedding {len(texts)} paragraphs", flush=True)
    vectors = Embedder(resolve(spec.model, storage=storage_path()), spec.batch_size).encode(texts)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}.npy")
    np.save(partial, vectors)
    partial.replace(kept)
    return vectors


def _brute_force(points: NDArray[np.float32], queries: NDArray[np.float32], tenants: NDArray[np.int64]) -> Searched:
    import numpy as np

    def search(number: int, tenant: str | None) -> list[int]:
        rows = None if tenant is None else np.flatnonzero(tenants == int(tenant))
        scores = (points if rows is None else points[rows]) @ queries[number]
        best = np.argpartition(-scores, TOP_K)[:TOP_K]
        best = best[np.argsort(-scores[best])]
        return [int(i) for i in (best if rows is None else rows[best])]

    return search


def _edge(
    texts: list[str], points: NDArray[np.float32], queries: NDArray[np.float32], folder: Path, mode: Mode
) -> Searched:
    from tandem.retrieval.bm25 import document_terms, query_terms
    from tandem.retrieval.embedded import EdgeStore
    from tandem.retrieval.store import Point, Query

    count = len(points)
    store = EdgeStore(folder)
    store.create_collection("bench", dimension=points.shape[1], sparse=mode == "hybrid")
    average = sum(len(text.split()) for text in texts[:count]) / count
    terms = document_terms(texts[:count], average) if mode == "hybrid" else [None] * count
    batch = [Point(_id(n), points[n], terms[n], {"tenant": str(n % TENANTS)}) for n in range(count)]
    for start in range(0, count, BATCH):
        store.upsert("bench", batch[start : start + BATCH])
    store.optimize("bench")

    def search(number: int, tenant: str | None) -> list[int]:
        asked = query_terms([texts[count + number]])[0] if mode == "hybrid" else None
        (hits,) = store.search("bench", [Query(queries[number], asked, TOP_K, mode, tenant)])
        return [uuid.UUID(hit.id).int for hit in hits]

    return search


def _client_local(points: NDArray[np.float32], queries: NDArray[np.float32]) -> Searched:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection(
        "bench", vectors_config=models.VectorParams(size=points.shape[1], distance=models.Distance.COSINE)
    )
    for start in range(0, len(points), BATCH):
        numbers = range(start, min(start + BATCH, len(points)))
        client.upsert(
            "bench",
            [
                models.PointStruct(id=n, vector=points[n].tolist(), payload={"tenant": str(n % TENANTS)})
                for n in numbers
            ],
        )

    def search(number: int, tenant: str | None) -> list[int]:
        condition = models.FieldCondition(key="tenant", match=models.MatchValue(value=tenant)) if tenant else None
        answer = client.query_points(
            "bench",
            query=queries[number],
            limit=TOP_K,
            query_filter=models.Filter(must=[condition]) if condition else None,
        )
        return [int(point.id) for point in answer.points]

    return search


def _id(number: int) -> str:
    return str(uuid.UUID(int=number))
