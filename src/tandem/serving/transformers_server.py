"""The language model's deployment on transformers, where vLLM can't run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandem.models.engines.opening import open_engine
from tandem.models.engines.protocol import Generation, GenerationRequest
from tandem.models.engines.transformers import TransformersEngine
from tandem.serving.adapters import Adapters
from tandem.serving.answers import Piece
from tandem.serving.batching import Batcher
from tandem.serving.language_models import LanguageModel, fitting_adapter
from tandem.specs.adapters import ServedAdapters
from tandem.specs.compare import EngineSpec

BATCH = 16
BATCH_WAIT_S = 0.02


class TransformersServer(LanguageModel):
    """The transformers engine behind the same method; requests that arrive together share a batch.

    A streamed answer comes in one piece.

    Args:
        engine: Number type and lengths.
        model: The base model's folder.
        storage: The cluster's storage folder, for `artifact:` URIs.
    """

    def __init__(self, engine: dict[str, Any], model: str, storage: str) -> None:
        self._model, self._storage = Path(model), Path(storage)
        spec = EngineSpec.model_validate({**engine, "name": "transformers"})
        opened = open_engine(spec, self._model, {})
        assert isinstance(opened, TransformersEngine)
        self._engine = opened
        # Adapters come and go between batches: the model is one.
        self._one_at_a_time = asyncio.Lock()
        self._adapters = Adapters(self._load, self._drop)
        self._batched = Batcher(self._generate, max_size=BATCH, wait_s=BATCH_WAIT_S)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load and drop adapters: see `Adapters.become`."""
        await self._adapters.become(ServedAdapters.model_validate(user_config))

    async def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:  # noqa: ARG002
        """An answer, in one piece."""
        async with self._adapters.using(request.adapter) as used:
            answer = await self._batched(replace(request, adapter=used.key))
        counts = answer.prompt_tokens, answer.completion_tokens
        yield Piece(answer.text, answer.finish_reason, *counts, adapter=used.uri)

    async def _generate(self, requests: list[GenerationRequest]) -> list[Generation]:
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._engine.generate, requests)

    async def _load(self, key: str, uri: str) -> None:
        path = await asyncio.to_thread(fitting_adapter, uri, self._model, self._storage)
        async with self._one_at_a_time:
            await asyncio.to_thread(self._engine.load_adapter, key, path)

    async def _drop(self, key: str) -> None:
        async with self._one_at_a_time:
            await asyncio.to_thread(self._engine.drop_adapter, key)
