"""What the API answers with, as models: its document is made of them."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tandem.orchestrator.checks import Result
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.roles import Role
from tandem.orchestrator.states import Reason, State


class Answer(BaseModel):
    """Nothing but what it says."""

    model_config = ConfigDict(extra="forbid")


class Health(Answer):
    """The server lives."""

    status: str
    version: str


class Status(Answer):
    """The server, Ray, and jobs by state."""

    version: str
    ray: bool = Field(description="whether Ray answered when it was last asked")
    acts: bool = Field(description="whether it is this server that starts and watches jobs, and no other one")
    jobs: dict[State, int]


class CheckView(Answer):
    """One look at something that is needed."""

    name: str
    result: Result = Field(description="warn works with less, bad doesn't work")
    found: str
    remedy: str


class Checks(Answer):
    """What the server finds."""

    server: dict[str, str] = Field(description="its versions of tandem, python and ray")
    cluster: dict[str, str] = Field(description="the cluster's of python and ray; empty where Ray doesn't say")
    checks: list[CheckView]


class JobView(Answer):
    """A job as a list shows it; times are ISO 8601 in UTC."""

    id: str
    name: str
    kind: str
    state: State
    reason: Reason = Field(description="why it is in this state")
    message: str
    attempt: int
    project: str
    priority: int
    user: str = Field(description="whose key it was submitted with")
    waits: str | None = Field(description="why it doesn't work yet")
    stop_requested: bool
    created_at: str
    started_at: str | None
    ended_at: str | None
    dir: str = Field(description="its folder, on the server")


class Submitted(JobView):
    """A job, and whether it is new."""

    created: bool
    same_name: list[str] = Field(description="unfinished jobs of this name and another spec")


class Change(Answer):
    """One change of a job's state; `at` is in seconds since the epoch."""

    at: float
    attempt: int
    state: State
    reason: Reason
    message: str


class AttemptView(Answer):
    """One submission to Ray; times are seconds since the epoch."""

    number: int
    submission_id: str
    reason: str = Field(description="why it ended; empty while it lives")
    message: str
    exit_code: int | None
    submitted_at: float
    ended_at: float | None
    environment: dict[str, Any] | None = Field(description="versions of what it runs on, as its driver found them")
    dashboard: str = Field(description="its page on Ray's dashboard")


class StepView(Answer):
    """A step of a pipeline, and the job that does its work."""

    step: str
    kind: str
    needs: list[str]
    state: str
    job: str | None
    reused: bool = Field(description="whether the job was done before")
    reason: str | None
    message: str
    created_at: str | None
    started_at: str | None
    ended_at: str | None
    waits: str | None = Field(description="why its job doesn't work yet")


class JobDetails(JobView):
    """A job with all that is on record of it."""

    spec: dict[str, Any]
    origin: dict[str, Any] = Field(description="what submitted it: versions, and the commit of the code that it was in")
    events: list[Change]
    attempts: list[AttemptView]
    needs: dict[str, float] = Field(description="resources that it must have to run")
    used: dict[str, float] = Field(description="what its attempts held, in hours of each resource")
    steps: list[StepView] | None = Field(description="of a pipeline")
    mlflow: str | None = Field(description="its run in MLflow, or how to look at it")


class JobPage(Answer):
    """Jobs, the latest submitted first."""

    jobs: list[JobView]
    next: str | None = Field(description="the `cursor` of the next page; null on the last one")


class PlannedStep(Answer):
    """What would become of a step of a pipeline."""

    step: str
    kind: str
    needs: list[str]
    does: str
    job: str | None = Field(description="the job whose work is taken")


class Progress(BaseModel):
    """How far a job says that it is."""

    model_config = ConfigDict(extra="allow")

    phase: str
    done: int
    total: int | None = None
    figures: dict[str, float | str] = {}


class Package(Answer):
    """A working directory that is there."""

    sha256: str
    bytes: int


class App(Answer):
    """An application on Ray Serve."""

    name: str
    state: str
    verdict: str
    message: str
    url: str
    deployed_at: float
    replicas: dict[str, int]


class Deployed(Answer):
    """Names of the applications that were handed over."""

    applications: list[str]
    notes: list[str] = Field(description="what else is to be known, a line each")


class Undeployed(Answer):
    """The application that was taken down."""

    name: str


class Key(Answer):
    """For whom a key was made, and what it allows."""

    name: str
    role: Role
    created_at: str = Field(description="empty for the cluster's own")


class NewKey(Key):
    """The same, with the key itself: it is told this once."""

    key: str


def view(job: Job, files: JobFiles, waits: str | None) -> dict[str, Any]:
    """The fields of a `JobView`."""
    return {
        "id": job.id,
        "name": job.name,
        "kind": job.kind,
        "state": job.state,
        "reason": job.reason,
        "message": job.message,
        "attempt": job.attempt,
        "project": job.queue.project,
        "priority": job.queue.priority,
        "user": job.user,
        "waits": waits,
        "stop_requested": job.stop_requested,
        "created_at": _iso(job.created_at),
        "started_at": None if job.started_at is None else _iso(job.started_at),
        "ended_at": None if job.ended_at is None else _iso(job.ended_at),
        "dir": str(files.path),
    }


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
