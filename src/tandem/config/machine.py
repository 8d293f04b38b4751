"""What this machine gives to this process."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

# Without these, bf16 is emulated: on an AVX2 machine vLLM took 54 s in bf16 for what took 11 s in fp32
# (SmolLM2-135M, 16 requests of 300 + 32 tokens).
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last is what aarch64 calls it
BF16_CUDA_CAPABILITY = (8, 0)  # Ampere


def cores() -> int:
    """Cores that this process may use: in a container often fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads that a computation of this process has: PyTorch's if it is imported, else $OMP_NUM_THREADS or all."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) else cores()


def limit_threads(count: int) -> None:
    """Let one computation of this process have so many threads, PyTorch's too, which need not be imported for it.

    Ray allows a worker as many as it has logical CPUs, which are for scheduling and not for arithmetic.
    """
    os.environ["OMP_NUM_THREADS"] = str(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)


@dataclass(frozen=True)
class Processor:
    """What computes.

    Attributes:
        machine: The architecture, as `platform.machine` has it.
        flags: The processor's features, as /proc/cpuinfo has them; empty where there is no such file.
        cuda_capability: Of the first GPU; None where this process has none.
    """

    machine: str
    flags: frozenset[str]
    cuda_capability: tuple[int, int] | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether this process has a GPU."""
        return self.cuda_capability is not None


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Look at this machine. Where it has no GPU's driver PyTorch isn't imported."""
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return Processor(platform.machine(), parse_flags(text), _cuda_capability())


def _cuda_capability() -> tuple[int, int] | None:
    if "torch" not in sys.modules and not has_gpu_driver():
        return None
    import torch

    ours = torch.cuda.is_available() and not reserved_without_gpu()
    return torch.cuda.get_device_capability() if ours else None


def has_gpu_driver() -> bool:
    """Whether a GPU's driver is on this machine: NVIDIA's library, or AMD's device. Off Linux only PyTorch knows."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return sys.platform != "linux" or Path("/dev/kfd").exists()
    return True


def reserved_without_gpu() -> bool:
    """Whether this process is an actor of Ray's that reserved no GPU: those that it sees belong to others.

    Ray hides GPUs from actors that reserve some of them, and since 2.5x no longer from those that reserve none
    (https://github.com/ray-project/ray/issues/54868).
    """
    import ray

    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and not context.get_accelerator_ids().get("GPU")


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
