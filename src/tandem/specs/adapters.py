"""Adapters of the endpoint: the room for them, and which its language model has while it runs."""

from __future__ import annotations

from pydantic import Field

from tandem.specs.base import Name, Spec, Uri


class AdapterSpec(Spec):
    """A LoRA adapter over the base model."""

    name: Name = Field(description="the request's `model` chooses it")
    uri: Uri


class CanarySpec(Spec):
    """A share of what is asked of the application's own name, given to another adapter than `default_model`."""

    model: Name = Field(description="one of the adapters; answers say in `model` that it gave them")
    share: float = Field(
        gt=0,
        lt=1,
        description="of the conversations, drawn by the request's `user`, or else by how the conversation begins: one "
        "that goes on stays with whoever answered first",
    )


class LoraSpec(Spec):
    """Room for adapters that come while the endpoint runs; vLLM sets it aside when it starts.

    Where the adapters that it starts with need more, more is set aside. transformers needs none.
    """

    always: bool = Field(
        False, description="also where the application starts without adapters; else its first one costs new replicas"
    )
    max_rank: int = Field(16, ge=1, le=512, description="of an adapter; a larger one costs new replicas")
    max_in_batch: int = Field(
        4, ge=1, description="different adapters in one batch, requests for more wait; each takes memory for max_rank"
    )
    max_loaded: int = Field(32, ge=1, description="in memory; above it the longest unused is read again when asked for")


class ServedAdapters(Spec):
    """The `user_config` of the language model's deployment: what its replicas load and drop when it changes."""

    adapters: dict[Name, Uri]
    max_rank: int | None = Field(None, description="that the replicas have room for; 0: for no adapter; null: for any")
    required: bool = Field(False, description="a replica doesn't start without all of them")
