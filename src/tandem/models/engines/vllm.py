"""vLLM, on GPUs and CPUs: what it is started with, and the engine for batches of requests."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.config.machine import Processor
from tandem.errors import ModelError
from tandem.models.engines import vllm_cpu_lora
from tandem.models.engines.hardware import Dtype
from tandem.models.engines.prompting import encode, load_tokenizer
from tandem.models.engines.protocol import FinishReason, Generation, GenerationRequest
from tandem.models.lora import adapter_rank
from tandem.specs.adapters import LoraSpec
from tandem.specs.compare import EngineSpec

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM accepts as max_lora_rank
MAX_ADAPTERS_IN_BATCH = 8
END_WAIT_S = 10.0


def environment(spec: EngineSpec, *, on_gpu: bool) -> dict[str, str]:
    """Variables that must be set before vLLM is imported."""
    # As a warning it says a line for each weight that it casts, and one for each of its own defaults.
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if on_gpu:
        return variables
    variables["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, math.ceil(spec.kv_cache_gib)))  # whole GiB only
    if spec.threads is None:
        # By default it keeps a core for itself; on 2 cores that halves the speed.
        return variables | {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    # Bound to cores, two replicas on one machine would share the same ones.
    return variables | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(spec.threads)}


def engine_options(
    spec: EngineSpec, adapters: Mapping[str, Path], *, dtype: Dtype, on_gpu: bool, room: LoraSpec | None = None
) -> dict[str, Any]:
    """Arguments of vLLM's engine, offline and behind Ray Serve alike.

    Args:
        spec: Lengths and memory.
        adapters: Folders of the PEFT adapters that it starts with, by name.
        dtype: To compute in.
        on_gpu: Else on processors.
        room: For adapters that come later; None: none do.
    """
    options: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": spec.max_model_len,
        # Sampling is what the request says: a model's own generation_config (penalties, top-k) must not leak in.
        "generation_config": "vllm",
        "trust_remote_code": False,
    }
    if not on_gpu:
        # Compiling takes two minutes and gains nothing on CPU. Ray's executor would want a placement group.
        options |= {"enforce_eager": True, "distributed_executor_backend": "mp"}
    if adapters or (room is not None and room.always):
        in_batch = max(min(len(adapters), MAX_ADAPTERS_IN_BATCH), room.max_in_batch if room else 1)
        options |= {
            "enable_lora": True,
            "max_loras": in_batch,
            "max_lora_rank": lora_rank(adapters, at_least=room.max_rank if room else 1),
        }
        if room is not None:
            options["max_cpu_loras"] = max(in_batch, room.max_loaded)
        if not on_gpu:
            options["worker_extension_cls"] = vllm_cpu_lora.EXTENSION
    return options


def lora_rank(adapters: Mapping[str, Path], *, at_least: int = 1) -> int:
    """The smallest rank that vLLM can be started with and that holds all the adapters.

    Raises:
        ModelError: An adapter_config.json can't be read, or its rank is beyond what vLLM takes.
    """
    largest = max([at_least, *map(adapter_rank, adapters.values())])
    for rank in LORA_RANKS:
        if largest <= rank:
            return rank
    raise ModelError(f"rank {largest} is beyond vLLM's {LORA_RANKS[-1]}", remedy="set engine.name to transformers")


def sampling_params(request: GenerationRequest, **options: Any) -> Any:
    """The `vllm.SamplingParams` of a request.

    Args:
        request: What is generated.
        options: Further ones of vLLM's.
    """
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=list(request.stop),
        seed=request.seed,
        **options,
    )


class VllmEngine:
    """`vllm.LLM` with LoRA adapters; its processes end on `close`."""

    name = "vllm"

    def __init__(
        self, spec: EngineSpec, model: Path, adapters: Mapping[str, Path], *, dtype: Dtype, processor: Processor
    ) -> None:
        import psutil

        # With a process of its own the engine begins while requests still come: who shares a batch with whom would be
        # chance, and in a batch of another size a sum rounds in another way.
        in_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        os.environ.update(environment(spec, on_gpu=processor.has_gpu) | in_process)
        self._tokenizer = load_tokenizer(model)
        self._max_model_len = spec.max_model_len
        options = engine_options(spec, adapters, dtype=dtype, on_gpu=processor.has_gpu)
        before = set(psutil.Process().children(recursive=True))
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        self._loras = {
            name: LoRARequest(name, number, str(path)) for number, (name, path) in enumerate(adapters.items(), start=1)
        }
        # With statistics on, each output says when it was scheduled and when it ended.
        self._llm: Any = LLM(model=str(model), disable_log_stats=False, **options)
        if "worker_extension_cls" in options:
            self._llm.collective_rpc(vllm_cpu_lora.INSTALL)
        self._processes = [
            process
            for process in psutil.Process().children(recursive=True)
            if process not in before and not _is_tracker(process)
        ]

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """See `Engine.generate`. Requests of all adapters share vLLM's continuous batch."""
        prompts = encode(self._tokenizer, requests, max_model_len=self._max_model_len, adapters=self._loras)
        outputs = self._llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts],
            [sampling_params(request) for request in requests],
            lora_request=[self._loras[request.adapter] if request.adapter else None for request in requests],
            use_tqdm=False,
        )
        return [_generation(output) for output in outputs]

    def close(self) -> None:
        """End the engine's processes: asked first, killed after `END_WAIT_S` seconds."""
        import psutil

        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        _, alive = psutil.wait_procs(self._processes, timeout=END_WAIT_S)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=END_WAIT_S)


def _generation(output: Any) -> Generation:
    answer = output.outputs[0]
    seconds = output.metrics.last_token_ts - output.metrics.scheduled_ts
    reason: FinishReason = "length" if answer.finish_reason == "length" else "stop"
    return Generation(answer.text, len(output.prompt_token_ids), len(answer.token_ids), reason, seconds * 1000)


def _is_tracker(process: Any) -> bool:
    # Python's own helper, which belongs to this process and not to the engine.
    import psutil

    try:
        return any("resource_tracker" in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return True
