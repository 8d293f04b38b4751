"""A trained classifier as an engine: a text is the request, a label the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from tandem.models.engines import Generation, GenerationRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tandem.models.classifier import Read


class Head(Protocol):
    """The part of `tandem.models.classifier.TextClassifier` that a comparison needs."""

    def read(self, texts: Sequence[str]) -> Read:
        """Probabilities of the labels, and what reading took."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class HeadEngine:
    """Answers with the likeliest label, by the head alone or with the neighbours' vote mixed in.

    p(label) = (1 - weight) · p_head(label) + weight · p_neighbours(label), as kNN-LM mixes (Khandelwal et al. 2020,
    arXiv 1911.00172).

    Args:
        head: Reads texts; closed by whoever opened it.
        labels: In the order of the head's outputs.
        votes: By text, float64 (labels,) in the same order; empty for the head alone.
        weight: Of the votes.
    """

    name = "transformers"

    def __init__(
        self, head: Head, labels: Sequence[str], votes: Mapping[str, NDArray[np.float64]], weight: float
    ) -> None:
        self._head = head
        self._labels = tuple(labels)
        self._votes = votes
        self._weight = weight

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """See `Engine.generate`; a request's message is the text itself."""
        import numpy as np

        texts = [str(request.messages) for request in requests]
        read = self._head.read(texts)
        mixed = read.probabilities.astype(np.float64)
        if self._votes:
            mixed = (1.0 - self._weight) * mixed + self._weight * np.stack([self._votes[text] for text in texts])
        best = mixed.argmax(axis=1).tolist()
        return [
            Generation(self._labels[label], tokens, 0, "stop", latency_ms)
            for label, tokens, latency_ms in zip(best, read.tokens, read.latency_ms, strict=True)
        ]

    def close(self) -> None:
        """Nothing of its own: the head may serve another arm."""
