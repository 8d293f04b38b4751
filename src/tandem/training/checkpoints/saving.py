"""Checkpoints to resume from, and the weights that remain."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.specs.finetune import FinetuneSpec
from tandem.training.checkpoints import store as files
from tandem.training.checkpoints.store import Skipped
from tandem.training.checkpoints.universal import UNIVERSAL_INFO, convert, loading_universal
from tandem.training.early_stopping import Evaluated, best
from tandem.training.group import WorkerGroup
from tandem.training.metrics import Record

TAG = "deepspeed"


@dataclass(frozen=True)
class Progress:
    """How far a run is. With the spec and the data it says what comes next: the batches of every step, and what dropout
    draws in it, follow from seed and step alone, so neither a place in the data nor a generator's state is stored.

    Attributes:
        step: Optimizer steps done.
        evaluations: All so far.
    """

    step: int = 0
    evaluations: tuple[Evaluated, ...] = ()


@dataclass(frozen=True)
class Resumed:
    """Where an attempt begins.

    Attributes:
        progress: Of the checkpoint, or of a run that hasn't begun.
        workers: How many made the checkpoint; None without one.
        skipped: Newer checkpoints that can't be used.
    """

    progress: Progress
    workers: int | None
    skipped: tuple[Skipped, ...]


class Checkpoints:
    """The checkpoints of a run, as one of its workers sees them; all workers call every method together.

    Args:
        engine: DeepSpeed's.
        group: The workers.
        root: The folder of all checkpoints, on the shared storage.
        spec: The job.
    """

    def __init__(self, engine: Any, group: WorkerGroup, root: Path, spec: FinetuneSpec) -> None:
        self._engine = engine
        self._group = group
        self._root = root
        self._spec = spec
        self.stall_s = 0.0
        """Seconds for which training stood still to make checkpoints."""

    def resume(self) -> Resumed:
        """Load the newest checkpoint that is sound, and remove what is newer; with none, begin at the beginning.

        Restored are weights, optimizer, learning-rate schedule, loss scaler, and the run's progress.
        """
        import torch.distributed

        files.clear_local(self._root)  # nobody writes there before all have come to `save`
        found: list[Any] = [None, ()]
        if self._group.rank == 0:
            # The others would read the same bytes.
            folder, skipped = files.newest_sound(self._root)
            files.discard_after(self._root, 0 if folder is None else files.checkpoint_step(folder))
            found = [folder, tuple(skipped)]
        torch.distributed.broadcast_object_list(found, src=0)
        folder, skipped = found
        if folder is None:
            return Resumed(Progress(), None, skipped)
        workers = files.workers_of(folder)
        return Resumed(self._load(folder), workers, skipped)

    def save(self, progress: Progress, record: Record) -> None:
        """Write a checkpoint on this machine's disk, and have it stored while training goes on.

        Args:
            progress: After this step.
            record: The step's figures.
        """
        import torch.distributed

        began = time.perf_counter()
        # One on its way at a time: a storage that can't keep up shall slow training down, not fill the disks.
        self._group.wait()
        torch.distributed.barrier()
        local = files.local_folder(self._root, self._group.rank)
        state = {"step": progress.step, "evaluations": [asdict(evaluation) for evaluation in progress.evaluations]}
        self._engine.save_checkpoint(
            str(local),
            tag=TAG,
            client_state={**state, **UNIVERSAL_INFO},
            save_latest=False,
            exclude_frozen_parameters=self._spec.method != "full",  # they don't change
        )
        target = files.checkpoint_folder(self._root, progress.step)
        rank, size = self._group.rank, self._group.size
        self._group.report(record, target, lambda: files.store(local, target, rank=rank, workers=size))
        if self._spec.checkpoint.upload == "sync":
            self._group.wait()
        self._thin_out(progress, before=progress.step)
        self.stall_s += time.perf_counter() - began

    def finish(self, progress: Progress) -> int:
        """Wait for what is on its way; then load the best checkpoint's weights, if early stopping is on.

        Returns:
            The step whose weights the engine has.
        """
        import torch.distributed

        self._group.wait()
        torch.distributed.barrier()
        self._thin_out(progress, before=progress.step + 1)
        found: list[Any] = [None]
        if self._group.rank == 0 and self._spec.early_stopping.enabled:
            found = [self._best(progress)]
        torch.distributed.broadcast_object_list(found, src=0)
        (folder,) = found
        if folder is None:
            return progress.step
        self._load(folder)
        return files.checkpoint_step(folder)

    def _best(self, progress: Progress) -> Path | None:
        """The best checkpoint that can be loaded; None if the last step is as good as any."""
        there = [
            evaluation
            for evaluation in progress.evaluations
            if evaluation.step == progress.step
            or files.fault(files.checkpoint_folder(self._root, evaluation.step)) is None
        ]
        chosen = best(there)
        if chosen is None or chosen.step == progress.step:
            return None
        return files.checkpoint_folder(self._root, chosen.step)

    def _thin_out(self, progress: Progress, *, before: int) -> None:
        if self._group.rank == 0:
            lowest = best(progress.evaluations)
            kept = None if lowest is None else lowest.step
            files.thin_out(self._root, keep=self._spec.checkpoint.keep, best=kept, before=before)

    def _load(self, folder: Path) -> Progress:
        import torch.distributed

        strict = self._spec.method == "full"
        # Without ZeRO every worker holds the whole state, and any number of workers can load it.
        if files.workers_of(folder) == self._group.size or self._engine.zero_optimization_stage() == 0:
            _, state = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=strict)
        else:
            universal = self._root / f"universal-{folder.name}"
            if self._group.rank == 0:
                shutil.rmtree(universal, ignore_errors=True)  # of an attempt that was killed here
                convert(folder / TAG, universal / TAG)
            torch.distributed.barrier()
            with loading_universal(self._engine):
                _, state = self._engine.load_checkpoint(str(universal), tag=TAG, load_module_strict=strict)
            torch.distributed.barrier()
            if self._group.rank == 0:
                shutil.rmtree(universal)
        evaluations = tuple(Evaluated(**values) for values in state["evaluations"])
        return Progress(int(state["step"]), evaluations)


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
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card: ours comes with the artifact
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
