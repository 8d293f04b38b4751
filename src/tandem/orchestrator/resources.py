"""What a job needs of the cluster, read from its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cpus_needed(spec: Mapping[str, Any]) -> float:
    """Logical CPUs that a job holds while it runs; its driver holds none.

    Args:
        spec: A canonical spec of kind index, finetune or compare.
    """
    if spec["kind"] == "finetune":
        return float(spec["workers"]) * float(spec["cpus_per_worker"])
    if spec["kind"] == "index":
        # Reading and chunking hold one beside the actors that embed.
        return float(spec["embedder"]["workers"]) + 1.0
    return 1.0
