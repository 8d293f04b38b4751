"""What to do next with the jobs: a pure function of the records, of what is seen, and of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tandem.artifacts.job import WORKERS_PHASE
from tandem.orchestrator.actions import (
    Acknowledge,
    Action,
    AskAside,
    Change,
    End,
    NoteFirst,
    NoteStart,
    Start,
    Stop,
    Submit,
)
from tandem.orchestrator.admission import REMEDY
from tandem.orchestrator.jobs import Attempt, Job
from tandem.orchestrator.resources import Room, lacking, says
from tandem.orchestrator.scheduler import Holding, Rules, Waiting, schedule
from tandem.orchestrator.states import RETRIES, UNREACHABLE, Observation, Reason, State, ending

RAY_AWAY = "Ray doesn't answer: nothing starts until it does"
# No stop of ours makes a job end like this.
_ITS_OWN_FAULT = frozenset({Reason.USER_ERROR, Reason.OUT_OF_MEMORY})


@dataclass(frozen=True)
class Policy:
    """Whether and how often a job that failed without its own fault is tried again, whatever the reasons.

    Attributes:
        retry: Whether at all.
        max_attempts: How often a job is begun; after being preempted it begins again without counting.
    """

    retry: bool
    max_attempts: int


@dataclass(frozen=True)
class Turn:
    """What one turn of the loop comes to.

    Attributes:
        actions: In the order in which to carry them out.
        waits: By job id, why a job doesn't work yet.
    """

    actions: list[Action] = field(default_factory=list)
    waits: dict[str, str] = field(default_factory=dict)


def decide(
    jobs: Sequence[Job], seen: Mapping[str, Observation], room: Room | None, policy: Policy, rules: Rules, now: float
) -> Turn:
    """One turn of the loop.

    Args:
        jobs: All that aren't final, in the order of their submission.
        seen: By job id, what is known of the active ones' current attempts.
        room: What the cluster has; None where Ray doesn't answer: nothing is started then.
        policy: What is tried again.
        rules: How the line goes.
        now: Seconds since the epoch.
    """
    turn = Turn()
    holding: list[Job] = []
    line: list[Job] = []
    for job in jobs:
        if job.state.active:
            looked = seen.get(job.id, UNREACHABLE)
            actions = _watch(job, looked, policy, rules, now)
            turn.actions.extend(actions)
            if not any(isinstance(action, Change) and not action.state.active for action in actions):
                holding.append(job)
                turn.waits.update(_why_it_does_not_work(job, looked, room, now))
        elif job.stop_requested:
            turn.actions.append(_stopped(job))
        elif job.fault:
            message = (
                f"an earlier version of Tandem took its spec, this one can't run it: {job.fault} (submit it again)"
            )
            turn.actions.append(Change(job.id, State.FAILED, Reason.USER_ERROR, message))
        elif job.queue.max_wait_s is not None and now - job.waiting_since >= job.queue.max_wait_s:
            message = f"waited for {job.queue.max_wait_s:g} s (queue.max_wait_s) and couldn't start"
            turn.actions.append(Change(job.id, State.FAILED, Reason.QUEUE_TIMEOUT, message))
        elif room is None:
            turn.waits[job.id] = RAY_AWAY
        else:
            line.append(job)
    if room is not None:
        _admit(turn, line, holding, room, rules, now)
    return turn


def _admit(turn: Turn, line: Sequence[Job], holding: Sequence[Job], room: Room, rules: Rules, now: float) -> None:
    plan = schedule([_waiting(job, room) for job in line], [_holding(job, room) for job in holding], room, rules, now)
    for job_id, why in plan.refused.items():
        turn.actions.append(Change(job_id, State.FAILED, Reason.USER_ERROR, f"{why} ({REMEDY})"))
    turn.actions.extend(Start(job_id) for job_id in plan.starts)
    turn.actions.extend(NoteFirst(job_id) for job_id in plan.firsts)
    turn.actions.extend(End(job_id, Reason.PREEMPTED, f"made room for {other}") for job_id, other in plan.preempts)
    turn.waits.update(plan.waits)


def _waiting(job: Job, room: Room) -> Waiting:
    return Waiting(
        id=job.id,
        project=job.queue.project,
        priority=job.queue.priority,
        demand=job.demands[room.gpus],
        attempt=job.attempt + 1,
        # One that ran fitted once: machines have gone since, and may come back.
        judged=job.judged or job.attempt > 0,
        not_before=job.not_before,
        first_at=job.first_at,
    )


def _holding(job: Job, room: Room) -> Holding:
    return Holding(
        id=job.id,
        project=job.queue.project,
        priority=job.queue.priority,
        held=room.held_by(job.demands[room.gpus]),
        preemptible=job.queue.preemptible,
        leaving=job.stop_requested or job.current.end_reason is not None,
        started_at=job.current.submitted_at,
    )


def _watch(job: Job, seen: Observation, policy: Policy, rules: Rules, now: float) -> list[Action]:
    if seen.status == "UNREACHABLE":
        # The head may come back with the job alive: nothing is known, so nothing is written.
        return []
    if seen.lives:
        actions: list[Action] = [] if job.acknowledged else [Acknowledge(job.id)]
        if seen.status == "RUNNING" and job.state is State.STARTING:
            actions.append(Change(job.id, State.RUNNING, Reason.DRIVER_RUNS))
        return [*actions, *_watch_time(job, seen, rules, now)]
    asked = job.current.end_reason
    untaken = seen.status == "MISSING" and not (job.acknowledged or seen.begun or seen.has_result) and asked is None
    limit_s = job.queue.max_start_s
    if untaken and not job.stop_requested and _seconds(job.current, now) < limit_s:
        return [Submit(job.id)]
    state, reason, message = ending(seen)
    if job.stop_requested and state is not State.SUCCEEDED:
        return [_stopped(job)]
    if untaken:
        reason, message = Reason.START_TIMEOUT, f"Ray hadn't taken it after {limit_s:g} s (queue.max_start_s)"
    elif asked is not None and state is not State.SUCCEEDED and reason not in _ITS_OWN_FAULT:
        said = f": {message}" if reason is Reason.PREEMPTED else ""
        state, reason, message = State.FAILED, asked, job.current.end_message + said
    wait_s = _wait_s(job, reason, policy) if state is State.FAILED else None
    if wait_s is not None:
        return [Change(job.id, State.RETRYING, reason, message, not_before=now + wait_s, exit_code=seen.exit_code)]
    return [Change(job.id, state, reason, message, exit_code=seen.exit_code)]


def _watch_time(job: Job, seen: Observation, rules: Rules, now: float) -> list[Action]:
    """What becomes of an attempt that lives and shall end, or takes too long."""
    attempt, limits = job.current, job.queue
    if job.stop_requested:
        return [Stop(job.id)]
    if attempt.end_reason is not None:
        # The others go on from what they have stored as they went along: there is nothing to wait for.
        saves = attempt.end_reason is Reason.PREEMPTED and job.kind == "finetune"
        asked_at = attempt.end_asked_at if attempt.end_asked_at is not None else now
        return [AskAside(job.id)] if saves and now - asked_at < rules.grace_s else [Stop(job.id)]
    actions: list[Action] = []
    if seen.works == (attempt.starting_since is not None):
        actions.append(NoteStart(job.id, starting=not seen.works))
    if not seen.works and _seconds(attempt, now) >= limits.max_start_s:
        message = f"{_missing(seen)} after {limits.max_start_s:g} s (queue.max_start_s)"
        actions.append(End(job.id, Reason.START_TIMEOUT, message))
    elif limits.max_run_s is not None and now - attempt.submitted_at >= limits.max_run_s:
        message = f"hadn't ended after {limits.max_run_s:g} s (queue.max_run_s)"
        actions.append(End(job.id, Reason.RUN_TIMEOUT, message))
    return actions


def _missing(seen: Observation) -> str:
    if seen.status == "PENDING":
        return "Ray hadn't started its driver"
    return "its workers hadn't come" if seen.phase == WORKERS_PHASE else "its driver hadn't said anything"


def _seconds(attempt: Attempt, now: float) -> float:
    """For how long an attempt hasn't begun to work."""
    return 0.0 if attempt.starting_since is None else now - attempt.starting_since


def _why_it_does_not_work(job: Job, seen: Observation, room: Room | None, now: float) -> dict[str, str]:
    attempt = job.current
    if attempt.end_reason is not None:
        return {job.id: f"is asked to end ({attempt.end_reason}): {attempt.end_message}"}
    if seen.works or attempt.starting_since is None:
        return {}
    why = f"starting for {_seconds(attempt, now):.0f} s, of at most {job.queue.max_start_s:g} s"
    if room is not None:
        needs = job.demands[room.gpus].needs
        if lacks := lacking(needs, room.now):
            why += f"; needs {says(needs, lacks)}, the cluster has {says(lacks)} now: waits for machines"
            why += " of the autoscaler" if room.grows_to else ""
    return {job.id: why}


def _wait_s(job: Job, reason: Reason, policy: Policy) -> float | None:
    """Seconds until the next attempt; None if there is none."""
    retry = RETRIES[reason]
    if retry is None:
        return None
    before = [attempt.reason for attempt in job.history[:-1] if attempt.reason is not None]
    times = before.count(reason)
    if retry.limit is not None:
        begun = 1 + sum(not _uncounted(earlier) for earlier in before)
        if times >= retry.limit or begun >= policy.max_attempts or not policy.retry:
            return None
    return retry.backoff_s(times)


def _uncounted(reason: Reason) -> bool:
    retry = RETRIES[reason]
    return retry is not None and retry.limit is None


def _stopped(job: Job) -> Change:
    return Change(job.id, State.STOPPED, Reason.STOPPED, "stopped on request")
