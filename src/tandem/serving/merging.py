"""Several generations as one sequence of pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from tandem.serving.answers import Piece


async def merged(sources: Sequence[AsyncGenerator[Piece, None]]) -> AsyncGenerator[Piece, None]:
    """Pieces as they come, each with the index of its source; closing it closes all sources.

    Raises:
        Exception: What a source raised; the others are closed.
    """
    if len(sources) == 1:
        try:
            async for piece in sources[0]:
                yield piece
        finally:
            await sources[0].aclose()
        return
    # One piece of each waits here at most: who reads slowly slows the generations down, and memory stays.
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(len(sources))
    readers = [asyncio.create_task(_read(index, source, queue)) for index, source in enumerate(sources)]
    try:
        open_sources = len(sources)
        while open_sources:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_sources -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(
    index: int, source: AsyncGenerator[Piece, None], queue: asyncio.Queue[Piece | Exception | None]
) -> None:
    try:
        try:
            async for piece in source:
                await queue.put(replace(piece, index=index))
        finally:
            await source.aclose()
        await queue.put(None)
    except Exception as error:  # noqa: BLE001 - raised again where the pieces are read
        await queue.put(error)
