"""How often a stream's pieces go on to the ingress: each is a message between processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from tandem.serving.answers import Piece

INTERVAL_S = 0.05


async def paced(pieces: AsyncGenerator[Piece, None], interval_s: float = INTERVAL_S) -> AsyncGenerator[Piece, None]:
    """The first piece at once, then one at most so often, with the text of all that came meanwhile; the end at once.

    Args:
        pieces: An answer's, closed however this ends.
        interval_s: Seconds between two.
    """
    come: list[Piece] = []
    something = asyncio.Event()

    async def read() -> None:
        async with aclosing(pieces):
            async for piece in pieces:
                come.append(piece)
                something.set()

    reading = asyncio.create_task(read())
    reading.add_done_callback(lambda _: something.set())
    try:
        while True:
            await something.wait()
            something.clear()
            if come:
                joined = replace(come[-1], text="".join(piece.text for piece in come))
                come.clear()
                yield joined
            elif reading.done():
                break
            await asyncio.wait({reading}, timeout=interval_s)
            if reading.done():
                something.set()
        reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
