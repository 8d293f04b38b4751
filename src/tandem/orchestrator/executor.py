"""Carries out what `controller.decide` says, one `step()` per turn of the loop."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.errors import AuthError, TandemError, UnreachableError
from tandem.orchestrator.controller import Acknowledge, Action, Capacity, Change, Policy, Start, Stop, Submit, decide
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.ray_jobs import RayJobs
from tandem.orchestrator.records import Job, Records
from tandem.orchestrator.states import Observation, Reason, State

logger = logging.getLogger(__name__)

LOG_COPY_EVERY_S = 1.0
# Ray hands out a job's whole log at every call: a long one is copied less often.
LOG_BYTES_PER_S = 2_000_000


class Orchestrator:
    """The control loop's hands: records on one side, Ray on the other.

    Args:
        records: The job records.
        ray: Ray's jobs.
        cluster: Where jobs run.
        policy: What is tried again.
        job_cpus: Logical CPUs that jobs may hold at once; None: all that the cluster has.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        records: Records,
        ray: RayJobs,
        cluster: Cluster,
        policy: Policy,
        *,
        job_cpus: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._ray = ray
        self._cluster = cluster
        self._policy = policy
        self._job_cpus = job_cpus
        self._clock = clock
        self._copied_at: dict[str, float] = {}
        self.ray_reachable = False
        self._problem = ""

    def files(self, job_id: str) -> JobFiles:
        """The folder of a job."""
        return JobFiles(self._cluster.storage / "jobs" / job_id)

    def step(self) -> list[Action]:
        """One turn: look, decide, act.

        Returns:
            What was decided.
        """
        jobs = self._records.find(states=[State.QUEUED, State.STARTING, State.RUNNING, State.RETRYING])
        cpus = self._cpus()
        seen: dict[str, Observation] = {}
        if self.ray_reachable:
            for job in jobs:
                if job.state.active:
                    seen[job.id] = self._observe(job)
                    self._copy_log(job, final=seen[job.id].status not in ("PENDING", "RUNNING"))
        capacity = Capacity(cpus, self._job_cpus if self._job_cpus is not None else cpus or 0.0)
        actions = decide(jobs, seen, capacity, self._policy, self._clock())
        known = {job.id: job for job in jobs}
        for action in actions:
            try:
                self._do(action, known[action.job_id])
            except UnreachableError as error:
                # The next turn sees for itself what came of it.
                logger.warning("%s: %s", action.job_id, error)
        return actions

    def _cpus(self) -> float | None:
        problem = ""
        try:
            cpus = self._ray.cpus()
        except AuthError as error:
            cpus, problem = None, str(error)
        reachable = cpus is not None
        if reachable != self.ray_reachable or problem != self._problem:
            logger.info("Ray %s", "answers" if reachable else problem or "doesn't answer")
        self.ray_reachable, self._problem = reachable, problem
        return cpus

    def _observe(self, job: Job) -> Observation:
        seen = self._ray.observe(job.submission_id)
        if seen.status in ("PENDING", "RUNNING", "UNREACHABLE"):
            return seen
        files = self.files(job.id)
        return replace(seen, error=files.error(), has_result=files.result() is not None)

    def _do(self, action: Action, job: Job) -> None:
        match action:
            case Start(identifier):
                self._submit(self._records.begin_attempt(identifier))
            case Submit():
                self._submit(job)
            case Acknowledge(identifier):
                self._records.acknowledge(identifier)
            case Stop():
                self._ray.stop(job.submission_id)
            case Change(identifier, state, reason, message, not_before, exit_code):
                self._records.change(identifier, state, reason, message, not_before=not_before, exit_code=exit_code)
                logger.info("%s: %s (%s) %s", identifier, state, reason, message)

    def _submit(self, job: Job) -> None:
        files = self.files(job.id)
        files.prepare(job.spec)
        try:
            self._ray.submit(
                job.submission_id,
                entrypoint(self._cluster, files.path),
                job_environment(self._cluster),
                {"name": job.name, "kind": job.kind, "job": job.id},
            )
        except UnreachableError:
            raise
        except TandemError as error:
            self._records.change(job.id, State.FAILED, Reason.START_FAILED, str(error))
        else:
            self._records.acknowledge(job.id)

    def _copy_log(self, job: Job, *, final: bool) -> None:
        now = self._clock()
        files = self.files(job.id)
        every = max(LOG_COPY_EVERY_S, files.log_bytes(job.attempt) / LOG_BYTES_PER_S)
        if not final and now - self._copied_at.get(job.id, 0.0) < every:
            return
        self._copied_at[job.id] = now
        text = self._ray.logs(job.submission_id)
        if text is not None:
            files.append_log(job.attempt, text)
        if final:
            self._copied_at.pop(job.id, None)


def entrypoint(cluster: Cluster, job_dir: Path) -> str:
    """The driver's command line.

    It starts with `exec`: behind a shell of its own Ray calls a killed driver SUCCEEDED.
    """
    python = sys.executable if cluster.local else "python"
    return f"exec {shlex.quote(python)} -m tandem.runner {shlex.quote(str(job_dir))}"


def job_environment(cluster: Cluster) -> dict[str, str]:
    """What a driver is told of its cluster; nodes elsewhere know their own head and token."""
    return cluster.ray_env() if cluster.local else {STORAGE_VARIABLE: str(cluster.storage)}


def describe(job: Job, files: JobFiles) -> dict[str, Any]:
    """A job as the API shows it; times are ISO 8601 in UTC."""
    return {
        "id": job.id,
        "name": job.name,
        "kind": job.kind,
        "state": str(job.state),
        "reason": str(job.reason),
        "message": job.message,
        "attempt": job.attempt,
        "stop_requested": job.stop_requested,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "ended_at": _iso(job.ended_at),
        "dir": str(files.path),
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
