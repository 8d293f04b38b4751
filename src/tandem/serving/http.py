"""The endpoint's HTTP: OpenAI's paths, statuses and limits over a `ChatService`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.responses import JSONResponse, StreamingResponse

from tandem.serving.api_errors import ApiError, as_api_error, overloaded, too_large, unknown_model
from tandem.serving.api_keys import KeyRing
from tandem.serving.bodies import completion, events, model_card
from tandem.serving.chat import Answer, ChatService
from tandem.serving.requests import parse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    Handler = Callable[[Request], Awaitable[Response]]


def create_app(service: Callable[[], ChatService], keys: KeyRing) -> FastAPI:
    """The endpoint as an ASGI application.

    Args:
        service: Gives the service; asked at every request, since its settings can change while it runs.
        keys: Who may call.
    """
    endpoint = Endpoint(service, keys)
    app = FastAPI(title="Tandem", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_route("/v1/chat/completions", _guarded(endpoint.chat), methods=["POST"])
    app.add_route("/v1/models", _guarded(endpoint.models), methods=["GET"])
    app.add_route("/v1/models/{name}", _guarded(endpoint.model), methods=["GET"])
    app.add_route("/healthz", _guarded(endpoint.health), methods=["GET"])
    app.add_exception_handler(404, _no_such_page)
    app.add_exception_handler(405, _no_such_page)
    return app


class Endpoint:
    """The handlers, and how many requests are being answered now."""

    def __init__(self, service: Callable[[], ChatService], keys: KeyRing) -> None:
        self._service = service
        self._keys = keys
        self._active = 0

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``, plain and streamed."""
        caller = self._keys.caller(request.headers.get("authorization"))
        service = self._service()
        limits = service.spec.limits
        if self._active >= limits.max_ongoing_requests:
            raise overloaded()
        self._active += 1
        response: EventStream | None = None
        try:
            chat = parse(await _read_body(request, limits.max_body_bytes))
            answer = await service.start(chat, caller)
            try:
                # Before the status is sent: a failure until here still has one of its own.
                first = await anext(answer.pieces)
                if not chat.stream:
                    rest = [piece async for piece in answer.pieces]
                    return JSONResponse(completion(answer, [first, *rest]))
                response = EventStream(
                    events(answer, first, usage=chat.wants_usage_chunk), close=lambda: self._close(answer)
                )
                return response
            finally:
                if response is None:
                    await answer.pieces.aclose()
        finally:
            if response is None:
                self._active -= 1

    async def _close(self, answer: Answer) -> None:
        self._active -= 1
        await answer.pieces.aclose()

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        self._keys.caller(request.headers.get("authorization"))
        service = self._service()
        return JSONResponse({"object": "list", "data": [model_card(name, service) for name in service.models()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        self._keys.caller(request.headers.get("authorization"))
        service = self._service()
        name = request.path_params["name"]
        if name not in service.models():
            raise unknown_model(name, service.models())
        return JSONResponse(model_card(name, service))

    async def health(self, _: Request) -> Response:
        """``GET /healthz``: this process answers; it says nothing of the language model."""
        return JSONResponse({"status": "ok"})


class EventStream(StreamingResponse):
    """Server-sent events that call `close` however they end.

    A generator's own `finally` isn't enough: when the client is gone before the first event, it never starts.
    """

    def __init__(self, content: Any, *, close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure becomes a status, unknown ones are logged
            known = as_api_error(error)
            return JSONResponse(known.body(), known.status, dict(known.headers))

    return guarded


async def _no_such_page(request: Request, error: Exception) -> Response:
    status: int = getattr(error, "status_code", 404)
    message = f"There is no {request.method} {request.url.path} here."
    return JSONResponse(ApiError(status, message, "not_found").body(), status)


async def _read_body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large(limit)
    return bytes(body)
