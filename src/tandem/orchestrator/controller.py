"""What to do next with the jobs: a pure function of the records, of what is seen, and of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem.orchestrator.records import Job
from tandem.orchestrator.resources import cpus_held, cpus_needed
from tandem.orchestrator.states import RETRYABLE, UNREACHABLE, Observation, Reason, State, ending

RETRY_BACKOFF_S = 5.0
RETRY_BACKOFF_MAX_S = 300.0


@dataclass(frozen=True)
class Policy:
    """Whether and how often a job that failed without its own fault is tried again."""

    retry: bool
    max_attempts: int


@dataclass(frozen=True)
class Capacity:
    """What the cluster has for jobs.

    Attributes:
        cpus: Logical CPUs of the cluster, or None where Ray doesn't answer: nothing is started then.
        for_jobs: How many of them jobs may hold at once; a single job may have them all.
    """

    cpus: float | None
    for_jobs: float


@dataclass(frozen=True)
class Start:
    """Begin the next attempt: write it down, then submit it."""

    job_id: str


@dataclass(frozen=True)
class Submit:
    """Submit the current attempt again: the call was never answered."""

    job_id: str


@dataclass(frozen=True)
class Acknowledge:
    """Ray knows the current attempt."""

    job_id: str


@dataclass(frozen=True)
class Stop:
    """Ask Ray to end the current attempt."""

    job_id: str


@dataclass(frozen=True)
class Change:
    """Write down another state."""

    job_id: str
    state: State
    reason: Reason
    message: str = ""
    not_before: float = 0.0
    exit_code: int | None = None


Action = Start | Submit | Acknowledge | Stop | Change


def decide(
    jobs: Sequence[Job], seen: Mapping[str, Observation], capacity: Capacity, policy: Policy, now: float
) -> list[Action]:
    """One turn of the loop.

    Args:
        jobs: All that aren't final, in the order of their submission.
        seen: By job id, what is known of the active ones' current attempts.
        capacity: What the cluster has.
        policy: What is tried again.
        now: Seconds since the epoch.

    Returns:
        Actions in the order in which to carry them out.
    """
    actions: list[Action] = []
    held = 0.0
    for job in jobs:
        if job.state.active:
            held += cpus_held(job.spec, capacity.cpus or 0.0)
            actions += _watch(job, seen.get(job.id, UNREACHABLE), policy, now)
    queue = [job for job in jobs if not job.state.active]
    actions += [_stopped(job) for job in queue if job.stop_requested]
    if capacity.cpus is None:
        return actions
    for job in queue:
        need = cpus_needed(job.spec)
        if job.stop_requested or job.not_before > now:
            continue
        if need > capacity.cpus:
            message = (
                f"asks for {need:g} CPUs, the cluster has {capacity.cpus:g} (use fewer workers, or a larger cluster)"
            )
            actions.append(Change(job.id, State.FAILED, Reason.USER_ERROR, message))
            continue
        if held and held + need > min(capacity.for_jobs, capacity.cpus):
            # First in, first out: a small job behind a large one waits, or the large one never starts.
            break
        held += cpus_held(job.spec, capacity.cpus)
        actions.append(Start(job.id))
    return actions


def backoff_s(attempt: int) -> float:
    """Seconds to wait after an attempt before the next."""
    return float(min(RETRY_BACKOFF_S * 2 ** (attempt - 1), RETRY_BACKOFF_MAX_S))


def _watch(job: Job, seen: Observation, policy: Policy, now: float) -> list[Action]:
    if seen.status == "UNREACHABLE":
        # The head may come back with the job alive: nothing is known, so nothing is written.
        return []
    if seen.status in ("PENDING", "RUNNING"):
        actions: list[Action] = [] if job.acknowledged else [Acknowledge(job.id)]
        if seen.status == "RUNNING" and job.state is State.STARTING:
            actions.append(Change(job.id, State.RUNNING, Reason.DRIVER_RUNS))
        return [*actions, Stop(job.id)] if job.stop_requested else actions
    if seen.status == "MISSING" and not job.acknowledged and not seen.has_result:
        return [_stopped(job)] if job.stop_requested else [Submit(job.id)]
    state, reason, message = ending(seen)
    if job.stop_requested and state is not State.SUCCEEDED:
        return [_stopped(job)]
    if state is State.FAILED and RETRYABLE[reason] and policy.retry and job.attempt < policy.max_attempts:
        later = now + backoff_s(job.attempt)
        return [Change(job.id, State.RETRYING, reason, message, not_before=later, exit_code=seen.exit_code)]
    return [Change(job.id, state, reason, message, exit_code=seen.exit_code)]


def _stopped(job: Job) -> Change:
    return Change(job.id, State.STOPPED, Reason.STOPPED, "stopped on request")
