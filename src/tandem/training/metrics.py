"""The record of a training run: one JSON line per step, written by the first worker on the shared storage.

The file is the only way by which figures leave the workers: the driver follows it for progress and MLflow, and it
becomes part of the artifact. Ray Train itself keeps a report's metrics only where it carries a checkpoint.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tandem.config.files import write_whole

POLL_S = 0.5

Record = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """Add one record."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[Record]:
    """All records; a last line that is still being written is left out. No file is no records."""
    tail = Tail(path)
    tail.read()
    return tail.records


def steps(records: list[Record]) -> list[Record]:
    """Those of steps.

    ``step`` from 1; ``loss``, in nats, the mean over the batch's ``loss_weight`` tokens or rows; ``learning_rate`` and
    ``grad_norm`` (before clipping); ``tokens`` of the batch and ``tokens_per_s`` of all workers together, padding not
    counted; ``padding``, its share of the positions that were computed; ``step_s`` in seconds; ``time_ms`` since the
    epoch; ``memory_bytes`` of each worker; ``mfu`` where the peak is known; ``eval_loss`` where it was measured.
    """
    return [record for record in records if "loss" in record]


def shown(record: Record) -> dict[str, float]:
    """What of a step's record goes into a line of progress; memory in GiB, of the worker that holds most."""
    keys = (
        "loss",
        "eval_loss",
        "eval_accuracy",
        "eval_macro_f1",
        "learning_rate",
        "grad_norm",
        "tokens_per_s",
        "mfu",
        "step_s",
    )
    figures = {key: float(record[key]) for key in keys if key in record}
    if record.get("memory_bytes"):
        figures["memory_gib"] = max(record["memory_bytes"]) / 1024**3
    return figures


def starts(records: list[Record]) -> list[Record]:
    """One per attempt: ``started_at_step``, and on what it ran."""
    return [record for record in records if "started_at_step" in record]


def ending(records: list[Record]) -> Record:
    """How training ended: ``stopped`` (why before the last step, or None), ``weights_step``, ``checkpoint_stall_s``."""
    return next(record for record in reversed(records) if "weights_step" in record)


def rewind(path: Path, step: int) -> None:
    """Drop the records of steps after `step`: whoever resumes there will do them again. No file is left as it is."""
    if not path.exists():
        return
    kept = [record for record in read(path) if record.get("step", 0) <= step]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))


class Tail:
    """The records of a file that grows, each parsed once.

    Args:
        path: The file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._last = b""
        self.records: list[Record] = []
        """All so far, without a last line that is still being written."""

    def read(self) -> bool:
        """Take over what is new; returns whether there was anything."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return False
        with file:
            file.seek(self._at - len(self._last))
            # The last line no longer stands where it stood: the file was rewound, and what came after is another run's.
            if file.read(len(self._last)) != self._last:
                self._at, self._last, self.records = 0, b"", []
                file.seek(0)
            lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self.records += [json.loads(line) for line in lines]
        self._at += sum(len(line) for line in lines)
        self._last = lines[-1] if lines else self._last
        return bool(lines)


class Follower:
    """While open, calls `tell` from a thread of its own with all the records whenever there are new ones.

    Args:
        path: The file.
        tell: Called with the records.
        keep: Called after each look, new records or not.
        poll_s: Seconds between two looks.
    """

    def __init__(
        self,
        path: Path,
        tell: Callable[[list[Record]], None],
        *,
        keep: Callable[[], None] = lambda: None,
        poll_s: float = POLL_S,
    ) -> None:
        self._tail = Tail(path)
        self._tell = tell
        self._keep = keep
        self._poll_s = poll_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="training-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _follow(self) -> None:
        while not self._ended.wait(self._poll_s):
            self._look()
            self._keep()

    def _look(self) -> None:
        if self._tail.read():
            self._tell(self._tail.records)
