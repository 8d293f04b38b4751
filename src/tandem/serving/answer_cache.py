"""Answers that were given before, by all that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, replace

from cachetools import TTLCache

from tandem.models.engines.protocol import GenerationRequest
from tandem.serving.answers import Generate, Piece
from tandem.specs.rag import CacheSpec


class CachedGenerate:
    """A language model that remembers its answers to requests that decide them: greedy ones, and those with a seed.

    The key is the whole prompt, passages included, with adapter and sampling: another state of the index, another
    tenant's passages or another prompt make another key, and nothing needs to be forgotten when one of them changes.
    A new version of an adapter comes with a new cache; what a replica that hasn't loaded it yet still answers by the
    old one isn't kept.

    Args:
        generate: The language model.
        spec: How many answers, and for how long.
        adapters: URIs by name, of which answers are kept.
    """

    def __init__(self, generate: Generate, spec: CacheSpec, adapters: Mapping[str, str]) -> None:
        self._generate = generate
        self._adapters = adapters
        self._answers: TTLCache[str, Piece] = TTLCache(spec.answers, spec.answers_ttl_s)

    async def __call__(self, request: GenerationRequest, *, stream: bool) -> AsyncGenerator[Piece, None]:
        """An answer in pieces; a remembered one in one piece, marked as such."""
        key = _key(request)
        known = self._answers.get(key) if key else None
        if known is not None:
            yield replace(known, cached=True)
            return
        adapter = self._adapters[request.adapter] if request.adapter else None
        text = ""
        async with aclosing(self._generate(request, stream=stream)) as pieces:
            async for piece in pieces:
                text += piece.text
                if piece.finish_reason is not None and key and piece.adapter == adapter:
                    self._answers[key] = replace(piece, text=text)
                yield piece


def _key(request: GenerationRequest) -> str | None:
    if request.temperature > 0 and request.seed is None:
        return None
    return hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).hexdigest()
