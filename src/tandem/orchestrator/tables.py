"""The tables of the job records. Times are seconds since the epoch, UTC."""

from __future__ import annotations

from sqlalchemy import Boolean, Float, ForeignKey, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What the tables have in common."""


class JobRow(Base):
    """One job; `seq` is the order of the queue."""

    __tablename__ = "jobs"
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(80), unique=True)
    name: Mapped[str] = mapped_column(String(40), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    spec: Mapped[str] = mapped_column(Text)
    project: Mapped[str] = mapped_column(String(40), default="default")
    submitted_by: Mapped[str] = mapped_column(String(64), default="")
    origin: Mapped[str] = mapped_column(Text, default="{}")
    state: Mapped[str] = mapped_column(String(12), index=True)
    reason: Mapped[str] = mapped_column(String(20))
    message: Mapped[str] = mapped_column(Text, default="")
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    acknowledged: Mapped[bool] = mapped_column(Boolean, default=False)
    stop_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    judged: Mapped[bool] = mapped_column(Boolean, default=False)
    not_before: Mapped[float] = mapped_column(Float, default=0.0)
    created_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float, default=None)
    first_at: Mapped[float | None] = mapped_column(Float, default=None)
    ended_at: Mapped[float | None] = mapped_column(Float, default=None)


class AttemptRow(Base):
    """One submission to Ray; written before the call is made."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("job_id", "number"),)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    number: Mapped[int] = mapped_column(Integer)
    submission_id: Mapped[str] = mapped_column(String(90))
    reason: Mapped[str] = mapped_column(String(20), default="")
    message: Mapped[str] = mapped_column(Text, default="")
    exit_code: Mapped[int | None] = mapped_column(Integer, default=None)
    submitted_at: Mapped[float] = mapped_column(Float)
    starting_since: Mapped[float | None] = mapped_column(Float, default=None)
    end_reason: Mapped[str] = mapped_column(String(20), default="")
    end_message: Mapped[str] = mapped_column(Text, default="")
    end_asked_at: Mapped[float | None] = mapped_column(Float, default=None)
    ended_at: Mapped[float | None] = mapped_column(Float, default=None)


class EventRow(Base):
    """One change of a job's state."""

    __tablename__ = "events"
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    at: Mapped[float] = mapped_column(Float)
    attempt: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(12))
    reason: Mapped[str] = mapped_column(String(20))
    message: Mapped[str] = mapped_column(Text, default="")


class PipelineStepRow(Base):
    """Which job does the work of a pipeline's step; one job may do that of several pipelines' steps.

    `anew`: it was submitted for this one.
    """

    __tablename__ = "pipeline_steps"
    pipeline_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    anew: Mapped[bool] = mapped_column(Boolean)
    at: Mapped[float] = mapped_column(Float)


class ReleaseRow(Base):
    """What an application of ours was told to answer with; written before Ray Serve is told, `done` once it took it."""

    __tablename__ = "releases"
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    app: Mapped[str] = mapped_column(String(200), index=True)
    action: Mapped[str] = mapped_column(String(12))
    at: Mapped[float] = mapped_column(Float)
    by: Mapped[str] = mapped_column(String(64))
    job: Mapped[str] = mapped_column(String(80), index=True, default="")
    spec: Mapped[str] = mapped_column(Text)
    facts: Mapped[str] = mapped_column(Text)
    done: Mapped[bool] = mapped_column(Boolean, default=False)


class LeaseRow(Base):
    """Which server acts; one row.

    `epoch` grows each time that another one takes over, `beat` each time that it is renewed. `expires_at` is by the
    database's clock; `clock_offset` is the holder's clock less its seconds since the start of its machine.
    """

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    holder: Mapped[str] = mapped_column(String(200))
    epoch: Mapped[int] = mapped_column(Integer)
    beat: Mapped[int] = mapped_column(Integer)
    expires_at: Mapped[float] = mapped_column(Float)
    boot: Mapped[str] = mapped_column(String(40))
    clock_offset: Mapped[float] = mapped_column(Float)
