"""Carries out what `controller.decide` says, one `step()` per turn of the loop."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandem.artifacts.job import ATTEMPT_VARIABLE
from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.errors import AuthError, DatabaseError, TandemError, UnreachableError
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
from tandem.orchestrator.admission import refusal
from tandem.orchestrator.controller import Policy, decide
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job, iso
from tandem.orchestrator.lease import Lease, LeaseLostError
from tandem.orchestrator.log_copies import LogCopies
from tandem.orchestrator.pipelines import Pipelines
from tandem.orchestrator.ray_jobs import RayJobs
from tandem.orchestrator.records import Records
from tandem.orchestrator.resources import Room, offered
from tandem.orchestrator.scheduler import Rules
from tandem.orchestrator.states import UNREACHABLE, Observation, Reason, State

logger = logging.getLogger(__name__)


class Orchestrator:
    """The control loop's hands: records on one side, Ray on the other.

    Args:
        records: The job records.
        ray: Ray's jobs.
        cluster: Where jobs run.
        policy: What is tried again.
        rules: How the line goes.
        clock: Seconds since the epoch.
        lease: Held while it acts; None where there is no other server.
    """

    def __init__(
        self,
        records: Records,
        ray: RayJobs,
        cluster: Cluster,
        policy: Policy,
        rules: Rules,
        *,
        clock: Callable[[], float] = time.time,
        lease: Lease | None = None,
    ) -> None:
        self._records = records
        self._ray = ray
        self._cluster = cluster
        self._policy = policy
        self._rules = rules
        self._clock = clock
        self._lease = lease
        self.acts = lease is None  # in the last turn
        self._logs = LogCopies(ray, clock)
        self.ray_reachable = False
        self._problem = ""
        self._room: Room | None = None
        self._looked = False
        self._waits: Mapping[str, str] = {}
        self._troubles: Mapping[str, str] = {}
        self.pipelines = Pipelines(records, cluster.storage, clock)

    def files(self, job_id: str) -> JobFiles:
        """The folder of a job."""
        return JobFiles(self._cluster.storage / "jobs" / job_id)

    def waits(self, job_id: str) -> str | None:
        """Why a job didn't work yet when it was last looked at; None if it did, or wasn't looked at."""
        return self._waits.get(job_id)

    def judge(self, spec: Mapping[str, Any]) -> bool:
        """Refuse a job that could never start.

        Args:
            spec: Canonical.

        Returns:
            Whether it was found that it could; False where Ray can't be asked, or its machines are just coming: then it
            is found out later.

        Raises:
            SpecError: What it asks for, and what there is.
        """
        if spec["kind"] == "pipeline":
            judged = [self.judge(step["spec"]) for step in spec["steps"].values()]
            return all(judged)
        room = self._room if self._looked else self._look()
        if room is None:
            return False
        refused = refusal(spec, room, self._rules)
        if refused is not None and room.settled(self._clock()):
            raise refused
        return refused is None

    def step(self) -> list[Action]:
        """One turn: look, decide, act; nothing where another server acts.

        Returns:
            What was decided.

        Raises:
            DatabaseError: The records can't be used now.
            LeaseLostError: Another server has taken over meanwhile.
        """
        if not self._keep_lease():
            # For those who ask this server.
            self._room, self._looked, self._waits = self._look(), True, {}
            return []
        live = self._records.find(states=[State.QUEUED, State.STARTING, State.RUNNING, State.RETRYING])
        jobs = [job for job in live if job.kind != "pipeline"]
        self._room = room = self._look()
        self._looked = True
        troubles: dict[str, str] = {}
        seen = {job.id: self._observe(job, troubles) for job in jobs if job.state.active and self.ray_reachable}
        turn = decide(jobs, seen, room, self._policy, self._rules, self._clock())
        known = {job.id: job for job in jobs}
        for action in turn.actions:
            try:
                self._do(action, known[action.job_id])
            except (DatabaseError, LeaseLostError):
                # What can't be written down isn't done.
                raise
            except (UnreachableError, OSError) as error:
                # The next turn sees for itself what came of it, and tries again.
                troubles[action.job_id] = f"{error}: it is tried again"
        for job_id, trouble in troubles.items():
            if self._troubles.get(job_id) != trouble:
                logger.warning("%s: %s", job_id, trouble)
        self._troubles = troubles
        # Last: a step that has just ended lets others begin.
        far = self.pipelines.turn([job for job in live if job.kind == "pipeline"])
        self._waits = {**turn.waits, **troubles, **far}
        return turn.actions

    def _keep_lease(self) -> bool:
        """Whether this server acts."""
        set_by = 0.0 if self._lease is None else self._lease.keep()
        self.acts = set_by is not None
        if self._lease is not None:
            self._records.epoch = self._lease.epoch
        if set_by and self._room is not None:
            self._room = replace(self._room, since=self._room.since + set_by)
        return self.acts

    def _check_lease(self) -> None:
        """Before what can't be undone: a server that was frozen in the middle of a turn may have been replaced."""
        if self._lease is not None:
            self._lease.check()

    def _look(self) -> Room | None:
        """What the cluster has; None where Ray doesn't answer."""
        problem = ""
        try:
            found = self._ray.machines()
        except AuthError as error:
            found, problem = None, str(error)
        reachable = found is not None
        if reachable != self.ray_reachable or problem != self._problem:
            logger.info("Ray %s", "answers" if reachable else problem or "doesn't answer")
        self.ray_reachable, self._problem = reachable, problem
        if found is None:
            return None
        machines = tuple(offered(machine.resources) for machine in found)
        before = self._room
        since = self._clock() if before is None or before.machines != machines else before.since
        return Room(
            machines=machines,
            grows_to=self._cluster.grows_to,
            reserved=self._rules.reserved,
            shared={} if self._rules.shared_cpus is None else {"CPU": self._rules.shared_cpus},
            # No machine comes to a local cluster: it is the one that we are on.
            since=0.0 if self._cluster.local else since,
        )

    def _observe(self, job: Job, troubles: dict[str, str]) -> Observation:
        """What is known of an active job's attempt; `troubles` gets what was wrong with its files."""
        seen = self._ray.observe(job.submission_id)
        files = self.files(job.id)
        if seen.status == "UNREACHABLE":
            return seen
        known = UNREACHABLE
        try:
            if seen.lives:
                known = replace(seen, phase=files.phase())
            self._logs.copy(job, files, final=not seen.lives)
            if seen.lives:
                return known
            if job.acknowledged:
                files.check()
            return replace(
                seen, error=files.error(), has_result=files.result() is not None, begun=files.begun(job.attempt)
            )
        except OSError as error:
            troubles[job.id] = f"{error}: it goes on when that is mended"
            # Ray still has what was printed: an end waits until that can be kept, and the result be read.
            return known

    def _do(self, action: Action, job: Job) -> None:
        match action:
            case Start(identifier):
                self._submit(self._records.begin_attempt(identifier))
            case Submit():
                self._submit(job)
            case Acknowledge(identifier):
                self._records.acknowledge(identifier)
            case NoteStart(identifier, starting):
                self._records.note_start(identifier, starting=starting)
            case NoteFirst(identifier):
                self._records.note_first(identifier)
            case End(identifier, reason, message):
                self._records.ask_end(identifier, reason, message)
                logger.info("%s: must end (%s) %s", identifier, reason, message)
            case AskAside(identifier):
                self._check_lease()
                self.files(identifier).ask_aside()
            case Stop():
                self._check_lease()
                self._ray.stop(job.submission_id)
            case Change(identifier, state, reason, message, not_before, exit_code):
                if not state.active:
                    self._check_lease()
                    self.files(identifier).retire()
                self._records.change(identifier, state, reason, message, not_before=not_before, exit_code=exit_code)
                logger.info("%s: %s (%s) %s", identifier, state, reason, message)

    def _submit(self, job: Job) -> None:
        files = self.files(job.id)
        self._check_lease()
        if files.attempt() > job.attempt:
            raise LeaseLostError(f"{job.id}: attempt {files.attempt()} has begun, by another server")
        files.prepare(job.spec, job.attempt)
        try:
            self._ray.submit(
                job.submission_id,
                entrypoint(self._cluster, files.path),
                job_environment(self._cluster) | {ATTEMPT_VARIABLE: str(job.attempt)},
                {"name": job.name, "kind": job.kind, "job": job.id, "project": job.queue.project},
            )
        except UnreachableError:
            raise
        except TandemError as error:
            files.retire()
            self._records.change(job.id, State.FAILED, Reason.START_FAILED, str(error))
        else:
            self._records.acknowledge(job.id)


def entrypoint(cluster: Cluster, job_dir: Path) -> str:
    """The driver's command line.

    It starts with `exec`: behind a shell of its own Ray calls a killed driver SUCCEEDED.
    """
    python = sys.executable if cluster.local else "python"
    return f"exec {shlex.quote(python)} -m tandem.runner {shlex.quote(str(job_dir))}"


def job_environment(cluster: Cluster) -> dict[str, str]:
    """What a driver is told of its cluster; nodes elsewhere know their own head and token."""
    return cluster.ray_env() if cluster.local else {STORAGE_VARIABLE: str(cluster.storage)}


def describe(job: Job, files: JobFiles, waits: str | None) -> dict[str, Any]:
    """A job as the API shows it, and why it waits; times are ISO 8601 in UTC."""
    return {
        "id": job.id,
        "name": job.name,
        "kind": job.kind,
        "state": str(job.state),
        "reason": str(job.reason),
        "message": job.message,
        "attempt": job.attempt,
        "project": job.queue.project,
        "priority": job.queue.priority,
        "waits": waits,
        "stop_requested": job.stop_requested,
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "ended_at": iso(job.ended_at),
        "dir": str(files.path),
    }
