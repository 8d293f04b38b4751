"""Job records: what was asked for, what was tried, and every change with its time and reason.

SQLite in write-ahead mode by default, Postgres by URL. Times are seconds since the
epoch, UTC.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tandem.errors import NotFoundError, TandemError
from tandem.orchestrator.database import Database, open_database
from tandem.orchestrator.identity import again_id, job_id, same_identity
from tandem.orchestrator.jobs import Job, Submitter, queue_of
from tandem.orchestrator.lease import fence
from tandem.orchestrator.listing import Wanted, counts, jobs_like, page
from tandem.orchestrator.rows import jobs_of
from tandem.orchestrator.schema import migrate
from tandem.orchestrator.states import NEXT, Reason, State
from tandem.orchestrator.tables import AttemptRow, EventRow, JobRow

SUBMIT_TRIES = 20
NOBODY = Submitter()


class Records:
    """Reads and writes of the job records; safe to use from several threads.

    Args:
        url: SQLAlchemy URL of the database; its tables are made, or brought up to date.
        clock: Gives the time of a change, in seconds since the epoch.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.database = Database(open_database(url))
        self._clock = clock
        self.epoch: int | None = None
        """Of the lease under which the control loop's changes are made; None: without one."""
        migrate(self.database)

    def close(self) -> None:
        """Give up the connections."""
        self.database.close()

    def submit(
        self, kind: str, name: str, spec: dict[str, Any], *, again: bool = False, judged: bool = False,
        by: Submitter = NOBODY
    ) -> tuple[Job, bool]:  # fmt: skip
        """Queue a job, or find the latest one that this name and spec already have.

        One that still waits is queued from now on as this spec says, if it is the submitter's to change: its priority,
        project and deadlines are the latest submission's. Somebody else's stays as it is.

        Args:
            kind: The spec's kind.
            name: The job's name.
            spec: The canonical spec.
            again: Queue another one, with a number behind its id, if there is one already.
            judged: Whether it was found to fit the cluster.
            by: Who submits it.

        Returns:
            The job, and whether it is new.
        """
        for _ in range(SUBMIT_TRIES):
            try:
                with self.database.write() as session:
                    return self.submit_in(session, kind, name, spec, again=again, judged=judged, by=by)
            except IntegrityError:
                # Somebody else took this id between our look and our write: look again.
                continue
        raise TandemError(f"job {name}: too many submissions at the same time", remedy="submit it again")

    def known(self, kind: str, name: str, spec: dict[str, Any]) -> bool:
        """Whether a job of this name and spec was submitted before, however it was queued."""
        with self.database.read() as session:
            return self.latest_id(session, kind, name, spec) is not None

    def latest_id(self, session: Session, kind: str, name: str, spec: Mapping[str, Any]) -> str | None:
        """The id of the last job of this name and spec, however it was queued."""
        same = _same(session, name, job_id(kind, name, spec))
        return same[-1] if same else None

    def submit_in(
        self, session: Session, kind: str, name: str, spec: dict[str, Any], *, again: bool, judged: bool,
        by: Submitter = NOBODY
    ) -> tuple[Job, bool]:  # fmt: skip
        """What `submit` does, as a part of a transaction."""
        identifier = job_id(kind, name, spec)
        same = _same(session, name, identifier)
        if same and not again:
            latest = session.scalars(select(JobRow).where(JobRow.id == same[-1]).with_for_update()).one()
            state = State(latest.state)
            waits = not state.final and (kind == "pipeline" or not state.active)
            if waits and by.may_change(latest.submitted_by):
                by.before(latest.id)
                if json.loads(latest.spec) != spec:
                    latest.spec, latest.project = json.dumps(spec), queue_of(spec).project
                    said = f"queued as {by.user or 'nobody'} submitted it again"
                    session.add(_event(latest, self._clock(), Reason.SUBMITTED, said))
            return jobs_of(session, [latest])[0], False
        if same:
            identifier = again_id(identifier, set(same))
        now = self._clock()
        row = JobRow(
            id=identifier, name=name, kind=kind, spec=json.dumps(spec), project=queue_of(spec).project,
            submitted_by=by.user, origin=json.dumps(dict(by.origin)), state=State.QUEUED, reason=Reason.SUBMITTED,
            message="", attempt=0, acknowledged=False, stop_requested=False, judged=judged, not_before=0.0,
            created_at=now,
        )  # fmt: skip
        session.add(row)
        session.flush()
        by.before(identifier)
        session.add(_event(row, now, Reason.SUBMITTED))
        return jobs_of(session, [row])[0], True

    def get(self, identifier: str) -> Job:
        """One job, by its id or, failing that, the latest of its name.

        Raises:
            NotFoundError: Neither an id nor a name.
        """
        with self.database.read() as session:
            return jobs_of(session, [self._find(session, identifier)])[0]

    def find(
        self,
        *,
        states: Sequence[State] = (),
        name: str | None = None,
        kind: str | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """Jobs in the order of their submission; with a limit, the latest so many."""
        query = jobs_like(Wanted(states=tuple(states), name=name, kind=kind)).limit(limit)
        with self.database.read() as session:
            return jobs_of(session, session.execute(query).all()[::-1])

    def page(self, wanted: Wanted, *, limit: int, before: int | None = None) -> tuple[list[Job], int | None]:
        """See `listing.page`."""
        with self.database.read() as session:
            return page(session, wanted, limit=limit, before=before)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self.database.read() as session:
            return counts(session)

    def events(self, identifier: str) -> list[dict[str, Any]]:
        """Every change of a job, oldest first: at, attempt, state, reason, message."""
        fields = ("at", "attempt", "state", "reason", "message")
        with self.database.read() as session:
            rows = session.scalars(select(EventRow).where(EventRow.job_id == identifier).order_by(EventRow.seq))
            return [{field: getattr(row, field) for field in fields} for row in rows]

    def attempts(self, identifier: str) -> list[dict[str, Any]]:
        """Every attempt of a job, oldest first."""
        fields = ("number", "submission_id", "reason", "message", "exit_code", "submitted_at", "ended_at")
        with self.database.read() as session:
            query = select(AttemptRow).where(AttemptRow.job_id == identifier).order_by(AttemptRow.number)
            rows = session.scalars(query)
            return [{field: getattr(row, field) for field in fields} for row in rows]

    def request_stop(self, identifier: str) -> Job:
        """Note that a person wants the job to end; the control loop does it."""
        with self.database.write() as session:
            row = self._find(session, identifier, to_change=True)
            if not State(row.state).final:
                row.stop_requested = True
            return jobs_of(session, [row])[0]

    def begin_attempt(self, identifier: str) -> Job:
        """Write down that the next attempt is about to be submitted, before it is."""
        with self.acting() as session:
            row = self._find(session, identifier, to_change=True)
            row.attempt += 1
            row.acknowledged = False
            self._change(session, row, State.STARTING, Reason.ADMITTED, f"attempt {row.attempt}")
            now = self._clock()
            session.add(
                AttemptRow(
                    job_id=row.id, number=row.attempt, submission_id=f"{row.id}.{row.attempt}", reason="", message="",
                    submitted_at=now, starting_since=now, end_reason="", end_message="",
                )
            )  # fmt: skip
            session.flush()
            return jobs_of(session, [row])[0]

    def acknowledge(self, identifier: str) -> None:
        """Ray has said that it knows the current attempt."""
        with self.acting() as session:
            self._find(session, identifier, to_change=True).acknowledged = True

    def note_start(self, identifier: str, *, starting: bool) -> None:
        """The current attempt works, or waits for workers (again)."""
        with self.acting() as session:
            attempt = _current(session, self._find(session, identifier, to_change=True))
            attempt.starting_since = self._clock() if starting else None

    def note_first(self, identifier: str) -> None:
        """A job is the first in its line for the first time."""
        with self.acting() as session:
            self._find(session, identifier, to_change=True).first_at = self._clock()

    def ask_end(self, identifier: str, reason: Reason, message: str) -> None:
        """Write down that the current attempt is to end, and why; the first reason stays."""
        with self.acting() as session:
            attempt = _current(session, self._find(session, identifier, to_change=True))
            if not attempt.end_reason:
                attempt.end_reason, attempt.end_message = str(reason), _clean(message)
                attempt.end_asked_at = self._clock()

    def change(
        self,
        identifier: str,
        state: State,
        reason: Reason,
        message: str = "",
        *,
        not_before: float = 0.0,
        exit_code: int | None = None,
    ) -> Job:
        """Move a job to another state; an attempt that holds resources ends when its job leaves the active states.

        Raises:
            ValueError: The state machine has no such step.
        """
        with self.acting() as session:
            row = self._find(session, identifier, to_change=True)
            was = State(row.state)
            self._change(session, row, state, reason, message)
            row.not_before = not_before
            if was.active and not state.active and row.attempt:
                attempt = _current(session, row)
                attempt.reason, attempt.message, attempt.exit_code = str(reason), row.message, exit_code
                attempt.ended_at = self._clock()
            session.flush()
            return jobs_of(session, [row])[0]

    @contextmanager
    def acting(self) -> Iterator[Session]:
        """A change that the control loop has decided: made only if no other server has taken over meanwhile."""
        with self.database.write() as session:
            if self.epoch is not None:
                fence(session, self.epoch)
            yield session

    def _change(self, session: Session, row: JobRow, state: State, reason: Reason, message: str) -> None:
        if state not in NEXT[State(row.state)]:
            raise ValueError(f"job {row.id}: {row.state} can't become {state}")
        now, message = self._clock(), _clean(message)
        row.state, row.reason, row.message = str(state), str(reason), message
        if state is State.RUNNING and row.started_at is None:
            row.started_at = now
        if state.final:
            row.ended_at = now
        session.add(_event(row, now, reason, message))

    def _find(self, session: Session, identifier: str, *, to_change: bool = False) -> JobRow:
        found = select(JobRow).where(JobRow.id == identifier)
        latest = select(JobRow).where(JobRow.name == identifier).order_by(JobRow.seq.desc()).limit(1)
        if to_change:
            # Whoever else would change this job waits until we have; SQLite lets one write at a time anyway.
            found, latest = found.with_for_update(), latest.with_for_update()
        row = session.scalars(found).first() or session.scalars(latest).first()
        if row is None:
            raise NotFoundError(f"no job {identifier!r}", remedy="`tandem ps` lists the jobs")
        return row


def _event(row: JobRow, at: float, reason: Reason, message: str = "") -> EventRow:
    return EventRow(job_id=row.id, at=at, attempt=row.attempt, state=row.state, reason=str(reason), message=message)


def _clean(text: str) -> str:
    """What a driver or Ray said, without what a database can't hold."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def _same(session: Session, name: str, identifier: str) -> list[str]:
    """Ids of the jobs of a name and spec, in the order of their submission."""
    named = session.scalars(select(JobRow.id).where(JobRow.name == name).order_by(JobRow.seq))
    return [known for known in named if same_identity(known, identifier)]


def _current(session: Session, row: JobRow) -> AttemptRow:
    query = select(AttemptRow).where(AttemptRow.job_id == row.id, AttemptRow.number == row.attempt)
    return session.scalars(query).one()
