"""The choice between the two engines that there are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from tandem.config.machine import read_processor
from tandem.models.engines.hardware import choose_dtype, choose_engine, vllm_obstacle
from tandem.models.engines.protocol import Engine
from tandem.specs.compare import EngineSpec

logger = logging.getLogger(__name__)


def open_engine(spec: EngineSpec, model: Path, adapters: Mapping[str, Path]) -> Engine:
    """Load a base model and its adapters into the engine that the spec asks for.

    Args:
        spec: Which engine, its number type and lengths.
        model: A folder with config.json, safetensors and tokenizer.
        adapters: Folders of PEFT adapters, by the name that requests use.

    Raises:
        InputError: The engine that was asked for by name can't run here.
        ModelError: The model has no chat template, or an adapter can't be read.
    """
    processor = read_processor()
    # Only asked when it matters: importing vLLM takes seconds.
    obstacle = None if spec.name == "transformers" else vllm_obstacle(processor)
    name, reason = choose_engine(spec.name, obstacle)
    dtype = choose_dtype(spec.dtype, processor, engine=name)
    logger.info("engine: %s in %s (%s)", name, dtype, reason)
    if name == "vllm":
        from tandem.models.engines.vllm import VllmEngine

        return VllmEngine(spec, model, adapters, dtype=dtype, processor=processor)
    from tandem.models.engines.transformers import TransformersEngine

    return TransformersEngine(spec, model, adapters, dtype=dtype, processor=processor)
