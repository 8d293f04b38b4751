"""One answer from end to end: search, prompt, generation, under one deadline. Knows nothing of HTTP or Ray."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tandem.models.engines.protocol import GenerationRequest
from tandem.models.prompts import PassageLike
from tandem.serving.api_errors import timed_out, unknown_model
from tandem.serving.api_keys import Caller
from tandem.serving.context import fit
from tandem.serving.requests import ChatRequest
from tandem.specs.rag import BASE_MODEL, RagSpec

if TYPE_CHECKING:
    from tandem.retrieval.store import Mode


class CitedPassage(PassageLike, Protocol):
    """A passage that can be cited."""

    @property
    def id(self) -> str:
        """The chunk's id."""
        ...

    @property
    def score(self) -> float:
        """How well it matches, as the store ranks."""
        ...


@dataclass(frozen=True)
class Piece:
    """A part of an answer; the last has the reason why it ended and the token counts.

    Attributes:
        text: To be appended.
        finish_reason: ``stop`` or ``length``, in the last piece.
        prompt_tokens: Tokens of the prompt, in the last piece.
        completion_tokens: Tokens generated, in the last piece.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Search(Protocol):
    """Passages for a question, best first."""

    async def __call__(self, question: str, *, top_k: int, mode: Mode, tenant: str | None) -> list[CitedPassage]:
        """Search; with a tenant, its passages alone."""
        ...


class Generate(Protocol):
    """An answer in pieces; closing the generator ends the generation."""

    def __call__(self, request: GenerationRequest, *, stream: bool) -> AsyncGenerator[Piece, None]:
        """Begin to generate."""
        ...


@dataclass(frozen=True)
class Answer:
    """An answer that has begun.

    Attributes:
        id: Its id, ``chatcmpl-…``.
        created: Unix time, seconds.
        model: As the request named it.
        passages: What the prompt holds, best first.
        pieces: The text as it comes; close it to end the generation.
    """

    id: str
    created: int
    model: str
    passages: list[CitedPassage]
    pieces: AsyncGenerator[Piece, None]

    def citations(self) -> list[dict[str, str | float]]:
        """The passages that the prompt holds."""
        return [{"id": p.id, "source": p.source, "text": p.text, "score": p.score} for p in self.passages]


class ChatService:
    """Answers requests with one spec.

    Args:
        spec: Models, retriever, prompt and limits.
        search: The retriever.
        generate: The language model.
        count: Tokens of chat messages; called in a thread, since long prompts take milliseconds.
    """

    def __init__(
        self, spec: RagSpec, *, search: Search, generate: Generate, count: Callable[[list[dict[str, str]]], int]
    ) -> None:
        self.spec = spec
        self._search = search
        self._generate = generate
        self._count = count

    def models(self) -> list[str]:
        """Names that a request's `model` may have: the app's own first."""
        return [self.spec.name, BASE_MODEL, *(adapter.name for adapter in self.spec.adapters)]

    def adapter(self, model: str) -> str | None:
        """The adapter that a model's name stands for; None for the base model.

        Raises:
            ApiError: 404: no model has this name.
        """
        if model not in self.models():
            raise unknown_model(model, self.models())
        name = (self.spec.default_model or BASE_MODEL) if model == self.spec.name else model
        return None if name == BASE_MODEL else name

    async def start(self, request: ChatRequest, caller: Caller) -> Answer:
        """Search, build the prompt and begin to generate.

        Args:
            request: What is asked.
            caller: Its tenant is all that restricts the search; nothing in the request can.

        Raises:
            ApiError: 400, 404 or 504; later ones come from the answer's pieces.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.spec.limits.timeout_s
        adapter = self.adapter(request.model)
        limits, engine = self.spec.limits, self.spec.engine
        max_tokens = request.answer_tokens(
            usual=limits.default_max_tokens, most=min(limits.max_tokens, engine.max_model_len - 1)
        )
        try:
            async with asyncio.timeout_at(deadline):
                found = await self._passages(request, caller)
                messages, passages = await asyncio.to_thread(
                    fit,
                    self.spec.prompt,
                    request.messages,
                    found,
                    count=self._count,
                    budget=engine.max_model_len - max_tokens,
                )
        except TimeoutError:
            raise timed_out(limits.timeout_s) from None
        generation = GenerationRequest(
            messages,
            max_tokens,
            adapter=adapter,
            temperature=request.temperature or 0.0,
            top_p=request.top_p or 1.0,
            stop=request.stop,
            seed=request.seed,
        )
        pieces = self._pieces(generation, stream=request.stream, deadline=deadline)
        return Answer(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), request.model, passages, pieces)

    async def _passages(self, request: ChatRequest, caller: Caller) -> list[CitedPassage]:
        top_k = request.top_k(self.spec.retriever.top_k)
        if top_k is None:
            return []
        return await self._search(request.question, top_k=top_k, mode=self.spec.retriever.mode, tenant=caller.tenant)

    async def _pieces(
        self, request: GenerationRequest, *, stream: bool, deadline: float
    ) -> AsyncGenerator[Piece, None]:
        source = self._generate(request, stream=stream)
        try:
            while True:
                try:
                    # Around each wait, not around the loop: a timeout must not span a yield.
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(source)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise timed_out(self.spec.limits.timeout_s) from None
                yield piece
        finally:
            await source.aclose()
