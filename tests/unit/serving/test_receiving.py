"""Callers that send slowly, and callers that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

pytestmark = pytest.mark.anyio
ASK = {"model": "app", "messages": [{"role": "user", "content": "What is the answer?"}]}
BODY = json.dumps(ASK).encode()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@dataclass
class Connection:
    """A caller at the level of ASGI: sends parts of a body, the last of them or none as its end, and may leave."""

    endpoint: object
    parts: list[bytes]
    ends: bool = True
    path: str = "/v1/chat/completions"
    leaves_at: bytes | None = None
    left: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[dict] = field(default_factory=list)

    async def call(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer key-of-all")],
            "scheme": "http",
            "server": ("endpoint", 80),
            "client": ("test", 1),
        }
        await asyncio.wait_for(self.endpoint.app(scope, self._receive, self._send), timeout=10)

    async def _receive(self) -> dict:
        if self.parts:
            part = self.parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.parts) or not self.ends}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict) -> None:
        self.sent.append(message)
        if self.leaves_at is not None and self.leaves_at in message.get("body", b""):
            self.left.set()

    @property
    def status(self) -> int:
        return self.sent[0]["status"]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_body_that_does_not_come_is_408_in_openais_shape(make_endpoint):
    endpoint = make_endpoint(limits={"body_timeout_s": 0.05})
    slow = Connection(endpoint, [BODY[:20]], ends=False)
    await slow.call()
    error = json.loads(slow.sent[1]["body"])["error"]
    assert (slow.status, error["code"], error["type"]) == (408, "request_timeout", "invalid_request_error")
    assert endpoint.seen[0].status == 408


async def test_slow_bodies_take_no_place(make_endpoint):
    endpoint = make_endpoint(limits={"max_ongoing_requests": 1, "body_timeout_s": 60})
    slow = [Connection(endpoint, [BODY[:20]], ends=False) for _ in range(5)]
    calls = [asyncio.create_task(connection.call()) for connection in slow]
    await until(lambda: not any(connection.parts for connection in slow))
    quick = Connection(endpoint, [BODY])
    await quick.call()
    assert quick.status == 200
    # Whoever leaves in the middle of its body is waited for no longer.
    for connection in slow:
        connection.left.set()
    await asyncio.gather(*calls)
    assert endpoint.in_flight == [1, 0]
    assert sorted(seen.status for seen in endpoint.seen) == [200] + [499] * 5


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_while_it_is_searched_ends_the_search(endpoint, stream):
    endpoint.search.hangs = True
    caller = Connection(endpoint, [json.dumps({**ASK, "stream": stream}).encode()])
    call = asyncio.create_task(caller.call())
    await until(lambda: endpoint.search.open)
    caller.left.set()
    await call
    assert (endpoint.search.open, endpoint.llm.requests) == (0, [])
    assert endpoint.in_flight == [1, 0]
    assert endpoint.seen[0].status == 499


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_who_leaves_before_the_first_piece_ends_the_generation(endpoint, stream, n):
    endpoint.llm.hangs_after = 0
    caller = Connection(endpoint, [json.dumps({**ASK, "stream": stream, "n": n}).encode()])
    call = asyncio.create_task(caller.call())
    await until(lambda: endpoint.llm.open == n)
    caller.left.set()
    await call
    assert endpoint.llm.open == 0
    assert endpoint.in_flight == [1, 0]
    assert endpoint.seen[0].status == 499


async def test_who_leaves_a_stream_ends_the_generation(endpoint):
    endpoint.llm.hangs_after = 1
    caller = Connection(endpoint, [json.dumps({**ASK, "stream": True}).encode()], leaves_at=b"Forty")
    await caller.call()
    assert endpoint.llm.requests
    assert endpoint.llm.open == 0
    assert endpoint.in_flight == [1, 0]


async def test_who_leaves_embeddings_ends_them(endpoint):
    started, ended = asyncio.Event(), asyncio.Event()

    async def hang(self, texts, *, question):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    kind, before = type(endpoint.embedder), type(endpoint.embedder).__call__
    kind.__call__ = hang
    try:
        body = json.dumps({"model": "embedder", "input": "a"}).encode()
        caller = Connection(endpoint, [body], path="/v1/embeddings")
        call = asyncio.create_task(caller.call())
        await started.wait()
        caller.left.set()
        await call
    finally:
        kind.__call__ = before
    assert ended.is_set()
