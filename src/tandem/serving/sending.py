"""How answers leave: each over a connection of its own to the proxy, streams closed however they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class OneRequestAConnection:
    """Asks the proxy for a new connection each time; the caller's own to the proxy stays open.

    When a replica dies under a request that came on a connection used before, HAProxy takes it for one that was closed
    for being idle, and closes the caller's without a word; on a new one it answers with a status.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the header added."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, closing)


class EventStream(StreamingResponse):
    """Server-sent events that call `close` however they end.

    A generator's own `finally` isn't enough: when the client is gone before the first event, it never starts.
    """

    def __init__(self, content: Any, *, close: Callable[[], Awaitable[None]], headers: dict[str, str]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache", **headers})
        self._close = close
        self._closed: Callable[[], None] | None = None

    def when_closed(self, told: Callable[[], None]) -> None:
        """Call this at the very end."""
        self._closed = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()
            if self._closed is not None:
                self._closed()
