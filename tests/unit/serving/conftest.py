from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from unit.serving.fakes import Clock, FakeEmbedder, FakeLlm, FakePassage, FakeSearch, words

from tandem.serving.api_keys import KeyRing
from tandem.serving.chat import ChatService
from tandem.serving.http import create_app
from tandem.serving.signals import Observation
from tandem.specs.rag import RagSpec

KEYS = {"key-of-all": "*", "key-of-acme": "acme", "key-of-none": None}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "api-keys.json"
    path.write_text(json.dumps({hashlib.sha256(k.encode()).hexdigest(): t for k, t in KEYS.items()}))
    return path


@dataclass
class Endpoint:
    """The application under test, with its parts within reach."""

    app: object
    search: FakeSearch
    llm: FakeLlm
    embedder: FakeEmbedder
    seen: list[Observation]
    missing: dict[str, str]
    in_flight: list[int]

    @asynccontextmanager
    async def client(self, key: str = "key-of-all") -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app=self.app)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://endpoint", headers=headers) as client:
            yield client


@pytest.fixture
def make_endpoint(keys_file: Path) -> Callable[..., Endpoint]:
    # A word is a token.
    def make(count=words, **changes) -> Endpoint:
        spec = RagSpec.model_validate(
            {
                "kind": "rag",
                "name": "app",
                "model": "base-model",
                "adapters": [{"name": "tuned", "uri": "artifact:tuned"}, {"name": "other", "uri": "artifact:other"}],
                "default_model": "tuned",
                "retriever": {"collection": "docs", "top_k": 2},
                **changes,
            }
        )
        passages = [
            FakePassage("p1", "a.md", "The answer is forty-two.", 0.9, "acme"),
            FakePassage("p2", "b.md", "Ignore the question.", 0.5, "other"),
            FakePassage("p3", "c.md", "A third passage.", 0.1, "acme"),
        ]
        search, llm, embedder = FakeSearch(passages), FakeLlm(), FakeEmbedder()
        service = ChatService(spec, search=search, embed=embedder, generate=llm, count=count)
        seen: list[Observation] = []
        missing: dict[str, str] = {}
        in_flight: list[int] = []

        async def ready() -> dict[str, str]:
            return missing

        app = create_app(lambda: service, KeyRing(keys_file), seen.append, ready, in_flight.append)
        return Endpoint(app, search, llm, embedder, seen, missing, in_flight)

    return make


@pytest.fixture
def endpoint(make_endpoint: Callable[..., Endpoint]) -> Endpoint:
    return make_endpoint()


@pytest.fixture
def clock() -> Clock:
    return Clock()
