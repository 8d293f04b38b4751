from __future__ import annotations

import pytest
from pydantic import BaseModel

from tandem.errors import InputError, TandemError
from tandem.serving.answers import Piece
from tandem.serving.language_models import pieces_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Response(BaseModel):
    """What vLLM gives when it doesn't stream."""

    choices: list[dict] = []
    usage: dict | None = None
    error: dict | None = None


async def pieces(*items) -> list[Piece]:
    async def source():
        for item in items:
            yield item

    return [piece async for piece in pieces_of(source())]


async def test_events_become_pieces_and_the_last_has_reason_and_counts():
    got = await pieces(
        ['data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'],
        ['data: {"choices":[{"delta":{"content":"Fo"}}]}\n\ndata: {"choices":[{"delta":{"content":"ur"}}]}\n\n'],
        ['data: {"choices":[{"delta":{"content":"."},"finish_reason":"stop"}]}\n\n'],
        ['data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n', "data: [DONE]\n\n"],
    )
    assert got == [Piece("Fo"), Piece("ur"), Piece("."), Piece("", "stop", 7, 2)]


async def test_a_whole_answer():
    choice = {"message": {"role": "assistant", "content": "Four"}, "finish_reason": "length"}
    got = await pieces(Response(choices=[choice], usage={"prompt_tokens": 7, "completion_tokens": 2}))
    assert got == [Piece("Four"), Piece("", "length", 7, 2)]


async def test_an_error_of_the_engine_is_raised():
    with pytest.raises(InputError, match="too long"):
        await pieces(['data: {"error":{"message":"too long","code":400}}\n\n'])
    with pytest.raises(TandemError, match="engine failed"):
        await pieces(Response(error={"message": "private", "code": 500}))
