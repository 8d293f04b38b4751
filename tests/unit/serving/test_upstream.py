from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from stand_ins.upstream import Upstream, running

from tandem.errors import AuthError, SpecError, TandemError, UnreachableError
from tandem.models.engines import GenerationRequest
from tandem.serving.answers import Piece
from tandem.serving.app import _language_model
from tandem.serving.upstream import UpstreamServer
from tandem.specs.compare import EngineSpec
from tandem.specs.rag import RagSpec, UpstreamSpec

CHAT = GenerationRequest([{"role": "user", "content": "What?"}], 9, temperature=0.5, stop=("x",), seed=3)
TEXT = GenerationRequest("Once", 9)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running() as state:
        yield state


def server(upstream: Upstream, **changes: Any) -> UpstreamServer:
    return UpstreamServer({"name": "upstream", "url": upstream.url, "model": "theirs", **changes})


def ask(server: UpstreamServer, *requests: GenerationRequest, stream: bool = True) -> list[list[Piece] | TandemError]:
    async def one(request: GenerationRequest) -> list[Piece] | TandemError:
        try:
            return [piece async for piece in server.generate(request, stream)]
        except TandemError as error:
            return error

    async def all_of_them() -> list[list[Piece] | TandemError]:
        return [await one(request) for request in requests]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("request_", [CHAT, TEXT], ids=["chat", "text"])
def test_a_request_is_passed_on_and_its_answer_comes_as_it_is_made(
    upstream: Upstream, request_: GenerationRequest
) -> None:
    (streamed,) = ask(server(upstream), request_)
    assert streamed == [Piece("Forty"), Piece("-two"), Piece("."), Piece("", "stop", 7, 3)]
    (whole,) = ask(server(upstream), request_, stream=False)
    assert whole == [Piece("Forty-two.", "length", 7, 3)]
    body = upstream.bodies[0]
    assert body["model"] == "theirs"
    assert body["max_tokens"] == 9
    if request_ is CHAT:
        assert body["messages"] == CHAT.messages
        assert (body["temperature"], body["stop"], body["seed"]) == (0.5, ["x"], 3)
    else:
        assert (body["path"], body["prompt"], "stop" in body) == ("completions", "Once", False)


def test_the_key_comes_from_a_variable(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"\$THEIR_KEY isn't set"):
        server(upstream, api_key_env="THEIR_KEY")
    monkeypatch.setenv("THEIR_KEY", "secret")
    ask(server(upstream, api_key_env="THEIR_KEY"), CHAT)
    assert upstream.keys == ["Bearer secret"]


def test_what_fails_is_tried_again_and_what_is_wrong_is_not(upstream: Upstream) -> None:
    upstream.faults += [503, 429]
    (answer,) = ask(server(upstream), CHAT)
    assert isinstance(answer, list)
    assert len(upstream.bodies) == 3
    upstream.faults += [400]
    (refused,) = ask(server(upstream), CHAT)
    assert isinstance(refused, list)
    assert "fault 400" in str(refused[0].refused)
    assert len(upstream.bodies) == 4
    upstream.faults += [401]
    assert isinstance(ask(server(upstream), CHAT)[0], AuthError)
    upstream.faults += ["cut"]
    broken = ask(server(upstream), CHAT)[0]
    assert type(broken) is TandemError
    assert "broke off" in str(broken)


def test_what_fails_again_and_again_is_left_alone_for_a_while(upstream: Upstream) -> None:
    away = server(upstream, max_retries=0, breaker_failures=3, breaker_pause_s=0.2)
    upstream.faults += [500, 503, 400, 500, 500, 500]

    async def is_ready() -> bool:
        try:
            await away.ready()
        except UnreachableError:
            return False
        return True

    async def story() -> None:
        async def kind() -> object:
            try:
                (first, *_) = [piece async for piece in away.generate(CHAT)]
                return "refused" if first.refused else "answered"
            except TandemError as error:
                return type(error)

        # A request that is wrong shows that the upstream works: it begins to count anew.
        await away.ready()
        assert [await kind() for _ in range(6)] == [
            UnreachableError,
            UnreachableError,
            "refused",
            UnreachableError,
            UnreachableError,
            UnreachableError,
        ]
        asked = len(upstream.bodies)
        assert await kind() is UnreachableError
        assert len(upstream.bodies) == asked
        with pytest.raises(UnreachableError):
            await away.ready()
        # After the pause it is ready, or nobody would send it the request that tries it.
        async with asyncio.timeout(10):
            while not await is_ready():
                await asyncio.sleep(0.01)
        assert await kind() == "answered"
        assert len(upstream.bodies) == asked + 1

    asyncio.run(story())


@pytest.mark.parametrize("fault", [400, 401, 500, "cut"])
def test_nothing_of_the_prompt_is_in_what_is_raised(upstream: Upstream, fault: int | str) -> None:
    """Ray Serve logs what a replica raises, traceback and all; the stand-in quotes the request."""
    upstream.faults += [fault]
    secret = replace(CHAT, messages=[{"role": "user", "content": "a secret"}])
    (answer,) = ask(server(upstream, max_retries=0), secret)
    if fault == 400:
        assert isinstance(answer, list)
        assert "a secret" in str(answer[0].refused)
    else:
        assert isinstance(answer, TandemError)
        assert "secret" not in "".join(traceback.format_exception(answer))


def test_an_application_before_an_upstream_needs_no_gpu_and_no_vllm(tmp_path: Path) -> None:
    engine = {"name": "upstream", "url": "http://127.0.0.1:9/v1", "model": "theirs"}
    spec = RagSpec.model_validate(
        {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs"}, "engine": engine}
    )
    deployment = _language_model(spec, Path("m"), {}, tmp_path)._bound_deployment
    assert deployment.name == "LLM"
    assert deployment.func_or_class is UpstreamServer or deployment.func_or_class.__name__ == "UpstreamServer"
    assert UpstreamSpec.model_validate(deployment.init_args[0]) == spec.engine


def test_nobody_there() -> None:
    gone = UpstreamServer({"name": "upstream", "url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0})
    assert isinstance(ask(gone, CHAT)[0], UnreachableError)


def test_the_spec_tells_engines_apart() -> None:
    args = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs"}}
    assert isinstance(RagSpec.model_validate(args).engine, EngineSpec)
    engine = {"name": "upstream", "url": "https://host/v1", "model": "theirs"}
    assert isinstance(RagSpec.model_validate({**args, "engine": engine}).engine, UpstreamSpec)
    with pytest.raises(ValidationError, match="url"):
        RagSpec.model_validate({**args, "engine": {**engine, "url": "ftp://host"}})
    with pytest.raises(ValidationError, match="an upstream has models of its own"):
        RagSpec.model_validate({**args, "engine": engine, "adapters": [{"name": "one", "uri": "artifact:a"}]})
