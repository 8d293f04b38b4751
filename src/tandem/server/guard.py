"""Before any route: whose key it is, what its role allows, and how large a body may be."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tandem.config.api_keys import bearer
from tandem.errors import AuthError, ForbiddenError, InputError
from tandem.orchestrator.packages import MAX_PACKAGE_BYTES
from tandem.orchestrator.roles import KeyHolder, Role, ServerKeys
from tandem.server.faults import error_response

MAX_BODY_BYTES = 2**20
PACKAGES = "/api/v1/packages/"
OPEN = "/healthz"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """ASGI middleware; a route finds its caller with `caller_of`.

    A viewer's key reads, on any path: that it changes nothing doesn't depend on what a route remembers to ask.

    Args:
        app: What is guarded.
        keys: Who may call.
    """

    def __init__(self, app: ASGIApp, keys: ServerKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http" or scope["path"] == OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = bearer(headers.get("authorization"))
        caller = self._keys.holder(key) if key else None
        limit = MAX_PACKAGE_BYTES if scope["path"].startswith(PACKAGES) else MAX_BODY_BYTES
        refusal: tuple[AuthError | InputError, int] | None = None
        if caller is None:
            refusal = _unknown(known_shape=bool(key)), 401
        elif scope["method"] not in _READING and caller.role is Role.VIEWER:
            refusal = forbidden(caller, Role.SUBMITTER), 403
        elif _length(headers) > limit:
            refusal = InputError(too_large(limit)), 413
        if refusal is not None:
            extra = {"WWW-Authenticate": "Bearer"} if refusal[1] == 401 else None
            await error_response(*refusal, extra)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, _counted(receive, limit), send)


def caller_of(request: Request) -> KeyHolder:
    """Who sent a request that came through the guard."""
    caller: KeyHolder = request.state.caller
    return caller


def submitter_of(request: Request) -> KeyHolder:
    """The same, of one that only submitters and admins may send.

    Raises:
        ForbiddenError: The key's role doesn't allow it.
    """
    return _at_least(request, Role.SUBMITTER)


def admin_of(request: Request) -> KeyHolder:
    """The same, of one that only admins may send.

    Raises:
        ForbiddenError: The key's role doesn't allow it.
    """
    return _at_least(request, Role.ADMIN)


def _at_least(request: Request, role: Role) -> KeyHolder:
    caller = caller_of(request)
    if not caller.role.covers(role):
        raise forbidden(caller, role)
    return caller


def forbidden(caller: KeyHolder, role: Role) -> ForbiddenError:
    """The refusal of a caller whose role is too small."""
    return ForbiddenError(
        f"the key of {caller.name!r} is a {caller.role}'s: this needs a {role}'s" if role is not Role.ADMIN
        else f"the key of {caller.name!r} is a {caller.role}'s: this needs an admin's",
        remedy=f"ask an admin: `tandem keys add NAME --role {role}`",
    )  # fmt: skip


def too_large(limit: int) -> str:
    """What is said of a body above the limit."""
    return f"the request's body is larger than {limit:,} bytes"


def _unknown(*, known_shape: bool) -> AuthError:
    return AuthError(
        "the server refuses this API key" if known_shape else "an API key is required",
        remedy="send `Authorization: Bearer KEY`; `tandem up` wrote one to `api-key` in the storage folder",
    )


def _length(headers: Headers) -> int:
    said = headers.get("content-length", "")
    return int(said) if said.isdecimal() else 0


def _counted(receive: Receive, limit: int) -> Receive:
    """What is received, up to a limit: a body needn't say how long it is."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise HTTPException(413, too_large(limit))
        return message

    return counted
