"""Checkpoints to resume from, and the weights that remain."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TAG = "deepspeed"
# With it DeepSpeed can convert the checkpoint for another number of workers (its universal checkpoint).
_UNIVERSAL = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


@contextmanager
def latest_checkpoint() -> Iterator[Path | None]:
    """The folder of the run's last reported checkpoint, or None in a run's first attempt."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def report_checkpoint(engine: Any, record: dict[str, Any], *, step: int, method: str) -> None:
    """Save every worker's part of the state and hand it to Ray Train, which gathers the parts in one folder.

    Args:
        engine: DeepSpeed's.
        record: The step's metrics.
        step: Optimizer steps done.
        method: any but `full` leaves the frozen weights out: they don't change.
    """
    import ray.train

    with tempfile.TemporaryDirectory(prefix="tandem-checkpoint-") as folder:
        engine.save_checkpoint(
            folder,
            tag=TAG,
            client_state={"step": step, **_UNIVERSAL},
            save_latest=False,
            exclude_frozen_parameters=method != "full",
        )
        ray.train.report(
            record,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"step-{step:06d}",
        )


def load_checkpoint(engine: Any, folder: Path, *, method: str) -> int:
    """Restore weights, optimizer and learning-rate schedule.

    Returns:
        The optimizer steps that were done.
    """
    _, state = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=method == "full")
    return int(state["step"])


def save_weights(engine: Any, folder: Path) -> None:
    """Write what was trained as safetensors: an adapter in PEFT's format, or the whole model.

    Every worker takes part, since under ZeRO 3 each holds a share of every weight; the first one writes.

    Args:
        engine: DeepSpeed's.
        folder: Where to; it must exist.
    """
    import torch.distributed

    first = torch.distributed.get_rank() == 0
    state = _gathered(engine, keep=first) if engine.zero_optimization_stage() == 3 else None
    if first:
        # Embeddings never change here, and to find that out PEFT would look for the base model.
        options = {"save_embedding_layers": False} if hasattr(engine.module, "peft_config") else {}
        engine.module.save_pretrained(str(folder), state_dict=state, safe_serialization=True, **options)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; the manifest says more
    torch.distributed.barrier()


def _gathered(engine: Any, *, keep: bool) -> dict[str, Any]:
    import deepspeed

    state: dict[str, Any] = {}
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue  # an adapter's base; in full fine-tuning everything requires gradients
        with deepspeed.zero.GatheredParameters([parameter]):
            if keep:
                state[name] = parameter.detach().cpu().clone()
    return state
