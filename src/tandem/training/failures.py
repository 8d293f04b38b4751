"""Failures that another attempt of the workers can't mend: written down where they happen, raised by the driver.

Ray Train restarts its workers whatever they died of. So a worker that knows better writes the error into the job's
folder; workers that find one there end at once, and the driver raises it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tandem import errors
from tandem.artifacts.job import WORKERS_LOST
from tandem.config.files import write_whole
from tandem.errors import (
    DivergedError,
    InputError,
    OutOfMemoryError,
    PreemptedError,
    TandemError,
    WorkerLostError,
)

FAILURE = "training-error.json"
_GIB = 1024**3
_RAM_REMEDY = (
    "lower schedule.micro_batch_size or max_length, set deepspeed: 3, train fewer parameters (method: lora), "
    "or use fewer workers per machine"
)
_GPU_REMEDY = (
    "lower schedule.micro_batch_size or max_length, set deepspeed: 3 or offload, "
    "or train fewer parameters (method: lora)"
)
# What gloo, torch's store and NCCL say to the workers that are left: they have no type of their own for it.
_PEER_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Application timeout caused pair closure",
    "ncclRemoteError",
)
# What Ray says when it knows no more than that a process is gone: no exception, no order of its own, no lost node.
_GONE = "its worker process has died"
_GONE_REMEDY = (
    "the kernel's OOM killer is the usual cause: `dmesg -T | grep -i 'killed process'` on that machine says so, or the "
    "pod's last state (OOMKilled). If it was, "
) + _RAM_REMEDY


def write_failure(folder: Path, error: TandemError) -> None:
    """Write an error down; the first one stays, since others follow from it."""
    path = folder / FAILURE
    if not path.exists():
        data = {"type": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        write_whole(path, json.dumps(data, ensure_ascii=False) + "\n")


def read_failure(folder: Path) -> TandemError | None:
    """The error that was written down, as it was raised; None if there is none."""
    try:
        data = json.loads((folder / FAILURE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    kind: type[TandemError] = getattr(errors, data["type"])
    return kind(data["what"], where=data["where"], remedy=data["remedy"])


def recorded(train: Callable[[], None], folder: Path, *, worker: int, cuda: bool) -> None:
    """Run a worker's training, and write down what another attempt of the workers can't mend.

    Args:
        train: The training.
        folder: The job's, on the shared storage. What an earlier attempt wrote there ends this one before it begins.
        worker: Its rank.
        cuda: Whether it has a GPU.
    """
    if read_failure(folder) is not None:
        return
    try:
        train()
    except (DivergedError, PreemptedError) as error:
        # All workers raise it at the same step: they end as if they were done, and nothing is restarted.
        if worker == 0:
            write_failure(folder, error)
    except InputError as error:
        write_failure(folder, error)
        raise
    except (RuntimeError, MemoryError) as error:
        full = out_of_memory(error, worker=worker, measured=held_memory(cuda=cuda))
        if full is not None:
            write_failure(folder, full)
            raise full from error
        gone = lost_peer(error, worker=worker)
        if gone is None:
            raise
        raise gone from error


def out_of_memory(error: BaseException, *, worker: int, measured: str = "") -> OutOfMemoryError | None:
    """What an exception says of memory that ran out, or None if it is about something else.

    Args:
        error: PyTorch's (CUDA's, or that of its allocator for processors), Python's, or Ray's when its memory monitor
            killed the worker.
        worker: Its rank.
        measured: How much the worker held ("12.3 GiB of 15.6 GiB").

    Returns:
        The error to raise, which names the worker and what to change.
    """
    # Ray Train wraps what killed a worker in the failure of its health check.
    error = getattr(error, "health_check_failure", None) or error
    kind, text = type(error).__name__, str(error)
    held = f" ({measured})" if measured else ""
    if kind == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        what, remedy = f"worker {worker} ran out of GPU memory{held}: {_first_line(text)}", _GPU_REMEDY
    elif isinstance(error, MemoryError) or "can't allocate memory" in text:
        what, remedy = f"worker {worker} ran out of memory{held}: {_first_line(text) or kind}", _RAM_REMEDY
    elif kind == "OutOfMemoryError" and type(error).__module__.startswith("ray"):
        what = f"worker {worker} was killed since its machine ran out of memory: {_first_line(text)}"
        remedy = _RAM_REMEDY
    else:
        return None
    return OutOfMemoryError(what, where=f"worker {worker}", remedy=remedy)


def lost_peer(error: BaseException, *, worker: int) -> WorkerLostError | None:
    """What an exception says of another worker that went away, or None if it is about something else.

    Ray Train may see this one fail before it sees that the other is gone, and the job's end would be told as a fault
    of the training.

    Args:
        error: PyTorch's, of a collective operation.
        worker: The rank of the worker that raised it.
    """
    text = str(error)
    if not any(words in text for words in _PEER_GONE):
        return None
    what = f"worker {worker} lost its connection to another: {_first_line(text)}"
    remedy = "the job is tried again from its last checkpoint; the log says which worker or machine went away"
    return WorkerLostError(what, where=f"worker {worker}", remedy=remedy)


def killed_worker(error: BaseException, *, worker: int) -> WorkerLostError | None:
    """What Ray's exception says of a worker whose process is gone, or None if it is about something else.

    Nobody but the kernel knows who sent SIGKILL, so memory is a guess, and another attempt is worth it.

    Args:
        error: Of Ray Train's health check.
        worker: The rank.
    """
    error = getattr(error, "health_check_failure", None) or error
    text = str(error)
    if type(error).__name__ != "ActorDiedError" or _GONE not in text:
        return None
    machine = next((line.split()[-1] for line in text.splitlines() if line.strip().startswith("ip: ")), "unknown")
    what = f"worker {worker} was killed (SIGKILL, or a crash) and left no word why"
    return WorkerLostError(what, where=f"machine {machine}", remedy=_GONE_REMEDY)


def fit(train: Callable[[], Any], folder: Path) -> None:
    """Run Ray Train to its end, and raise what is known of why it failed.

    Args:
        train: Ray Train's `fit`.
        folder: The job's.

    Raises:
        TandemError: What a worker wrote down, or that workers were killed more often than they are restarted.
    """
    from ray.train import TrainingFailedError

    try:
        train()
    except TrainingFailedError as error:
        failures: Mapping[int, BaseException] = getattr(error, "worker_failures", None) or {}
        lost = [killed_worker(each, worker=rank) for rank, each in failures.items()]
        for each in lost:
            if each is not None:
                raise each from error
        raise
    failure = read_failure(folder)
    if failure is not None:
        raise failure


def held_memory(*, cuda: bool) -> str:
    """How much memory this worker holds, of how much there is, in words."""
    if cuda:
        import torch

        _, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.max_memory_allocated() / _GIB:.1f} of {total / _GIB:.1f} GiB at its peak"
    import psutil

    held, total = psutil.Process().memory_info().rss, psutil.virtual_memory().total
    return f"{held / _GIB:.1f} of the machine's {total / _GIB:.1f} GiB"


def memory_watch(folder: Path) -> Any:
    """A callback for Ray Train's controller, which alone sees that workers are gone, and why one died that was killed.

    Args:
        folder: The job's, on the shared storage.
    """
    from ray.train import UserCallback

    class MemoryWatch(UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:  # noqa: ARG002
            (folder / WORKERS_LOST).touch()
            for rank, error in worker_exceptions.items():
                found = out_of_memory(error, worker=rank)
                if found is not None:
                    write_failure(folder, found)
                lost = killed_worker(error, worker=rank)
                if lost is not None:
                    print(lost, flush=True)  # the workers start again: nothing else would tell

    return MemoryWatch()


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:400]
