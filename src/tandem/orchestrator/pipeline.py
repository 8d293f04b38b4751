"""What a pipeline does next: pure functions of its record, its steps' jobs, and what they would use.

Nothing is remembered but which job does which step's work: whoever looks decides the same, however often and in
whichever process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.orchestrator.actions import Change
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.states import Reason, State
from tandem.specs.pipeline import ARTIFACT, substituted

WAITING = "WAITING"  # for the steps that it needs
SKIPPED = "SKIPPED"  # what it needs has failed, or the pipeline was stopped


@dataclass(frozen=True)
class Known:
    """What there is already for a step that can begin.

    Attributes:
        latest: The last job of the step's spec.
        intact: Whether what that job made is still there, and still what its name stands for.
        inputs_at: When the step's local files last changed; None where there are none to be seen.
    """

    latest: Job | None
    intact: bool
    inputs_at: float | None


@dataclass(frozen=True)
class Begin:
    """Give a step a job, unless one of its spec came after `latest` meanwhile.

    Attributes:
        step: Its name.
        spec: Its job's.
        latest: The id of the last job of that spec; None if there is none.
        anew: Whether to submit another one; else `latest` does the step's work.
    """

    step: str
    spec: dict[str, Any]
    latest: str | None
    anew: bool


@dataclass(frozen=True)
class StopStep:
    """Ask for the end of a step's job."""

    step: str
    job_id: str


StepAction = Begin | StopStep | Change


def ready(pipeline: Job, steps: Mapping[str, Job]) -> dict[str, dict[str, Any]]:
    """The steps that can begin now.

    Args:
        pipeline: Its record.
        steps: By step, the job that does its work, of those that have begun.

    Returns:
        By step, its job's spec.
    """
    if pipeline.stop_requested or pipeline.state.final:
        return {}
    return {
        name: filled_in(step, steps)
        for name, step in pipeline.spec["steps"].items()
        if name not in steps and all(_succeeded(steps.get(need)) for need in step["needs"])
    }


def decide(
    pipeline: Job, steps: Mapping[str, Job], known: Mapping[str, Known], kept: Collection[str]
) -> list[StepAction]:
    """One look at a pipeline.

    Args:
        pipeline: Its record.
        steps: By step, the job that does its work, of those that have begun.
        known: For each step that is `ready`, what there is already.
        kept: Ids of jobs that go on when the pipeline is stopped: others need them.

    Returns:
        What to do, in this order; nothing while there is nothing to do but wait, nor once it has ended.
    """
    if pipeline.state.final:
        return []
    if pipeline.stop_requested:
        return _stopping(pipeline, steps, kept)
    actions: list[StepAction] = []
    if pipeline.state is State.QUEUED:
        actions.append(Change(pipeline.id, State.RUNNING, Reason.ADMITTED))
    for name, spec in ready(pipeline, steps).items():
        needed = [steps[need] for need in pipeline.spec["steps"][name]["needs"]]
        action = begun_by(name, spec, known[name], needed)
        actions += [] if action is None else [action]
    skipped = skipped_steps(pipeline, steps)
    begun = [job for job in steps.values() if job.state.final]
    if not actions and len(begun) + len(skipped) == len(pipeline.spec["steps"]):
        actions.append(_ended(pipeline, steps, skipped))
    return actions


def skipped_steps(pipeline: Job, steps: Mapping[str, Job]) -> list[str]:
    """The steps that will not begin any more, in the order of the spec."""
    wanted = pipeline.spec["steps"]
    over = pipeline.stop_requested or pipeline.state.final
    lost = {name for name, job in steps.items() if job.state.final and not _succeeded(job)}
    # Each round finds those that need what the round before found.
    while found := {name for name in wanted if name not in lost and lost & set(wanted[name]["needs"])}:
        lost |= found
    return [name for name in wanted if name not in steps and (over or name in lost)]


def step_state(name: str, pipeline: Job, steps: Mapping[str, Job]) -> str:
    """A step's state: its job's, `WAITING` or `SKIPPED`."""
    if name in steps:
        return str(steps[name].state)
    return SKIPPED if name in skipped_steps(pipeline, steps) else WAITING


def finished(job: Job, known: Known, needed: Sequence[Job]) -> bool:
    """Whether a job that succeeded has made what it would make today.

    It has if nothing that it used is newer than the job: no step that it needs, no local file. (make's rule.) A version
    that was promoted isn't promoted again: somebody may have taken it back.
    """
    if job.kind == "promote":
        return job.state is State.SUCCEEDED and known.intact
    return job.state is State.SUCCEEDED and known.intact and job.created_at >= _newest(known, needed)


def begun_by(step: str, spec: dict[str, Any], known: Known, needed: Sequence[Job]) -> Begin | None:
    """How a step begins whose needs have succeeded; None while it must wait for a job that is of no use to it."""
    latest = known.latest
    if latest is None:
        return Begin(step, spec, None, anew=True)
    if latest.state.final:
        return Begin(step, spec, latest.id, anew=not finished(latest, known, needed))
    # Somebody else's job of the same spec is on its way. One that hasn't begun will find what is there now.
    will_do = latest.state is State.QUEUED or latest.created_at >= _newest(known, needed)
    return Begin(step, spec, latest.id, anew=False) if will_do and not latest.stop_requested else None


def _newest(known: Known, needed: Sequence[Job]) -> float:
    times = [known.inputs_at, *(job.ended_at for job in needed)]
    return max((at for at in times if at is not None), default=float("-inf"))


def _stopping(pipeline: Job, steps: Mapping[str, Job], kept: Collection[str]) -> list[StepAction]:
    going = {name: job for name, job in steps.items() if not job.state.final and job.id not in kept}
    if going:
        return [StopStep(name, job.id) for name, job in going.items() if not job.stop_requested]
    if all(_succeeded(steps.get(name)) for name in pipeline.spec["steps"]):
        return [Change(pipeline.id, State.SUCCEEDED, Reason.DONE)]
    return [Change(pipeline.id, State.STOPPED, Reason.STOPPED, "stopped on request")]


def _ended(pipeline: Job, steps: Mapping[str, Job], skipped: Sequence[str]) -> Change:
    bad = [f"step {name}: {job.state} ({job.reason})" + (f" {job.message}" if job.message else "")
           for name, job in steps.items() if not _succeeded(job)]  # fmt: skip
    if not bad:
        return Change(pipeline.id, State.SUCCEEDED, Reason.DONE)
    message = "; ".join([*bad, *([f"not run: {', '.join(skipped)}"] if skipped else [])])
    return Change(pipeline.id, State.FAILED, Reason.STEP_FAILED, message)


def _succeeded(job: Job | None) -> bool:
    return job is not None and job.state is State.SUCCEEDED


def filled_in(step: Mapping[str, Any], steps: Mapping[str, Job]) -> dict[str, Any]:
    """The spec of a step's job, once the jobs of those steps are known that it needs."""
    made = {(need, ARTIFACT): f"artifact:{steps[need].name}@{steps[need].id}" for need in step["needs"]}
    spec: dict[str, Any] = substituted(step["spec"], made)
    return spec
