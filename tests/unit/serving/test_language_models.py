from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tandem.models.engines import GenerationRequest
from tandem.serving.answers import Piece
from tandem.serving.language_models import LanguageModel

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Refusing(LanguageModel):
    async def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:
        yield Piece("", refused=f"too long: {request.messages}")


async def test_a_whole_answer_is_refused_as_a_streamed_one_is():
    assert (await Refusing().answer(GenerationRequest("secret", 3))).refused == "too long: secret"
    await Refusing().ready()
