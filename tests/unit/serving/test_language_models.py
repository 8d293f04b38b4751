from __future__ import annotations

import traceback
from collections.abc import AsyncGenerator

import pytest
from pydantic import BaseModel

from tandem.errors import TandemError
from tandem.models.engines import GenerationRequest
from tandem.serving.answers import Piece
from tandem.serving.language_models import LanguageModel, pieces_of

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


async def test_a_refusal_of_the_engine_is_a_piece_and_a_failure_says_nothing_of_the_prompt():
    got = await pieces(['data: {"error":{"message":"secret is too long","code":400}}\n\n'], ["data: [DONE]\n\n"])
    assert got == [Piece("", refused="secret is too long")]
    failure = Response(error={"message": "secret", "code": 500})
    with pytest.raises(TandemError) as caught:
        await pieces(failure)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


class Refusing(LanguageModel):
    async def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:
        yield Piece("", refused=f"too long: {request.messages}")


async def test_a_whole_answer_is_refused_as_a_streamed_one_is():
    assert (await Refusing().answer(GenerationRequest("secret", 3))).refused == "too long: secret"
    await Refusing().ready()
