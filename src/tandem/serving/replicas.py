"""What Ray Serve runs beside the language model: the ingress, and the retriever behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tandem.config.cluster import Cluster
from tandem.config.machine import cores
from tandem.errors import SpecError
from tandem.models.engines.prompting import load_tokenizer, token_ids
from tandem.models.engines.protocol import GenerationRequest
from tandem.serving.answers import CitedPassage, Piece
from tandem.serving.api_keys import KeyRing
from tandem.serving.chat import ChatService
from tandem.specs.rag import RagSpec

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI
    from numpy.typing import NDArray

    from tandem.retrieval.retriever import Passage
    from tandem.retrieval.store import Filter, Mode

    Settings = tuple[int, Mode, str | None, str]  # top_k, mode, tenant, filter as JSON

RETRIEVER_BATCH = 32
RETRIEVER_THREADS = 4  # at most: one short question gains nothing from more
_PLAIN = {"request_serialization": "pickle", "response_serialization": "pickle"}  # a third of cloudpickle's time
# May change while the application runs, through the Serve config's `user_config`; the rest needs new replicas.
RECONFIGURABLE = frozenset({"conversation", "default_model", "limits", "log_prompts", "prompt", "retriever"})


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
        tokenizer = load_tokenizer(Path(model))
        self._count = lambda prompt: len(token_ids(tokenizer, prompt))
        self._retriever = retriever.options(**_PLAIN)
        self._llm = llm.options(**_PLAIN)
        self._llm_stream = llm.options(stream=True, **_PLAIN)
        self._service = self._build(RagSpec.model_validate(spec))

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
        if spec.retriever.collection != self._service.spec.retriever.collection:
            raise SpecError(
                "another collection needs a new retriever",
                where="user_config.retriever.collection",
                remedy="change the application's args",
            )
        self._service = self._build(spec)

    def _build(self, spec: RagSpec) -> ChatService:
        return ChatService(spec, search=self._search, embed=self._embed, generate=self._generate, count=self._count)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The ASGI application of this replica; Ray Serve asks for it by this name."""
        from tandem.serving.http import create_app

        return create_app(lambda: self._service, self._keys)

    async def _search(
        self, question: str, *, top_k: int, mode: Mode, tenant: str | None, filter: Filter | None
    ) -> list[CitedPassage]:
        found: list[CitedPassage] = await self._retriever.search.remote(question, top_k, mode, tenant, filter)
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
    """Searches one collection; questions that arrive together are embedded together.

    Args:
        storage: The cluster's storage folder.
        collection: What is searched.
    """

    def __init__(self, storage: str, collection: str) -> None:
        import torch
        from ray import serve

        from tandem.retrieval.retriever import open_retriever

        # Ray gives an actor with a tenth of a CPU one thread; the question is somebody's waiting time.
        torch.set_num_threads(min(RETRIEVER_THREADS, cores()))
        self._retriever = open_retriever(Cluster.load(Path(storage)), collection)
        # Nobody waits for others to come: what arrives while a batch is searched is the next one.
        self._batched = serve.batch(max_batch_size=RETRIEVER_BATCH, batch_wait_timeout_s=0)(self._search)

    async def search(
        self, question: str, top_k: int, mode: Mode, tenant: str | None, filter: Filter | None
    ) -> list[Passage]:
        """Passages for a question, best first; of the tenant alone, if there is one, and within the filter."""
        found: list[Passage] = await self._batched((question, (top_k, mode, tenant, json.dumps(filter))))
        return found

    async def embed(self, texts: list[str]) -> tuple[NDArray[np.float32], int]:
        """Vectors as the collection's, float32, (texts, dimension); and the tokens that were read."""
        return await asyncio.to_thread(self._retriever.embed, texts)

    async def _search(self, calls: list[tuple[str, Settings]]) -> list[list[Passage]]:
        groups: dict[Settings, list[int]] = {}
        for index, (_, settings) in enumerate(calls):
            groups.setdefault(settings, []).append(index)
        found: list[list[Passage]] = [[] for _ in calls]
        for (top_k, mode, tenant, narrowed), members in groups.items():
            questions = [calls[index][0] for index in members]
            # In a thread: embedding takes milliseconds of processor time, and the replica's event loop must turn.
            results = await asyncio.to_thread(
                self._retriever.search, questions, top_k=top_k, mode=mode, tenant=tenant, filter=json.loads(narrowed)
            )
            for index, passages in zip(members, results, strict=True):
                found[index] = passages
        return found
