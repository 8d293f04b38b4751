"""The engine `rag_sequence`: the model reads each passage by itself, so there is no prompt to build."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandem.models.engines.protocol import GenerationRequest, ScoredDocument
from tandem.models.rag_sequence import RagSequence, priors
from tandem.serving.answers import CitedPassage, Piece
from tandem.serving.api_errors import ApiError, bad_request
from tandem.serving.language_models import LanguageModel
from tandem.serving.requests import ChatRequest
from tandem.specs.rag import RagSequenceSpec


class RagSequenceServer(LanguageModel):
    """A replica of the model; requests take turns, each with its passages as one batch.

    Args:
        engine: A `RagSequenceSpec`, as JSON types.
        model: The model's folder.
    """

    def __init__(self, engine: dict[str, Any], model: str) -> None:
        spec = RagSequenceSpec.model_validate(engine)
        self._model = RagSequence(Path(model), beams=spec.beams, max_tokens=spec.max_model_len)
        # One thread: the model takes one call at a time, and a call whose caller has gone away runs to its end.
        self._thread = ThreadPoolExecutor(1)

    async def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:  # noqa: ARG002
        """An answer, in one piece: which hypothesis it is shows at the end."""
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._thread, self._model.generate, request)
        yield Piece(answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens)


def check_question(request: ChatRequest) -> None:
    """Refuse what the model can't do.

    Raises:
        ApiError: 400.
    """
    if len(request.messages) > 1:
        raise _unsupported("This model answers one question, without a conversation: send it alone.", "messages")
    if request.effective_temperature:
        raise _unsupported("This model gives its likeliest answer and doesn't sample.", "temperature")
    if request.passages is None:
        raise _unsupported("This model answers from passages alone.", "retrieval")


def no_completions() -> ApiError:
    """400: it doesn't go on from a text."""
    return _unsupported("This model answers questions (/v1/chat/completions) and doesn't go on from a text.", "prompt")


def documents_of(passages: Sequence[CitedPassage]) -> tuple[ScoredDocument, ...]:
    """What the model reads, with the scores of the search: inner products."""
    return tuple(ScoredDocument(passage.title, passage.text, passage.score) for passage in passages)


def with_priors(passages: Sequence[CitedPassage]) -> list[CitedPassage]:
    """The passages as they are cited: with p(z|x), the weight that each has in the answer, as the score."""
    found: list[Any] = list(passages)  # dataclasses
    weights = priors([passage.score for passage in found])
    return [replace(passage, score=weight) for passage, weight in zip(found, weights, strict=True)]


def _unsupported(message: str, param: str) -> ApiError:
    return bad_request(message, param=param, code="unsupported_parameter")
