"""Calls that share a pass of a model: what arrives while one runs is the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Call = TypeVar("Call")
Result = TypeVar("Result")


class Batcher(Generic[Call, Result]):
    """Answers calls together, one batch at a time, in the order in which they came.

    A batch is closed when its turn comes. Ray Serve's own `serve.batch` closes it before, so that calls that come apart
    while a batch runs wait for their turns one by one, each a batch of its own.

    Args:
        run: Answers a batch: a result for each call, in their order.
        max_size: Calls in a batch.
        wait_s: Seconds for which a batch waits for others before it is closed; what is there at once is taken at 0.
    """

    def __init__(
        self, run: Callable[[list[Call]], Awaitable[Sequence[Result]]], *, max_size: int, wait_s: float = 0.0
    ) -> None:
        self._run = run
        self._max_size = max_size
        self._wait_s = wait_s
        self._waiting: deque[tuple[Call, asyncio.Future[Result]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, call: Call) -> Result:
        """A call's result; a call that is cancelled before its batch begins isn't run.

        Raises:
            Exception: What the batch raised, for each of its calls.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, result))
        if self._working is None:
            # The batches are nobody's: what belongs to the first caller's context must not be taken for theirs.
            self._working = asyncio.create_task(self._work(), context=Context())
        return await result

    async def _work(self) -> None:
        try:
            while self._waiting:
                if len(self._waiting) < self._max_size:
                    await asyncio.sleep(self._wait_s)
                await self._answer(self._next())
        finally:
            self._working = None

    def _next(self) -> list[tuple[Call, asyncio.Future[Result]]]:
        batch: list[tuple[Call, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_size:
            call, result = self._waiting.popleft()
            if not result.done():
                batch.append((call, result))
        return batch

    async def _answer(self, batch: list[tuple[Call, asyncio.Future[Result]]]) -> None:
        if not batch:
            return
        try:
            results = await self._run([call for call, _ in batch])
            answered = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - raised again for each of the callers
            for _, result in batch:
                if not result.done():
                    result.set_exception(error)
            return
        for (_, result), value in answered:
            if not result.done():
                result.set_result(value)
