"""A job's own folder: what a job knows of itself, how it says how far it is, and how it hears that it must go."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.config.cluster import Cluster
from tandem.config.files import write_whole

PRINT_EVERY_S = 1.0
# The phase in which a job waits for its workers: until it names another one it hasn't begun, or not begun again.
WORKERS_PHASE = "workers"
# Files in a job's folder.
WORKERS_LOST = "workers-lost"  # there are none, as in that phase, whatever it said last: others have yet to start
MLFLOW_RUN = "mlflow-run.json"  # which run in MLflow is its own
STEP_ASIDE = "step-aside"  # it shall save what it has and end, and will go on later
PREPARED = "prepared.json"  # its training examples are whole
TRAIN_EXAMPLES, EVAL_EXAMPLES = "train-examples", "eval-examples"
CHECKPOINTS = "train"  # Ray Train's folder
ATTEMPT = "attempt"  # the number of the attempt that may work on the job; without the file none may
# Tells a driver the number of its attempt.
ATTEMPT_VARIABLE = "TANDEM_ATTEMPT"
# Exit statuses of a driver: it couldn't even write why it ended; its attempt may not work, or has a driver already.
DISK_FULL = 74
NOT_WANTED = 75


def driver_file(attempt: int | str) -> str:
    """What the first driver of an attempt leaves in the job's folder before it does anything."""
    return f"attempt-{attempt}.driver"


_last_line: dict[Path, tuple[str, float]] = {}


@dataclass(frozen=True)
class JobContext:
    """One run of a job.

    Attributes:
        id: The job's id, the same in every attempt.
        name: The job's name.
        dir: ``STORAGE/jobs/ID``: spec, logs, progress, result.
        storage: The cluster's storage folder.
        cluster: Where it runs.
    """

    id: str
    name: str
    dir: Path
    storage: Path
    cluster: Cluster

    @property
    def quarantine_path(self) -> Path:
        """Where unusable rows and documents are set aside, with their reasons."""
        return self.dir / "quarantine.jsonl"

    @property
    def must_step_aside(self) -> bool:
        """Whether it shall save what it has and end, so that a job of higher priority can start."""
        return (self.dir / STEP_ASIDE).exists()

    def artifact_dir(self) -> Path:
        """``STORAGE/artifacts/NAME/ID``, made if it isn't there."""
        path = self.storage / "artifacts" / self.name / self.id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def clear_scratch(self) -> None:
        """Remove what only another attempt of the job would need: a full fine-tune's checkpoints are several models."""
        # First what says of the others that they are whole.
        with suppress(OSError):
            (self.dir / PREPARED).unlink()
        for name in (TRAIN_EXAMPLES, EVAL_EXAMPLES, CHECKPOINTS):
            shutil.rmtree(self.dir / name, ignore_errors=True)

    def progress(self, phase: str, done: int, total: int | None = None, **figures: float | str) -> None:
        """Say how far the job is: in ``progress.json``, and as a plain line at most once a second.

        Args:
            phase: What is being done, in a word or two.
            done: Units done in this phase.
            total: Units in all, if that is known.
            **figures: What else a watcher wants to see (a loss, a rate).
        """
        state: dict[str, Any] = {"phase": phase, "done": done, "total": total, "figures": figures, "time": time.time()}
        write_whole(self.dir / "progress.json", json.dumps(state), durable=False)
        last_phase, last_time = _last_line.get(self.dir, ("", 0.0))
        finished = total is not None and done >= total
        if phase != last_phase or finished or time.monotonic() - last_time >= PRINT_EVERY_S:
            _last_line[self.dir] = (phase, time.monotonic())
            shown = " ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in figures.items()
            )
            print(f"[{phase}] {done}{f'/{total}' if total is not None else ''} {shown}".rstrip(), flush=True)
