"""Rows of the job records' tables as jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from tandem.orchestrator.jobs import Attempt, Job, queue_of
from tandem.orchestrator.states import Reason, State
from tandem.orchestrator.tables import AttemptRow, JobRow

COLUMNS = tuple(JobRow.__table__.columns)
_NAMES = tuple(column.key for column in COLUMNS)


def jobs_of(session: Session, rows: Sequence[JobRow] | Sequence[Row[Any]]) -> list[Job]:
    """Jobs, with the attempts of those that haven't ended.

    Args:
        session: For the attempts.
        rows: Mapped ones, or plain ones of all `COLUMNS`.
    """
    jobs = [_job(tuple(row) if isinstance(row, Row) else tuple(getattr(row, name) for name in _NAMES)) for row in rows]
    begun = [job.id for job in jobs if job.attempt and not job.state.final]
    if not begun:
        return jobs
    history: dict[str, list[Attempt]] = {}
    query = select(AttemptRow).where(AttemptRow.job_id.in_(begun)).order_by(AttemptRow.number)
    for row in session.scalars(query):
        history.setdefault(row.job_id, []).append(_attempt(row))
    return [replace(job, history=tuple(history[job.id])) if job.id in history else job for job in jobs]


@lru_cache(maxsize=2048)
def _job(values: tuple[Any, ...]) -> Job:
    # Each turn of the control loop reads all jobs that wait, and most are as they were.
    row = dict(zip(_NAMES, values, strict=True))
    spec = json.loads(row["spec"])
    return Job(
        id=row["id"], name=row["name"], kind=row["kind"], spec=spec, state=State(row["state"]),
        reason=Reason(row["reason"]), message=row["message"], attempt=row["attempt"], acknowledged=row["acknowledged"],
        stop_requested=row["stop_requested"], judged=row["judged"], not_before=row["not_before"],
        created_at=row["created_at"], started_at=row["started_at"], first_at=row["first_at"], ended_at=row["ended_at"],
        queue=queue_of(spec), history=(), user=row["submitted_by"], origin=json.loads(row["origin"]),
    )  # fmt: skip


def _attempt(row: AttemptRow) -> Attempt:
    return Attempt(
        number=row.number, reason=Reason(row.reason) if row.reason else None, submitted_at=row.submitted_at,
        starting_since=row.starting_since, end_reason=Reason(row.end_reason) if row.end_reason else None,
        end_message=row.end_message, end_asked_at=row.end_asked_at, ended_at=row.ended_at,
    )  # fmt: skip
