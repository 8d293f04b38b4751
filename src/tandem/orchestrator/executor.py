"""Carries out what `controller.decide` says, one `step()` per turn of the loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tandem.artifacts.job import ATTEMPT_VARIABLE
from tandem.config.cluster import Cluster
from tandem.errors import AuthError, TandemError, UnreachableError
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
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.launch import entrypoint, job_environment
from tandem.orchestrator.packages import Packages
from tandem.orchestrator.ray_jobs import RayJobs
from tandem.orchestrator.records import Records
from tandem.orchestrator.resources import Amounts, Room, offered
from tandem.orchestrator.runtime import JobSecrets, runtime_env, runtime_of
from tandem.orchestrator.scheduler import Rules
from tandem.orchestrator.states import Observation, Reason, State

logger = logging.getLogger(__name__)

TURN_EVERY_S = 0.5
# While a job is on its way to its driver, which takes one or two seconds.
WATCHED_EVERY_S = 0.1
WATCHED_FOR_S = 10.0
LEAST_REST_S = 0.05
SWEEP_AGE_S = 60.0
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
        rules: How the line goes.
        clock: Seconds since the epoch.
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
    ) -> None:
        self._records = records
        self._ray = ray
        self.cluster = cluster
        self.packages = Packages(cluster.storage / "packages")
        self.secrets = JobSecrets(cluster.storage / "secrets")
        self._policy = policy
        self._rules = rules
        self._clock = clock
        self._copied_at: dict[str, float] = {}
        self.ray_reachable = False
        self._problem = ""
        self._room: Room | None = None
        self._looked = False
        self._waits: Mapping[str, str] = {}
        self._swept = False
        self._woken = threading.Event()
        self._next_turn_s = TURN_EVERY_S
        self._turned_at = self._looked_at = 0.0
        self._seen: dict[str, Observation] = {}

    def wake(self) -> None:
        """Have the next turn come at once: there is something to do."""
        self._woken.set()

    def rest(self) -> bool:
        """Wait until the next turn is due.

        Returns:
            Whether a quick one is enough.
        """
        self._woken.wait(self._next_turn_s)
        # However many submissions come at once, turns don't follow each other without a pause.
        time.sleep(max(0.0, self._turned_at + LEAST_REST_S - time.monotonic()))
        self._woken.clear()
        return time.monotonic() - self._looked_at < TURN_EVERY_S

    def resources(self, job: Job) -> tuple[Amounts, Amounts]:
        """What a job must have to run here, and what it may come to hold."""
        room = self._room
        asked = job.demands[room.gpus if room else False]
        return asked.needs, room.held_by(asked) if room else asked.needs

    def files(self, job_id: str) -> JobFiles:
        """The folder of a job."""
        return JobFiles(self.cluster.storage / "jobs" / job_id)

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
        room = self._room if self._looked else self._look()
        if room is None:
            return False
        refused = refusal(spec, room, self._rules)
        if refused is not None and room.settled(self._clock()):
            raise refused
        return refused is None

    def step(self, *, quick: bool = False) -> list[Action]:
        """One turn: look, decide, act.

        Args:
            quick: Look at those jobs alone that are on their way; of the others and of the machines the last look
                counts. So a job's start is seen at once, and Ray isn't asked about everything ten times a second.

        Returns:
            What was decided.
        """
        jobs = self._records.find(states=[State.QUEUED, State.STARTING, State.RUNNING, State.RETRYING])
        if not self._swept:
            # An earlier server may have died between a job's end and this.
            self.secrets.forget_all_but({job.id for job in jobs}, before=time.time() - SWEEP_AGE_S)
            self._swept = True
        quick = quick and self._room is not None
        if not quick:
            self._looked_at = time.monotonic()
            self._room, self._looked = self._look(), True
        room = self._room
        seen: dict[str, Observation] = {}
        if self.ray_reachable:
            for job in jobs:
                if quick and job.state is State.RUNNING and job.id in self._seen:
                    seen[job.id] = self._seen[job.id]
                elif job.state.active:
                    seen[job.id] = self._observe(job)
                    self._copy_log(job, final=not seen[job.id].lives)
        self._seen = seen
        turn = decide(jobs, seen, room, self._policy, self._rules, self._clock())
        self._waits = turn.waits
        known = {job.id: job for job in jobs}
        for action in turn.actions:
            try:
                self._do(action, known[action.job_id])
            except UnreachableError as error:
                # The next turn sees for itself what came of it.
                logger.warning("%s: %s", action.job_id, error)
        self._next_turn_s = WATCHED_EVERY_S if self._watched(jobs, turn.actions) else TURN_EVERY_S
        self._turned_at = time.monotonic()
        return turn.actions

    def _watched(self, jobs: Sequence[Job], actions: Sequence[Action]) -> bool:
        """Whether a job is on its way: when it begins to run is told at once, not half a second later."""
        recent = self._clock() - WATCHED_FOR_S
        starting = (job for job in jobs if job.state is State.STARTING)
        return any(isinstance(action, Start) for action in actions) or any(
            job.current.submitted_at > recent for job in starting
        )

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
            grows_to=self.cluster.grows_to,
            reserved=self._rules.reserved,
            shared={} if self._rules.shared_cpus is None else {"CPU": self._rules.shared_cpus},
            # No machine comes to a local cluster: it is the one that we are on.
            since=0.0 if self.cluster.local else since,
        )

    def _observe(self, job: Job) -> Observation:
        seen = self._ray.observe(job.submission_id)
        files = self.files(job.id)
        if seen.lives:
            return replace(seen, phase=files.phase())
        if seen.status == "UNREACHABLE":
            return seen
        return replace(seen, error=files.error(), has_result=files.result() is not None)

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
                self.files(identifier).ask_aside()
            case Stop():
                self._ray.stop(job.submission_id)
            case Change(identifier, state, reason, message, not_before, exit_code):
                self._records.change(identifier, state, reason, message, not_before=not_before, exit_code=exit_code)
                logger.info("%s: %s (%s) %s", identifier, state, reason, message)
                if state.final:
                    self.secrets.forget(identifier)

    def _submit(self, job: Job) -> None:
        files = self.files(job.id)
        files.prepare(job.spec)
        runtime = runtime_of(job.spec)
        environment = job_environment(self.cluster) | {ATTEMPT_VARIABLE: str(job.attempt)}
        try:
            self._ray.submit(
                job.submission_id,
                entrypoint(self.cluster, files.path, own_python=bool(runtime.pip)),
                runtime_env(runtime, environment, self.secrets.of(job.id), self.packages),
                {
                    "name": job.name,
                    "kind": job.kind,
                    "job": job.id,
                    "project": job.queue.project,
                    "user": job.user,
                    "attempt": str(job.attempt),
                },
            )
        except UnreachableError:
            raise
        except TandemError as error:
            self._records.change(job.id, State.FAILED, Reason.START_FAILED, str(error))
            self.secrets.forget(job.id)
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
