"""Answers in OpenAI's shapes: the plain body, and the events of a stream."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tandem.serving.answers import Answer, Piece, Usage
from tandem.serving.api_errors import as_api_error
from tandem.serving.chat import ChatService
from tandem.specs.rag import EMBEDDER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OWNER = "tandem"
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Shape:
    """How a path words its answers.

    Attributes:
        whole_kind: The `object` of a plain answer.
        part_kind: The `object` of a stream's chunk.
        whole: A choice's text.
        part: A part of it; `first` of its choice or not.
        cites: Whether answers have citations.
    """

    whole_kind: str
    part_kind: str
    whole: Callable[[str], dict[str, Any]]
    part: Callable[[str, bool], dict[str, Any]]
    cites: bool


def _delta(text: str, first: bool) -> dict[str, Any]:
    return {"delta": ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})}


CHAT = Shape(
    "chat.completion",
    "chat.completion.chunk",
    lambda text: {"message": {"role": "assistant", "content": text}},
    _delta,
    cites=True,
)
TEXT = Shape("text_completion", "text_completion", lambda text: {"text": text}, lambda text, _: {"text": text}, False)


def model_cards(service: ChatService) -> list[dict[str, Any]]:
    """The entries of ``GET /v1/models``; `adapter` and `task` say what a name stands for."""
    chat = [_card(name, "chat", service.adapter(name)) for name in service.models()]
    return [*chat, _card(EMBEDDER, "embedding", None)]


def completion(shape: Shape, answer: Answer, pieces: list[Piece], usage: Usage) -> dict[str, Any]:
    """The body of a plain answer."""
    texts = [""] * answer.choices
    reasons: list[str | None] = [None] * answer.choices
    for piece in pieces:
        texts[piece.index] += piece.text
        reasons[piece.index] = piece.finish_reason or reasons[piece.index]
    choices = [
        {"index": index, **shape.whole(text), "finish_reason": reasons[index], "logprobs": None}
        for index, text in enumerate(texts)
    ]
    body = {**_head(answer, shape.whole_kind), "choices": choices, "usage": usage_of(usage)}
    return body | ({"citations": answer.citations()} if shape.cites else {})


async def events(shape: Shape, answer: Answer, first: Piece, usage: Usage, *, wants_usage: bool) -> AsyncIterator[str]:
    """A streamed answer as server-sent events; the last finish reason's chunk has the citations.

    Args:
        shape: The path's.
        answer: What has begun.
        first: Its first piece, already taken.
        usage: Counts what passes.
        wants_usage: End with a chunk of token counts, as ``stream_options.include_usage`` asks.
    """
    reasons: dict[int, str | None] = {}
    piece = first
    try:
        while True:
            is_first = piece.index not in reasons
            if piece.text or is_first:
                yield _event(_chunk(shape, answer, shape.part(piece.text, is_first), piece.index))
            reasons[piece.index] = piece.finish_reason
            piece = await anext(answer.pieces)
    except StopAsyncIteration:
        pass
    except Exception as error:  # noqa: BLE001 - the status is sent; the client's library raises on this event
        yield _event(as_api_error(error).body())
        yield DONE
        return
    for index in range(answer.choices):
        chunk = _chunk(shape, answer, shape.part("", False), index, reasons.get(index))
        last = shape.cites and index == answer.choices - 1
        yield _event(chunk | ({"citations": answer.citations()} if last else {}))
    if wants_usage:
        yield _event({**_head(answer, shape.part_kind), "choices": [], "usage": usage_of(usage)})
    yield DONE


def embeddings(
    model: str, vectors: NDArray[np.float32], tokens: int, encoding: Literal["float", "base64"]
) -> dict[str, Any]:
    """The body of ``POST /v1/embeddings``."""

    def encoded(vector: NDArray[np.float32]) -> list[float] | str:
        return vector.tolist() if encoding == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()

    data = [
        {"object": "embedding", "index": index, "embedding": encoded(vector)} for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def usage_of(usage: Usage) -> dict[str, int]:
    """Token counts, in OpenAI's words."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _card(name: str, task: str, adapter: str | None) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER, "task": task, "adapter": adapter}


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": answer.id, "object": kind, "created": answer.created, "model": answer.model}


def _chunk(
    shape: Shape, answer: Answer, part: dict[str, Any], index: int, finish_reason: str | None = None
) -> dict[str, Any]:
    choice = {"index": index, **part, "finish_reason": finish_reason, "logprobs": None}
    return {**_head(answer, shape.part_kind), "choices": [choice]}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
