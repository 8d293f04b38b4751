"""No search reads across tenants, whatever is asked: questions, filters and options are drawn at random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stand_ins.qdrant_server import running

from tandem.retrieval.bm25 import document_terms
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.qdrant import QdrantStore
from tandem.retrieval.retriever import Retriever
from tandem.retrieval.store import Point, VectorStore
from tandem.specs.search import RerankSpec, SearchSpec

TENANTS = ("red", "blue", "red'; drop", None)
WORDS = ("fox", "owl", "cat", "eel", "dog", "secret")
EVERYBODY = 60


class Embedder:
    """Two texts with the same words are near."""

    def encode(self, texts: list[str], *, question: bool = False) -> np.ndarray:
        vectors = np.array([[text.count(word) + 0.01 for word in WORDS] for text in texts], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Reranker:
    """The longer the passage, the better."""

    def scores(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.array([min(len(passage) / 100, 1.0) for _, passage in pairs], dtype=np.float32)


def fill(store: VectorStore) -> Retriever:
    store.create_collection("mixed", dimension=len(WORDS), sparse=True)
    points = []
    for number in range(EVERYBODY):
        text = f"{WORDS[number % len(WORDS)]} {WORDS[number // 7 % len(WORDS)]} number{number}"
        payload = {"source": f"{number % 5}.md", "title": "", "section": "", "text": text, "start": 0, "end": 1}
        tenant = TENANTS[number % len(TENANTS)]
        payload |= {"tenant": tenant} if tenant else {}
        vector = Embedder().encode([text])[0].tolist()
        id = f"00000000-0000-0000-0000-{number:012d}"
        points.append(Point(id, vector, document_terms([text], 3.0)[0], payload))
    store.upsert("mixed", points)
    return Retriever(store, "mixed", Embedder(), reranker=Reranker())


@pytest.fixture(scope="module", params=["embedded", "server"])
def retriever(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    if request.param == "embedded":
        store: Any = EdgeStore(tmp_path_factory.mktemp("index"))
        yield fill(store)
        store.close()
    else:
        with running() as server:
            store = QdrantStore(server.url, None, 10)
            yield fill(store)
            store.close()


values = st.sampled_from([*TENANTS[:3], "0.md", "3.md", "", "nobody", 1, True])
filters = st.none() | st.dictionaries(
    st.sampled_from(["tenant", "source", "text", "x.tenant", "tenant[]", "start"]),
    values | st.lists(st.sampled_from(["red", "blue", "0.md", "1.md"]), min_size=1, max_size=3),
    max_size=3,
)


@st.composite
def searches(draw: st.DrawFn) -> SearchSpec:
    top_k = draw(st.integers(1, 80))
    return SearchSpec(
        top_k=top_k,
        mode=draw(st.sampled_from(["hybrid", "dense", "sparse"])),
        ef=draw(st.none() | st.integers(1, 200)),
        candidates=draw(st.integers(top_k, 100)),
        min_similarity=draw(st.none() | st.floats(-1, 1)),
        rerank=draw(st.none() | st.just(RerankSpec(model="m"))),
        diversity=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    questions=st.lists(st.lists(st.sampled_from([*WORDS, "red", "blue"]), max_size=4).map(" ".join), max_size=3),
    how=searches(),
    tenant=st.sampled_from(["red", "blue", "red'; drop", "", "nobody", "*"]),
    filter=filters,
)
def test_nothing_of_another_tenant_is_found(
    retriever: Retriever, questions: list[str], how: SearchSpec, tenant: str, filter: dict[str, Any] | None
) -> None:
    for passages in retriever.search(questions, how, tenant=tenant, filter=filter):
        assert {passage.tenant for passage in passages} <= {tenant, None}
        assert len(passages) <= how.top_k


def test_what_is_asked_for_is_there(retriever: Retriever) -> None:
    # Or the test above could pass by finding nothing.
    (passages,) = retriever.search(["fox owl"], SearchSpec(top_k=100), tenant="red")
    assert {passage.tenant for passage in passages} == {"red", None}
    (own,) = retriever.search(["fox owl"], SearchSpec(top_k=100), tenant="red", filter={"tenant": "blue"})
    assert own == []
