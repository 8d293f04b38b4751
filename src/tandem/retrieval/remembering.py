"""Vectors of questions that come again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tandem.retrieval.embedding import Embedder


class Remembering:
    """An embedder that keeps the vectors of the last texts: questions come again. A text may be kept as both kinds.

    Args:
        embedder: Computes those that aren't kept.
        size: How many are.

    Attributes:
        hits: Texts that were kept when they were asked for.
        misses: Those that weren't.
    """

    def __init__(self, embedder: Embedder | Any, size: int) -> None:
        self.hits = self.misses = 0
        self._embedder = embedder
        self._vectors: LRUCache[tuple[str, bool], NDArray[np.float32]] = LRUCache(size)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Remembering({self._embedder!r}, size={self._vectors.maxsize})"

    def encode(self, texts: Sequence[str], *, question: bool = False) -> NDArray[np.float32]:
        """As `Embedder.encode`."""
        import numpy as np

        with self._lock:
            known = {text: self._vectors[text, question] for text in texts if (text, question) in self._vectors}
            self.hits += len(known)
            self.misses += len(set(texts)) - len(known)
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing or not texts:
            computed: NDArray[np.float32] = self._embedder.encode(missing, question=question)
            if not texts:
                return computed
            known |= dict(zip(missing, computed, strict=True))
            with self._lock:
                self._vectors.update(((text, question), known[text]) for text in missing)
        return np.stack([known[text] for text in texts])

    def count_tokens(self, texts: Sequence[str], *, question: bool = False) -> int:
        """As `Embedder.count_tokens`."""
        return int(self._embedder.count_tokens(texts, question=question))
