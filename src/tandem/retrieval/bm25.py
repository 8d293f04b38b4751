"""BM25 term weights, by the engine's own model.

A document's term gets the saturated, length-normalized term frequency; the store multiplies in the inverse document
frequency when it searches (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tandem.retrieval.store import SparseVector

SATURATION = 1.2  # k1
LENGTH_NORMALIZATION = 0.75  # b
# English stems and stop words, and identifiers both whole and in parts: SESSION_COOKIE_AGE is itself, and `session`,
# `cookie`, `age`. Part of every chunk's identity, so that a change of it is a new index.
DESCRIPTION = "bm25/1 english code"


def document_terms(texts: Sequence[str], average_length: float) -> list[SparseVector]:
    """Weights of the terms of chunks.

    Args:
        texts: The chunks, as they are embedded.
        average_length: Terms of an average chunk, by which length is normalized.
    """
    model = _model(average_length)
    return [_plain(model.embed_document(text)) for text in texts]


def query_terms(texts: Sequence[str]) -> list[SparseVector]:
    """The terms of questions, each once with weight 1."""
    model = _model(1.0)  # a question's weights don't depend on the length
    return [_plain(model.embed_query(text)) for text in texts]


@lru_cache(maxsize=4)
def _model(average_length: float) -> Any:
    from qdrant_edge import Bm25, Bm25Config, TokenizerType

    return Bm25(
        Bm25Config(
            k=SATURATION,
            b=LENGTH_NORMALIZATION,
            avg_len=average_length,
            language="english",
            tokenizer=TokenizerType.Code,
        )
    )


def _plain(vector: Any) -> SparseVector:
    return SparseVector(list(vector.indices), list(vector.values))
