"""The endpoint's HTTP: OpenAI's paths, statuses and limits over a `ChatService`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.responses import JSONResponse

from tandem.serving import page
from tandem.serving.answers import Answer, Piece, Usage
from tandem.serving.api_errors import ApiError, as_api_error, unknown_model
from tandem.serving.api_keys import Caller, KeyRing
from tandem.serving.bodies import CHAT, TEXT, Shape, completion, embeddings, events, model_cards
from tandem.serving.chat import ChatService
from tandem.serving.openapi import document
from tandem.serving.rate_limits import Allowance, ConcurrencyLimit, RateLimits
from tandem.serving.readiness import Ready
from tandem.serving.receiving import read_body, while_connected
from tandem.serving.requests import ChatRequest, CompletionRequest, EmbeddingRequest, parse
from tandem.serving.sending import EventStream, OneRequestAConnection
from tandem.serving.signals import REQUEST_ID, Observation, Observe, request_id

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    service: Callable[[], ChatService],
    keys: KeyRing,
    observe: Observe,
    ready: Ready,
    in_flight: Callable[[int], None],
) -> FastAPI:
    """The endpoint as an ASGI application.

    Args:
        service: Gives the service; asked at every request, since its settings can change while it runs.
        keys: Who may call.
        observe: Told of every request of the API when it has ended.
        ready: Says which of the parts behind the service aren't ready.
        in_flight: Told how many requests are being answered, whenever that changes.
    """
    endpoint = Endpoint(service, keys, ready, ConcurrencyLimit(in_flight))
    app = FastAPI(title="Tandem", docs_url=None, redoc_url=None, openapi_url=None)
    api: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/chat/completions", endpoint.chat),
        ("POST", "/v1/completions", endpoint.complete),
        ("POST", "/v1/embeddings", endpoint.embed),
        ("GET", "/v1/models", endpoint.models),
        ("GET", "/v1/models/{name}", endpoint.model),
    ]
    for method, path, handler in api:
        app.add_route(path, _observed(path, handler, observe), methods=[method])
    # Probes aren't worth a line each.
    app.add_route("/healthz", _guarded(endpoint.health), methods=["GET"])
    app.add_route("/readyz", _guarded(endpoint.readiness), methods=["GET"])
    app.add_route("/openapi.json", _guarded(endpoint.openapi), methods=["GET"])
    page.add_routes(app)
    app.add_middleware(OneRequestAConnection)
    app.add_exception_handler(404, _no_such_page)
    app.add_exception_handler(405, _no_such_page)
    return app


class Endpoint:
    """The handlers, and how many requests are being answered now."""

    def __init__(
        self, service: Callable[[], ChatService], keys: KeyRing, ready: Ready, concurrency: ConcurrencyLimit
    ) -> None:
        self._service = service
        self._keys = keys
        self._ready = ready
        self._concurrency = concurrency
        self._limits = RateLimits()

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``, plain and streamed."""

        async def begin(service: ChatService, body: bytes, caller: Caller, allowance: Allowance) -> Response:
            chat = parse(ChatRequest, body)
            return await self._sent(CHAT, chat, await service.start(chat, caller), allowance, _seen(request))

        return await self._admitted(request, begin)

    async def complete(self, request: Request) -> Response:
        """``POST /v1/completions``, plain and streamed."""

        async def begin(service: ChatService, body: bytes, _: Caller, allowance: Allowance) -> Response:
            text = parse(CompletionRequest, body)
            return await self._sent(TEXT, text, await service.complete(text), allowance, _seen(request))

        return await self._admitted(request, begin)

    async def embed(self, request: Request) -> Response:
        """``POST /v1/embeddings``."""

        async def begin(service: ChatService, body: bytes, _: Caller, allowance: Allowance) -> Response:
            wanted = parse(EmbeddingRequest, body)
            vectors, tokens = await service.embed(wanted)
            _seen(request).model = wanted.model
            allowance.spend(tokens)
            return JSONResponse(
                embeddings(wanted.model, vectors, tokens, wanted.encoding_format), headers=allowance.headers()
            )

        return await self._admitted(request, begin)

    async def _admitted(
        self, request: Request, begin: Callable[[ChatService, bytes, Caller, Allowance], Coroutine[Any, Any, Response]]
    ) -> Response:
        """Answer within the limits; a stream's place is free again when the stream has ended."""
        caller = self._caller(request)
        service = self._service()
        limits = service.spec.limits
        self._concurrency.check(limits)
        allowance = self._limits.admit(caller, limits)
        # Who sends slowly takes no place; until then Ray Serve's own limit holds, which is above this one.
        body = await read_body(request, limits)
        self._concurrency.acquire(limits)
        response: Response | None = None
        try:
            response = await while_connected(request, begin(service, body, caller, allowance))
            return response
        finally:
            if not isinstance(response, EventStream):
                self._concurrency.release()

    def _caller(self, request: Request) -> Caller:
        caller = self._keys.caller(request.headers.get("authorization"))
        _seen(request).tenant = "*" if caller.tenant is None else caller.tenant
        return caller

    async def _sent(
        self,
        shape: Shape,
        request: ChatRequest | CompletionRequest,
        answer: Answer,
        allowance: Allowance,
        seen: Observation,
    ) -> Response:
        usage = Usage(answer.per_prompt, answer.prompt_tokens)
        # Only now: a name that isn't known would be a time series of its own.
        seen.model, seen.stream, seen.searched, seen.usage = answer.model, request.stream, answer.searched, usage
        counted = _counted(answer, usage, allowance, seen)
        response: Response | None = None
        try:
            # Before the status is sent: a failure until here still has one of its own.
            first = await anext(counted.pieces)
            if request.stream:
                response = EventStream(
                    events(shape, counted, first, usage, wants_usage=request.wants_usage_chunk),
                    close=lambda: self._close(counted),
                    headers=allowance.headers(),
                )
                return response
            pieces = [first, *[piece async for piece in counted.pieces]]
            return JSONResponse(completion(shape, answer, pieces, usage), headers=allowance.headers())
        finally:
            if response is None:
                await counted.pieces.aclose()

    async def _close(self, answer: Answer) -> None:
        self._concurrency.release()
        await answer.pieces.aclose()

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        self._caller(request)
        return JSONResponse({"object": "list", "data": model_cards(self._service())})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        self._caller(request)
        cards = {card["id"]: card for card in model_cards(self._service())}
        name = request.path_params["name"]
        if name not in cards:
            raise unknown_model(name, list(cards))
        return JSONResponse(cards[name])

    async def health(self, _: Request) -> Response:
        """``GET /healthz``: this process answers; it says nothing of the language model."""
        return JSONResponse({"status": "ok"})

    async def readiness(self, _: Request) -> Response:
        """``GET /readyz``: the parts that a request needs answer; 503 with those that don't."""
        missing = await self._ready()
        body = {"status": "not ready" if missing else "ready", "missing": missing}
        return JSONResponse(body, 503 if missing else 200, {"Cache-Control": "no-store"})

    async def openapi(self, _: Request) -> Response:
        """``GET /openapi.json``."""
        return JSONResponse(document())


def _counted(answer: Answer, usage: Usage, allowance: Allowance, seen: Observation) -> Answer:
    """The answer with its tokens counted as they pass, and taken off the key's limit however it ends."""

    async def pieces() -> AsyncGenerator[Piece, None]:
        try:
            async for piece in answer.pieces:
                seen.heard()
                seen.cached = seen.cached or piece.cached
                usage.add(piece)
                yield piece
        except Exception as error:
            # In a stream the status is sent already.
            seen.error = type(error).__name__
            raise
        finally:
            allowance.spend(usage.total_tokens)
            await answer.pieces.aclose()

    return replace(answer, pieces=pieces())


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure becomes a status, unknown ones are logged
            known = as_api_error(error)
            _seen(request).error = known.code or known.type
            return JSONResponse(known.body(), known.status, dict(known.headers))

    return guarded


def _observed(path: str, handler: Handler, observe: Observe) -> Handler:
    """The handler, and `observe` told of what became of the request, however it ends."""
    guarded = _guarded(handler)

    async def observed(request: Request) -> Response:
        seen = request.state.seen = Observation(request_id(request.headers.get(REQUEST_ID)), path)
        response: Response | None = None
        try:
            response = await guarded(request)
            seen.status = response.status_code
            response.headers[REQUEST_ID] = seen.id
            return response
        finally:
            if isinstance(response, EventStream):
                response.when_closed(lambda: seen.ended(observe))
            else:
                # No response: the client is gone, as nginx says it.
                seen.status = seen.status or 499
                seen.ended(observe)

    return observed


def _seen(request: Request) -> Observation:
    """What is known of a request so far."""
    if not hasattr(request.state, "seen"):
        request.state.seen = Observation("", request.url.path)  # of a path that nobody observes
    seen: Observation = request.state.seen
    return seen


async def _no_such_page(request: Request, error: Exception) -> Response:
    status: int = getattr(error, "status_code", 404)
    message = f"There is no {request.method} {request.url.path} here."
    body = ApiError(status, message, "not_found").body()
    return JSONResponse(body, status, getattr(error, "headers", None))
