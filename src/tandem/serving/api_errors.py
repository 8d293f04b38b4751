"""Failures as the caller of the endpoint sees them: OpenAI's shape, the right status, nothing of the prompt."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem.errors import DataError, InputError, ModelError, NotFoundError, SpecError, StoreError, UnreachableError

logger = logging.getLogger(__name__)

INVALID = "invalid_request_error"
# Ray's, by name: this module is used without Ray too.
UNAVAILABLE = frozenset({"ActorUnavailableError", "ActorDiedError", "RayActorError", "DeploymentUnavailableError"})


@dataclass
class ApiError(Exception):
    """An answer with an error status.

    Attributes:
        status: HTTP status.
        message: What is wrong and what to do, for the caller.
        code: A word for programs.
        param: The request's field that it is about.
        type: OpenAI's class of error.
        headers: Response headers.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    type: str = INVALID
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The response's body, in OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400."""
    return ApiError(400, message, code, param)


def unauthorized(message: str) -> ApiError:
    """401."""
    return ApiError(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def unknown_model(name: str, known: list[str]) -> ApiError:
    """404."""
    message = f"The model {name!r} doesn't exist here. Models: {', '.join(known)}."
    return ApiError(404, message, "model_not_found", "model")


def too_slow(seconds: float) -> ApiError:
    """408."""
    return ApiError(408, f"The request's body wasn't here within {seconds:g} s.", "request_timeout")


def client_gone() -> ApiError:
    """499, as nginx says it: nobody reads this answer."""
    return ApiError(499, "The caller is gone.", "client_closed_request")


def too_large(limit: int) -> ApiError:
    """413."""
    return ApiError(413, f"The request's body is larger than {limit} bytes.", "request_too_large")


def overloaded(retry_after_s: int = 1) -> ApiError:
    """429."""
    return ApiError(
        429,
        "Too many requests are being answered. Try again shortly.",
        "rate_limit_exceeded",
        type="rate_limit_error",
        headers={"Retry-After": str(retry_after_s)},
    )


def over_limit(what: str, limit: int, wait_s: float, headers: Mapping[str, str]) -> ApiError:
    """429: a key's own limit.

    Args:
        what: ``requests`` or ``tokens``.
        limit: Per minute.
        wait_s: Until there is room again.
        headers: The state of the key's limits.
    """
    return ApiError(
        429,
        f"This API key may have {limit} {what} per minute. Try again in {math.ceil(wait_s)} s.",
        "rate_limit_exceeded",
        type=what,
        headers={**headers, "Retry-After": str(max(1, math.ceil(wait_s)))},
    )


def timed_out(seconds: float) -> ApiError:
    """504."""
    return ApiError(504, f"No answer within {seconds:g} s.", "timeout", type="server_error")


def unavailable(message: str) -> ApiError:
    """503."""
    return ApiError(503, message, "unavailable", type="server_error", headers={"Retry-After": "5"})


def as_api_error(error: Exception) -> ApiError:
    """What to answer when this was raised; what isn't known is logged, without its text, and becomes a 500."""
    # Ray wraps what a deployment raised; `cause` holds the original.
    cause = getattr(error, "cause", None)
    root = cause if isinstance(cause, Exception) else error
    if isinstance(root, ApiError):
        return root
    known = _known(root)
    if known is None or known.status >= 500:
        # The message of an error may quote the prompt: what it is and where it happened is enough to find it.
        logger.error("%s at %s", type(root).__name__, _place(root))
    return known or ApiError(500, "The endpoint failed; its log says where.", "internal_error", type="server_error")


def _known(error: Exception) -> ApiError | None:
    if isinstance(error, StoreError | UnreachableError):
        what = "The document store" if isinstance(error, StoreError) else "A part that the endpoint needs"
        return unavailable(f"{what} can't be reached. Try again shortly.")
    if isinstance(error, NotFoundError | ModelError | DataError | SpecError):
        # A model, a collection or a file of ours: its name and place are nothing to the caller, who can't mend it.
        return unavailable("A part of the endpoint is missing; its log says which.")
    if isinstance(error, InputError):
        return bad_request(error.what)
    name = type(error).__name__
    if name == "BackPressureError":
        return overloaded()
    if name in UNAVAILABLE:
        return unavailable("A part of the endpoint is starting or restarting. Try again shortly.")
    return None


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return "another process"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
