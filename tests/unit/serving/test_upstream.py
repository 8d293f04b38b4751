from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError
from stand_ins.upstream import Upstream, running
from unit.serving.fakes import Clock

from tandem.errors import AuthError, SpecError, TandemError, UnreachableError
from tandem.models.engines import GenerationRequest
from tandem.serving.answers import Piece
from tandem.serving.api_errors import as_api_error
from tandem.serving.app import _language_model
from tandem.serving.upstream import UpstreamServer
from tandem.specs.compare import EngineSpec
from tandem.specs.rag import RagSpec, UpstreamSpec

T = TypeVar("T")
CHAT = GenerationRequest([{"role": "user", "content": "What?"}], 9, temperature=0.5, stop=("x",), seed=3)
TEXT = GenerationRequest("Once", 9)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running() as state:
        yield state


def server(upstream: Upstream, clock: Clock | None = None, **changes: Any) -> UpstreamServer:
    engine = {"name": "upstream", "url": upstream.url, "model": "theirs", **changes}
    return UpstreamServer(engine, clock or Clock())


async def heard(server: UpstreamServer, request: GenerationRequest = CHAT, stream: bool = True) -> Sequence[Any]:
    """The pieces of an answer, and after them what ended it."""
    pieces: list[Any] = []
    try:
        async for piece in server.generate(request, stream):
            pieces.append(piece)
    except TandemError as error:
        pieces.append(error)
    return pieces


async def said(server: UpstreamServer, stream: bool = True) -> str:
    """How a request ended, in a word."""
    last = (await heard(server, stream=stream))[-1]
    if isinstance(last, TandemError):
        return "left alone" if "again and again" in str(last) else "failed"
    return "refused" if last.refused else "answered"


def run(server: UpstreamServer, story: Coroutine[Any, Any, T]) -> T:
    """A story to its end, with which the server's connections end."""

    async def told() -> T:
        try:
            return await story
        finally:
            # Its client would close itself when it is collected, in the event loop of whichever test runs then.
            await server._client.close()

    return asyncio.run(told())


def ask(server: UpstreamServer, *requests: GenerationRequest, stream: bool = True) -> list[list[Piece] | TandemError]:
    async def all_of_them() -> list[list[Piece] | TandemError]:
        answers = [await heard(server, request, stream) for request in requests]
        return [each[-1] if isinstance(each[-1], TandemError) else list(each) for each in answers]

    return run(server, all_of_them())


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


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_says_nothing_of_the_upstream(upstream: Upstream, status: int) -> None:
    asked = server(upstream, max_retries=0, breaker_failures=2)
    upstream.faults += [500, status, 500]

    async def story() -> list[str]:
        return [await said(asked) for _ in range(4)]

    assert run(asked, story()) == ["failed", "refused", "failed", "left alone"]


@pytest.mark.parametrize(
    ("status", "kind", "mended_by"),
    [
        (401, AuthError, "$THEIR_KEY"),
        (403, AuthError, "$THEIR_KEY"),
        (404, UnreachableError, "engine.model, 'theirs'"),
        (405, UnreachableError, "engine.url"),
        (408, UnreachableError, None),
        (429, UnreachableError, None),
        (503, UnreachableError, None),
    ],
)
def test_what_its_caller_can_not_mend_is_a_failure(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[TandemError], mended_by: str | None
) -> None:
    monkeypatch.setenv("THEIR_KEY", "secret")
    upstream.faults += [status, status]
    broken = server(upstream, max_retries=0, breaker_failures=2, api_key_env="THEIR_KEY")
    error, _, third = ask(broken, CHAT, CHAT, CHAT)
    assert type(error) is kind
    assert str(status) in str(error)
    assert mended_by in str(error) if mended_by else error.remedy is None
    assert as_api_error(error).status == 503
    assert "again and again" in str(third)
    assert len(upstream.bodies) == 2


def test_a_refused_key_where_none_is_named(upstream: Upstream) -> None:
    upstream.faults += [401]
    assert "set engine.api_key_env" in str(ask(server(upstream), CHAT)[0])


@pytest.mark.parametrize("fault", ["cut", "dropped"])
def test_streams_that_break_off_are_failures(upstream: Upstream, fault: str) -> None:
    broken = server(upstream, breaker_failures=2)
    upstream.faults += [fault, fault]

    async def story() -> None:
        for _ in range(2):
            first, error = await heard(broken)
            # What came is passed on, so nothing is tried again.
            assert first == Piece("Forty")
            assert type(error) is UnreachableError
            assert "broke off" in str(error)
        assert await said(broken) == "left alone"

    run(broken, story())
    assert len(upstream.bodies) == 2


@pytest.mark.parametrize(("fault", "stream"), [("hangs", False), ("hangs", True), ("silent", True)])
def test_an_upstream_that_hangs_is_left_alone(upstream: Upstream, fault: str, stream: bool) -> None:
    """From the beginning, after the first piece of a stream, or before it."""
    # One failure: on a busy machine the first piece itself may come too late, which is counted apart.
    hanging = server(upstream, timeout_s=0.2, breaker_failures=1)
    upstream.faults.append(fault)

    async def story() -> list[Any]:
        return [(await heard(hanging, stream=stream))[-1] for _ in range(2)]

    failed, left = run(hanging, story())
    assert str(failed) == (
        f"{upstream.url}: the upstream sent nothing of an answer for 0.2 s (if it needs longer, raise engine.timeout_s)"
    )
    assert "again and again" in str(left)
    # A caller waits so long once, and not for each retry.
    assert len(upstream.bodies) <= 1


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_answer_of_the_api_is_a_failure(upstream: Upstream, stream: bool) -> None:
    wrong = server(upstream, breaker_failures=2)
    upstream.faults += ["page", "page"]
    first, _, third = ask(wrong, CHAT, CHAT, CHAT, stream=stream)
    assert "no answer of OpenAI's API (is engine.url right?)" in str(first)
    assert "again and again" in str(third)


async def leave(upstream: Upstream, server: UpstreamServer, *, alone: bool = False) -> None:
    """Ask, and go away while the upstream says nothing; alone: nobody else may ask meanwhile."""
    upstream.faults.append("silent")
    caller = asyncio.create_task(said(server))
    async with asyncio.timeout(10):
        while not upstream.open:
            await asyncio.sleep(0.01)
    if alone:
        assert await said(server) == "left alone"
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    async with asyncio.timeout(10):
        while upstream.open:
            await asyncio.sleep(0.01)


def test_callers_who_leave_say_nothing_of_the_upstream(upstream: Upstream) -> None:
    clock = Clock()
    away = server(upstream, clock, max_retries=0, breaker_failures=2)

    async def story() -> None:
        upstream.faults.append(500)
        assert await said(away) == "failed"
        await leave(upstream, away)
        upstream.faults.append(500)
        assert await said(away) == "failed"
        assert await said(away) == "left alone"
        clock.now += 30
        # The one that tries it leaves: the circuit isn't closed, and the next one tries.
        await leave(upstream, away, alone=True)
        await leave(upstream, away, alone=True)
        upstream.faults.append(500)
        assert await said(away) == "failed"
        assert await said(away) == "left alone"
        clock.now += 30
        assert await said(away) == "answered"
        upstream.faults.append(500)
        assert await said(away) == "failed"
        assert await said(away) == "answered"

    run(away, story())


def test_what_fails_again_and_again_is_left_alone_for_a_while(upstream: Upstream) -> None:
    clock = Clock()
    away = server(upstream, clock, max_retries=0, breaker_failures=3, breaker_pause_s=20)
    upstream.faults += [500, 503, 500]

    async def story() -> None:
        await away.ready()
        assert [await said(away) for _ in range(4)] == ["failed", "failed", "failed", "left alone"]
        clock.now = 19
        with pytest.raises(UnreachableError):
            await away.ready()
        assert await said(away) == "left alone"
        assert len(upstream.bodies) == 3
        # After the pause it is ready, or nobody would send it the request that tries it.
        clock.now = 20
        await away.ready()
        assert [await said(away) for _ in range(2)] == ["answered", "answered"]
        assert len(upstream.bodies) == 5

    run(away, story())


@pytest.mark.parametrize("fault", [400, 401, 404, 500, "cut", "dropped"])
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
    with pytest.raises(ValidationError, match=r"engine.timeout_s: 60 must be below limits.timeout_s, which is 60"):
        RagSpec.model_validate({**args, "engine": engine, "limits": {"timeout_s": 60}})
    with pytest.raises(ValidationError, match="an upstream has models of its own"):
        RagSpec.model_validate({**args, "engine": engine, "adapters": [{"name": "one", "uri": "artifact:a"}]})
