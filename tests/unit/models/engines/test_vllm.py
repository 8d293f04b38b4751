"""What vLLM is started with; the engine itself is tested in tests/integration/test_serving.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import ModelError
from tandem.models.engines.vllm import engine_options, environment, lora_rank
from tandem.specs.adapters import LoraSpec
from tandem.specs.compare import EngineSpec


def adapter(folder: Path, **config) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_memory_for_the_cache_is_whole_gibibytes_and_at_least_one():
    assert environment(EngineSpec(kv_cache_gib=0.2), on_gpu=False)["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert environment(EngineSpec(kv_cache_gib=2.5), on_gpu=False)["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(EngineSpec(), on_gpu=True)


def test_it_computes_on_all_cores_or_on_as_many_as_are_said():
    assert environment(EngineSpec(), on_gpu=False)["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    fewer = environment(EngineSpec(threads=3), on_gpu=False)
    assert (fewer["OMP_NUM_THREADS"], fewer["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "nobind")
    assert "OMP_NUM_THREADS" not in environment(EngineSpec(threads=3), on_gpu=True)


def test_it_is_eager_on_cpus_alone():
    assert engine_options(EngineSpec(), {}, dtype="float32", on_gpu=False)["enforce_eager"] is True
    assert "enforce_eager" not in engine_options(EngineSpec(), {}, dtype="bfloat16", on_gpu=True)


def test_adapters_make_room_for_themselves(tmp_path: Path):
    adapters = {"a": adapter(tmp_path / "a", r=4), "b": adapter(tmp_path / "b", r=16, rank_pattern={"q_proj": 24})}
    options = engine_options(EngineSpec(), adapters, dtype="float32", on_gpu=False)
    assert (options["enable_lora"], options["max_loras"], options["max_lora_rank"]) == (True, 2, 32)
    assert "worker_extension_cls" in options
    assert "worker_extension_cls" not in engine_options(EngineSpec(), adapters, dtype="bfloat16", on_gpu=True)
    assert "enable_lora" not in engine_options(EngineSpec(), {}, dtype="float32", on_gpu=False)


def test_room_for_later_adapters_is_a_minimum(tmp_path: Path):
    def room(adapters: dict[str, Path], **spec: Any) -> tuple[Any, ...]:
        options = engine_options(EngineSpec(), adapters, dtype="float32", on_gpu=False, room=LoraSpec(**spec))
        return tuple(options.get(name) for name in ("max_loras", "max_lora_rank", "max_cpu_loras"))

    small = {"a": adapter(tmp_path / "a", r=4)}
    assert room(small, max_rank=20, max_in_batch=3, max_loaded=10) == (3, 32, 10)
    many = {str(n): adapter(tmp_path / str(n), r=64) for n in range(6)}
    assert room(many, max_rank=8, max_in_batch=2, max_loaded=1) == (6, 64, 6)
    assert room({}) == (None, None, None)
    assert room({}, always=True, max_rank=8, max_in_batch=2, max_loaded=4) == (2, 8, 4)


def test_a_rank_beyond_vllm_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="rank 1024"):
        lora_rank({"a": adapter(tmp_path / "a", r=1024)})


def test_a_broken_configuration_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="adapter"):
        lora_rank({"a": adapter(tmp_path / "a", alpha=3)})
