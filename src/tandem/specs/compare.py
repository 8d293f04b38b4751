"""`kind: compare`: which strategy wins on these questions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tandem.specs.base import Fraction, Name, PromptSpec, Spec, Uri
from tandem.specs.queue import QueueSpec
from tandem.specs.runtime import RuntimeSpec

ArmName = Literal["base", "rag", "tuned", "tuned_rag", "raft", "oracle"]
RETRIEVING: frozenset[str] = frozenset({"rag", "tuned_rag", "raft"})
TUNED: dict[str, str] = {"tuned": "adapter", "tuned_rag": "adapter", "raft": "raft_adapter"}


class PriceSpec(Spec):
    """What time costs, in any one currency."""

    cpu_hour: float = Field(0.04, ge=0, description="one core for one hour")
    gpu_hour: float = Field(2.5, ge=0)


class EngineSpec(Spec):
    """What generates: vLLM where it can be imported, else transformers in batches."""

    name: Literal["auto", "vllm", "transformers"] = "auto"
    max_model_len: int = Field(2048, ge=64, description="tokens of prompt and answer together")
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = Field(
        "auto", description="auto: bf16 where the device computes in it"
    )
    kv_cache_gib: float = Field(1.0, gt=0, description="vLLM on a CPU: memory for its key-value cache")
    threads: int | None = Field(
        None, ge=1, description="on a CPU: threads that compute; left out: one for each of the machine's cores"
    )


class CompareSpec(Spec):
    """The same items, the same prompt but for context, the same greedy decoding in every arm."""

    kind: Literal["compare"]
    name: Name
    model: Uri
    adapter: Uri | None = Field(None, description="trained without context: arms tuned and tuned_rag")
    raft_adapter: Uri | None = Field(None, description="trained with retrieved context: arm raft")
    arms: tuple[ArmName, ...] = Field(("base", "rag"), min_length=1)
    eval: str = Field(description="questions and answers: JSONL, CSV or Parquet")
    collection: Name
    top_k: int = Field(3, ge=1)
    prompt: PromptSpec = PromptSpec()
    max_tokens: int = Field(48, ge=1, description="tokens of an answer, at most")
    engine: EngineSpec = EngineSpec()
    max_quarantined: Fraction = Field(0.01, description="fail when more than this share of the questions is unusable")
    limit: int | None = Field(None, ge=1, description="only so many questions, chosen by hash")
    slices: tuple[str, ...] = Field((), description="columns of the questions by which the figures are also split")
    primary: Literal["em", "f1"] = Field("em", description="the metric of the verdict")
    bootstrap: int = Field(2000, ge=100, description="resamples for the intervals")
    seed: int = 0
    prices: PriceSpec = PriceSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    queue: QueueSpec = QueueSpec()

    @model_validator(mode="after")
    def _arms_have_what_they_need(self) -> CompareSpec:
        if len(set(self.arms)) != len(self.arms):
            raise ValueError("arms: one is named twice")
        for arm in self.arms:
            field = TUNED.get(arm)
            if field and getattr(self, field) is None:
                raise ValueError(f"arms: {arm!r} needs {field!r}")
        return self
