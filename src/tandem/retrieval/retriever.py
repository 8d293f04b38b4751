"""From questions to passages: the one way in which training, comparison and endpoint search."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tandem.artifacts.uris import resolve
from tandem.errors import ModelError, NotFoundError
from tandem.retrieval.actor import connect
from tandem.retrieval.bm25 import query_terms
from tandem.retrieval.choosing import diverse, near_enough, rescored
from tandem.retrieval.embedder_files import fingerprint
from tandem.retrieval.embedding import MEASURED_ON, Embedder
from tandem.retrieval.prompts import Prompts
from tandem.retrieval.remembering import Remembering
from tandem.retrieval.rerank import Reranker
from tandem.retrieval.snapshot import IndexSnapshot, find_snapshot
from tandem.retrieval.store import Filter, Hit, Query, VectorStore, no_such_collection
from tandem.specs.search import RerankSpec, SearchSpec

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tandem.config.cluster import Cluster

_QUESTION_WORDS = 16


@dataclass(frozen=True)
class Passage:
    """A chunk that was found.

    Args:
        id: The chunk's id.
        source: The document's source.
        title: The document's title.
        section: The headings above and of the chunk.
        text: The chunk, a slice of its document.
        start: Offset of its first character in the document.
        end: Offset after its last.
        score: Compares only within one search.
        tenant: To whom it belongs; None for everyone.
        page: The page of a PDF, from 1.
        line: The row's line in a table's file, when it was indexed.
        modified_at: When the file had last been changed, when it was indexed: ISO 8601, UTC.
    """

    id: str
    source: str
    title: str
    section: str
    text: str
    start: int
    end: int
    score: float
    tenant: str | None
    page: int | None = None
    line: int | None = None
    modified_at: str | None = None


class Retriever:
    """Searches one collection.

    Args:
        store: Holds the collection.
        collection: Its name.
        embedder: The one that embedded the collection; anything with its `encode`.
        snapshot: What the collection is, where that is known; without term weights in it, hybrid search is dense.
        reranker: For searches that rerank; anything with its `scores`.
    """

    def __init__(
        self,
        store: VectorStore,
        collection: str,
        embedder: Embedder | Any,
        snapshot: IndexSnapshot | None = None,
        reranker: Reranker | Any = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._reranker = reranker
        self._tenant: str | None = None
        self.collection = collection
        self.snapshot = snapshot

    def __repr__(self) -> str:
        return f"Retriever(collection={self.collection!r}, embedder={self._embedder!r})"

    def search(
        self,
        questions: Sequence[str],
        how: SearchSpec,
        *,
        tenant: str | None = None,
        filter: Filter | None = None,
        within_s: float | None = None,
    ) -> list[list[Passage]]:
        """The passages of each question, best first (with `diversity`: in the order in which they were chosen).

        Args:
            questions: Any number; they are embedded, searched and reranked together.
            how: The search, and what is done with its candidates.
            tenant: Only this tenant's passages and those that belong to nobody; None for all, whoever's they are. For a
                retriever that is `restricted_to` a tenant it is that one.
            filter: Payload fields that must have this value, or one of a list of values (``{"source": "a.md"}``).
            within_s: Seconds; after them the store isn't asked, or not waited for. None for the store's own patience.

        Returns:
            In the order of the questions.

        Raises:
            InputError: A filter's value is of a type that can't be matched.
            NotFoundError: The collection isn't there.
            StoreError: The engine refuses.
            UnreachableError: The store can't be reached, or not within the time.
        """
        if not questions:
            return []
        if self._tenant is not None:
            tenant = self._tenant
        ends = None if within_s is None else time.monotonic() + within_s
        has_terms = self.snapshot is None or self.snapshot.sparse
        embeds = how.mode != "sparse" or how.min_similarity is not None
        vectors = self._embedder.encode(questions, question=True) if embeds else [None] * len(questions)
        terms = query_terms(questions) if how.mode != "dense" and has_terms else [None] * len(questions)
        queries = [
            Query(
                vector if how.mode != "sparse" else None,
                sparse,
                how.candidates if how.chooses else how.top_k,
                how.mode,
                tenant,
                filter,
                ef=how.ef,
                with_vectors=how.min_similarity is not None or how.diversity > 0,
            )
            for vector, sparse in zip(vectors, terms, strict=True)
        ]
        left_s = None if ends is None else ends - time.monotonic()
        found = self._store.search(self.collection, queries, within_s=left_s)
        if how.min_similarity is not None:
            pairs = zip(found, vectors, strict=True)
            found = [near_enough(hits, vector, how.min_similarity) for hits, vector in pairs]
        if how.rerank is not None:
            found = self._reranked(questions, found, how.rerank)
        if how.diversity:
            found = [diverse(hits, how.diversity, how.top_k) for hits in found]
        return [[_passage(hit) for hit in hits[: how.top_k]] for hits in found]

    def _reranked(self, questions: Sequence[str], found: list[list[Hit]], rerank: RerankSpec) -> list[list[Hit]]:
        pairs = [
            (question, hit.payload["text"]) for question, hits in zip(questions, found, strict=True) for hit in hits
        ]
        scores = iter(self._reranker.scores(pairs).tolist())
        return [rescored(hits, [next(scores) for _ in hits], rerank.min_score) for hits in found]

    def restricted_to(self, tenant: str) -> Retriever:
        """One like this whose every search sees this tenant's passages alone, and nobody's."""
        restricted = copy.copy(self)
        restricted._tenant = tenant
        return restricted

    def is_outdated(self, name: str) -> bool:
        """Whether a name by which this collection was found stands for another one by now.

        Raises:
            UnreachableError: The store can't be reached.
        """
        current = self._store.aliases().get(name)
        return current is not None and current != self.collection

    @property
    def remembered(self) -> tuple[int, int]:
        """How many questions' vectors were kept when they were asked for, and how many weren't."""
        embedder = self._embedder
        return (embedder.hits, embedder.misses) if isinstance(embedder, Remembering) else (0, 0)

    def embed(self, texts: Sequence[str], *, question: bool = False) -> tuple[NDArray[np.float32], int]:
        """Vectors as the collection's, or as questions', float32, (texts, dimension); and the tokens that were read."""
        return (
            self._embedder.encode(texts, question=question),
            self._embedder.count_tokens(texts, question=question),
        )


def open_retriever(
    cluster: Cluster,
    collection: str,
    rerank: RerankSpec | None = None,
    *,
    remembered: int = 0,
    questions: Embedder | Any = None,
    quick: bool = False,
) -> Retriever:
    """A retriever with the embedder that the collection's index names.

    Args:
        cluster: Where the store and the artifacts are; for the embedded store this process must be connected to Ray.
        collection: Its name.
        rerank: For searches that rerank.
        remembered: Questions whose vectors are kept.
        questions: Embeds questions in the embedder's place; anything with its `encode`, `count_tokens` and `dimension`.
        quick: Embed questions in bf16 where the processor computes in it and they find the same; opening takes
            seconds longer.

    Raises:
        NotFoundError: No such collection, or no artifact says how it was made.
        ModelError: The embedder isn't the one that made the collection, or questions have vectors that can't be
            compared with it; the reranker can't be used.
        UnreachableError: The store can't be reached.
    """
    store = connect(cluster)
    aliases = store.aliases()
    if collection not in aliases:
        raise no_such_collection(collection, sorted(aliases), cluster.qdrant_url or "the cluster's store")
    # From here on by the collection's own name: when the alias moves on to one of another embedder, this retriever's
    # vectors mean nothing there.
    points = aliases[collection]
    snapshot = find_snapshot(cluster.storage, collection, points)
    if snapshot is None:
        raise NotFoundError(
            f"no index artifact says how the collection {collection!r} was made",
            where=str(cluster.storage / "artifacts"),
            remedy="run its index job again",
        )
    path = resolve(snapshot.embedder, storage=cluster.storage)
    if fingerprint(path) != snapshot.embedder_sha256:
        raise ModelError(
            f"not the embedder that made the collection {collection!r}: its files have changed",
            where=snapshot.embedder,
            remedy="run the index job again",
        )
    reranker = Reranker(resolve(rerank.model, storage=cluster.storage)) if rerank else None
    if questions is not None:
        _check_comparable(questions, snapshot)
    embedder: Any = questions or _question_embedder(path, snapshot, store, quick=quick)
    return Retriever(store, points, Remembering(embedder, remembered) if remembered else embedder, snapshot, reranker)


def _question_embedder(path: Path, snapshot: IndexSnapshot, store: VectorStore, *, quick: bool) -> Embedder:
    unit, prompts = snapshot.distance == "cosine", Prompts(snapshot.query_prompt, snapshot.passage_prompt)
    if not quick:
        return Embedder(path, snapshot.batch_size, unit=unit, prompts=prompts)
    records = store.scroll(snapshot.points, fields=["text"], limit=MEASURED_ON, offset=None).records
    # As long as questions are: so many words of a passage.
    asked = [" ".join(str(record.payload["text"]).split()[:_QUESTION_WORDS]) for record in records]
    return Embedder(path, snapshot.batch_size, "auto", unit=unit, samples=asked, prompts=prompts)


def _check_comparable(questions: Any, snapshot: IndexSnapshot) -> None:
    """Two encoders trained together score by the inner product: in a collection compared by cosine it is lost.

    Raises:
        ModelError: The collection isn't one of theirs.
    """
    where = f"collection {snapshot.collection}"
    if snapshot.distance != "dot":
        raise ModelError(
            "its vectors are compared by cosine, and questions are encoded for inner products",
            where=where,
            remedy="index with `vectors.distance: dot` and the encoder of passages that belongs to that of questions",
        )
    if snapshot.dimension != questions.dimension:
        raise ModelError(
            f"its vectors have {snapshot.dimension} dimensions, and those of questions {questions.dimension}",
            where=where,
            remedy="index with the encoder of passages that belongs to that of questions",
        )


def _passage(hit: Hit) -> Passage:
    payload = hit.payload
    return Passage(
        id=hit.id,
        source=payload["source"],
        title=payload["title"],
        section=payload["section"],
        text=payload["text"],
        start=payload["start"],
        end=payload["end"],
        score=hit.score,
        tenant=payload.get("tenant"),
        page=payload.get("page"),
        line=payload.get("line"),
        modified_at=payload.get("modified_at"),
    )
