"""The store over the network: a Qdrant server, by `qdrant-client`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tandem.errors import StoreError, TandemError
from tandem.retrieval import store as contract
from tandem.retrieval.qdrant_line import NOT_FOUND, QdrantLine
from tandem.retrieval.store import DENSE, SPARSE, TENANT, Filter, Hit, Page, Point, Query, Record, check_shape
from tandem.specs.index import VectorIndexSpec

_STATUS_EVERY_S = 0.5
_UPSERT_BATCH = 256  # points in one request: a few MB of JSON


class QdrantStore:
    """A `VectorStore` on a Qdrant server.

    Args:
        url: ``http://host:6333``.
        api_key: The server's key, or None where it asks for none.
        timeout_s: Seconds that one request may take.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: int) -> None:
        self._url = url
        self._line = QdrantLine(url, api_key, timeout_s)

    def __repr__(self) -> str:
        return f"QdrantStore({self._url!r})"

    def create_collection(
        self, collection: str, *, dimension: int, sparse: bool, vectors: VectorIndexSpec = contract.USUAL_VECTORS
    ) -> None:
        """Make a collection; nothing happens if it is there with the same shape."""
        from qdrant_client import models

        if collection in self.aliases():
            raise contract.name_is_taken(collection, "an alias", self._url)
        if not self._ask("collection_exists", collection):
            distance = models.Distance.DOT if vectors.distance == "dot" else models.Distance.COSINE
            int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
            try:
                self._ask(
                    "create_collection",
                    collection,
                    vectors_config={DENSE: models.VectorParams(size=dimension, distance=distance)},
                    sparse_vectors_config=(
                        {SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)} if sparse else None
                    ),
                    hnsw_config=models.HnswConfigDiff(m=vectors.m, ef_construct=vectors.ef_construct),
                    quantization_config=models.ScalarQuantization(scalar=int8) if vectors.quantization else None,
                )
            except StoreError:
                # Somebody else was first, or a request whose answer was lost.
                if not self._ask("collection_exists", collection):
                    raise
        params = self._ask("get_collection", collection, about=collection).config.params
        dense = params.vectors[DENSE]
        found = {"dimension": dense.size, "sparse": SPARSE in (params.sparse_vectors or {})}
        found["distance"] = str(dense.distance.value).lower()
        wanted = {"dimension": dimension, "sparse": sparse, "distance": vectors.distance}
        check_shape(found, wanted, collection, self._url)
        # Also where the collection was there: whoever made it may have been cut short.
        for field in contract.INDEXED_FIELDS:
            schema = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=field == TENANT)
            self._ask("create_payload_index", collection, field, field_schema=schema, wait=True)

    def drop_collection(self, collection: str) -> None:
        """Delete a collection with all that it holds."""
        # A server deletes what an alias stands for too, and says yes to a name that it doesn't know.
        if collection not in self.collections():
            raise self._missing(collection)
        self._ask("delete_collection", collection)

    def collections(self) -> list[str]:
        """The names of the collections, sorted."""
        return sorted(found.name for found in self._ask("get_collections").collections)

    def aliases(self) -> dict[str, str]:
        """The collection that each alias stands for."""
        return {found.alias_name: found.collection_name for found in self._ask("get_aliases").aliases}

    def set_alias(self, alias: str, collection: str) -> None:
        """Let an alias stand for a collection from now on; the server does both halves in one step."""
        from qdrant_client import models

        names = self.collections()
        if collection not in names:
            raise self._missing(collection)
        if alias in names:
            raise contract.name_is_taken(alias, "a collection", self._url)
        changes: list[Any] = []
        if alias in self.aliases():
            changes.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        created = models.CreateAlias(collection_name=collection, alias_name=alias)
        changes.append(models.CreateAliasOperation(create_alias=created))
        self._ask("update_collection_aliases", changes)

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, in place of those with the same ids; when it returns they are durable."""
        from qdrant_client import models

        for begin in range(0, len(points), _UPSERT_BATCH):
            batch = []
            for point in points[begin : begin + _UPSERT_BATCH]:
                vectors: dict[str, Any] = {DENSE: [float(value) for value in point.vector]}
                if point.sparse is not None:
                    vectors[SPARSE] = models.SparseVector(indices=point.sparse.indices, values=point.sparse.values)
                batch.append(models.PointStruct(id=point.id, vector=vectors, payload=point.payload))
            self._ask("upsert", collection, batch, wait=True, about=collection)

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Delete points; ids that aren't there don't matter."""
        from qdrant_client import models

        for begin in range(0, len(ids), _UPSERT_BATCH):
            selector = models.PointIdsList(points=list(ids[begin : begin + _UPSERT_BATCH]))
            self._ask("delete", collection, points_selector=selector, wait=True, about=collection)

    def search(self, collection: str, queries: Sequence[Query], *, within_s: float | None = None) -> list[list[Hit]]:
        """The best hits of each query, best first, equal scores by id; in the order of the queries."""
        asked = [number for number, query in enumerate(queries) if contract.branches(query)]
        hits: list[list[Hit]] = [[] for _ in queries]
        if asked:
            requests = [_request(queries[number]) for number in asked]
            answers = self._ask("query_batch_points", collection, requests, about=collection, within_s=within_s)
            for number, answer in zip(asked, answers, strict=True):
                found = [
                    Hit(str(point.id), float(point.score), point.payload or {}, (point.vector or {}).get(DENSE))
                    for point in answer.points
                ]
                hits[number] = contract.ordered(found, queries[number].top_k)
        return hits

    def scroll(
        self, collection: str, *, fields: Sequence[str], limit: int, offset: str | None, vectors: bool = False
    ) -> Page:
        """One page of all records, in the order of their ids."""
        points, following = self._ask(
            "scroll",
            collection,
            limit=limit,
            offset=offset,
            with_payload=list(fields) if fields else False,
            with_vectors=[DENSE] if vectors else False,
            about=collection,
        )
        records = tuple(Record(str(point.id), point.payload or {}, (point.vector or {}).get(DENSE)) for point in points)
        return Page(records, None if following is None else str(following))

    def count(self, collection: str, *, tenant: str | None, filter: Filter | None) -> int:
        """How many points a search with this tenant and filter can see."""
        visible = _filter(tenant, filter)
        return int(self._ask("count", collection, count_filter=visible, exact=True, about=collection).count)

    def optimize(self, collection: str) -> None:
        """Wait until the server has built its graphs, which it does by itself, in the background."""
        from qdrant_client.models import CollectionStatus

        while (info := self._ask("get_collection", collection, about=collection)).status == CollectionStatus.YELLOW:
            time.sleep(_STATUS_EVERY_S)
        if info.status == CollectionStatus.RED:
            raise StoreError(
                f"Qdrant can't build the graph of {collection!r}: {info.optimizer_status}", where=self._url
            )

    def close(self) -> None:
        """Close the connections."""
        self._line.close()

    def _missing(self, collection: str) -> TandemError:
        return contract.no_such_collection(collection, sorted({*self.aliases(), *self.collections()}), self._url)

    def _ask(
        self, method: str, *args: Any, about: str | None = None, within_s: float | None = None, **kwargs: Any
    ) -> Any:
        """One request that may be sent again.

        Raises:
            NotFoundError: The server doesn't know the collection that it is `about`.
        """
        answer = self._line.ask(method, *args, within_s=within_s, **kwargs)
        if answer is NOT_FOUND:
            if about is not None:
                raise self._missing(about)
            raise StoreError(f"Qdrant answered 404 to {method}", where=self._url)
        return answer


def _request(query: Query) -> Any:
    from qdrant_client import models

    visible = _filter(query.tenant, query.filter)
    limit = query.top_k + contract.TIE_MARGIN
    params = models.SearchParams(hnsw_ef=query.ef or contract.usual_ef(query.top_k), exact=query.exact)
    answer: dict[str, Any] = {
        "limit": limit,
        "filter": visible,
        "with_payload": True,
        "with_vector": [DENSE] if query.with_vectors else False,
    }
    prefetches = []
    for branch in contract.branches(query):
        if branch == DENSE:
            nearest: Any = [float(value) for value in query.vector]
        else:
            assert query.sparse is not None
            nearest = models.SparseVector(indices=query.sparse.indices, values=query.sparse.values)
        # The filter stands on every branch: a fusion must never see another tenant's point, not even as a candidate.
        prefetches.append(
            models.Prefetch(
                query=nearest,
                using=branch,
                filter=visible,
                limit=contract.prefetch_limit(query.top_k),
                params=params if branch == DENSE else None,
            )
        )
    if len(prefetches) == 1:
        only = prefetches[0]
        return models.QueryRequest(query=only.query, using=only.using, params=only.params, **answer)
    return models.QueryRequest(prefetch=prefetches, query=models.RrfQuery(rrf=models.Rrf(k=contract.RRF_K)), **answer)


def _filter(tenant: str | None, fields: Filter | None) -> Any:
    from qdrant_client import models

    must: list[Any] = []
    if tenant is not None:
        own = models.FieldCondition(key=TENANT, match=models.MatchValue(value=tenant))
        shared = models.IsEmptyCondition(is_empty=models.PayloadField(key=TENANT))
        must.append(models.Filter(should=[own, shared]))
    for key, value in contract.conditions(fields):
        match = models.MatchAny(any=value) if isinstance(value, list) else models.MatchValue(value=value)
        must.append(models.FieldCondition(key=key, match=match))
    return models.Filter(must=must) if must else None
