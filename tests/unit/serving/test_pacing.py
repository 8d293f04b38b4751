from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from tandem.serving.answers import Piece
from tandem.serving.pacing import paced

pytestmark = pytest.mark.anyio
NEVER_S = 3600.0


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def answer(*texts: str, closed: list[bool] | None = None) -> AsyncGenerator[Piece, None]:
    try:
        for text in texts:
            yield Piece(text)
            await asyncio.sleep(0)
        yield Piece("", "stop", 7, len(texts))
    finally:
        if closed is not None:
            closed.append(True)


async def test_the_first_piece_goes_at_once_and_the_others_together() -> None:
    async with asyncio.timeout(10):
        pieces = [piece async for piece in paced(answer("a", "b", "c"), NEVER_S)]
    assert pieces == [Piece("a"), Piece("bc", "stop", 7, 3)]


async def test_where_they_come_more_slowly_each_goes_by_itself() -> None:
    asked: asyncio.Queue[str | None] = asyncio.Queue()

    async def slow() -> AsyncGenerator[Piece, None]:
        while (text := await asked.get()) is not None:
            yield Piece(text)

    async with asyncio.timeout(10), aclosing(paced(slow(), 0.0)) as pieces:
        for text in "abc":
            asked.put_nowait(text)
            assert (await anext(pieces)).text == text
        asked.put_nowait(None)
        assert [piece async for piece in pieces] == []


async def test_what_came_before_a_failure_is_sent_before_it() -> None:
    async def broken() -> AsyncGenerator[Piece, None]:
        yield Piece("a")
        yield Piece("b")
        raise ValueError("no more")

    seen: list[str] = []

    async def read() -> None:
        async for piece in paced(broken(), NEVER_S):
            seen.append(piece.text)

    with pytest.raises(ValueError, match="no more"):
        await asyncio.wait_for(read(), 10)
    assert "".join(seen) == "ab"


async def test_who_leaves_ends_the_generation() -> None:
    closed: list[bool] = []
    async with asyncio.timeout(10), aclosing(paced(answer(*"abc", closed=closed), NEVER_S)) as pieces:
        assert (await anext(pieces)).text
    assert closed == [True]
