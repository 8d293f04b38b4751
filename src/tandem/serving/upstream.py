"""The language model is somebody else's: any OpenAI-compatible API, behind retries and a circuit breaker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from typing import Any

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OPENED, OpenedState

from tandem.errors import AuthError, SpecError, TandemError, UnreachableError
from tandem.models.engines.protocol import GenerationRequest
from tandem.serving.answers import Piece
from tandem.serving.language_models import LanguageModel
from tandem.specs.rag import UpstreamSpec

_TOO_MANY = 429
_SERVERS_FAULT = 500


class UpstreamServer(LanguageModel):
    """Passes requests on.

    What fails before the first piece is tried again by the official client, with growing pauses, or as `Retry-After`
    says. What fails again and again isn't asked for a while: callers hear at once that it is away.

    Args:
        engine: An `UpstreamSpec`, as JSON types.

    Raises:
        SpecError: The variable that should hold the key isn't set where this replica runs.
    """

    def __init__(self, engine: dict[str, Any]) -> None:
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
        self._client = openai.AsyncOpenAI(base_url=spec.url, api_key=key, max_retries=spec.max_retries)
        self._breakers = AsyncCircuitBreakerFactory(
            spec.breaker_failures,
            spec.breaker_pause_s,
            # A caller that went away, and a request that is wrong, say nothing of the upstream.
            exclude=[asyncio.CancelledError, (openai.APIStatusError, _is_the_requests_fault)],
        )

    async def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:
        """An answer in pieces, as the upstream makes them.

        Raises:
            AuthError: It refuses the key.
            TandemError: It broke off.
            UnreachableError: It doesn't answer, or is left alone for a while.
        """
        import openai

        try:
            async with await self._breakers.get_breaker(self._spec.url):
                begun = await self._begin(request, stream)
        except OpenedState:
            raise UnreachableError("the upstream fails again and again", where=self._spec.url) from None
        # None of these has its cause: that has the upstream's own words, which may quote the prompt, and Serve logs it.
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise AuthError("the upstream refuses the key", where=self._spec.url) from None
        except openai.APIStatusError as error:
            if _is_the_requests_fault(error):
                yield Piece("", refused=f"the upstream refuses the request: {_said(error)}")
                return
            raise UnreachableError(f"the upstream answers {error.status_code}", where=self._spec.url) from None
        except openai.APIConnectionError as error:
            raise UnreachableError(f"the upstream can't be reached: {error}", where=self._spec.url) from None
        if not stream:
            yield _whole(begun)
            return
        reason, usage = "stop", None
        # Closed however this ends, so that the upstream ends the generation.
        async with begun:
            try:
                async for chunk in begun:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        reason = choice.finish_reason or reason
                        text = choice.text if isinstance(request.messages, str) else choice.delta.content
                        if text:
                            yield Piece(text)
            except openai.APIError:
                raise TandemError("the upstream broke off", where=self._spec.url) from None
        yield Piece("", reason, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)

    async def ready(self) -> None:
        """Raises while the upstream is left alone."""
        context = (await self._breakers.get_breaker(self._spec.url)).context
        # After the pause it counts as ready: it is the next request that tries it.
        pause_ends = (context.opened_at or 0) + self._spec.breaker_pause_s
        if context.state == OPENED and pause_ends > time.time():
            raise UnreachableError("the upstream fails again and again", where=self._spec.url)

    async def _begin(self, request: GenerationRequest, stream: bool) -> Any:
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
        if isinstance(request.messages, str):
            return await self._client.completions.create(prompt=request.messages, **options)
        messages: Any = request.messages
        return await self._client.chat.completions.create(messages=messages, **options)


def _whole(answer: Any) -> Piece:
    (choice,) = answer.choices
    text = choice.message.content if hasattr(choice, "message") else choice.text
    usage = answer.usage
    tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return Piece(text or "", choice.finish_reason or "stop", *tokens)


def _is_the_requests_fault(error: Any) -> bool:
    return bool(error.status_code < _SERVERS_FAULT and error.status_code != _TOO_MANY)


def _said(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or f"status {error.status_code}")
