"""What a job needs of the cluster, read from its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cpus_needed(spec: Mapping[str, Any]) -> float:
    """Logical CPUs that a job must have to run; its driver holds none.

    Args:
        spec: A canonical spec of kind index, finetune or compare.
    """
    if spec["kind"] == "finetune":
        return _workers(spec)[0] * float(spec["cpus_per_worker"])
    if spec["kind"] == "index":
        # Reading and chunking hold one beside the actors that embed.
        return float(spec["embedder"]["workers"]) + 1.0
    return 1.0


def cpus_held(spec: Mapping[str, Any], cluster: float) -> float:
    """Logical CPUs that a job may hold while it runs: elastic workers take what there is, up to their maximum.

    Args:
        spec: As for `cpus_needed`.
        cluster: How many the cluster has.
    """
    if spec["kind"] == "finetune":
        return max(cpus_needed(spec), min(_workers(spec)[1] * float(spec["cpus_per_worker"]), cluster))
    return cpus_needed(spec)


def _workers(spec: Mapping[str, Any]) -> tuple[int, int]:
    workers = spec["workers"]
    return (workers, workers) if isinstance(workers, int) else (workers[0], workers[1])
