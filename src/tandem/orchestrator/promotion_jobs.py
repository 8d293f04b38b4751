"""Jobs of kind `promote`: they run in the server, each in a thread of its own, since an endpoint may take its time."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tandem.config.files import write_whole
from tandem.errors import DatabaseError, InputError, NotPromotedError, TandemError, UnreachableError
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.lease import LeaseLostError
from tandem.orchestrator.promoter import Promoter
from tandem.orchestrator.promotion import Change
from tandem.orchestrator.records import Records
from tandem.orchestrator.states import Reason, State
from tandem.orchestrator.troubles import Troubles
from tandem.specs.promote import PromoteSpec

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
AGAIN_AFTER_S = 5.0


@dataclass
class _Run:
    """One thread, and what became of it."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    change: Change | None = None
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

    def _advance(self, job: Job) -> None:
        run = self._runs.get(job.id)
        if job.stop_requested and (run is None or run.ended_at is not None):
            done = f"; {run.change}" if run and run.change else ""
            self._end(job, State.STOPPED, Reason.STOPPED, f"stopped on request{done}")
        elif job.stop_requested and run is not None:
            run.cancelled.set()
        elif job.fault:
            self._end(job, State.FAILED, Reason.USER_ERROR, f"{job.fault} (submit it again)")
        elif run is None:
            if job.state is State.QUEUED:
                self._records.change(job.id, State.RUNNING, Reason.ADMITTED)
            self._begin(job)
        elif run.ended_at is None:
            pass
        elif run.change is not None:
            self._write(job, run.change)
            self._end(job, State.SUCCEEDED, Reason.DONE, str(run.change))
        elif isinstance(run.error, UnreachableError):
            # Ray or the database is away: that is no verdict on the version.
            self._troubles.note(job.id, run.error, "it is tried again")
            if self._clock() - run.ended_at >= AGAIN_AFTER_S:
                self._begin(job)
        elif run.error is not None:
            self._end(job, State.FAILED, *_reason(job, run.error))

    def _begin(self, job: Job) -> None:
        run = self._runs[job.id] = _Run()
        run.thread = threading.Thread(target=self._work, args=(job, run), name=f"promotes-{job.id}", daemon=True)
        run.thread.start()

    def _work(self, job: Job, run: _Run) -> None:
        try:
            run.change = self._promote(job, run.cancelled)
        except Exception as error:  # noqa: BLE001 - told by the next turn
            run.error = error
        finally:
            run.ended_at = self._clock()

    def _promote(self, job: Job, cancelled: threading.Event) -> Change:
        if self.promoter is None:
            raise TandemError("this server changes no endpoints")
        spec = PromoteSpec.model_validate(job.spec)
        name, version = spec.model_and_version
        deployer = self.promoter.deployer
        before = {app.name: app.deployed_at for app in deployer.status()}
        change = self.promoter.promote(
            name, version, app=spec.app, share=spec.canary, by=job.user, already_there_is_fine=True
        )
        deadline = time.monotonic() + spec.queue.max_start_s
        while change.changed:
            app = next((each for each in deployer.status() if each.name == change.app), None)
            fresh = app is not None and app.deployed_at > before.get(change.app, 0.0)
            if app is not None and fresh and app.verdict == "running":
                break
            late = time.monotonic() > deadline
            if late or app is None or (fresh and app.verdict == "failed"):
                why = "it isn't deployed any more" if app is None else app.message or app.state
                self.promoter.rollback(name, app=change.app, by=job.user)
                raise TandemError(f"{change.version} didn't come up, and was taken back: {why}", where=change.app)
            if cancelled.wait(LOOK_EVERY_S):
                break
        return change

    def _end(self, job: Job, state: State, reason: Reason, message: str) -> None:
        self._records.change(job.id, state, reason, message)
        self._runs.pop(job.id, None)
        logger.info("%s: %s (%s) %s", job.id, state, reason, message)

    def _write(self, job: Job, change: Change) -> None:
        folder = self._storage / "jobs" / job.id
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in (("spec.json", job.spec), ("result.json", change.facts())):
            write_whole(folder / name, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _reason(job: Job, error: Exception) -> tuple[Reason, str]:
    if isinstance(error, NotPromotedError):
        return Reason.NOT_PROMOTED, error.what
    if isinstance(error, TandemError):
        return Reason.USER_ERROR if isinstance(error, InputError) else Reason.JOB_ERROR, str(error)
    logger.error("%s: a fault of ours", job.id, exc_info=error)
    return Reason.JOB_ERROR, f"{type(error).__name__}: {error} (a fault of ours; the server's log says where)"
