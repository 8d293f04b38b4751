"""No request over HTTP reads across tenants: keys, bodies and routes are drawn at random, over a real store."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from unit.serving.fakes import FakeEmbedder, FakeLlm

from tandem.retrieval.bm25 import document_terms
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.retriever import Retriever
from tandem.retrieval.store import Point
from tandem.serving.api_keys import KeyRing
from tandem.serving.chat import ChatService
from tandem.serving.http import create_app
from tandem.specs.rag import RagSpec

TENANTS = ("red", "blue", "or", None)
KEYS = {f"key-of-{tenant}": tenant for tenant in (*TENANTS[:3], "nobody")}
WORDS = ("fox", "owl", "cat", "eel")


class Embedder:
    """Two texts with the same words are near."""

    def encode(self, texts: list[str], *, question: bool = False) -> np.ndarray:
        vectors = np.array([[text.count(word) + 0.01 for word in WORDS] for text in texts], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Parrot(FakeLlm):
    """Says the whole prompt, so that what is in it reaches the caller."""

    async def __call__(self, request: Any, *, stream: bool) -> Any:
        self.words = tuple(json.dumps(request.messages).split(" "))
        async for piece in super().__call__(request, stream=stream):
            yield piece


def mark(tenant: str | None) -> str:
    return f"SECRET-{tenant}-SECRET"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Parrot]]:
    folder = tmp_path_factory.mktemp("endpoint")
    store = EdgeStore(folder / "index")
    store.create_collection("docs", dimension=len(WORDS), sparse=True)
    points = []
    for number in range(40):
        tenant, other = TENANTS[number % 4], TENANTS[(number + 1) % 4]
        text = f"{WORDS[number % 3]} {WORDS[number // 5 % 4]} {mark(tenant)}"
        payload = {"source": f"{number % 5}.md", "title": "", "section": mark(tenant), "text": text}
        # What looks like a tenant elsewhere decides nothing.
        payload |= {"start": 0, "end": 1, "metadata": {"tenant": other, "owner": {"tenant": other}}}
        payload |= {"tenant": tenant} if tenant else {}
        id = f"00000000-0000-0000-0000-{number:012d}"
        points.append(Point(id, Embedder().encode([text])[0].tolist(), document_terms([text], 3.0)[0], payload))
    store.upsert("docs", points)
    retriever, llm = Retriever(store, "docs", Embedder()), Parrot()

    async def search(question: str, how: Any, *, tenant: str | None, filter: Any, within_s: float) -> Any:
        return retriever.search([question], how, tenant=tenant, filter=filter, within_s=within_s)[0]

    async def ready() -> dict[str, str]:
        return {}

    spec = RagSpec.model_validate(
        {
            "kind": "rag",
            "name": "app",
            "model": "base",
            "retriever": {"collection": "docs", "top_k": 5},
            "cache": {"answers": 50},
            "conversation": {"condense": False},
            "engine": {"max_model_len": 100_000},
        }
    )
    service = ChatService(spec, search=search, embed=FakeEmbedder(), generate=llm, count=len)
    keys = folder / "api-keys.json"
    keys.write_text(json.dumps({hashlib.sha256(key.encode()).hexdigest(): tenant for key, tenant in KEYS.items()}))
    yield create_app(lambda: service, KeyRing(keys), lambda _: None, ready, lambda _: None), llm
    store.close()


def ask(app: Any, key: str, route: str, body: Any) -> httpx.Response:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        # The key decides, whatever else names a tenant.
        headers = {"Authorization": f"Bearer {key}", "X-Tenant": "blue", "OpenAI-Organization": "blue"}
        async with httpx.AsyncClient(transport=transport, base_url="http://endpoint", headers=headers) as client:
            return await client.post(f"/v1/{route}", json=body, params={"tenant": "blue"})

    return asyncio.run(post())


names = st.sampled_from(
    [
        "source",
        "section",
        "text",
        "start",
        "metadata.tenant",
        "metadata.owner.tenant",
        "tenant",
        "tenant.tenant",
        "tenant[]",
        "or",
        "should",
        "must",
        "$or",
        "filter",
        "id",
    ]
)
plain = st.sampled_from(["red", "blue", "or", "", "0.md", "3.md", "*", mark("blue"), 0, 1, True, None])
values = plain | st.lists(plain, max_size=3) | st.dictionaries(names, plain | st.lists(plain, max_size=2), max_size=2)
filters = st.dictionaries(names, values, max_size=3)
# Half of them well formed, or nearly all would be refused.
good_filters = st.dictionaries(
    st.sampled_from(["source", "metadata.tenant", "metadata.owner.tenant", "section", "or", "should"]),
    st.sampled_from(["red", "blue", "or", "0.md", "1.md", mark("blue")])
    | st.lists(st.sampled_from(["red", "blue", "or", "0.md", "1.md"]), min_size=1, max_size=3),
    min_size=1,
    max_size=2,
)
retrievals = (
    st.booleans()
    | st.fixed_dictionaries({}, optional={"top_k": st.integers(1, 100), "filter": good_filters})
    | st.fixed_dictionaries(
        {}, optional={"top_k": st.integers(-1, 200), "filter": filters, "tenant": plain, "collection": plain}
    )
)
questions = st.lists(st.sampled_from([*WORDS, "red", "blue"]), min_size=1, max_size=4).map(" ".join)
chats = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["app", "base"]),
        "messages": st.lists(questions, min_size=1, max_size=2).map(
            lambda said: [{"role": "user", "content": text} for text in said]
        ),
    },
    optional={
        "retrieval": retrievals,
        "stream": st.booleans(),
        "n": st.integers(1, 3),
        "user": st.just("blue"),
        "metadata": st.just({"tenant": "blue"}),
        "tenant": st.just("blue"),
    },
)
texts = st.fixed_dictionaries(
    {"model": st.just("app"), "prompt": questions}, optional={"n": st.integers(1, 2), "retrieval": retrievals}
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from([*KEYS, "key-of-blue ", "blue", ""]),
    asked=st.tuples(st.just("chat/completions"), chats) | st.tuples(st.just("completions"), texts),
)
def test_no_answer_has_a_word_of_another_tenant(
    endpoint: tuple[Any, Parrot], key: str, asked: tuple[str, dict[str, Any]]
) -> None:
    app, llm = endpoint
    llm.requests.clear()
    route, body = asked
    response = ask(app, key, route, body)
    event(f"{route}: {response.status_code}")
    if key.strip() not in KEYS:
        assert response.status_code == 401
    own = {mark(None), mark(KEYS.get(key.strip(), ""))}
    # A caller may say the mark itself, in a filter: never to the language model, and no error repeats it as a passage.
    seen = json.dumps([request.messages for request in llm.requests])
    if response.status_code == 200:
        seen += response.text
    for tenant in TENANTS:
        assert mark(tenant) in own or mark(tenant) not in seen


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_is_given_what_is_its_own(endpoint: tuple[Any, Parrot], stream: bool) -> None:
    # Or the test above could pass by finding nothing.
    body = {"model": "app", "messages": [{"role": "user", "content": "fox owl"}], "stream": stream, "n": 2}
    for retrieval in ({"top_k": 100}, {"top_k": 100, "filter": {"metadata.tenant": ["blue", "red"]}}):
        response = ask(endpoint[0], "key-of-red", "chat/completions", {**body, "retrieval": retrieval})
        assert response.status_code == 200
        assert mark("red") in response.text
    assert mark(None) in response.text
