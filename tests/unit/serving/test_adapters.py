"""Adapters come and go under requests, which notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tandem.errors import ModelError, NotFoundError
from tandem.serving import adapters as module
from tandem.serving.adapters import Adapters
from tandem.specs.adapters import ServedAdapters

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Engine:
    """Has what was loaded and not dropped; `broken` URIs don't load."""

    def __init__(self) -> None:
        self.has: dict[str, str] = {}
        self.broken: set[str] = set()
        self.adapters = Adapters(self.load, self.drop, kept_s=0)

    async def load(self, key: str, uri: str) -> None:
        assert key not in self.has
        await asyncio.sleep(0)
        if uri in self.broken:
            raise ModelError("cut off", where=uri)
        self.has[key] = uri

    async def drop(self, key: str) -> None:
        del self.has[key]

    async def become(self, *, required: bool = False, **uris: str) -> None:
        await self.adapters.become(ServedAdapters(adapters=uris, required=required))

    async def ask(self, name: str | None) -> str | None:
        async with self.adapters.using(name) as used:
            assert used.uri == (None if used.key is None else self.has[used.key])
            return used.uri

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)


@pytest.fixture
def engine() -> Engine:
    return Engine()


async def test_adapters_are_loaded_and_dropped(engine: Engine) -> None:
    await engine.become(one="a", two="b")
    assert [await engine.ask(name) for name in ("one", "two", None)] == ["a", "b", None]
    await engine.become(two="b", three="c")
    await engine.until(lambda: sorted(engine.has.values()) == ["b", "c"])
    assert await engine.ask("three") == "c"


async def test_one_that_stays_is_not_loaded_again(engine: Engine) -> None:
    await engine.become(one="a")
    before = dict(engine.has)
    await engine.become(one="a", two="b")
    assert engine.has.items() > before.items()


async def test_a_request_ends_with_the_version_it_began_with(engine: Engine) -> None:
    await engine.become(one="a")
    async with engine.adapters.using("one") as used, engine.adapters.using("one"):
        await engine.become(one="b")
        assert await engine.ask("one") == "b"
        await engine.become()
        await engine.until(lambda: sorted(engine.has.values()) == ["a"])
        assert engine.has[used.key or ""] == used.uri == "a"
    await engine.until(lambda: engine.has == {})


async def test_a_cancelled_request_uses_it_no_longer(engine: Engine) -> None:
    await engine.become(one="a")
    began = asyncio.Event()

    async def ask() -> None:
        async with engine.adapters.using("one"):
            began.set()
            await asyncio.Event().wait()

    asking = asyncio.create_task(ask())
    await began.wait()
    await engine.become()
    assert list(engine.has.values()) == ["a"]
    asking.cancel()
    await engine.until(lambda: engine.has == {})


async def test_a_request_waits_for_an_adapter_that_is_coming(engine: Engine) -> None:
    """The ingress may learn of it first."""
    asking = asyncio.create_task(engine.ask("one"))
    await engine.become(two="b")
    assert not asking.done()
    await engine.become(one="a")
    assert await asking == "a"


async def test_one_that_never_comes_is_said_to_be_missing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXPECTED_WITHIN_S", 0.01)
    with pytest.raises(NotFoundError, match="'one' isn't loaded"):
        await engine.ask("one")


async def test_a_broken_one_costs_neither_the_others_nor_its_own_previous_version(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    await engine.become(one="a", two="b")
    engine.broken = {"broken"}
    await engine.become(one="broken", two="b2", three="broken")
    assert [await engine.ask(name) for name in ("one", "two")] == ["a", "b2"]
    # Without a wait: it is known that it won't come.
    with pytest.raises(NotFoundError):
        await engine.ask("three")
    assert "the adapter three isn't loaded: broken: cut off" in caplog.text
    engine.broken = set()
    await engine.become(one="broken", two="b2", three="broken")
    assert [await engine.ask(name) for name in ("one", "three")] == ["broken", "broken"]


@pytest.mark.parametrize("required", [True, False])
async def test_a_replica_starts_without_one_only_where_it_is_not_required(engine: Engine, required: bool) -> None:
    engine.broken = {"broken"}
    starting: Any = engine.become(one="broken", required=required)
    if required:
        with pytest.raises(ModelError, match="cut off"):
            await starting
    else:
        await starting
    # Once it runs, Serve would stop it, and all that it answers, for an exception.
    await engine.become(two="b", required=True)
    await engine.become(one="broken", two="b", required=True)
    assert await engine.ask("two") == "b"


async def test_one_that_vanishes_still_answers_who_was_on_the_way_to_it(engine: Engine) -> None:
    engine.adapters = Adapters(engine.load, engine.drop, kept_s=3600)
    await engine.become(one="a", two="b")
    before = dict(engine.has)
    await engine.become(two="b")
    assert await engine.ask("one") == "a"
    # And is taken up again if it comes back meanwhile.
    await engine.become(one="a", two="b")
    assert engine.has == before


async def test_one_that_came_back_meanwhile_stays(engine: Engine) -> None:
    engine.adapters = Adapters(engine.load, engine.drop, kept_s=0.01)
    await engine.become(one="a", two="b")
    await engine.become(two="b")
    await engine.become(one="a", two="b")
    await engine.become(one="a")
    # `two` goes by a wait that began after that for `one`.
    await engine.until(lambda: list(engine.has.values()) == ["a"])
    assert await engine.ask("one") == "a"
