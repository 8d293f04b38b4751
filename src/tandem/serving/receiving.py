"""What comes from the caller: the body of a request, and that nobody waits for the answer any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

from tandem.serving.api_errors import client_gone, too_large, too_slow

if TYPE_CHECKING:
    from starlette.requests import Request

    from tandem.specs.rag import LimitSpec

T = TypeVar("T")


async def read_body(request: Request, limits: LimitSpec) -> bytes:
    """The request's body, once all of it is there.

    Raises:
        ApiError: 408, 413 or 499: it isn't there in time, is too large, or will never come.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise too_large(limits.max_body_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > limits.max_body_bytes:
                    raise too_large(limits.max_body_bytes)
    except ClientDisconnect:
        raise client_gone() from None
    except TimeoutError:
        raise too_slow(limits.body_timeout_s) from None
    return bytes(body)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; it is cancelled when the caller goes away, which no server does by itself.

    Args:
        request: Whose body has been read.
        work: That answers it.

    Raises:
        ApiError: 499: the caller is gone.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise client_gone()
        return working.result()
    finally:
        # Also when this is cancelled itself; awaited, so that what they hold is free when this ends.
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
