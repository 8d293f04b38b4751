"""An answer while it comes, and what the parts behind the endpoint must do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tandem.models.engines.protocol import GenerationRequest
from tandem.models.prompts import PassageLike

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tandem.retrieval.store import Filter
    from tandem.specs.search import SearchSpec


WHEREABOUTS = ("page", "line", "modified_at")


class CitedPassage(PassageLike, Protocol):
    """A passage that can be cited."""

    @property
    def id(self) -> str:
        """The chunk's id."""
        ...

    @property
    def title(self) -> str:
        """The document's title."""
        ...

    @property
    def score(self) -> float:
        """How well it matches, as the store ranks."""
        ...

    @property
    def page(self) -> int | None:
        """The page of a PDF."""
        ...

    @property
    def line(self) -> int | None:
        """The row's line in a table's file."""
        ...

    @property
    def modified_at(self) -> str | None:
        """When the file was last changed."""
        ...


@dataclass(frozen=True)
class Piece:
    """A part of an answer; the last of a choice has the reason why it ended and the token counts.

    Attributes:
        text: To be appended.
        finish_reason: ``stop`` or ``length``, in the last piece.
        prompt_tokens: Tokens of the prompt, in the last piece.
        completion_tokens: Tokens of the choice until here; 0 before the last piece where the engine doesn't say.
        index: Of the choice that it belongs to.
        cached: The answer was given before.
        adapter: URI of the adapter that the text comes from; None for the base model.
        refused: Why the language model refuses the request, for the caller alone. No exception: Ray Serve logs what a
            replica raises, and the reason may quote the prompt.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    index: int = 0
    cached: bool = False
    adapter: str | None = None
    refused: str | None = None


class Search(Protocol):
    """Passages for a question, best first."""

    async def __call__(
        self, question: str, how: SearchSpec, *, tenant: str | None, filter: Filter | None, within_s: float
    ) -> list[CitedPassage]:
        """Search; with a tenant, its passages alone; of those, the ones that the filter lets through.

        After `within_s` seconds nobody waits for it.
        """
        ...


class Embed(Protocol):
    """Vectors of texts."""

    async def __call__(self, texts: list[str], *, question: bool) -> tuple[NDArray[np.float32], int]:
        """Vectors, float32, (texts, dimension), as passages' or as questions'; and the tokens that were read."""
        ...


class Generate(Protocol):
    """An answer in pieces; closing the generator ends the generation."""

    def __call__(self, request: GenerationRequest, *, stream: bool) -> AsyncGenerator[Piece, None]:
        """Begin to generate."""
        ...


class Usage:
    """Tokens of an answer, counted while its pieces pass: right too when nobody waits for the end.

    Args:
        per_prompt: Choices that share one prompt, which counts once.
        prompts: Tokens of each prompt as they were counted here; the last piece of a choice says what the model read.
    """

    def __init__(self, per_prompt: int, prompts: Sequence[int] = ()) -> None:
        self._per_prompt = per_prompt
        self._prompt = dict(enumerate(prompts))
        self._completion: dict[int, int] = {}

    def add(self, piece: Piece) -> None:
        """Count a piece; one that ends no choice and doesn't say its tokens is taken for one."""
        if piece.finish_reason is not None:
            self._prompt[piece.index // self._per_prompt] = piece.prompt_tokens
            self._completion[piece.index] = piece.completion_tokens
        else:
            self._completion[piece.index] = piece.completion_tokens or self._completion.get(piece.index, 0) + 1

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts."""
        return sum(self._prompt.values())

    @property
    def completion_tokens(self) -> int:
        """Tokens generated."""
        return sum(self._completion.values())

    @property
    def total_tokens(self) -> int:
        """Both."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Searched:
    """What a search gave.

    Attributes:
        found: Passages.
        seconds: That it took, the rewriting of the question included.
    """

    found: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    """An answer that has begun.

    Attributes:
        id: Its id, ``chatcmpl-…`` or ``cmpl-…``.
        created: Unix time, seconds.
        model: As the request named it.
        passages: What the prompt holds, best first.
        pieces: The text as it comes; close it to end the generation.
        per_prompt: Choices that share one prompt.
        prompt_tokens: Of each prompt, as counted before it was sent.
        searched: What the search gave, where there was one.
    """

    id: str
    created: int
    model: str
    passages: list[CitedPassage]
    pieces: AsyncGenerator[Piece, None]
    per_prompt: int
    prompt_tokens: Sequence[int]
    searched: Searched | None = None

    @property
    def choices(self) -> int:
        """How many answers these are."""
        return self.per_prompt * len(self.prompt_tokens)

    def citations(self) -> list[dict[str, object]]:
        """The passages that the prompt holds; of page, line and time of change what is known."""
        return [
            {"id": p.id, "source": p.source, "text": p.text, "score": p.score}
            | {name: value for name in WHEREABOUTS if (value := getattr(p, name)) is not None}
            for p in self.passages
        ]
