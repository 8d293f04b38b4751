"""The language model is somebody else's: any OpenAI-compatible API, behind retries and a circuit breaker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from tandem.errors import AuthError, SpecError, UnreachableError
from tandem.models.engines.protocol import GenerationRequest
from tandem.serving.answers import Piece
from tandem.serving.circuit_breaker import CircuitBreaker
from tandem.serving.language_models import LanguageModel
from tandem.specs.rag import UpstreamSpec

T = TypeVar("T")

# What its caller can mend; the other 4xx are about our settings, or pass.
_REQUESTS_FAULT = frozenset({400, 413, 422})
_KEYS_FAULT = frozenset({401, 403})
_PASS = frozenset({408, 409, 429})
_SERVERS_FAULT = 500


class UpstreamServer(LanguageModel):
    """Passes requests on.

    What fails before an answer begins is tried again by the official client, with growing pauses, or as `Retry-After`
    says. What fails again and again isn't asked for a while: callers hear at once that it is away. A caller who leaves,
    and a request that is refused, say nothing of the upstream.

    Args:
        engine: An `UpstreamSpec`, as JSON types.
        clock: Seconds that never go back.

    Raises:
        SpecError: The variable that should hold the key isn't set where this replica runs.
    """

    def __init__(self, engine: dict[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        import openai

        self._spec = spec = UpstreamSpec.model_validate(engine)
        key = "none"
        if spec.api_key_env is not None:
            key = os.environ.get(spec.api_key_env, "")
            if not key:
                raise SpecError(
                    f"${spec.api_key_env} isn't set, and the upstream's key should be in it",
                    where="engine.api_key_env",
                    remedy="set it where the cluster's nodes are started",
                )
        # How long it may send nothing is watched here, over all retries; the client would begin anew with each.
        timeout = openai.Timeout(None, connect=openai.DEFAULT_TIMEOUT.connect)
        self._client = openai.AsyncOpenAI(base_url=spec.url, api_key=key, max_retries=spec.max_retries, timeout=timeout)
        self._breaker = CircuitBreaker(spec.url, spec.breaker_failures, spec.breaker_pause_s, clock)

    async def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:
        """An answer in pieces, as the upstream makes them.

        Raises:
            AuthError: It refuses the key.
            UnreachableError: It fails, sends nothing for too long or breaks off; or it is left alone for a while.
        """
        self._check_circuit()
        with self._breaker.call() as call:
            async with aclosing(self._pieces(request, stream)) as pieces:
                async for piece in pieces:
                    if piece.finish_reason is not None:
                        call.succeeded()
                    elif piece.refused is None:
                        call.begun()
                    yield piece

    async def ready(self) -> None:
        """Raises while the upstream is left alone."""
        # After the pause it counts as ready: it is the next request that tries it.
        self._check_circuit()

    def _check_circuit(self) -> None:
        if self._breaker.refuses:
            raise UnreachableError("the upstream fails again and again", where=self._spec.url)

    async def _pieces(self, request: GenerationRequest, stream: bool) -> AsyncGenerator[Piece, None]:
        deadline = self._deadline()
        answer = await self._by(deadline, self._begin(request, stream), "the upstream can't be reached")
        if isinstance(answer, Piece):
            yield answer
            return
        if not stream:
            yield self._whole(answer)
            return
        chunks, reason, usage = 0, "stop", None
        # Closed however this ends, so that the upstream ends the generation.
        async with answer:
            while (chunk := await self._by(deadline, anext(answer, None), "the upstream broke off")) is not None:
                chunks += 1
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    reason = choice.finish_reason or reason
                    text = choice.text if isinstance(request.messages, str) else choice.delta.content
                    if text:
                        yield Piece(text)
                deadline = self._deadline()
        if not chunks:
            raise self._no_answer()
        yield Piece("", reason, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)

    def _whole(self, answer: Any) -> Piece:
        # What isn't JSON comes as a string.
        if not getattr(answer, "choices", None):
            raise self._no_answer()
        (choice,) = answer.choices
        text = choice.message.content if hasattr(choice, "message") else choice.text
        usage = answer.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Piece(text or "", choice.finish_reason or "stop", *tokens)

    async def _begin(self, request: GenerationRequest, stream: bool) -> Any:
        """The client's answer or stream; a piece that says so where the request is refused."""
        import openai

        options: dict[str, Any] = {
            "model": self._spec.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": stream,
        }
        if request.stop:
            options["stop"] = list(request.stop)
        if request.seed is not None:
            options["seed"] = request.seed
        if stream:
            options["stream_options"] = {"include_usage": True}
        try:
            if isinstance(request.messages, str):
                return await self._client.completions.create(prompt=request.messages, **options)
            messages: Any = request.messages
            return await self._client.chat.completions.create(messages=messages, **options)
        except openai.APIStatusError as error:
            if error.status_code not in _REQUESTS_FAULT:
                raise
            return Piece("", refused=f"the upstream refuses the request: {_said(error)}")

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._spec.timeout_s

    async def _by(self, deadline: float, wait: Awaitable[T], lost: str) -> T:
        """What is waited for, with the client's errors as ours.

        Args:
            deadline: In the event loop's time.
            wait: For something of the client's.
            lost: What it means when the connection fails.
        """
        import openai

        url = self._spec.url
        try:
            # Around each wait: a time-out must not span a yield.
            async with asyncio.timeout_at(deadline):
                return await wait
        # None of these has its cause: that has the upstream's own words, which may quote the prompt, and Serve logs it.
        except TimeoutError:
            what = f"the upstream sent nothing of an answer for {self._spec.timeout_s:g} s"
            raise UnreachableError(what, where=url, remedy="if it needs longer, raise engine.timeout_s") from None
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code) from None
        except (openai.APIError, ValueError):  # a stream whose events aren't JSON is cut off, too
            raise UnreachableError(lost, where=url) from None

    def _refusal(self, status: int) -> UnreachableError:
        spec, remedy = self._spec, None
        if status in _KEYS_FAULT:
            remedy = "set engine.api_key_env to the name of the variable with its key"
            if spec.api_key_env is not None:
                remedy = f"is the key in ${spec.api_key_env} right, and may it use {spec.model!r}?"
            return AuthError(f"the upstream refuses the key ({status})", where=spec.url, remedy=remedy)
        if status < _SERVERS_FAULT and status not in _PASS:
            remedy = f"is engine.url right, and is engine.model, {spec.model!r}, a model of it?"
        return UnreachableError(f"the upstream answers {status}", where=spec.url, remedy=remedy)

    def _no_answer(self) -> UnreachableError:
        what = "what the upstream sends is no answer of OpenAI's API"
        return UnreachableError(what, where=self._spec.url, remedy="is engine.url right?")


def _said(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or f"status {error.status_code}")
