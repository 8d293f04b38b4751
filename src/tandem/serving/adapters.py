"""The adapters of one replica: loaded and dropped while it answers, without a request noticing.

Each version of an adapter has a key of its own in the engine: requests that began with the old one end with it, and it
is dropped after the last of them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from tandem.errors import NotFoundError, TandemError
from tandem.specs.adapters import ServedAdapters

# Below Serve's own logger, whose files a replica writes.
logger = logging.getLogger("ray.serve.tandem")

# The ingress and the replicas of the language model learn of a new adapter at about the same time, in no certain order.
EXPECTED_WITHIN_S = 30.0
# A request whose adapter the ingress has chosen may still be searching when it vanishes: `limits.timeout_s` is so long.
KEPT_S = 120.0


class Used(NamedTuple):
    """What answers a request: an adapter's key in the engine and its URI, or neither for the base model."""

    key: str | None
    uri: str | None


@dataclass
class _Loaded:
    key: str
    uri: str
    users: int = 0
    retired: bool = False
    leaves: object | None = None  # another one each time that it isn't wanted any more


class Adapters:
    """Which adapters a replica has.

    Args:
        load: Loads the adapter at a URI into the engine under a key.
        drop: Frees a key, which no request uses any more.
        kept_s: Seconds for which one that isn't wanted any more still answers.
    """

    def __init__(
        self,
        load: Callable[[str, str], Awaitable[None]],
        drop: Callable[[str], Coroutine[Any, Any, None]],
        *,
        kept_s: float = KEPT_S,
    ) -> None:
        self._load = load
        self._drop = drop
        self._kept_s = kept_s
        self._by_name: dict[str, _Loaded] = {}
        self._failed: frozenset[str] = frozenset()
        self._changed = asyncio.Condition()
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False

    async def become(self, wanted: ServedAdapters) -> None:
        """Load what is new, then drop what is gone; Ray Serve makes one change after the other.

        An adapter that doesn't load is logged, and its previous version stays: for a `reconfigure` that raises, Serve
        stops the replica and all that it is answering.

        Raises:
            TandemError: An adapter didn't load, all are required, and the replica is only starting.
        """
        failed = set()
        for name, uri in wanted.adapters.items():
            previous = self._by_name.get(name)
            if previous is not None and previous.uri == uri:
                previous.leaves = None
                continue
            key = f"{name}-{next(self._numbers)}"
            try:
                await self._load(key, uri)
            except TandemError as error:
                if wanted.required and not self._started:
                    raise
                logger.error("the adapter %s isn't loaded: %s", name, error)
                failed.add(name)
                continue
            await self._set(name, _Loaded(key, uri))
        for name in self._by_name.keys() - wanted.adapters.keys():
            loaded = self._by_name[name]
            if loaded.leaves is None:
                loaded.leaves = object()
                self._in_a_task(self._retire(name, loaded, loaded.leaves))
        async with self._changed:
            self._failed = frozenset(failed)
            self._started = True
            self._changed.notify_all()

    @asynccontextmanager
    async def using(self, name: str | None) -> AsyncIterator[Used]:
        """An adapter, which stays loaded meanwhile.

        Args:
            name: None for the base model.

        Raises:
            NotFoundError: It isn't loaded, and doesn't come within `EXPECTED_WITHIN_S` either.
        """
        if name is None:
            yield Used(None, None)
            return
        loaded = self._by_name.get(name) or await self._expected(name)
        loaded.users += 1
        try:
            yield Used(loaded.key, loaded.uri)
        finally:
            loaded.users -= 1
            self._drop_unused(loaded)

    async def _retire(self, name: str, loaded: _Loaded, leaves: object) -> None:
        await asyncio.sleep(self._kept_s)
        if loaded.leaves is leaves and self._by_name.get(name) is loaded:
            await self._set(name, None)

    async def _expected(self, name: str) -> _Loaded:
        try:
            async with asyncio.timeout(EXPECTED_WITHIN_S), self._changed:
                await self._changed.wait_for(lambda: name in self._by_name or name in self._failed)
            return self._by_name[name]
        except (TimeoutError, KeyError):
            raise NotFoundError(f"the adapter {name!r} isn't loaded", remedy="the log of the LLM says why") from None

    async def _set(self, name: str, loaded: _Loaded | None) -> None:
        previous = self._by_name.pop(name, None)
        if loaded is not None:
            self._by_name[name] = loaded
            async with self._changed:
                self._changed.notify_all()
        if previous is not None:
            previous.retired = True
            self._drop_unused(previous)

    def _drop_unused(self, loaded: _Loaded) -> None:
        if loaded.retired and not loaded.users:
            # In a task: a request that was cancelled must not wait.
            self._in_a_task(self._drop(loaded.key))

    def _in_a_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
