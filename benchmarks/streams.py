"""Streamed answers over HTTP, so many at a time: tokens per second, and how long the first takes."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass

from benchmarks.clusters import KEY

STREAMS = (1, 4, 16)
ROUNDS = {1: 6, 4: 4, 16: 2}  # requests of each stream, one after the other
QUESTIONS = sum(streams * ROUNDS[streams] for streams in STREAMS) + max(STREAMS)

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Load:
    """What one number of streams gave.

    Attributes:
        tokens_per_s: Of answers, all streams together.
        first_ms: Median time to the first piece of an answer.
        tokens: Of all answers.
    """

    tokens_per_s: float
    first_ms: float
    tokens: int


def measure(url: str, model: str, asked: list[Messages], max_tokens: int) -> dict[int, Load]:
    """Every number of streams, each on prompts that weren't asked before: prefix caches see the system turn alone."""
    asyncio.run(_load(url, model, asked[: max(STREAMS)], max(STREAMS), max_tokens))
    begin, loads = max(STREAMS), {}
    for streams in STREAMS:
        end = begin + streams * ROUNDS[streams]
        loads[streams] = asyncio.run(_load(url, model, asked[begin:end], streams, max_tokens))
        begin = end
    return loads


async def _load(url: str, model: str, asked: list[Messages], streams: int, max_tokens: int) -> Load:
    import httpx

    waiting = list(asked)
    first: list[float] = []
    tokens = 0

    async def stream(client: httpx.AsyncClient) -> None:
        nonlocal tokens
        while waiting:
            body = {
                "model": model,
                "messages": waiting.pop(),
                "max_tokens": max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            began = time.perf_counter()
            heard, counted, pieces = False, 0, 0
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                if not response.is_success:
                    raise SystemExit(f"{url} answered {response.status_code}: {(await response.aread())[:300]!r}")
                async for line in response.aiter_lines():
                    data = line.removeprefix("data: ")
                    if not line.startswith("data: ") or data == "[DONE]":
                        continue
                    event = json.loads(data)
                    text = [choice["delta"].get("content") for choice in event.get("choices", [])]
                    pieces += any(text)
                    if any(text) and not heard:
                        heard = True
                        first.append(1000 * (time.perf_counter() - began))
                    counted = (event.get("usage") or {}).get("completion_tokens", counted)
            tokens += counted or pieces

    headers = {"Authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600, trust_env=False, limits=limits) as client:
        began = time.perf_counter()
        await asyncio.gather(*(stream(client) for _ in range(streams)))
        seconds = time.perf_counter() - began
    return Load(tokens / seconds, statistics.median(first), tokens)
