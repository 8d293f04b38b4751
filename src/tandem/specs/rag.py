"""`kind: rag`: the arguments of the endpoint's Ray Serve application."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tandem.specs.base import Name, PromptSpec, Spec, Uri
from tandem.specs.compare import EngineSpec

BASE_MODEL = "base"  # the base model's name in requests


class AdapterSpec(Spec):
    """A LoRA adapter over the base model."""

    name: Name = Field(description="the request's `model` chooses it")
    uri: Uri


class RetrieverSpec(Spec):
    """Which collection is searched, and how."""

    collection: Name
    top_k: int = Field(3, ge=1, le=100)
    mode: Literal["hybrid", "dense", "sparse"] = "hybrid"


class AutoscalingSpec(Spec):
    """Between how many replicas, and at what load."""

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> AutoscalingSpec:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class LimitSpec(Spec):
    """What one request may cost."""

    max_tokens: int = Field(512, ge=1, description="of an answer, whatever the request asks for")
    default_max_tokens: int = Field(128, ge=1)
    timeout_s: float = Field(120.0, gt=0)
    max_body_bytes: int = Field(1_000_000, ge=1)
    max_ongoing_requests: int = Field(64, ge=1, description="above it: 429 with Retry-After")


class RagSpec(Spec):
    """A base model, its adapters, and the collection that grounds them."""

    kind: Literal["rag"]
    name: Name
    model: Uri
    adapters: tuple[AdapterSpec, ...] = ()
    default_model: Name | None = Field(
        None, description="answers a request whose `model` is this spec's name; default: the base"
    )
    retriever: RetrieverSpec
    prompt: PromptSpec = PromptSpec()
    engine: EngineSpec = EngineSpec()
    cpus_per_replica: float = Field(1, ge=0)
    gpus_per_replica: float | None = Field(None, ge=0, description="default: 1 where the cluster has GPUs, else 0")
    autoscaling: AutoscalingSpec = AutoscalingSpec()
    limits: LimitSpec = LimitSpec()
    api_keys: str | None = Field(None, description="JSON file of {sha256 of key: tenant}; default: the cluster's own")

    @model_validator(mode="after")
    def _models_are_told_apart(self) -> RagSpec:
        adapters = [adapter.name for adapter in self.adapters]
        taken = {self.name, BASE_MODEL}
        for name in adapters:
            if name in taken:
                raise ValueError(f"adapters: {name!r} already names another model here")
            taken.add(name)
        if self.default_model not in {None, BASE_MODEL, *adapters}:
            known = ", ".join([BASE_MODEL, *adapters])
            raise ValueError(f"default_model: {self.default_model!r} is none of {known}")
        return self
