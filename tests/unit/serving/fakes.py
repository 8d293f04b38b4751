"""Stand-ins for the deployments behind the ingress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from tandem.models.engines import GenerationRequest
from tandem.serving.chat import Piece


@dataclass(frozen=True)
class FakePassage:
    id: str
    source: str
    text: str
    score: float
    tenant: str | None = None
    section: str = ""


@dataclass
class FakeSearch:
    """Returns its passages, those of the tenant alone, and remembers how it was asked."""

    passages: list[FakePassage]
    calls: list[dict] = field(default_factory=list)
    error: Exception | None = None
    hangs: bool = False

    async def __call__(self, question: str, *, top_k: int, mode: str, tenant: str | None) -> list[FakePassage]:
        self.calls.append({"question": question, "top_k": top_k, "mode": mode, "tenant": tenant})
        if self.error:
            raise self.error
        if self.hangs:
            await asyncio.Event().wait()
        return [p for p in self.passages if tenant is None or p.tenant == tenant][:top_k]


@dataclass
class FakeLlm:
    """Answers in the given words; `open` counts generations that were neither finished nor closed."""

    words: tuple[str, ...] = ("Forty", "-two", ".")
    requests: list[GenerationRequest] = field(default_factory=list)
    error: Exception | None = None
    error_after: int = 0
    hangs_after: int | None = None
    open: int = 0

    async def __call__(self, request: GenerationRequest, *, stream: bool) -> AsyncGenerator[Piece, None]:
        self.requests.append(request)
        self.open += 1
        try:
            for number, word in enumerate(self.words if stream else ("".join(self.words),)):
                if self.error and number == self.error_after:
                    raise self.error
                if number == self.hangs_after:
                    await asyncio.Event().wait()
                yield Piece(word)
            yield Piece("", "stop", 20, len(self.words))
        finally:
            self.open -= 1
