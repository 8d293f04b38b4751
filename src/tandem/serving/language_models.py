"""What a deployment that generates must do. The ingress knows no more of it, whichever engine is behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from tandem.models.engines.protocol import GenerationRequest
from tandem.models.loading import adapter_path
from tandem.models.lora import check_fits
from tandem.serving.answers import Piece


class LanguageModel(ABC):
    """A replica that generates."""

    @abstractmethod
    def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:
        """An answer in pieces; one or two when it isn't streamed. The last has the reason and the token counts.

        What it raises has nothing of the prompt in it: Ray Serve logs it.
        """

    async def ready(self) -> None:  # noqa: B027 - whoever can be called is ready, unless it knows better
        """Raises when it couldn't answer now; cheap, asked every second."""

    async def answer(self, request: GenerationRequest) -> Piece:
        """An answer in one piece."""
        async with aclosing(self.generate(request, False)) as pieces:
            parts = [piece async for piece in pieces]
        return replace(parts[-1], text="".join(part.text for part in parts))


def fitting_adapter(uri: str, model: Path, storage: Path) -> Path:
    """An adapter's folder, fetched if need be, once it is known to be one of the base model."""
    path = adapter_path(uri, storage=storage)
    check_fits(path, model)
    return path
