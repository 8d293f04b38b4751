"""Which jobs somebody wants to see, and in which portions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from tandem.orchestrator.jobs import Job
from tandem.orchestrator.rows import COLUMNS, jobs_of
from tandem.orchestrator.states import State
from tandem.orchestrator.tables import JobRow


@dataclass(frozen=True)
class Wanted:
    """Which jobs: those of which all that is said here holds.

    Attributes:
        states: In one of these; empty: in any.
        since: Submitted then or later; seconds since the epoch.
    """

    states: tuple[State, ...] = ()
    name: str | None = None
    kind: str | None = None
    project: str | None = None
    user: str | None = None
    since: float | None = None


def jobs_like(wanted: Wanted) -> Select[Any]:
    """Their rows, the latest submitted first."""
    # Plain rows: each turn of the control loop reads all that wait, and objects of the session take twice as long.
    query = select(*COLUMNS).order_by(JobRow.seq.desc())
    if wanted.states:
        query = query.where(JobRow.state.in_([str(state) for state in wanted.states]))
    if wanted.since is not None:
        query = query.where(JobRow.created_at >= wanted.since)
    asked = [
        (JobRow.name, wanted.name),
        (JobRow.kind, wanted.kind),
        (JobRow.project, wanted.project),
        (JobRow.submitted_by, wanted.user),
    ]
    for column, value in asked:
        if value is not None:
            query = query.where(column == value)
    return query


def page(session: Session, wanted: Wanted, *, limit: int, before: int | None) -> tuple[list[Job], int | None]:
    """A page of jobs, the latest submitted first.

    Args:
        session: Of the database.
        wanted: Which.
        limit: How many at most.
        before: Where the page before this one ended; None for the first.

    Returns:
        The jobs, and where the page ends; None where no other follows.
    """
    query = jobs_like(wanted).limit(limit + 1)
    if before is not None:
        query = query.where(JobRow.seq < before)
    rows = session.execute(query).all()
    more = rows[limit - 1].seq if len(rows) > limit else None
    return jobs_of(session, rows[:limit]), more


def counts(session: Session) -> dict[str, int]:
    """How many jobs are in each state."""
    query = select(JobRow.state, func.count()).group_by(JobRow.state)
    return {str(state): int(number) for state, number in session.execute(query)}
