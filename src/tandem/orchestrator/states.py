"""The states of a job, why it changes between them, and which reasons are worth another attempt.

    QUEUED ──► STARTING ──► RUNNING ──► SUCCEEDED
                 │  ▲          │   ├──► FAILED
                 │  │          │   └──► STOPPED
                 └──┴─RETRYING◄┘

Retry is data here, not code: `RETRIES` says for every reason whether, how often, and after how long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tandem.artifacts.job import DISK_FULL, NOT_WANTED, WORKERS_PHASE
from tandem.errors import DiskFullError, PreemptedError


class State(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in FINAL

    @property
    def active(self) -> bool:
        """Whether an attempt holds resources of the cluster."""
        return self in ACTIVE


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.STOPPED})
ACTIVE = frozenset({State.STARTING, State.RUNNING})
NEXT: Mapping[State, frozenset[State]] = {
    # A pipeline runs at once: it is its steps that wait and start.
    State.QUEUED: frozenset({State.STARTING, State.RUNNING, State.STOPPED, State.FAILED}),
    # A short job may have ended before anybody saw it run.
    State.STARTING: frozenset({State.RUNNING, State.RETRYING, State.SUCCEEDED, State.FAILED, State.STOPPED}),
    State.RUNNING: frozenset({State.RETRYING, State.SUCCEEDED, State.FAILED, State.STOPPED}),
    State.RETRYING: frozenset({State.STARTING, State.STOPPED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.STOPPED: frozenset(),
}


class Reason(StrEnum):
    """Why a job changed its state."""

    SUBMITTED = "submitted"
    ADMITTED = "admitted"
    DRIVER_RUNS = "driver_runs"
    DONE = "done"
    USER_ERROR = "user_error"
    JOB_ERROR = "job_error"
    NO_RESULT = "no_result"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    STOPPED = "stopped"
    DRIVER_DIED = "driver_died"
    NODE_LOST = "node_lost"
    HEAD_LOST = "head_lost"
    START_FAILED = "start_failed"
    PREEMPTED = "preempted"
    QUEUE_TIMEOUT = "queue_timeout"
    START_TIMEOUT = "start_timeout"
    RUN_TIMEOUT = "run_timeout"
    STEP_FAILED = "step_failed"
    NOT_PROMOTED = "not_promoted"


@dataclass(frozen=True)
class Retry:
    """How often a job is tried again that ended for one reason, and how long it waits each time.

    Attributes:
        limit: Times; None: without end.
        wait_s: Seconds before the next attempt, twice as many each time.
        longest_wait_s: What they don't exceed.
    """

    limit: int | None
    wait_s: float
    longest_wait_s: float = 300.0

    def backoff_s(self, times: int) -> float:
        """Seconds to wait before the next attempt, where there were so many for this reason before."""
        return float(min(self.wait_s * 2**times, self.longest_wait_s))


# What the job didn't cause may go better the next time; what it did cause won't.
RETRIES: Mapping[Reason, Retry | None] = {
    Reason.SUBMITTED: None,
    Reason.ADMITTED: None,
    Reason.DRIVER_RUNS: None,
    Reason.DONE: None,
    Reason.USER_ERROR: None,
    Reason.JOB_ERROR: None,
    Reason.NO_RESULT: None,
    Reason.OUT_OF_MEMORY: None,
    Reason.STOPPED: None,
    Reason.QUEUE_TIMEOUT: None,
    Reason.RUN_TIMEOUT: None,
    Reason.STEP_FAILED: None,
    Reason.NOT_PROMOTED: None,
    # Somebody must make room.
    Reason.DISK_FULL: Retry(4, 60.0, 600.0),
    Reason.DRIVER_DIED: Retry(2, 5.0),
    Reason.NODE_LOST: Retry(4, 5.0),
    Reason.HEAD_LOST: Retry(4, 5.0),
    Reason.START_FAILED: Retry(2, 15.0),
    Reason.START_TIMEOUT: Retry(1, 60.0),
    # It did nothing wrong and nothing broke: it goes on as soon as there is room.
    Reason.PREEMPTED: Retry(None, 0.0),
}

OUT_OF_MEMORY_TYPES = frozenset({"MemoryError", "OutOfMemoryError"})
NODE_LOST_TYPES = frozenset(
    {
        "ActorDiedError",
        "ActorUnavailableError",
        "LocalRayletDiedError",
        "NodeDiedError",
        "OwnerDiedError",
        "ObjectLostError",
        "RayActorError",
        "RaySystemError",
        "RpcError",
        "UnreachableError",
        "WorkerCrashedError",
        "WorkerLostError",
        # Ray Train's own: workers that don't start, don't answer, don't come to a meeting of all, or must leave.
        "BroadcastCollectiveTimeoutError",
        "InsufficientClusterResourcesError",  # there was enough when the job began: a machine has gone since
        "NCCLHangError",
        "PreemptionError",
        "WorkerGroupStartupFailedError",
        "WorkerGroupStartupTimeoutError",
        "WorkerHealthCheckTimeoutError",
    }
)
USER_ERROR_TYPES = frozenset(
    {
        "ConflictError",
        "DataError",
        "DivergedError",
        "InputError",
        "InvalidSpecError",
        "ModelError",
        "NotFoundError",
        "SpecError",
    }
)
START_FAILED_TYPES = frozenset(
    {
        "RUNTIME_ENV_SETUP_FAILURE",
        "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
        "JOB_SUPERVISOR_ACTOR_START_FAILURE",
        "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
        "JOB_ENTRYPOINT_COMMAND_START_ERROR",
    }
)


@dataclass(frozen=True)
class Observation:
    """What is known of an attempt from outside.

    Attributes:
        status: Ray's word for it (PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED), or MISSING where Ray knows no
            such submission, or UNREACHABLE where Ray didn't answer.
        error_type: Ray's `error_type` of a failed submission.
        message: Ray's message.
        exit_code: Of the driver; negative for a signal.
        error: The runner's error.json, if it wrote one.
        has_result: Whether the runner wrote its result, which it does last of all.
        phase: What the job last said that it does; None before it has said anything.
        begun: Whether a driver of the attempt has ever run, whatever Ray remembers.
    """

    status: str
    error_type: str | None = None
    message: str | None = None
    exit_code: int | None = None
    error: Mapping[str, Any] | None = None
    has_result: bool = False
    phase: str | None = None
    begun: bool = False

    @property
    def lives(self) -> bool:
        """Whether Ray still has the attempt, begun or not."""
        return self.status in ("PENDING", "RUNNING")

    @property
    def works(self) -> bool:
        """Whether it is past its start: it has said something, and doesn't wait for workers."""
        return self.status == "RUNNING" and self.phase not in (None, WORKERS_PHASE)


UNREACHABLE = Observation("UNREACHABLE")


def ending(seen: Observation) -> tuple[State, Reason, str]:
    """How an attempt ended that Ray no longer runs.

    The result file decides before Ray does: the runner writes it last, so a driver that died after it had done
    its work succeeded, and one that Ray calls SUCCEEDED without a result didn't.

    Args:
        seen: An observation whose status is MISSING, SUCCEEDED, FAILED or STOPPED.

    Returns:
        The final state if no other attempt follows, the reason, and a message of one line.
    """
    if seen.has_result:
        return State.SUCCEEDED, Reason.DONE, ""
    if seen.error is not None:
        return State.FAILED, _reason_of_error(seen.error), _line(error_line(seen.error))
    if seen.status == "STOPPED":
        return State.STOPPED, Reason.STOPPED, "stopped"
    return State.FAILED, *_silent_ending(seen)


def _silent_ending(seen: Observation) -> tuple[Reason, str]:
    """Why an attempt ended that wrote neither a result nor an error."""
    message = _line(seen.message or "")
    kind = seen.error_type or ""
    reason = Reason.USER_ERROR if seen.exit_code == 2 else Reason.JOB_ERROR
    if seen.status == "MISSING":
        reason, message = Reason.HEAD_LOST, "the Ray head was restarted and has forgotten the job"
    elif seen.exit_code == DISK_FULL:
        reason, message = Reason.DISK_FULL, "no room is left under the storage folder (make room there)"
    elif seen.exit_code == NOT_WANTED:
        reason, message = Reason.HEAD_LOST, "the Ray head was restarted while the job ran, and had forgotten it"
    elif seen.status == "SUCCEEDED":
        reason, message = Reason.NO_RESULT, "the driver ended without an error and without a result"
    elif kind in START_FAILED_TYPES:
        reason = Reason.START_FAILED
    elif kind.startswith("JOB_SUPERVISOR_ACTOR"):
        reason = Reason.NODE_LOST
    elif seen.exit_code is not None and seen.exit_code < 0:
        reason, message = Reason.DRIVER_DIED, f"the driver was killed by signal {-seen.exit_code}"
    return reason, message


def error_line(error: Mapping[str, Any]) -> str:
    """An error.json as one line: where, what, and the remedy in brackets."""
    what = str(error.get("what") or error.get("type") or "unknown error")
    line = f"{error['where']}: {what}" if error.get("where") else what
    return f"{line} ({error['remedy']})" if error.get("remedy") else line


def _reason_of_error(error: Mapping[str, Any]) -> Reason:
    kind = str(error.get("type", ""))
    if kind in OUT_OF_MEMORY_TYPES:
        return Reason.OUT_OF_MEMORY
    if kind in USER_ERROR_TYPES:
        return Reason.USER_ERROR
    if kind in NODE_LOST_TYPES:
        return Reason.NODE_LOST
    known = {PreemptedError.__name__: Reason.PREEMPTED, DiskFullError.__name__: Reason.DISK_FULL}
    return known.get(kind, Reason.JOB_ERROR)


def _line(text: str) -> str:
    """The first line that says anything, not longer than a screen is wide a few times over."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:500] if lines else ""
