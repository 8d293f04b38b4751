from __future__ import annotations

import sys
import traceback
from collections.abc import AsyncGenerator
from types import ModuleType, SimpleNamespace

import pytest

from tandem.errors import TandemError
from tandem.serving.answers import Piece
from tandem.serving.vllm_server import pieces_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class ClientError(Exception):
    """Stands in for vLLM's: importing vLLM takes many seconds."""


class ServerError(Exception):
    """As `ClientError`."""


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = ModuleType("vllm.exceptions")
    errors.VLLMClientError, errors.VLLMServerError = ClientError, ServerError
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.exceptions", errors)


def output(text: str, tokens: int, reason: str | None = None) -> SimpleNamespace:
    """What vLLM's engine gives, as far as it is read."""
    answer = SimpleNamespace(text=text, token_ids=list(range(tokens)), finish_reason=reason)
    return SimpleNamespace(prompt_token_ids=[1] * 7, outputs=[answer])


class Engine:
    """Gives outputs, or raises one that is an error, and knows whether it was let go."""

    def __init__(self, *outputs: SimpleNamespace | Exception) -> None:
        self.outputs, self.closed = outputs, False

    async def generate(self) -> AsyncGenerator[SimpleNamespace, None]:
        try:
            for one in self.outputs:
                if isinstance(one, Exception):
                    raise one
                yield one
        finally:
            self.closed = True


async def pieces(*outputs: SimpleNamespace | Exception) -> list[Piece]:
    return [piece async for piece in pieces_of(Engine(*outputs).generate())]


async def test_outputs_become_pieces_and_the_last_has_reason_and_counts():
    got = await pieces(output("Fo", 1), output("ur", 2), output(".", 1, "stop"))
    assert got == [Piece("Fo", completion_tokens=1), Piece("ur", completion_tokens=3), Piece(".", "stop", 7, 4)]
    assert await pieces(output("Four", 2, "length")) == [Piece("Four", "length", 7, 2)]


async def test_who_stops_reading_ends_the_request():
    engine = Engine(output("Fo", 1), output("ur", 1, "stop"))
    reading = pieces_of(engine.generate())
    assert (await anext(reading)).text == "Fo"
    await reading.aclose()
    assert engine.closed


async def test_an_answer_that_the_engine_gave_up_is_a_failure():
    with pytest.raises(TandemError, match="abort"):
        await pieces(output("Fo", 1), output("", 0, "abort"))


async def test_a_refusal_of_the_engine_is_a_piece_and_a_failure_says_nothing_of_the_prompt():
    assert await pieces(ClientError("secret is too long")) == [Piece("", refused="secret is too long")]
    failure = ServerError("secret")
    with pytest.raises(TandemError) as caught:
        await pieces(output("Fo", 1), failure)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
