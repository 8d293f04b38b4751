from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import InputError, SpecError
from tandem.models.engines import GenerationRequest
from tandem.serving import replicas
from tandem.serving.answers import Piece
from tandem.serving.replicas import Ingress
from tandem.specs.search import SearchSpec

SPEC = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs", "top_k": 2}}


class Response:
    """What a handle gives: an answer, or nothing until it is cancelled."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.cancelled = False

    def __await__(self) -> Any:
        return self._whole().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        yield await self._whole()

    async def _whole(self) -> Any:
        if self._answer is None:
            await asyncio.Event().wait()
        return self._answer

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment's handle; every method gives the same."""

    def __init__(self) -> None:
        self.gives: Any = None
        self.asked: list[tuple[str, tuple]] = []
        self.responses: list[Response] = []

    def options(self, **_: object) -> Handle:
        return self

    def __getattr__(self, name: str) -> Any:
        return Method(self, name)


class Method:
    def __init__(self, handle: Handle, name: str) -> None:
        self._handle, self._name = handle, name

    def remote(self, *args: Any) -> Response:
        self._handle.asked.append((self._name, args))
        self._handle.responses.append(Response(self._handle.gives))
        return self._handle.responses[-1]


@pytest.fixture
def ingress(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> Ingress:
    monkeypatch.setattr(replicas, "load_tokenizer", lambda _: None)
    return Ingress(SPEC, "m", False, str(keys_file), retriever=Handle(), llm=Handle())


def test_what_a_running_replica_takes_over(ingress: Ingress) -> None:
    ingress.reconfigure({"retriever": {"collection": "docs", "top_k": 7}})
    assert ingress._service.spec.retriever.top_k == 7
    ingress.reconfigure({"adapters": [{"name": "tuned", "uri": "artifact:tuned"}], "default_model": "tuned"})
    assert ingress._service.adapter("app") == "tuned"
    # What isn't said any more is as the application's args say.
    ingress.reconfigure({})
    assert ingress._service.spec.retriever.top_k == 2


@pytest.mark.parametrize(
    ("user_config", "message"),
    [
        ({"model": "other"}, "can't change while it runs: model"),
        ({"retriever": {"collection": "docs", "top_k": "many"}}, r"retriever\.top_k"),
        ({"retriever": {"collection": "others"}}, "can't change while it runs: retriever.collection"),
        ({"cache": {"embeddings": 3}}, "can't change while it runs: cache.embeddings"),
        (
            {"retriever": {"collection": "docs", "rerank": {"model": "m"}}},
            "can't change while it runs: retriever.rerank",
        ),
    ],
)
def test_what_needs_a_new_replica_or_is_wrong_is_refused_and_nothing_changes(
    ingress: Ingress, user_config: dict, message: str
) -> None:
    before = ingress._service
    with pytest.raises(SpecError, match=message):
        ingress.reconfigure(user_config)
    assert ingress._service is before


QUESTION: dict[str, Any] = {"tenant": "acme", "filter": None, "within_s": 3.0}


@pytest.mark.parametrize("what", ["search", "embed", "answer", "stream"])
def test_what_nobody_waits_for_is_cancelled_in_the_deployments_behind(ingress: Ingress, what: str) -> None:
    async def call() -> None:
        if what == "search":
            await ingress._search("fox?", SearchSpec(), **QUESTION)
        elif what == "embed":
            await ingress._embed(["fox"], question=True)
        else:
            async for _ in ingress._generate(GenerationRequest("fox", 3), stream=what == "stream"):
                pass

    async def story() -> None:
        waiting = asyncio.create_task(call())
        handle: Any = ingress._retriever if what in ("search", "embed") else ingress._llm
        async with asyncio.timeout(10):
            while not handle.responses:
                await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert handle.responses[0].cancelled
        if what == "search":
            assert handle.asked == [("search", ("fox?", SearchSpec(), "acme", None, 3.0))]
        if what == "embed":
            assert handle.asked == [("embed", (["fox"], True))]

    asyncio.run(story())


def test_a_health_check_says_again_how_many_requests_are_answered(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    class Meter:
        in_flight = None

        def __init__(self, app: str) -> None:
            self.app = app

        def keep(self) -> None:
            kept.append(self.app)

    monkeypatch.setattr("tandem.serving.replicas.Meter", Meter)
    asyncio.run(ingress.check_health())
    ingress.__serve_build_asgi_app__()
    asyncio.run(ingress.check_health())
    assert kept == [SPEC["name"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_an_error_at_the_ingress_and_not_before(ingress: Ingress, stream: bool) -> None:
    async def call() -> None:
        async for _ in ingress._generate(GenerationRequest("fox", 3), stream=stream):
            pass

    ingress._llm.gives = Piece("", refused="too long")
    with pytest.raises(InputError, match="too long"):
        asyncio.run(call())


def test_it_is_ready_when_the_parts_behind_it_answer(
    ingress: Ingress, keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.serving.readiness.TIMEOUT_S", 0.05)
    ingress._retriever.gives = True
    assert asyncio.run(ingress._ready()) == {"llm": "no answer within 0.05 s"}
    assert ingress._llm.responses[0].cancelled
    assert [name for name, _ in ingress._retriever.asked + ingress._llm.asked] == ["ready", "ready"]
    # What may scale to zero isn't asked: that would keep it from it.
    sleepy = {**SPEC, "autoscaling": {"llm": {"min_replicas": 0}}}
    other = Ingress(sleepy, "m", False, str(keys_file), retriever=ingress._retriever, llm=Handle())
    assert asyncio.run(other._ready()) == {}
    assert asyncio.run(other.check_health()) is None
