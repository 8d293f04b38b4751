"""What the training loop needs of whoever launched its workers: its place among them, and who takes checkpoints."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from tandem.training.metrics import Record

ASK_EVERY_S = 5.0  # the watcher looks as often

Store = Callable[[], None]  # copies one worker's part of a checkpoint to the shared storage


class Notice(StrEnum):
    """What a group is told while it trains."""

    NONE = "none"
    MACHINE_LEAVES = "machine_leaves"
    STEP_ASIDE = "step_aside"


def steps_within(seconds: float, step_s: float) -> int:
    """How many steps of `step_s` seconds fit, at least one."""
    return max(1, int(seconds / max(step_s, 1e-6)))


class WorkerGroup(Protocol):
    """The workers of one run; each holds an object of its own."""

    @property
    def rank(self) -> int:
        """This worker, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def report(self, record: Record, target: Path, store: Store) -> None:
        """Have a checkpoint stored in the background; all workers call it together. One at a time: see `wait`.

        Args:
            record: The step's figures, without tensors.
            target: The checkpoint's folder on the shared storage.
            store: Writes this worker's part of it, and removes what it was written from.
        """

    def wait(self) -> None:
        """Until this worker's part of the last reported checkpoint is stored.

        Raises:
            OSError: It couldn't be.
        """

    def notice(self) -> Notice:
        """Whether a machine of the group must go, or the job: the same answer on every worker; all ask together."""


class RayGroup:
    """The workers of Ray Train.

    Args:
        aside: The file whose existence asks the job to step aside, on the shared storage.
    """

    def __init__(self, aside: Path) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank = int(context.get_world_rank())
        self.size = int(context.get_world_size())
        # Without the actor that watches for drained nodes there is nothing to ask.
        self._watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") not in ("0", "false")
        self._aside = aside
        self._asked_at = time.monotonic()
        self._asks_in = self._steps = 1
        self._stored = threading.Event()
        self._stored.set()

    def report(self, record: Record, target: Path, store: Store) -> None:
        """Ray Train's asynchronous upload; what can't be stored fails the worker."""
        import ray.train

        self.wait()
        self._stored.clear()

        def upload(_checkpoint: Any, name: str) -> Any:
            try:
                store()
            finally:
                self._stored.set()
            # As Ray Train names it: it compares file systems.
            storage = ray.train.get_context().get_storage()
            return ray.train.Checkpoint(storage.build_checkpoint_path_from_name(name), storage.storage_filesystem)

        ray.train.report(
            record,
            checkpoint=ray.train.Checkpoint.from_directory(str(target)),
            checkpoint_dir_name=target.name,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
            delete_local_checkpoint_after_upload=False,
        )

    def wait(self) -> None:
        """Until Ray Train's thread has stored this worker's part."""
        self._stored.wait()

    def notice(self) -> Notice:
        """Whether Ray drains a node of theirs, or the file is there, asked every few seconds and not at every step."""
        import ray.train
        import ray.train.collective

        self._asks_in -= 1
        if self._asks_in:
            return Notice.NONE
        leaves = self._watched and ray.train.get_preemption_info() is not None
        # By the first worker's clock and eyes: all must ask at the same step, and hear the same.
        now = time.monotonic()
        steps = steps_within(ASK_EVERY_S, (now - self._asked_at) / self._steps)
        steps, aside = ray.train.collective.broadcast_from_rank_zero((steps, self._aside.exists()))
        self._asks_in = self._steps = int(steps)
        self._asked_at = now
        if aside:
            return Notice.STEP_ASIDE
        return Notice.MACHINE_LEAVES if leaves else Notice.NONE


class TorchrunGroup:
    """The workers of `torchrun`, which says by environment variables who is who: the same loop without Ray.

    Args:
        cuda: Whether each worker has a GPU.
    """

    def __init__(self, *, cuda: bool = False) -> None:
        import torch
        import torch.distributed

        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # Ray Train does it for its workers
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if cuda else "gloo")
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._stored: Future[None] | None = None

    def report(self, record: Record, target: Path, store: Store) -> None:  # noqa: ARG002 - as the protocol has it
        """Store it in a thread."""
        self.wait()
        self._stored = self._thread.submit(store)

    def wait(self) -> None:
        """Until the thread has stored this worker's part; raises what it raised."""
        if self._stored is not None:
            self._stored.result()

    def notice(self) -> Notice:
        """Nobody tells."""
        return Notice.NONE
