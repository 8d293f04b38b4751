"""What Ray Serve runs beside the language model: the ingress, and the retriever behind it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tandem.config.cluster import Cluster
from tandem.config.machine import cores
from tandem.errors import NotFoundError, SpecError, TandemError
from tandem.models.engines.prompting import load_tokenizer, token_ids
from tandem.models.engines.protocol import GenerationRequest
from tandem.serving.answers import CitedPassage, Piece
from tandem.serving.api_keys import KeyRing
from tandem.serving.chat import ChatService
from tandem.serving.signals import Meter, Observation, log
from tandem.specs.rag import RECONFIGURABLE, RagSequenceSpec, RagSpec, RetrieverSpec

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI
    from numpy.typing import NDArray

    from tandem.retrieval.retriever import Passage
    from tandem.retrieval.retriever import Retriever as IndexRetriever
    from tandem.retrieval.store import Filter
    from tandem.specs.search import SearchSpec

    Settings = tuple[SearchSpec, str | None, str]  # how, tenant, filter as JSON

# Below Serve's own logger, whose files a replica writes.
logger = logging.getLogger("ray.serve.tandem")

RETRIEVER_BATCH = 32
FOLLOW_S = 5.0  # between two looks at what the collection's name stands for
RETRIEVER_THREADS = 4  # at most: one short question gains nothing from more
_PLAIN = {"request_serialization": "pickle", "response_serialization": "pickle"}  # a third of cloudpickle's time


class Ingress:
    """The HTTP side of the application.

    Args:
        spec: The application's spec, as JSON types.
        model: The base model's folder; only its tokenizer is read.
        keys: The file of hashed API keys.
        retriever: Handle of the `Retriever` deployment.
        llm: Handle of the language model's deployment.
    """

    def __init__(self, spec: dict[str, Any], model: str, keys: str, retriever: Any, llm: Any) -> None:
        self._spec = spec
        self._keys = KeyRing(Path(keys))
        built = RagSpec.model_validate(spec)
        # `rag_sequence` builds no prompts, and its two tokenizers have no chat template.
        tokenizer = None if isinstance(built.engine, RagSequenceSpec) else load_tokenizer(Path(model))
        self._count = lambda prompt: len(token_ids(tokenizer, prompt))
        self._retriever = retriever.options(**_PLAIN)
        self._llm = llm.options(**_PLAIN)
        self._llm_stream = llm.options(stream=True, **_PLAIN)
        self._service = self._build(built)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take over settings that need no new replica.

        Raises:
            SpecError: A setting isn't one of these, or has a wrong value; what was before stays.
        """
        unknown = sorted(set(user_config) - RECONFIGURABLE)
        if unknown:
            raise SpecError(
                f"can't change while it runs: {', '.join(unknown)}",
                where="user_config",
                remedy=f"these can: {', '.join(sorted(RECONFIGURABLE))}",
            )
        try:
            spec = RagSpec.model_validate({**self._spec, **user_config})
        except ValidationError as error:
            raise SpecError(str(error), where="user_config", remedy="what was before stays") from None
        if places := spec.needs_new_replicas(self._service.spec):
            raise SpecError(
                f"can't change while it runs: {', '.join(places)}",
                where="user_config",
                remedy="change the application's args",
            )
        self._service = self._build(spec)

    def _build(self, spec: RagSpec) -> ChatService:
        return ChatService(spec, search=self._search, embed=self._embed, generate=self._generate, count=self._count)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The ASGI application of this replica; Ray Serve asks for it by this name."""
        from tandem.serving.http import create_app

        meter = Meter(self._service.spec.name)

        def observe(seen: Observation) -> None:
            log(seen)
            meter(seen)

        return create_app(lambda: self._service, self._keys, observe)

    async def _search(
        self, question: str, how: SearchSpec, *, tenant: str | None, filter: Filter | None
    ) -> list[CitedPassage]:
        found: list[CitedPassage] = await self._retriever.search.remote(question, how, tenant, filter)
        return found

    async def _embed(self, texts: list[str]) -> tuple[NDArray[np.float32], int]:
        embedded: tuple[NDArray[np.float32], int] = await self._retriever.embed.remote(texts)
        return embedded

    async def _generate(self, request: GenerationRequest, *, stream: bool) -> AsyncGenerator[Piece, None]:
        # A stream through Ray costs twice what one answer does.
        response = self._llm_stream.generate.remote(request) if stream else self._llm.answer.remote(request)
        ended = False
        try:
            if stream:
                async for piece in response:
                    yield piece
            else:
                whole: Piece = await response
                yield whole
            ended = True
        finally:
            if not ended:
                response.cancel()


class Retriever:
    """Searches the collection that a name stands for; questions that arrive together are embedded together.

    Args:
        storage: The cluster's storage folder.
        spec: What is searched, and with which reranker, as JSON types; how, each search says.
        remembered: Questions whose vectors are kept.
        rag_model: The folder of a RAG model, whose question encoder takes the place of the collection's embedder.
    """

    def __init__(self, storage: str, spec: dict[str, Any], remembered: int, rag_model: str | None = None) -> None:
        import torch
        from ray import serve

        from tandem.models.rag_sequence import QuestionEncoder

        # Ray gives an actor with a tenth of a CPU one thread; the question is somebody's waiting time.
        torch.set_num_threads(min(RETRIEVER_THREADS, cores()))
        self._cluster = Cluster.load(Path(storage))
        self._spec = RetrieverSpec.model_validate(spec)
        self._remembered = remembered
        self._questions = QuestionEncoder(Path(rag_model)) if rag_model else None
        self._retriever = self._open()
        self._look_at = time.monotonic() + FOLLOW_S
        self._following: asyncio.Task[None] | None = None
        # Nobody waits for others to come: what arrives while a batch is searched is the next one.
        self._batched = serve.batch(max_batch_size=RETRIEVER_BATCH, batch_wait_timeout_s=0)(self._search)

    async def search(self, question: str, how: SearchSpec, tenant: str | None, filter: Filter | None) -> list[Passage]:
        """Passages for a question, best first; of the tenant alone, if there is one, and within the filter."""
        found: list[Passage] = await self._batched((question, (how, tenant, json.dumps(filter))))
        return found

    async def embed(self, texts: list[str]) -> tuple[NDArray[np.float32], int]:
        """Vectors as the collection's, float32, (texts, dimension); and the tokens that were read."""
        return await asyncio.to_thread(self._retriever.embed, texts)

    async def _search(self, calls: list[tuple[str, Settings]]) -> list[list[Passage]]:
        # Beside the searches: the collection that the name stood for until now is kept for a rollback.
        if time.monotonic() >= self._look_at and (self._following is None or self._following.done()):
            self._look_at = time.monotonic() + FOLLOW_S
            self._following = asyncio.create_task(self._follow())
        groups: dict[Settings, list[int]] = {}
        for index, (_, settings) in enumerate(calls):
            groups.setdefault(settings, []).append(index)
        found: list[list[Passage]] = [[] for _ in calls]
        for settings, members in groups.items():
            questions = [calls[index][0] for index in members]
            try:
                results = await self._ask(questions, settings)
            except NotFoundError:
                # The collection was dropped since the last look: its name stands for another, or for none.
                await self._follow()
                results = await self._ask(questions, settings)
            for index, passages in zip(members, results, strict=True):
                found[index] = passages
        return found

    async def _ask(self, questions: list[str], settings: Settings) -> list[list[Passage]]:
        how, tenant, narrowed = settings
        # In a thread: embedding takes milliseconds of processor time, and the replica's event loop must turn.
        return await asyncio.to_thread(
            self._retriever.search, questions, how, tenant=tenant, filter=json.loads(narrowed)
        )

    async def _follow(self) -> None:
        try:
            if await asyncio.to_thread(self._retriever.is_outdated, self._spec.collection):
                self._retriever = await asyncio.to_thread(self._open)
                logger.info("%s is %s from now on", self._spec.collection, self._retriever.collection)
        except TandemError as error:
            # What is open goes on answering; the next look comes soon.
            logger.warning("can't follow the collection %s: %s", self._spec.collection, error)

    def _open(self) -> IndexRetriever:
        from tandem.retrieval.retriever import open_retriever

        return open_retriever(
            self._cluster,
            self._spec.collection,
            self._spec.rerank,
            remembered=self._remembered,
            questions=self._questions,
        )
