"""What generates: one protocol, vLLM where this machine can run it, else transformers in batches."""

from __future__ import annotations

from tandem.models.engines.opening import open_engine
from tandem.models.engines.protocol import Engine, Generation, GenerationRequest

__all__ = ["Engine", "Generation", "GenerationRequest", "open_engine"]
