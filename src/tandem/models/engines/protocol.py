"""The protocol of an engine: what is asked of it, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class ScoredDocument:
    """A document for a model that reads each one by itself.

    Attributes:
        title: Its title.
        text: What is read.
        score: Inner product of its vector with the question's.
    """

    title: str
    text: str
    score: float


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate.

    Attributes:
        messages: Chat messages, ``{"role", "content"}``; or a text to go on from, without the chat template.
        max_tokens: Tokens of the answer, at most.
        adapter: The name of an adapter that the engine was opened with; None for the base model.
        temperature: 0 is greedy decoding.
        top_p: Nucleus sampling (Holtzman et al., arXiv 1904.09751); 1 keeps every token.
        stop: The answer ends before the first of these.
        seed: Makes a sampled answer reproducible; greedy ones are anyway.
        documents: For `tandem.models.rag_sequence` alone, whose `messages` is a question; elsewhere they are in the
            messages.
    """

    messages: list[dict[str, str]] | str
    max_tokens: int
    adapter: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    documents: tuple[ScoredDocument, ...] = ()


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
