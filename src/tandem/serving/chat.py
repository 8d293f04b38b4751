"""One answer from end to end: search, prompt, generation, under one deadline. Knows nothing of HTTP or Ray."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from tandem.models.engines.protocol import GenerationRequest
from tandem.serving.answer_cache import CachedGenerate
from tandem.serving.answers import Answer, CitedPassage, Embed, Generate, Piece, Search, Searched
from tandem.serving.api_errors import bad_request, timed_out, unknown_model
from tandem.serving.api_keys import Caller
from tandem.serving.canary import routed
from tandem.serving.condensing import condensed
from tandem.serving.context import Prompt, fit, too_long
from tandem.serving.merging import merged
from tandem.serving.rag_sequence import check_question, documents_of, no_completions, with_priors
from tandem.serving.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from tandem.serving.tracing import span
from tandem.specs.rag import BASE_MODEL, EMBEDDER, RagSequenceSpec, RagSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
# Below Serve's own logger, whose files a replica writes.
prompts_log = logging.getLogger("ray.serve.prompts")


class ChatService:
    """Answers requests with one spec.

    Args:
        spec: Models, retriever, prompt and limits.
        search: The retriever.
        embed: The collection's embedder.
        generate: The language model.
        count: Tokens of chat messages or of a text; called in a thread, since long prompts take milliseconds.
    """

    def __init__(
        self, spec: RagSpec, *, search: Search, embed: Embed, generate: Generate, count: Callable[[Prompt], int]
    ) -> None:
        self.spec = spec
        self._search = search
        self._embed = embed
        adapters = {adapter.name: adapter.uri for adapter in spec.adapters}
        self._generate = CachedGenerate(generate, spec.cache, adapters) if spec.cache.answers else generate
        self._count = count
        self._reads_passages = isinstance(spec.engine, RagSequenceSpec)

    def models(self) -> list[str]:
        """Names that a completion's `model` may have: the app's own first."""
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
        deadline = self._deadline()
        model = routed(self.spec, request.model, request.conversation)
        adapter = self.adapter(model)
        if self._reads_passages:
            check_question(request)
        max_tokens = self._max_tokens(request, request.n)
        begun = time.perf_counter()
        with span("search"):
            found = await self._before(deadline, self._passages(request, caller, deadline))
        searched = None if found is None else Searched(len(found), time.perf_counter() - begun)
        if found == [] and self.spec.conversation.nothing_found is not None:
            pieces = _said(self.spec.conversation.nothing_found, request.n)
            return _answer("chatcmpl", model, pieces, request.n, [0], searched=searched)
        messages, passages, tokens = await self._before(deadline, self._prompt(request, found or [], max_tokens))
        generations = [_generation(request, messages, max_tokens, adapter, index) for index in range(request.n)]
        if self._reads_passages:
            generations = [replace(generation, documents=documents_of(found or [])) for generation in generations]
        pieces = self._pieces(generations, stream=request.stream, deadline=deadline)
        answer = _answer("chatcmpl", model, pieces, request.n, [tokens], passages=passages, searched=searched)
        self._log(answer, messages)
        return answer

    async def complete(self, request: CompletionRequest) -> Answer:
        """Begin to go on from texts, as they are.

        Raises:
            ApiError: 400, 404 or 504; later ones come from the answer's pieces.
        """
        deadline = self._deadline()
        model = routed(self.spec, request.model, request.conversation)
        adapter = self.adapter(model)
        if self._reads_passages:
            raise no_completions()
        max_tokens = self._max_tokens(request, request.n * len(request.prompts))
        budget = self.spec.engine.max_model_len - max_tokens
        counts = await self._before(deadline, asyncio.to_thread(lambda: [self._count(p) for p in request.prompts]))
        if not min(counts):
            raise bad_request("The prompt has no tokens.", param="prompt", code="invalid_value")
        if max(counts) > budget:
            raise too_long(max(counts), budget, param="prompt")
        generations = [
            _generation(request, prompt, max_tokens, adapter, index)
            for prompt in request.prompts
            for index in range(request.n)
        ]
        pieces = self._pieces(generations, stream=request.stream, deadline=deadline)
        answer = _answer("cmpl", model, pieces, request.n, counts)
        self._log(answer, request.prompts)
        return answer

    async def embed(self, request: EmbeddingRequest) -> tuple[NDArray[np.float32], int]:
        """Vectors of texts as the collection's, or as questions', float32, (texts, dimension); and the tokens read.

        Raises:
            ApiError: 404 or 504.
        """
        names = [EMBEDDER, self.spec.name]
        if request.model not in names:
            raise unknown_model(request.model, names)
        return await self._before(self._deadline(), self._embed(request.texts, question=request.input_type == "query"))

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.spec.limits.timeout_s

    async def _before(self, deadline: float, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(deadline):
                return await work
        except TimeoutError:
            raise timed_out(self.spec.limits.timeout_s) from None

    def _max_tokens(self, request: ChatRequest | CompletionRequest, choices: int) -> int:
        limits = self.spec.limits
        if choices > limits.max_choices:
            raise bad_request(f"At most {limits.max_choices} answers to one request.", param="n", code="invalid_value")
        return min(
            request.wanted_tokens or limits.default_max_tokens, limits.max_tokens, self.spec.engine.max_model_len - 1
        )

    async def _passages(self, request: ChatRequest, caller: Caller, deadline: float) -> list[CitedPassage] | None:
        wanted = request.passages
        if wanted is None:
            return None
        conversation, retriever = self.spec.conversation, self.spec.retriever
        question = request.question
        if conversation.condense:
            question = await condensed(
                conversation,
                request.messages,
                generate=self._generate,
                count=self._count,
                max_model_len=self.spec.engine.max_model_len,
            )
        return await self._search(
            question,
            retriever.wanting(wanted.top_k),
            tenant=caller.tenant,
            filter=wanted.filter,
            within_s=deadline - asyncio.get_running_loop().time(),
        )

    async def _prompt(
        self, request: ChatRequest, found: list[CitedPassage], max_tokens: int
    ) -> tuple[Prompt, list[CitedPassage], int]:
        if self._reads_passages:
            # Each passage is read with the question by a tokenizer that isn't here: the model says how much that was.
            return request.question, with_priors(found), 0
        budget = self.spec.engine.max_model_len - max_tokens
        return await asyncio.to_thread(fit, self.spec.prompt, request.messages, found, count=self._count, budget=budget)

    async def _pieces(
        self, requests: list[GenerationRequest], *, stream: bool, deadline: float
    ) -> AsyncGenerator[Piece, None]:
        source = merged([self._generate(request, stream=stream) for request in requests])
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

    def _log(self, answer: Answer, prompt: Any) -> None:
        if self.spec.log_prompts:
            prompts_log.info("prompt of %s: %s", answer.id, json.dumps(prompt, ensure_ascii=False))


def _generation(
    request: ChatRequest | CompletionRequest,
    prompt: list[dict[str, str]] | str,
    max_tokens: int,
    adapter: str | None,
    index: int,
) -> GenerationRequest:
    return GenerationRequest(
        prompt,
        max_tokens,
        adapter=adapter,
        temperature=request.effective_temperature,
        top_p=request.top_p or 1.0,
        stop=request.stops,
        # Each choice is drawn from a seed of its own, or all would be the same.
        seed=None if request.seed is None else request.seed ^ index,
    )


def _answer(
    kind: str,
    model: str,
    pieces: AsyncGenerator[Piece, None],
    per_prompt: int,
    prompt_tokens: Sequence[int],
    *,
    passages: Iterable[CitedPassage] = (),
    searched: Searched | None = None,
) -> Answer:
    id, now = f"{kind}-{uuid.uuid4().hex}", int(time.time())
    return Answer(id, now, model, list(passages), pieces, per_prompt, prompt_tokens, searched)


async def _said(text: str, choices: int) -> AsyncGenerator[Piece, None]:
    for index in range(choices):
        yield replace(Piece(text, "stop"), index=index)
