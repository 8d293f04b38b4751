"""The store over the network: a Qdrant server, by `qdrant-client`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tandem.errors import AuthError, StoreError, TandemError, UnreachableError
from tandem.retrieval import store as contract
from tandem.retrieval.embedded import check_shape
from tandem.retrieval.store import DENSE, SPARSE, TENANT, Filter, Hit, Page, Point, Query, Record

_UPSERT_BATCH = 256  # points in one request: a few MB of JSON


class QdrantStore:
    """A `VectorStore` on a Qdrant server.

    Args:
        url: ``http://host:6333``.
        api_key: The server's key, or None where it asks for none.
        timeout_s: Seconds that one request may take.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: int) -> None:
        from qdrant_client import QdrantClient

        self._url = url
        with warnings.catch_warnings():
            # Inside a cluster the store's address is plain http, and whoever wrote it into the cluster file knows.
            warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
            # The version check costs a request and only warns; the contract suite says which servers fit.
            self._client: Any = QdrantClient(url=url, api_key=api_key, timeout=timeout_s, check_compatibility=False)

    def __repr__(self) -> str:
        return f"QdrantStore({self._url!r})"

    def create_collection(self, collection: str, *, dimension: int, sparse: bool) -> None:
        """Make a collection; nothing happens if it is there with the same shape."""
        from qdrant_client import models

        with self._call(None):
            if self._client.collection_exists(collection):
                params = self._client.get_collection(collection).config.params
                found = {"dimension": params.vectors[DENSE].size, "sparse": SPARSE in (params.sparse_vectors or {})}
                check_shape(found, {"dimension": dimension, "sparse": sparse}, collection, self._url)
                return
            self._client.create_collection(
                collection,
                vectors_config={DENSE: models.VectorParams(size=dimension, distance=models.Distance.COSINE)},
                sparse_vectors_config=(
                    {SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)} if sparse else None
                ),
                hnsw_config=models.HnswConfigDiff(m=contract.HNSW_M, ef_construct=contract.HNSW_EF_CONSTRUCT),
            )
            for field in contract.INDEXED_FIELDS:
                schema = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=field == TENANT)
                self._client.create_payload_index(collection, field, field_schema=schema, wait=True)

    def drop_collection(self, collection: str) -> None:
        """Delete a collection with all that it holds."""
        with self._call(collection):
            if not self._client.collection_exists(collection):
                raise self._missing(collection)
            self._client.delete_collection(collection)

    def collections(self) -> list[str]:
        """The names of the collections, sorted."""
        with self._call(None):
            return sorted(found.name for found in self._client.get_collections().collections)

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
            with self._call(collection):
                self._client.upsert(collection, batch, wait=True)

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Delete points; ids that aren't there don't matter."""
        from qdrant_client import models

        for begin in range(0, len(ids), _UPSERT_BATCH):
            selector = models.PointIdsList(points=list(ids[begin : begin + _UPSERT_BATCH]))
            with self._call(collection):
                self._client.delete(collection, points_selector=selector, wait=True)

    def search(self, collection: str, queries: Sequence[Query]) -> list[list[Hit]]:
        """The best hits of each query, best first, equal scores by id; in the order of the queries."""
        asked = [number for number, query in enumerate(queries) if contract.branches(query)]
        hits: list[list[Hit]] = [[] for _ in queries]
        if asked:
            with self._call(collection):
                answers = self._client.query_batch_points(collection, [_request(queries[number]) for number in asked])
            for number, answer in zip(asked, answers, strict=True):
                found = [Hit(str(point.id), float(point.score), point.payload or {}) for point in answer.points]
                hits[number] = contract.ordered(found, queries[number].top_k)
        return hits

    def scroll(self, collection: str, *, fields: Sequence[str], limit: int, offset: str | None) -> Page:
        """One page of all records, in the order of their ids."""
        with self._call(collection):
            points, following = self._client.scroll(
                collection, limit=limit, offset=offset, with_payload=list(fields) if fields else False
            )
        records = tuple(Record(str(point.id), point.payload or {}) for point in points)
        return Page(records, None if following is None else str(following))

    def count(self, collection: str, *, tenant: str | None, filter: Filter | None) -> int:
        """How many points a search with this tenant and filter can see."""
        with self._call(collection):
            return int(self._client.count(collection, count_filter=_filter(tenant, filter), exact=True).count)

    def optimize(self, collection: str) -> None:
        """Nothing to do: a server builds its graphs in the background."""
        with self._call(collection):
            if not self._client.collection_exists(collection):
                raise self._missing(collection)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _missing(self, collection: str) -> TandemError:
        return contract.no_such_collection(collection, self.collections(), self._url)

    @contextmanager
    def _call(self, collection: str | None) -> Iterator[None]:
        """One request, with the client's errors turned into ours."""
        from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

        try:
            yield
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise AuthError(
                    "Qdrant refused the key",
                    where=self._url,
                    remedy="check the variable that `qdrant.api_key_env` names",
                ) from error
            if error.status_code == 404 and collection is not None:
                raise self._missing(collection) from error
            body = error.content.decode(errors="replace")[:300]
            raise StoreError(f"Qdrant answered {error.status_code}: {body}", where=self._url) from error
        except ResponseHandlingException as error:
            raise UnreachableError(
                f"Qdrant can't be reached: {error.source}", where=self._url, remedy="check `qdrant.url` and the server"
            ) from error
        except ApiException as error:
            raise StoreError(f"Qdrant: {error}", where=self._url) from error


def _request(query: Query) -> Any:
    from qdrant_client import models

    visible = _filter(query.tenant, query.filter)
    limit = query.top_k + contract.TIE_MARGIN
    params = models.SearchParams(hnsw_ef=contract.HNSW_EF)
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
        return models.QueryRequest(
            query=only.query, using=only.using, filter=visible, limit=limit, params=only.params, with_payload=True
        )
    return models.QueryRequest(
        prefetch=prefetches,
        query=models.RrfQuery(rrf=models.Rrf(k=contract.RRF_K)),
        filter=visible,
        limit=limit,
        with_payload=True,
    )


def _filter(tenant: str | None, fields: Filter | None) -> Any:
    from qdrant_client import models

    must: list[Any] = []
    if tenant is not None:
        own = models.FieldCondition(key=TENANT, match=models.MatchValue(value=tenant))
        shared = models.IsEmptyCondition(is_empty=models.PayloadField(key=TENANT))
        must.append(models.Filter(should=[own, shared]))
    for key, value in (fields or {}).items():
        match = models.MatchAny(any=value) if isinstance(value, list) else models.MatchValue(value=value)
        must.append(models.FieldCondition(key=key, match=match))
    return models.Filter(must=must) if must else None
