"""A stand-in for somebody's OpenAI-compatible API over real HTTP, with faults on request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from stand_ins.http_server import serving

WORDS = ("Forty", "-two", ".")


@dataclass
class Upstream:
    """What was asked, and what goes wrong next.

    Attributes:
        faults: Statuses of the next answers, which quote the request. Of a stream after its first piece ``cut`` makes
            an error and ``dropped`` a lost connection. ``hangs`` sends nothing more, from a plain answer's beginning
            or after a stream's first piece; ``silent`` sends a stream's status and nothing else; ``page`` is HTML.
        open: Answers that hang, and whose caller is still there.
    """

    url: str = ""
    faults: list[int | str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    open: int = 0


async def hang(state: Upstream, request: Request) -> None:
    """Until the caller is gone."""
    state.open += 1
    try:
        while not await request.is_disconnected():
            await asyncio.sleep(0.02)
    finally:
        state.open -= 1


def build(state: Upstream) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/{path:path}")
    async def answer(path: str, request: Request) -> Response:
        body = await request.json()
        state.bodies.append({"path": path, **body})
        state.keys.append(request.headers.get("authorization"))
        fault = state.faults.pop(0) if state.faults else None
        if isinstance(fault, int):
            return JSONResponse(
                {"error": {"message": f"fault {fault} of {json.dumps(body)}"}}, fault, {"retry-after-ms": "1"}
            )
        if fault == "page":
            return HTMLResponse("<p>Welcome</p>")
        chat = path == "chat/completions"
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        head = {"id": "x", "created": 0, "model": body["model"], "object": "chat.completion" if chat else "text"}
        if not body.get("stream"):
            if fault == "hangs":
                await hang(state, request)
            text = "".join(WORDS)
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return JSONResponse(
                {**head, "choices": [{"index": 0, "finish_reason": "length", **choice}], "usage": usage}
            )

        async def events() -> AsyncIterator[str]:
            if fault == "silent":
                await hang(state, request)
            for word in WORDS:
                part = {"delta": {"content": word}} if chat else {"text": word}
                yield f"data: {json.dumps({**head, 'choices': [{'index': 0, 'finish_reason': None, **part}]})}\n\n"
                if fault == "cut":
                    yield f"data: {json.dumps({'error': {'message': f'broken by {json.dumps(body)}'}})}\n\n"
                    return
                if fault == "dropped":
                    raise ConnectionError
                if fault == "hangs":
                    await hang(state, request)
            last = {"delta": {}} if chat else {"text": ""}
            yield f"data: {json.dumps({**head, 'choices': [{'index': 0, 'finish_reason': 'stop', **last}]})}\n\n"
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


@contextmanager
def running() -> Iterator[Upstream]:
    """Start it on a free loopback port, and stop it at the end."""
    state = Upstream()
    with serving(build(state)) as url:
        state.url = f"{url}/v1"
        yield state
