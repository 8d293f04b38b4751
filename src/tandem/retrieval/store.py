"""What a vector store must do, whichever engine stands behind it; one contract suite runs on all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tandem.errors import InputError, NotFoundError
from tandem.specs.index import VectorIndexSpec

DENSE = "dense"
SPARSE = "sparse"
TENANT = "tenant"
INDEXED_FIELDS = (TENANT, "source")
# Reciprocal rank fusion's constant, stated since engines differ in their defaults: 60 as in Cormack et al., SIGIR 2009.
# Smaller ones favour the first place of either branch: on 266 questions for the defaults of Django's settings, 60 has
# the right section among the first three for 93 to 96 %, 2 for 98 to 99 %, words alone 97 to 99 %, vectors 77 to 83 %.
RRF_K = 60
# Candidates that each branch of a hybrid query hands to the fusion.
PREFETCH_AT_LEAST = 50
PREFETCH_PER_HIT = 4
USUAL_VECTORS = VectorIndexSpec()
# Candidates of a search in the graph, at least, where the query doesn't say. Among 100,000 pieces of documentation they
# find 99 % of the ten nearest; twice as many find half a percent more and take half as long again.
HNSW_EF = 32
# Points whose scores are equal come back in any order: so many more are asked for, then ordered by id and cut.
TIE_MARGIN = 8

Mode = Literal["hybrid", "dense", "sparse"]
Filter = dict[str, Any]


@dataclass(frozen=True)
class SparseVector:
    """Term weights: `values[i]` belongs to the term `indices[i]`; indices are distinct, at most 2**32 - 1."""

    indices: list[int]
    values: list[float]


@dataclass(frozen=True)
class Point:
    """What a collection holds.

    Args:
        id: A UUID as text.
        vector: float32, (dimension,), or a list of as many floats.
        sparse: Term weights, in a collection that has them.
        payload: JSON types; `tenant` says to whom the point is shown.
    """

    id: str
    vector: Any
    sparse: SparseVector | None
    payload: dict[str, Any]

    def __repr__(self) -> str:
        terms = len(self.sparse.indices) if self.sparse else 0
        return f"Point(id={self.id!r}, dimension={len(self.vector)}, terms={terms}, payload={sorted(self.payload)})"


@dataclass(frozen=True)
class Query:
    """One search.

    Args:
        vector: float32, (dimension,), or a list of as many floats; None in sparse mode.
        sparse: The question's terms; None in dense mode.
        top_k: Hits wanted.
        mode: dense: the collection's distance; sparse: BM25; hybrid: both, fused by reciprocal rank.
        tenant: Only this tenant's points and those that belong to nobody; None for all points, whoever's they are.
        filter: Payload fields by dotted path that must have this value, or one of a list of values.
        ef: Candidates in the graph: more find more, slower; None for the usual (`usual_ef`).
        exact: Compare with every vector instead of going by the graph.
        with_vectors: The hits carry their dense vectors.
    """

    vector: Any
    sparse: SparseVector | None
    top_k: int
    mode: Mode
    tenant: str | None = None
    filter: Filter | None = None
    ef: int | None = None
    exact: bool = False
    with_vectors: bool = False

    def __repr__(self) -> str:
        return f"Query(mode={self.mode!r}, top_k={self.top_k}, tenant={self.tenant!r}, filter={self.filter!r})"


@dataclass(frozen=True)
class Hit:
    """A point that was found; scores compare only within one search.

    `vector`, where it was asked for, is the dense one, scaled to length 1 where the distance is cosine:
    (dimension,) floats.
    """

    id: str
    score: float
    payload: dict[str, Any]
    vector: Any = None

    def __repr__(self) -> str:
        return f"Hit(id={self.id!r}, score={self.score:.4g}, payload={sorted(self.payload)})"


@dataclass(frozen=True)
class Record:
    """A point as it is stored; its dense vector where it was asked for, as (dimension,) floats."""

    id: str
    payload: dict[str, Any] = field(default_factory=dict)
    vector: Any = None

    def __repr__(self) -> str:
        return f"Record(id={self.id!r}, payload={sorted(self.payload)})"


@dataclass(frozen=True)
class Page:
    """Some records, and where the next ones begin; None after the last."""

    records: tuple[Record, ...]
    next: str | None


class VectorStore(Protocol):
    """Collections of points with a dense vector, perhaps term weights, and a payload.

    A collection may have aliases, which every method takes for its name but those that create and drop. Every method
    that names a collection raises NotFoundError where there is none of that name, StoreError where the engine refuses,
    UnreachableError where it can't be reached.
    """

    def create_collection(
        self, collection: str, *, dimension: int, sparse: bool, vectors: VectorIndexSpec = USUAL_VECTORS
    ) -> None:
        """Make a collection; nothing happens if it is there with the same shape.

        Args:
            collection: Its name.
            dimension: Of the dense vectors.
            sparse: Whether points have term weights too.
            vectors: Distance, graph, and quantization.

        Raises:
            InputError: It is there with another dimension or distance, or with or without sparse vectors; an alias has
                the name.
        """

    def drop_collection(self, collection: str) -> None:
        """Delete a collection with all that it holds, and its aliases."""

    def collections(self) -> list[str]:
        """The names of the collections, sorted; aliases aren't among them."""

    def aliases(self) -> dict[str, str]:
        """The collection that each alias stands for."""

    def set_alias(self, alias: str, collection: str) -> None:
        """Let an alias stand for a collection from now on, whatever it stood for; there is no moment without it.

        Raises:
            InputError: A collection has the name.
        """

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, in place of those with the same ids; when it returns they are durable."""

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Delete points; ids that aren't there don't matter."""

    def search(self, collection: str, queries: Sequence[Query], *, within_s: float | None = None) -> list[list[Hit]]:
        """The best hits of each query, best first, equal scores by id; in the order of the queries.

        Args:
            collection: Its name.
            queries: Any number.
            within_s: Seconds after which a store that is elsewhere isn't waited for any more (UnreachableError).
        """

    def scroll(
        self, collection: str, *, fields: Sequence[str], limit: int, offset: str | None, vectors: bool = False
    ) -> Page:
        """One page of all records, in the order of their ids.

        Args:
            collection: Its name.
            fields: Payload fields wanted; none for ids alone.
            limit: Records on a page, at most.
            offset: `next` of the page before; None for the first.
            vectors: The records carry their dense vectors.
        """

    def count(self, collection: str, *, tenant: str | None, filter: Filter | None) -> int:
        """How many points a search with this tenant and filter can see."""

    def optimize(self, collection: str) -> None:
        """Build what makes searches fast; returns when it is built, or left to the engine."""

    def close(self) -> None:
        """Let go of files and connections."""


def scroll_all(store: VectorStore, collection: str, *, fields: Sequence[str], page_size: int) -> Iterator[Record]:
    """Every record of a collection, page by page."""
    offset: str | None = None
    while True:
        page = store.scroll(collection, fields=fields, limit=page_size, offset=offset)
        yield from page.records
        if page.next is None:
            return
        offset = page.next


def branches(query: Query) -> tuple[str, ...]:
    """The vectors that a query is to be compared with, dense before sparse; none when it has no terms to look for."""
    dense = (DENSE,) if query.mode != "sparse" and query.vector is not None else ()
    sparse = (SPARSE,) if query.mode != "dense" and query.sparse is not None and query.sparse.indices else ()
    return dense + sparse


def prefetch_limit(top_k: int) -> int:
    """Candidates that each branch of a hybrid query hands to the fusion."""
    return max(PREFETCH_AT_LEAST, PREFETCH_PER_HIT * top_k)


def usual_ef(top_k: int) -> int:
    """How many candidates a search in the graph keeps for so many hits, where the query doesn't say."""
    return max(HNSW_EF, 2 * (top_k + TIE_MARGIN))


def ordered(hits: Sequence[Hit], top_k: int) -> list[Hit]:
    """Best first, equal scores by id, so that the same search gives the same list."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:top_k]


def conditions(filter: Filter | None) -> list[tuple[str, list[Any] | Any]]:
    """A filter's fields and values, checked: each engine takes text, whole numbers and booleans.

    Raises:
        InputError: A value of another type.
    """
    for name, value in (filter or {}).items():
        several = isinstance(value, list)
        types = {type(one) for one in value} if several else {type(value)}
        # One list has one type: engines match words or whole numbers, and know no list of booleans.
        allowed = ({str}, {int}) if several else ({str}, {int}, {bool})
        if types not in allowed:
            raise InputError(
                f"can't be matched: {value!r}",
                where=f"filter.{name}",
                remedy="give text, a whole number or a boolean, or a list of texts or of whole numbers",
            )
    return list((filter or {}).items())


def name_is_taken(name: str, by: str, where: str) -> InputError:
    """The error that every store raises where an alias and a collection would have one name."""
    return InputError(f"the name {name!r} belongs to {by}", where=where, remedy="choose another name")


def no_such_collection(collection: str, known: Sequence[str], where: str) -> NotFoundError:
    """The error that every store raises for a name that it doesn't have; `known` are aliases and collections."""
    remedy = f"there are: {', '.join(known)}" if known else "no index job has made one yet"
    return NotFoundError(f"no collection {collection!r}", where=where, remedy=remedy)


def check_shape(found: dict[str, Any], wanted: dict[str, Any], collection: str, where: str) -> None:
    """Refuse to write vectors of one shape into a collection of another.

    Raises:
        InputError: The shapes differ.
    """
    if found != wanted:
        has, needs = (
            f"{s['dimension']} dimensions {'and' if s['sparse'] else 'without'} sparse (distance: {s['distance']})"
            for s in (found, wanted)
        )
        raise InputError(
            f"the collection {collection!r} has vectors of {has}, not of {needs}",
            where=where,
            remedy="give another `collection`, or the embedder, `sparse` and `distance` that made it",
        )
