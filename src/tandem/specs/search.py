"""How passages are found and which of them are used: the same in training, comparison and endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tandem.specs.base import Fraction, Spec, Uri


class RerankSpec(Spec):
    """A cross-encoder reads each candidate together with the question: slower than a search, and closer."""

    model: Uri = Field(description="a sentence-transformers cross-encoder with one score")
    min_score: Fraction | None = Field(None, description="candidates below it are dropped; scores lie between 0 and 1")


class SearchSpec(Spec):
    """The search, and what is done with its candidates, in this order."""

    top_k: int = Field(3, ge=1, le=1000, description="passages that are used, at most")
    mode: Literal["hybrid", "dense", "sparse"] = "hybrid"
    ef: int | None = Field(None, ge=1, le=65536, description="candidates in the graph: more find more, slower")
    candidates: int = Field(
        30, ge=1, le=1000, description="hits that the options below choose from; without any, top_k are asked for"
    )
    min_similarity: float | None = Field(
        None, ge=-1, le=1, description="passages less near than this to the question (cosine) are dropped"
    )
    rerank: RerankSpec | None = None
    diversity: Fraction = Field(
        0.0,
        description="share of the weight that likeness to passages already chosen has (maximal marginal relevance)",
    )

    @model_validator(mode="after")
    def _enough_to_choose_from(self) -> SearchSpec:
        if self.chooses and self.candidates < self.top_k:
            raise ValueError(f"candidates {self.candidates} must be at least top_k {self.top_k}")
        return self

    @property
    def chooses(self) -> bool:
        """Whether anything is done with the candidates but cutting them."""
        return self.min_similarity is not None or self.rerank is not None or self.diversity > 0

    def wanting(self, top_k: int | None) -> SearchSpec:
        """The same, for as many passages as one request wants; None for the spec's number."""
        if top_k is None or top_k == self.top_k:
            return self
        return self.model_copy(update={"top_k": top_k, "candidates": max(self.candidates, top_k)})
