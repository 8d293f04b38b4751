"""The protocol of an engine, and the choice between the two that there are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tandem.models.engines.hardware import choose_dtype, choose_engine, read_processor, vllm_obstacle
from tandem.specs.compare import EngineSpec

logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate.

    Attributes:
        messages: Chat messages, ``{"role", "content"}``.
        max_tokens: Tokens of the answer, at most.
        adapter: The name of an adapter that the engine was opened with; None for the base model.
        temperature: 0 is greedy decoding.
        top_p: Nucleus sampling (Holtzman et al., arXiv 1904.09751); 1 keeps every token.
        stop: The answer ends before the first of these.
        seed: Makes a sampled answer reproducible; greedy ones are anyway.
    """

    messages: list[dict[str, str]]
    max_tokens: int
    adapter: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Generation:
    """One generated answer.

    Attributes:
        text: Without the prompt, special tokens and the stop string.
        prompt_tokens: Tokens of the prompt, chat template included.
        completion_tokens: Tokens generated, the one that ended the answer included.
        finish_reason: ``stop`` (the model ended it, or a stop string) or ``length``.
        latency_ms: From when the engine began to work on it until its last token, among whatever shared its batch.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    latency_ms: float


class Engine(Protocol):
    """A base model with adapters, in this process or in processes of its own until `close`."""

    name: str

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Generate answers together, in whatever batches are fastest.

        Returns:
            One generation per request, in their order.

        Raises:
            InputError: A request, named by its index, has an unknown adapter, or prompt and answer together
                exceed ``max_model_len``; nothing was generated.
        """
        ...

    def close(self) -> None:
        """Free the model and end every process that the engine started. A second call does nothing."""
        ...


def open_engine(spec: EngineSpec, model: Path, adapters: Mapping[str, Path]) -> Engine:
    """Load a base model and its adapters into the engine that the spec asks for.

    Args:
        spec: Which engine, its number type and lengths.
        model: A folder with config.json, safetensors and tokenizer.
        adapters: Folders of PEFT adapters, by the name that requests use.

    Raises:
        InputError: The engine that was asked for by name can't run here.
        ModelError: The model has no chat template, or an adapter can't be read.
    """
    processor = read_processor()
    # Only asked when it matters: importing vLLM takes seconds.
    obstacle = None if spec.name == "transformers" else vllm_obstacle(processor)
    name, reason = choose_engine(spec.name, obstacle)
    dtype = choose_dtype(spec.dtype, processor, engine=name)
    logger.info("engine: %s in %s (%s)", name, dtype, reason)
    if name == "vllm":
        from tandem.models.engines.vllm import VllmEngine

        return VllmEngine(spec, model, adapters, dtype=dtype, processor=processor)
    from tandem.models.engines.transformers import TransformersEngine

    return TransformersEngine(spec, model, adapters, dtype=dtype, processor=processor)
