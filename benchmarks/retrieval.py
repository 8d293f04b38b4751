"""How far is the embedded store from exact search, and how much does its graph miss?

10,000 and 100,000 pieces of Django's documentation, really embedded (random vectors say nothing of recall), and 200
others as queries, sent one at a time, after others for which nothing is timed: what was just built has to be read once.
Recall is judged by the exact answer; "filtered" asks for one tenant of ten. `run_million` asks the same of 1,000,000,
for which docstrings of the installed packages are added.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Result, seconds, versions
from benchmarks.texts import docstrings, pieces
from tandem.specs.index import VectorIndexSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tandem.retrieval.store import Mode

SIZES = (10_000, 100_000)
MILLION = 1_000_000
QUERIES = 200
WARM_UP, WARM_UP_S = 500, 5  # searches before those that count, and the seconds that they may take
TENANTS = 10
TOP_K = 10
BATCH = 1_000
WORDS, STEP = (
    12,
    6,
)  # of a piece, and to the next: they overlap, as chunks do; short, since a hundred thousand are embedded
PATIENCE_S = 20  # a contender that is slower answers fewer queries
Searched = Callable[[int, str | None], list[int]]


def run() -> Result:
    """Embed once, then build and search every contender."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    texts = pieces(max(SIZES) + QUERIES, WORDS, step=STEP)
    vectors = _embed(texts)  # (points + queries, dimension), rows of length 1
    queries, texts_of_queries = vectors[-QUERIES:], texts[-QUERIES:]
    rows = []
    for size in SIZES:
        # The engine answers a query in one thread. So does numpy here: its threads would wait for other work's.
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
            # The first points are the questions of the warm-up.
            asked = np.concatenate([queries, vectors[:WARM_UP]])
            words = [*texts[:size], *texts_of_queries, *texts[:WARM_UP]]
            rows += _of_size(vectors[:size], asked, words, Path(folder))
    return _result("retrieval", rows)


def run_million() -> Result:
    """The size once, as it is built by default: an hour and a half of two cores, a third of it embedding."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    texts = pieces(MILLION + QUERIES, WORDS, step=STEP, more=docstrings())
    vectors = _embed(texts)
    asked = np.concatenate([vectors[-QUERIES:], vectors[:WARM_UP]])
    contenders = ("numpy, exact", "qdrant-client, local mode", "tandem, dense")
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        rows = list(_of_size(vectors[:MILLION], asked, texts[:MILLION], Path(folder), contenders))
    return _result("retrieval_million", rows)


def _result(name: str, rows: list[dict[str, Any]]) -> Result:
    return Result(
        name,
        "time of one search, and how many of the exact ten nearest it finds",
        {"queries": QUERIES, "top_k": TOP_K, "tenants": TENANTS, "warm_up": WARM_UP},
        versions("numpy", "qdrant-client", "qdrant-edge-py", "sentence-transformers"),
        rows,
    )


def _of_size(
    points: NDArray[np.float32],
    queries: NDArray[np.float32],
    texts: list[str],
    folder: Path,
    names: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    import numpy as np

    exact = _brute_force(points, queries, np.arange(len(points)) % TENANTS)
    truth: list[tuple[set[int], set[int]]] = [
        (set(exact(number, None)), set(exact(number, str(number % TENANTS)))) for number in range(QUERIES)
    ]

    def edge(name: str, mode: Mode, **vectors: Any) -> Callable[[], Searched]:
        return lambda: _edge(texts, points, queries, folder / name, mode, VectorIndexSpec(**vectors))

    contenders: dict[str, Callable[[], Searched]] = {
        "numpy, exact": lambda: exact,
        "qdrant-client, local mode": lambda: _client_local(points, queries),
        "tandem, dense": edge("dense", "dense"),
        "tandem, dense, m 16": edge("thin", "dense", m=16, ef_construct=100),
        "tandem, dense, int8": edge("int8", "dense", quantization="int8"),
        "tandem, hybrid": edge("hybrid", "hybrid"),
    }
    fastest = 0.0
    for name in names or contenders:
        build = contenders[name]
        made: list[Searched] = []
        took = seconds(lambda build=build, made=made: made.append(build()))
        row = _row(name, len(points), took, made.pop(), None if "hybrid" in name else truth)
        fastest = fastest or row["p50, ms"]
        yield row | {"p50 ÷ numpy's": row["p50, ms"] / fastest}


def _row(
    name: str, points: int, build_s: float, search: Searched, truth: list[tuple[set[int], set[int]]] | None
) -> dict[str, Any]:
    import numpy as np

    began = time.monotonic()
    for number in range(QUERIES, QUERIES + WARM_UP):
        search(number, None), search(number, str(number % TENANTS))
        if time.monotonic() - began > WARM_UP_S:
            break
    times: tuple[list[float], list[float]] = ([], [])
    hits: tuple[list[float], list[float]] = ([], [])
    deadline = time.monotonic() + PATIENCE_S
    for number in range(QUERIES):
        for kind, tenant in enumerate((None, str(number % TENANTS))):
            found: list[int] = []
            times[kind].append(seconds(lambda n=number, t=tenant, f=found: f.extend(search(n, t))))
            if truth is not None:
                hits[kind].append(len(truth[number][kind] & set(found)) / TOP_K)
        if time.monotonic() > deadline:
            break
    return {
        "contender": name,
        "points": points,
        "build, s": build_s,
        "p50, ms": 1000 * float(np.percentile(times[0], 50)),
        "p95, ms": 1000 * float(np.percentile(times[0], 95)),
        f"recall@{TOP_K}": float(np.mean(hits[0])) if truth else "–",
        "filtered p50, ms": 1000 * float(np.percentile(times[1], 50)),
        "filtered recall": float(np.mean(hits[1])) if truth else "–",
    }


def _embed(texts: list[str]) -> NDArray[np.float32]:
    """The texts' vectors, computed as an index job does; kept in the cache, since they take half an hour."""
    import numpy as np

    from tandem.artifacts.uris import cache_path, resolve
    from tandem.config.cluster import storage_path
    from tandem.config.machine import cores
    from tandem.retrieval.embedding import Embedder
    from tandem.specs.index import EmbedderSpec

    spec = EmbedderSpec()
    digest = hashlib.sha256("\0".join([spec.model, spec.dtype, *texts]).encode()).hexdigest()
    kept = cache_path() / "benchmarks" / f"{digest[:16]}.npy"
    if kept.is_file():
        return np.load(kept, allow_pickle=False)
    model = resolve(spec.model, storage=storage_path())
    embedder = Embedder(model, spec.batch_size, spec.dtype, passes=cores(), samples=texts)
    parts = []
    for begin in range(0, len(texts), 10 * BATCH):
        print(f"embedding: {begin} of {len(texts)} pieces", flush=True)
        parts.append(embedder.encode(texts[begin : begin + 10 * BATCH]))
    vectors = np.concatenate(parts)
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
    texts: list[str],
    points: NDArray[np.float32],
    queries: NDArray[np.float32],
    folder: Path,
    mode: Mode,
    vectors: VectorIndexSpec,
) -> Searched:
    from tandem.retrieval.bm25 import document_terms, query_terms
    from tandem.retrieval.embedded import EdgeStore
    from tandem.retrieval.store import Point, Query

    count = len(points)
    store = EdgeStore(folder)
    store.create_collection("bench", dimension=points.shape[1], sparse=mode == "hybrid", vectors=vectors)
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
