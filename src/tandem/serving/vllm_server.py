"""The language model's deployment on vLLM, by Ray Serve LLM.

Ray's and vLLM's own objects are used beyond their public API here, and nowhere else: where that API has no way to load
an adapter from any path, to drop one, or to hand over a prompt's tokens.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from tandem.errors import InputError, ModelError, TandemError
from tandem.models.engines import vllm_cpu_lora
from tandem.models.engines.prompting import encode, load_tokenizer
from tandem.models.engines.protocol import FinishReason, GenerationRequest
from tandem.models.engines.vllm import sampling_params
from tandem.serving.adapters import Adapters
from tandem.serving.answers import Piece
from tandem.serving.language_models import LanguageModel, fitting_adapter
from tandem.serving.pacing import paced
from tandem.specs.adapters import ServedAdapters


class VllmServer(LanguageModel):
    """One replica of Ray Serve LLM's `LLMServer`; its adapters come with `reconfigure`.

    Args:
        config: A `ray.serve.llm.LLMConfig`.
        model: The base model's folder.
        storage: The cluster's storage folder, for `artifact:` URIs.
    """

    # Ray Serve awaits it, as it does LLMServer's own.
    async def __init__(self, config: Any, model: str, storage: str) -> None:  # type: ignore[misc]
        from ray.serve.llm.deployment import LLMServer

        self._model, self._storage = Path(model), Path(storage)
        self._tokenizer = load_tokenizer(self._model)
        self._max_model_len: int = config.engine_kwargs["max_model_len"]
        self._server: Any = LLMServer.sync_init(config)
        await self._server.start()
        if "worker_extension_cls" in config.engine_kwargs:
            await self._server.collective_rpc(vllm_cpu_lora.INSTALL)
        self._adapters = Adapters(self._load, self._drop)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load and drop adapters: see `Adapters.become`."""
        await self._adapters.become(ServedAdapters.model_validate(user_config))

    async def _load(self, key: str, uri: str) -> None:
        # Every replica loads every adapter, before it is asked for. Ray's own way, loading at the first request, takes
        # adapters from buckets alone.
        from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig

        path = str(await asyncio.to_thread(fitting_adapter, uri, self._model, self._storage))
        try:
            await self._server.engine.resolve_lora(
                DiskMultiplexConfig(model_id=key, max_total_tokens=None, local_path=path, lora_assigned_int_id=1)
            )
        except ValueError as error:
            raise ModelError(str(error), where=path, remedy="was it trained on this base model?") from error

    async def _drop(self, key: str) -> None:
        engine = self._server.engine
        # vLLM's own unloading forgets the name alone, and leaves the weights where they are.
        lora = engine._oai_models.lora_requests.pop(key)
        await engine._engine_client.remove_lora(lora.lora_int_id)

    async def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:
        """An answer in pieces, as vLLM makes them; see `paced`."""
        async with (
            self._adapters.using(request.adapter) as used,
            aclosing(paced(self._generate(replace(request, adapter=used.key), stream))) as pieces,
        ):
            async for piece in pieces:
                yield replace(piece, adapter=used.uri)

    async def _generate(self, request: GenerationRequest, stream: bool) -> AsyncGenerator[Piece, None]:
        from vllm.sampling_params import RequestOutputKind

        engine = self._server.engine
        loras = engine._oai_models.lora_requests
        kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        try:
            (ids,) = await asyncio.to_thread(
                encode, self._tokenizer, [request], max_model_len=self._max_model_len, adapters=loras
            )
        except InputError as error:
            yield Piece("", refused=error.what)
            return
        # Not by vLLM's OpenAI layer: it would write each token as JSON, for us to read it again.
        outputs = engine._engine_client.generate(
            {"prompt_token_ids": ids},
            sampling_params(request, output_kind=kind),
            uuid.uuid4().hex,
            lora_request=loras[request.adapter] if request.adapter else None,
        )
        async with aclosing(pieces_of(outputs)) as pieces:
            async for piece in pieces:
                yield piece

    async def check_health(self) -> None:
        """Fails when the engine's processes are dead, so that Serve replaces the replica."""
        await self._server.check_health()

    async def ready(self) -> None:
        """As `check_health`."""
        await self.check_health()

    async def __del__(self) -> None:
        # Serve calls this when it stops a replica: its engine's processes must end with it.
        engine = getattr(getattr(self, "_server", None), "engine", None)
        client = getattr(engine, "_engine_client", None)
        if client is not None:
            client.shutdown()


async def pieces_of(outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Piece, None]:
    """The pieces in what vLLM's engine gives: each of its outputs has the text and the tokens that are new.

    Args:
        outputs: `vllm.RequestOutput` of one request with one answer; closed however this ends, which ends the request.

    Raises:
        TandemError: The engine failed.
    """
    from vllm.exceptions import VLLMClientError, VLLMServerError

    tokens = 0
    try:
        async with aclosing(outputs):
            async for output in outputs:
                (answer,) = output.outputs
                tokens += len(answer.token_ids)
                reason = answer.finish_reason
                if reason is None:
                    yield Piece(answer.text, completion_tokens=tokens)
                elif reason in get_args(FinishReason):
                    yield Piece(answer.text, reason, len(output.prompt_token_ids), tokens)
                else:
                    raise TandemError(f"the engine ended the answer: {reason}")
    except VLLMClientError as error:
        # It may quote the prompt; the caller, whose prompt it is, may see it.
        yield Piece("", refused=str(error))
    except VLLMServerError:
        # vLLM has logged why; what Serve logs of it must not quote the prompt.
        raise TandemError("the engine failed") from None
