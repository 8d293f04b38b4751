"""Answers in OpenAI's shapes: the plain body, and the events of a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from tandem.serving.api_errors import as_api_error
from tandem.serving.chat import Answer, ChatService, Piece

OWNER = "tandem"
DONE = "data: [DONE]\n\n"


def model_card(name: str, service: ChatService) -> dict[str, Any]:
    """One entry of ``GET /v1/models``; `adapter` says what the name stands for."""
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER, "adapter": service.adapter(name)}


def completion(answer: Answer, pieces: list[Piece]) -> dict[str, Any]:
    """The body of a plain answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(piece.text for piece in pieces)},
        "finish_reason": pieces[-1].finish_reason,
        "logprobs": None,
    }
    return {
        **_head(answer, "chat.completion"),
        "choices": [choice],
        "usage": usage_of(pieces[-1]),
        "citations": answer.citations(),
    }


async def events(answer: Answer, first: Piece, *, usage: bool) -> AsyncIterator[str]:
    """A streamed answer as server-sent events; the chunk with the finish reason has the citations.

    Args:
        answer: What has begun.
        first: Its first piece, already taken.
        usage: End with a chunk of token counts, as ``stream_options.include_usage`` asks.
    """
    last = first
    try:
        yield _event(_chunk(answer, {"role": "assistant", "content": first.text}))
        async for piece in answer.pieces:
            last = piece
            if piece.text:
                yield _event(_chunk(answer, {"content": piece.text}))
    except Exception as error:  # noqa: BLE001 - the status is sent; the client's library raises on this event
        yield _event(as_api_error(error).body())
        yield DONE
        return
    yield _event(_chunk(answer, {}, last.finish_reason) | {"citations": answer.citations()})
    if usage:
        yield _event({**_head(answer, "chat.completion.chunk"), "choices": [], "usage": usage_of(last)})
    yield DONE


def usage_of(last: Piece) -> dict[str, int]:
    """Token counts, in OpenAI's words."""
    return {
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.completion_tokens,
        "total_tokens": last.prompt_tokens + last.completion_tokens,
    }


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": answer.id, "object": kind, "created": answer.created, "model": answer.model}


def _chunk(answer: Answer, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {**_head(answer, "chat.completion.chunk"), "choices": [choice]}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
