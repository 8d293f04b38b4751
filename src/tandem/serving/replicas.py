"""The ingress's deployment: what Ray Serve runs before retriever and language model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tandem.errors import InputError, SpecError
from tandem.models.engines.prompting import load_plain_tokenizer, load_tokenizer, token_ids
from tandem.models.engines.protocol import GenerationRequest
from tandem.serving.answers import CitedPassage, Piece
from tandem.serving.api_keys import KeyRing
from tandem.serving.chat import ChatService
from tandem.serving.readiness import Readiness, threads_turn
from tandem.serving.signals import Meter, Observation, log
from tandem.specs.rag import RECONFIGURABLE, RagSequenceSpec, RagSpec

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI
    from numpy.typing import NDArray

    from tandem.retrieval.store import Filter
    from tandem.specs.search import SearchSpec

_PLAIN = {"request_serialization": "pickle", "response_serialization": "pickle"}  # a third of cloudpickle's time


class Ingress:
    """The HTTP side of the application.

    Args:
        spec: The application's spec, as JSON types.
        model: The base model's folder; only its tokenizer is read.
        plain: Whether the tokenizer is what its tokenizer.json says: see `is_plain`.
        keys: The file of hashed API keys.
        retriever: Handle of the `Retriever` deployment.
        llm: Handle of the language model's deployment.
    """

    def __init__(self, spec: dict[str, Any], model: str, plain: bool, keys: str, retriever: Any, llm: Any) -> None:
        self._spec = spec
        self._keys = KeyRing(Path(keys))
        built = RagSpec.model_validate(spec)
        # `rag_sequence` builds no prompts, and its two tokenizers have no chat template.
        load = load_plain_tokenizer if plain else load_tokenizer
        tokenizer = None if isinstance(built.engine, RagSequenceSpec) else load(Path(model))
        self._count = lambda prompt: len(token_ids(tokenizer, prompt))
        self._retriever = retriever.options(**_PLAIN)
        self._llm = llm.options(**_PLAIN)
        self._llm_stream = llm.options(stream=True, **_PLAIN)
        self._service = self._build(built)
        scaling = self._service.spec.autoscaling
        # Asking a part that may scale to zero would keep it from that.
        parts = {
            "retriever": (scaling.retriever, lambda: _outcome(self._retriever.ready.remote())),
            "llm": (scaling.llm, lambda: _outcome(self._llm.ready.remote())),
        }
        self._meter: Meter | None = None
        self._ready = Readiness({name: ask for name, (replicas, ask) in parts.items() if replicas.min_replicas})

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

        meter = self._meter = Meter(self._service.spec.name)

        def observe(seen: Observation) -> None:
            log(seen)
            meter(seen)

        return create_app(lambda: self._service, self._keys, observe, self._ready, meter.in_flight)

    async def check_health(self) -> None:
        """Fails when its threads are stuck, so that Serve replaces the replica; it comes every ten seconds."""
        await threads_turn()
        if self._meter is not None:
            self._meter.keep()

    async def _search(
        self, question: str, how: SearchSpec, *, tenant: str | None, filter: Filter | None, within_s: float
    ) -> list[CitedPassage]:
        response = self._retriever.search.remote(question, how, tenant, filter, within_s)
        found: list[CitedPassage] = await _outcome(response)
        self._ready.heard("retriever")
        return found

    async def _embed(self, texts: list[str], *, question: bool) -> tuple[NDArray[np.float32], int]:
        embedded: tuple[NDArray[np.float32], int] = await _outcome(self._retriever.embed.remote(texts, question))
        return embedded

    async def _generate(self, request: GenerationRequest, *, stream: bool) -> AsyncGenerator[Piece, None]:
        # A stream through Ray costs twice what one answer does.
        response = self._llm_stream.generate.remote(request) if stream else self._llm.answer.remote(request)
        ended = False
        try:
            if stream:
                async for piece in response:
                    self._ready.heard("llm")
                    yield _taken(piece)
            else:
                whole: Piece = await response
                self._ready.heard("llm")
                yield _taken(whole)
            ended = True
        finally:
            if not ended:
                response.cancel()


async def _outcome(response: Any) -> Any:
    """What a deployment answers; when nobody waits for it any more it is cancelled there too."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


def _taken(piece: Piece) -> Piece:
    """A piece of an answer.

    Raises:
        InputError: It is a refusal; only here, where the caller is, it is one.
    """
    if piece.refused is not None:
        raise InputError(piece.refused)
    return piece
