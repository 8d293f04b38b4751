"""The errors that the server's answers, and its silence, stand for."""

from __future__ import annotations

import httpx

import tandem.errors
from tandem.errors import AuthError, TandemError, UnreachableError


def unreachable(error: httpx.TransportError, url: str) -> UnreachableError:
    """The error of a server that doesn't answer, or broke off."""
    if isinstance(error, httpx.ConnectError):
        remedy = "run `tandem up`; it starts what isn't up"
        return UnreachableError("the Tandem server doesn't answer", where=url, remedy=remedy)
    what = f"the Tandem server broke off: {type(error).__name__}"
    return UnreachableError(what, where=url, remedy="see logs/server.log in the storage folder")


def error_of(response: httpx.Response, url: str) -> TandemError:
    """The error that a server's response stands for."""
    try:
        detail = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return TandemError(f"the server answered with status {response.status_code}", where=url)
    fields = {"where": detail.get("where"), "remedy": detail.get("remedy")}
    if response.status_code == 401:
        return AuthError(str(detail["what"]), where=url, remedy=detail.get("remedy"))
    kind = getattr(tandem.errors, str(detail.get("type")), TandemError)
    if not (isinstance(kind, type) and issubclass(kind, TandemError)):
        kind = TandemError
    if issubclass(kind, tandem.errors.InvalidSpecError):
        faults = [tandem.errors.SpecError(line) for line in str(detail["what"]).splitlines()]
        return tandem.errors.InvalidSpecError(faults)
    error: TandemError = kind(str(detail["what"]), **fields)
    return error
