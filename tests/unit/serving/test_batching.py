from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from tandem.serving.batching import Batcher

pytestmark = pytest.mark.anyio
WHO: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Model:
    """Doubles numbers when it is let; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = asyncio.Semaphore(0)
        self.may_end = asyncio.Semaphore(0)
        self.asked_by: list[str] = []

    async def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.asked_by.append(WHO.get())
        self.began.release()
        await self.may_end.acquire()
        if 13 in numbers:
            raise ValueError("13 is in it")
        return [2 * number for number in numbers]


async def come(batcher: Batcher[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    """Calls that come one after the other, each seen by the batcher before the next."""
    calls = []
    for number in numbers:
        calls.append(asyncio.create_task(batcher(number)))
        for _ in range(3):
            await asyncio.sleep(0)
    return calls


async def test_what_comes_one_by_one_while_a_batch_runs_is_the_next_batch() -> None:
    model = Model()
    batcher = Batcher(model, max_size=4)
    async with asyncio.timeout(10):
        first = await come(batcher, 1)
        await model.began.acquire()
        others = await come(batcher, 2, 3, 4, 5, 6)
        for _ in range(3):
            model.may_end.release()
        assert await asyncio.gather(*first, *others) == [2, 4, 6, 8, 10, 12]
        assert model.batches == [[1], [2, 3, 4, 5], [6]]
        # And after a time without calls.
        model.may_end.release()
        assert await batcher(7) == 14


async def test_a_batch_waits_for_others_unless_it_is_full() -> None:
    model = Model()
    never = Batcher(model, max_size=2, wait_s=3600)
    async with asyncio.timeout(10):
        model.may_end.release()
        assert await asyncio.gather(never(1), never(2)) == [2, 4]
        alone = (await come(never, 3))[0]
        assert model.batches == [[1, 2]]
        alone.cancel()


async def test_a_batch_that_fails_fails_for_its_callers_and_the_next_runs() -> None:
    model = Model()
    batcher = Batcher(model, max_size=2)
    async with asyncio.timeout(10):
        first = await come(batcher, 1)
        await model.began.acquire()
        cursed = await come(batcher, 13, 2)
        fine = await come(batcher, 3)
        for _ in range(3):
            model.may_end.release()
        results = await asyncio.gather(*first, *cursed, *fine, return_exceptions=True)
    assert results[0] == 2
    assert [str(result) for result in results[1:3]] == ["13 is in it"] * 2
    assert results[3] == 6


async def test_who_left_before_its_batch_began_costs_nothing() -> None:
    model = Model()
    batcher = Batcher(model, max_size=4)
    async with asyncio.timeout(10):
        (first,) = await come(batcher, 1)
        await model.began.acquire()
        gone, stays = await come(batcher, 2, 3)
        gone.cancel()
        model.may_end.release()
        model.may_end.release()
        assert await asyncio.gather(first, stays) == [2, 6]
    assert model.batches == [[1], [3]]


async def test_a_batch_is_not_run_in_its_first_callers_context() -> None:
    model = Model()
    batcher = Batcher(model, max_size=4)
    WHO.set("the first caller")
    async with asyncio.timeout(10):
        model.may_end.release()
        await batcher(1)
    assert model.asked_by == ["nobody"]
