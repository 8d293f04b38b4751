"""Stand-ins for the deployments behind the ingress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import numpy as np

from tandem.models.engines import GenerationRequest
from tandem.serving.answers import Piece
from tandem.specs.search import SearchSpec


def words(prompt) -> int:
    """A word is a token."""
    return len(prompt.split()) if isinstance(prompt, str) else sum(len(m["content"].split()) for m in prompt)


@dataclass(frozen=True)
class FakePassage:
    id: str
    source: str
    text: str
    score: float
    tenant: str | None = None
    section: str = ""
    title: str = ""
    page: int | None = None
    line: int | None = None
    modified_at: str | None = None


@dataclass
class FakeSearch:
    """Returns its passages, those of the tenant alone, and remembers how it was asked.

    `open` counts searches that hang.
    """

    passages: list[FakePassage]
    calls: list[dict] = field(default_factory=list)
    error: Exception | None = None
    hangs: bool = False
    open: int = 0

    async def __call__(
        self, question: str, how: SearchSpec, *, tenant: str | None, filter: dict | None, within_s: float
    ) -> list[FakePassage]:
        asked = {"question": question, "top_k": how.top_k, "mode": how.mode}
        self.calls.append({**asked, "tenant": tenant, "filter": filter, "within_s": within_s})
        if self.error:
            raise self.error
        if self.hangs:
            self.open += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.open -= 1
        visible = [p for p in self.passages if tenant is None or p.tenant == tenant]
        fields = (filter or {}).items()
        return [p for p in visible if all(getattr(p, name, None) == value for name, value in fields)][: how.top_k]


@dataclass
class FakeLlm:
    """Answers in the given words, or as it `says` to prompts with a part in them, by adapters at these URIs.

    `open` counts generations that were neither finished nor closed; before the end it says its tokens only if a word
    has some.
    """

    words: tuple[str, ...] = ("Forty", "-two", ".")
    requests: list[GenerationRequest] = field(default_factory=list)
    error: Exception | None = None
    error_after: int = 0
    hangs_after: int | None = None
    open: int = 0
    says: dict[str, str] = field(default_factory=dict)
    tokens_of_a_word: int = 0
    adapters: dict[str, str] = field(default_factory=lambda: {"tuned": "artifact:tuned", "other": "artifact:other"})

    async def __call__(self, request: GenerationRequest, *, stream: bool) -> AsyncGenerator[Piece, None]:
        self.requests.append(request)
        self.open += 1
        try:
            asked = request.messages if isinstance(request.messages, str) else request.messages[-1]["content"]
            words = next(((text,) for part, text in self.says.items() if part in asked), self.words)
            for number, word in enumerate(words if stream else ("".join(words),)):
                if self.error and number == self.error_after:
                    raise self.error
                if number == self.hangs_after:
                    await asyncio.Event().wait()
                yield Piece(word, completion_tokens=self.tokens_of_a_word * (number + 1))
            adapter = self.adapters[request.adapter] if request.adapter else None
            yield Piece("", "stop", 20, len(words), adapter=adapter)
        finally:
            self.open -= 1


@dataclass
class FakeEmbedder:
    """Two numbers for each text."""

    calls: list[list[str]] = field(default_factory=list)
    questions: list[bool] = field(default_factory=list)

    async def __call__(self, texts: list[str], *, question: bool) -> tuple[np.ndarray, int]:
        self.calls.append(texts)
        self.questions.append(question)
        return np.array([[len(text), 0.5] for text in texts], dtype=np.float32), sum(len(t.split()) for t in texts)


@dataclass
class Clock:
    """Stands still."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now
