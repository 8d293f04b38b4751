"""The chat page at `/`: three files, which load nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

FILES = {
    "/": ("index.html", "text/html"),
    "/page/chat.css": ("chat.css", "text/css"),
    "/page/chat.js": ("chat.js", "text/javascript"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    # Nothing but our own script, style and API; no inline code, so text that a model wrote can't become any.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_routes(app: FastAPI) -> None:
    """Serve the page."""
    for path, (name, media_type) in FILES.items():
        app.add_route(path, _sends(name, media_type), methods=["GET"])


def _sends(name: str, media_type: str):  # type: ignore[no-untyped-def]
    content = files(__name__).joinpath(name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return send
