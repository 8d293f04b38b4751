"""Our queries, filters and collection settings in the embedded engine's own model classes."""

from __future__ import annotations

from typing import Any

from tandem.retrieval import store as contract
from tandem.retrieval.store import DENSE, SPARSE, TENANT, Filter, Query
from tandem.specs.index import VectorIndexSpec


def config(dimension: int, sparse: bool, vectors: VectorIndexSpec) -> Any:
    """The `EdgeConfig` of a collection: cosine or inner products, BM25's IDF, graph and quantization."""
    from qdrant_edge import (
        Distance,
        EdgeConfig,
        EdgeSparseVectorParams,
        EdgeVectorParams,
        HnswIndexConfig,
        Modifier,
        ScalarQuantizationConfig,
        ScalarType,
    )

    distance = Distance.Dot if vectors.distance == "dot" else Distance.Cosine
    return EdgeConfig(
        vectors={DENSE: EdgeVectorParams(size=dimension, distance=distance)},
        sparse_vectors={SPARSE: EdgeSparseVectorParams(modifier=Modifier.Idf)} if sparse else None,
        hnsw_config=HnswIndexConfig(m=vectors.m, ef_construct=vectors.ef_construct, full_scan_threshold=10_000),
        quantization_config=ScalarQuantizationConfig(ScalarType.Int8, always_ram=True)
        if vectors.quantization
        else None,
    )


def query_request(query: Query) -> Any:
    """The `QueryRequest` of a search: dense, sparse, or both fused by RRF, among what is visible."""
    import numpy as np
    from qdrant_edge import Fusion, Prefetch, QueryRequest, SearchParams
    from qdrant_edge import Query as EdgeQuery
    from qdrant_edge import SparseVector as EdgeSparse

    seen = visible(query.tenant, query.filter)
    limit = query.top_k + contract.TIE_MARGIN
    nearest: dict[str, Any] = {}
    for branch in contract.branches(query):
        if branch == DENSE:
            # Of an array the engine takes each number apart, which takes eight times as long.
            nearest[DENSE] = EdgeQuery.Nearest(np.asarray(query.vector).tolist(), using=DENSE)
        elif query.sparse is not None:
            terms = EdgeSparse(query.sparse.indices, query.sparse.values)
            nearest[SPARSE] = EdgeQuery.Nearest(terms, using=SPARSE)
    params = SearchParams(hnsw_ef=query.ef or contract.usual_ef(query.top_k), exact=query.exact)
    answer: dict[str, Any] = {
        "limit": limit,
        "filter": seen,
        "with_payload": True,
        "with_vector": [DENSE] if query.with_vectors else False,
    }
    if len(nearest) == 1:
        ((name, only),) = nearest.items()
        return QueryRequest(query=only, params=params if name == DENSE else None, **answer)
    # The filter stands on every branch: a fusion must never see another tenant's point, not even as a candidate.
    prefetches = [
        Prefetch(
            limit=contract.prefetch_limit(query.top_k),
            query=branch,
            filter=seen,
            params=params if name == DENSE else None,
        )
        for name, branch in nearest.items()
    ]
    fusion: Any = Fusion.Rrf(k=contract.RRF_K)  # the stubs don't know that it is a Fusion
    return QueryRequest(query=fusion, prefetches=prefetches, **answer)


def visible(tenant: str | None, fields: Filter | None) -> Any:
    """The engine's `Filter` for what a tenant may see and a request asks for; None if that is all."""
    from qdrant_edge import FieldCondition, IsEmptyCondition, MatchAny, MatchValue
    from qdrant_edge import Filter as EdgeFilter

    must: list[Any] = []
    if tenant is not None:
        own = FieldCondition(TENANT, MatchValue(tenant))
        must.append(EdgeFilter(should=[own, IsEmptyCondition(TENANT)]))
    for key, value in contract.conditions(fields):
        must.append(FieldCondition(key, MatchAny(value) if isinstance(value, list) else MatchValue(value)))
    return EdgeFilter(must=must) if must else None
