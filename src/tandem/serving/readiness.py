"""Whether the parts behind the endpoint answer, for probes that ask again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

# Below Serve's own logger, whose files a replica writes.
logger = logging.getLogger("ray.serve.tandem")

TIMEOUT_S = 2.0  # that a part may take to say so
KEPT_S = 1.0  # that what it said is told again
BUSY_S = 10.0  # since its last answer to a request: it is busy, and not away

Missing = dict[str, str]
Ready = Callable[[], Awaitable[Missing]]


class Readiness:
    """Asks the parts, once a second at most, whoever wants to know.

    Args:
        parts: By name, what returns when the part answers, and raises when it couldn't answer a request.
        clock: Seconds that never go back.
    """

    def __init__(
        self, parts: Mapping[str, Callable[[], Awaitable[Any]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._heard: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._asked_at: float | None = None
        self._missing: Missing = {}

    def heard(self, part: str) -> None:
        """A part has answered a request."""
        self._heard[part] = self._clock()

    async def __call__(self) -> Missing:
        """The parts that aren't ready, and why; empty when all are."""
        async with self._lock:
            if self._asked_at is None or self._clock() - self._asked_at >= KEPT_S:
                said = await asyncio.gather(*[self._ask(part) for part in self._parts])
                self._missing = {part: why for part, why in zip(self._parts, said, strict=True) if why}
                self._asked_at = self._clock()
            return self._missing

    async def _ask(self, part: str) -> str | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._parts[part]()
                return None
        except TimeoutError:
            # With all its places taken the question waits behind the requests: taken out of service for that, the
            # others would get its load too.
            if self._clock() - self._heard.get(part, -BUSY_S) < BUSY_S:
                return None
            why, cause = f"no answer within {TIMEOUT_S:g} s", "TimeoutError"
        except Exception as error:  # noqa: BLE001 - whatever it is, the part isn't ready; a request shows it in full
            why, cause = "it can't answer now", type(getattr(error, "cause", None) or error).__name__
        if part not in self._missing:
            logger.warning("%s isn't ready: %s", part, cause)
        return why


async def threads_turn() -> None:
    """Returns when this process has a thread that isn't stuck: what a replica's health is, whatever others do."""
    await asyncio.to_thread(lambda: None)
