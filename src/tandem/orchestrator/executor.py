"""Carries out what `controller.decide` says, one `step()` per turn of the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tandem.artifacts.job import ATTEMPT_VARIABLE
from tandem.config.cluster import Cluster
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
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.launch import entrypoint, job_environment, metadata
from tandem.orchestrator.lease import Lease, LeaseLostError
from tandem.orchestrator.log_copies import LogCopies
from tandem.orchestrator.pace import Pace, on_its_way
from tandem.orchestrator.packages import Packages
from tandem.orchestrator.pipelines import Pipelines
from tandem.orchestrator.promotion.jobs import PromotionJobs
from tandem.orchestrator.ray_jobs import RayJobs
from tandem.orchestrator.records import Records
from tandem.orchestrator.resources import Room, offered
from tandem.orchestrator.runtime import JobSecrets, runtime_env, runtime_of
from tandem.orchestrator.scheduler import Rules
from tandem.orchestrator.states import UNREACHABLE, Observation, Reason, State
from tandem.orchestrator.troubles import Troubles
from tandem.specs import RAY_KINDS

logger = logging.getLogger(__name__)
SWEEP_AGE_S = 60.0


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
        self.cluster = cluster
        self.packages = Packages(cluster.storage / "packages")
        self.secrets = JobSecrets(cluster.storage / "secrets")
        self._policy = policy
        self._rules = rules
        self.clock = clock
        self._lease = lease
        self.acts = lease is None  # in the last turn
        self.stands_by = False  # another server was found to act
        self._logs = LogCopies(ray, clock)
        self.ray_reachable = False
        self._problem = ""
        self.room: Room | None = None
        self._looked = False
        self._waits: Mapping[str, str] = {}
        self._troubles = Troubles()
        self.pipelines = Pipelines(records, cluster.storage, self.secrets, clock)
        self.promotions = PromotionJobs(records, cluster.storage, clock)
        self._swept = False
        self.pace = Pace()
        self._seen: dict[str, Observation] = {}

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
        if spec["kind"] == "pipeline":
            judged = [self.judge(step["spec"]) for step in spec["steps"].values()]
            return all(judged)
        room = self.room if self._looked else self._look()
        if room is None:
            return False
        refused = refusal(spec, room, self._rules)
        if refused is not None and room.settled(self.clock()):
            raise refused
        return refused is None

    def step(self, *, quick: bool = False) -> list[Action]:
        """One turn: look, decide, act; nothing where another server acts.

        Args:
            quick: Look at those jobs alone that are on their way; of the others and of the machines the last look
                counts. So a job's start is seen at once, and Ray isn't asked about everything ten times a second.

        Returns:
            What was decided.

        Raises:
            DatabaseError: The records can't be used now.
            LeaseLostError: Another server has taken over meanwhile.
        """
        if not self._keep_lease():
            # For those who ask this server.
            self.room, self._looked, self._waits = self._look(), True, {}
            self.promotions.stand_by()
            return []
        live = self._records.find(states=[State.QUEUED, State.STARTING, State.RUNNING, State.RETRYING])
        if not self._swept:
            # An earlier server may have died between a job's end and this.
            self.secrets.forget_all_but({job.id for job in live}, before=time.time() - SWEEP_AGE_S)
            self._swept = True
        jobs = [job for job in live if job.kind in RAY_KINDS]
        quick = quick and self.room is not None
        self._troubles.turn(whole=not quick)
        if not quick:
            self.pace.looks()
            self.room, self._looked = self._look(), True
        room = self.room
        seen: dict[str, Observation] = {}
        for job in jobs:
            if not (job.state.active and self.ray_reachable):
                continue
            known_as = self._seen.get(job.id) if quick and job.state is State.RUNNING else None
            seen[job.id] = known_as or self._observe(job)
            self.pace.beat()
        self._seen = seen
        turn = decide(jobs, seen, room, self._policy, self._rules, self.clock())
        known = {job.id: job for job in jobs}
        for action in turn.actions:
            try:
                self._do(action, known[action.job_id])
            except (DatabaseError, LeaseLostError):
                # What can't be written down isn't done.
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one job, the others go on
                # The next turn sees for itself what came of it, and tries again.
                self._troubles.note(action.job_id, error, "it is tried again")
            self.pace.beat()
        stuck = self.promotions.turn([job for job in live if job.kind == "promote"])
        # Last: a step that has just ended lets others begin.
        stuck |= self.pipelines.turn([job for job in live if job.kind == "pipeline"])
        self._waits = {**turn.waits, **self._troubles.now, **stuck}
        self.pace.turned(watched=on_its_way(jobs, turn.actions, self.clock()))
        return turn.actions

    def _keep_lease(self) -> bool:
        """Whether this server acts."""
        set_by = 0.0 if self._lease is None else self._lease.keep()
        self.acts, self.stands_by = set_by is not None, set_by is None
        if self._lease is not None:
            self._records.epoch = self._lease.epoch
        if set_by and self.room is not None:
            self.room = replace(self.room, since=self.room.since + set_by)
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
        before = self.room
        since = self.clock() if before is None or before.machines != machines else before.since
        shared = {} if self._rules.shared_cpus is None else {"CPU": self._rules.shared_cpus}
        # No machine comes to a local cluster: it is the one that we are on.
        since = 0.0 if self.cluster.local else since
        return Room(machines, self.cluster.grows_to, self._rules.reserved, shared, since)

    def _observe(self, job: Job) -> Observation:
        """What is known of an active job's attempt."""
        files = self.files(job.id)
        known = UNREACHABLE
        try:
            seen = self._ray.observe(job.submission_id)
            if seen.status == "UNREACHABLE":
                return seen
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
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one job, the others go on
            self._troubles.note(job.id, error, "it goes on when that is mended")
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
                if state.final:
                    self.secrets.forget(identifier)

    def _submit(self, job: Job) -> None:
        files = self.files(job.id)
        self._check_lease()
        if files.attempt() > job.attempt:
            raise LeaseLostError(f"{job.id}: attempt {files.attempt()} has begun, by another server")
        files.prepare(job.spec, job.attempt)
        runtime = runtime_of(job.spec)
        ours = job_environment(self.cluster) | {ATTEMPT_VARIABLE: str(job.attempt)}
        try:
            self._ray.submit(
                job.submission_id,
                entrypoint(self.cluster, files.path, own_python=bool(runtime.pip)),
                runtime_env(runtime, ours, self.secrets.of(job.id), self.packages),
                metadata(job),
            )
        except UnreachableError:
            raise
        except TandemError as error:
            files.retire()
            self._records.change(job.id, State.FAILED, Reason.START_FAILED, str(error))
            self.secrets.forget(job.id)
        else:
            self._records.acknowledge(job.id)
