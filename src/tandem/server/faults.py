"""Errors as the API answers them, all of one shape, and how its document says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from tandem.errors import (
    AuthError,
    ConflictError,
    DatabaseError,
    ForbiddenError,
    InputError,
    InvalidSpecError,
    NotFoundError,
    NotPromotedError,
    SpecError,
    TandemError,
    UnreachableError,
)

logger = logging.getLogger(__name__)

# When the database is away a caller may ask again after so long.
RETRY_AFTER_S = 5
# The first class that an error is an instance of decides.
STATUSES: tuple[tuple[type[TandemError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (NotPromotedError, 409),
    (DatabaseError, 503),
    (ForbiddenError, 403),
    (AuthError, 502),  # what refused us is Ray: a caller's own key is looked at before
    (UnreachableError, 502),
    (InputError, 400),
    (TandemError, 500),
)
MEANINGS = {
    400: "what was sent can't be used",
    401: "no API key, or none that is known",
    403: "the key's role doesn't allow this",
    404: "there is nothing of this name",
    409: "it doesn't fit how things stand",
    413: "the body is larger than the limit",
    422: "a parameter or a field is missing, unknown or of the wrong type",
    500: "the server failed; its log says where",
    502: "Ray doesn't answer, or refuses",
    503: "the database is away: ask again",
}


class Fault(BaseModel):
    """What is wrong, where, and what to do."""

    model_config = ConfigDict(extra="forbid")

    type: str
    what: str
    where: str | None
    remedy: str | None


class Error(BaseModel):
    """The body of every answer that isn't a success."""

    model_config = ConfigDict(extra="forbid")

    error: Fault


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Statuses that a route answers with beside its success, for its `responses`."""
    # No `model`: FastAPI would say that it comes in the type of the route's success, be it a stream of events.
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    known = sorted({401, 500, 503, *statuses})
    found: dict[int | str, dict[str, Any]] = {
        each: {"description": MEANINGS[each], "content": content} for each in known
    }
    found[503]["headers"] = {"Retry-After": {"required": True, "schema": {"type": "string"}}}
    return found


def add_schemas(document: dict[str, Any]) -> None:
    """Have an OpenAPI document say what an error looks like."""
    _, schemas = models_json_schema([(Error, "serialization")], ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= schemas["$defs"]


def error_response(error: TandemError, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an answer."""
    body = {"type": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
    # In ASCII: a message may quote what can't be written in UTF-8 (half of a surrogate pair).
    return Response(json.dumps({"error": body}), status, headers, media_type="application/json")


def status_of(error: TandemError) -> int:
    """The status that stands for an error."""
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def install(app: FastAPI) -> None:
    """Have an application answer every error in this shape."""

    @app.exception_handler(TandemError)
    async def known(_: Request, error: TandemError) -> Response:
        status = status_of(error)
        return error_response(error, status, {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(*as_invalid(error))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        # FastAPI's own: no such path, another method, a body that is no JSON or larger than the limit.
        kind = NotFoundError if error.status_code == 404 else InputError
        return error_response(kind(str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        what = f"the server failed: {type(error).__name__}"
        return error_response(TandemError(what, remedy="logs/server.log in the storage folder says where"), 500)


def as_invalid(error: RequestValidationError) -> tuple[TandemError, int]:
    """What a request's faults are: those of its spec are the spec's, and said without the request around them."""
    faults = []
    in_spec = True
    for detail in error.errors():
        place = [str(part) for part in detail["loc"]]
        of_spec = place[:2] == ["body", "spec"]
        in_spec = in_spec and of_spec
        # Behind `spec` stands the kind by which the union was resolved.
        named = ".".join(place[3:] if of_spec else place[1:] or place)
        message = str(detail["msg"]).removeprefix("Value error, ")
        faults.append(SpecError(message[:1].lower() + message[1:], where=named or None))
    if in_spec:
        return InvalidSpecError(faults), 422
    what = "; ".join(str(fault) for fault in faults)
    return InputError(what, remedy="/openapi.json describes what each path takes"), 422
