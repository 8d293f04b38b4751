"""What the driver of a training run tells its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tandem.specs.finetune import FinetuneSpec


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What the driver tells its workers; everything in it can be pickled, and paths are on the shared storage.

    Args:
        spec: The job.
        plain: The DeepSpeed JSON of the spec, if it names one.
        model: Folder of the base model.
        train: Folder of examples.
        eval: Folder of examples, or None for no evaluation loss.
        steps: Optimizer steps in all.
        pad_id: The token that fills up rows.
        packing: Whether a forward pass is one row of several documents; else rows are padded.
        labels: Names of the classes, in the order of their numbers; empty where the task has none.
        logits: Where the first worker writes (examples, classes) float32 of the held-out examples (.npy), or None.
        cuda: Whether each worker has a GPU.
        metrics: Where the first worker writes its records.
        checkpoints: Folder of the run's checkpoints.
        output: Where the first worker writes adapter or weights.
        started_at: When the driver began, in seconds since the epoch.
    """

    spec: FinetuneSpec
    plain: dict[str, Any] | None = None
    model: str
    train: str
    eval: str | None = None
    steps: int
    pad_id: int
    packing: bool
    labels: tuple[str, ...] = ()
    logits: str | None = None
    cuda: bool = False
    metrics: str
    checkpoints: str
    output: str
    started_at: float
