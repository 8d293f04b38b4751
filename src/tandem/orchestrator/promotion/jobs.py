"""Jobs of kind `promote`: they run in the server, each in a thread of its own, since an endpoint may take its time."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.config.files import write_whole
from tandem.errors import DatabaseError, InputError, NotPromotedError, TandemError, UnreachableError
from tandem.orchestrator.deploying.app_status import AppStatus
from tandem.orchestrator.deploying.releases import Release
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.lease import LeaseLostError
from tandem.orchestrator.promotion.promoter import Promoter
from tandem.orchestrator.promotion.watch import Gone, TakeBack, Up, look
from tandem.orchestrator.records import Records
from tandem.orchestrator.states import Reason, State
from tandem.orchestrator.troubles import Troubles
from tandem.specs.promote import PromoteSpec
from tandem.specs.rag import RagSpec

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
AGAIN_AFTER_S = 5.0


@dataclass(frozen=True)
class _Done:
    """What a promotion came to: a line, and the same as JSON types."""

    said: str
    facts: Mapping[str, Any]


@dataclass
class _Run:
    """One thread, and what became of it."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    done: _Done | None = None
    error: Exception | None = None
    ended_at: float | None = None


class PromotionJobs:
    """The hands for these jobs: one `turn` of the control loop begins them and takes down how they ended.

    One that runs although no thread of this process does its work was begun by an earlier server: it is begun anew, and
    what is promoted already stays so.

    Args:
        records: The job records.
        storage: The cluster's storage folder.
        clock: Seconds since the epoch.
    """

    def __init__(self, records: Records, storage: Path, clock: Callable[[], float]) -> None:
        self._records = records
        self._storage = storage
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._troubles = Troubles()
        self.promoter: Promoter | None = None
        """Set before the first turn."""

    def turn(self, live: Sequence[Job]) -> dict[str, str]:
        """Begin what waits, and note what has ended.

        Args:
            live: Those that hadn't ended.

        Returns:
            By id, why one doesn't go on.
        """
        self._troubles.turn()
        for gone in self._runs.keys() - {job.id for job in live}:
            self._runs.pop(gone).cancelled.set()
        for job in live:
            try:
                self._advance(job)
            except (DatabaseError, LeaseLostError):
                # What can't be written down isn't done.
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others go on
                self._troubles.note(job.id, error, "it is tried again")
        return dict(self._troubles.now)

    def stand_by(self) -> None:
        """Another server acts: what threads still come to is its to say."""
        for run in self._runs.values():
            run.cancelled.set()
        self._runs.clear()

    def _advance(self, job: Job) -> None:
        run = self._runs.get(job.id)
        if job.fault:
            self._end(job, State.FAILED, Reason.USER_ERROR, f"{job.fault} (submit it again)")
        elif run is None and job.stop_requested:
            self._end(job, State.STOPPED, Reason.STOPPED, "stopped on request")
        elif run is None:
            if job.state is State.QUEUED:
                job = self._records.change(job.id, State.RUNNING, Reason.ADMITTED)
            self._begin(job)
        elif run.ended_at is None:
            if job.stop_requested:
                run.cancelled.set()
        elif job.stop_requested:
            said = f"; {run.done.said}" if run.done else ""
            self._end(job, State.STOPPED, Reason.STOPPED, f"stopped on request{said}")
        elif run.done is not None:
            self._write(job, run.done)
            self._end(job, State.SUCCEEDED, Reason.DONE, run.done.said)
        elif isinstance(run.error, UnreachableError):
            self._again(job, run, run.error)
        elif run.error is not None:
            self._end(job, State.FAILED, *_reason(job, run.error))

    def _again(self, job: Job, run: _Run, error: UnreachableError) -> None:
        """Ray or the database is away: that is no verdict on the version."""
        longest = job.queue.max_run_s
        if longest is not None and self._clock() - (job.started_at or job.created_at) >= longest:
            self._end(
                job, State.FAILED, Reason.RUN_TIMEOUT, f"took longer than {longest:g} s (queue.max_run_s): {error}"
            )
            return
        self._troubles.note(job.id, error, "it is tried again")
        if run.ended_at is not None and self._clock() - run.ended_at >= AGAIN_AFTER_S:
            self._begin(job)

    def _begin(self, job: Job) -> None:
        run = self._runs[job.id] = _Run()
        threading.Thread(target=self._work, args=(job, run), name=f"promotes-{job.id}", daemon=True).start()

    def _work(self, job: Job, run: _Run) -> None:
        try:
            run.done = self._promote(job, run.cancelled)
        except Exception as error:  # noqa: BLE001 - told by the next turn
            run.error = error
        finally:
            run.ended_at = self._clock()

    def _promote(self, job: Job, cancelled: threading.Event) -> _Done:
        if self.promoter is None:
            raise TandemError("this server changes no endpoints")
        spec = PromoteSpec.model_validate(job.spec)
        name, version = spec.model_and_version
        deployer = self.promoter.deployer
        longest = min(spec.queue.max_start_s, spec.queue.max_run_s or spec.queue.max_start_s)
        deadline = (job.started_at or self._clock()) + longest
        for endpoint in deployer.endpoints():
            deployer.endpoint(endpoint)  # what an earlier attempt did is known from then on
        release = deployer.releases.by_job(job.id)
        if release is None:
            self._until_running(self.promoter.app_of(name, spec.app), deadline, cancelled)
            if cancelled.is_set():
                return _Done("nothing was changed", {})
            change = self.promoter.promote(
                name, version, app=spec.app, share=spec.canary, by=job.user, job=job.id, already_there_is_fine=True
            )
            release = deployer.releases.by_job(job.id)
            if release is None:
                return _Done(str(change), change.facts())
        done = _Done(str(release.facts["said"]), release.facts)
        while not cancelled.is_set():
            present = deployer.endpoints().get(release.app)
            found = look(release.facts, present, self._status(release.app), late=self._clock() > deadline)
            match found:
                case Up():
                    return done
                case Gone(why):
                    raise TandemError(f"{release.facts['version']} was promoted, but {why}", where=release.app)
                case TakeBack(why):
                    self._take_back(job, release, present, why)
            cancelled.wait(LOOK_EVERY_S)
        return done

    def _take_back(self, job: Job, release: Release, present: RagSpec | None, why: str) -> None:
        assert self.promoter is not None
        version = release.facts["version"]
        try:
            self.promoter.rollback(
                str(release.facts["model"]), app=release.app, by=job.user, job=job.id, expected=present
            )
        except UnreachableError:
            raise
        except TandemError as error:
            raise TandemError(
                f"{version} didn't come up ({why}), and couldn't be taken back: {error}", where=release.app
            ) from error
        raise TandemError(f"{version} didn't come up, and was taken back: {why}", where=release.app)

    def _until_running(self, app: str, deadline: float, cancelled: threading.Event) -> None:
        """What doesn't run can't be told from what a version has broken."""
        while not cancelled.is_set():
            status = self._status(app)
            if status is None or status.verdict == "running":
                return
            if self._clock() > deadline:
                raise TandemError(f"it isn't up, and nothing was changed: {status.message or status.state}", where=app)
            cancelled.wait(LOOK_EVERY_S)

    def _status(self, app: str) -> AppStatus | None:
        assert self.promoter is not None
        return next((each for each in self.promoter.deployer.status() if each.name == app), None)

    def _end(self, job: Job, state: State, reason: Reason, message: str) -> None:
        self._records.change(job.id, state, reason, message)
        self._runs.pop(job.id, None)
        logger.info("%s: %s (%s) %s", job.id, state, reason, message)

    def _write(self, job: Job, done: _Done) -> None:
        folder = self._storage / "jobs" / job.id
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in (("spec.json", job.spec), ("result.json", done.facts)):
            write_whole(folder / name, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _reason(job: Job, error: Exception) -> tuple[Reason, str]:
    if isinstance(error, NotPromotedError):
        return Reason.NOT_PROMOTED, error.what
    if isinstance(error, TandemError):
        return Reason.USER_ERROR if isinstance(error, InputError) else Reason.JOB_ERROR, str(error)
    logger.error("%s: a fault of ours", job.id, exc_info=error)
    return Reason.JOB_ERROR, f"{type(error).__name__}: {error} (a fault of ours; the server's log says where)"
