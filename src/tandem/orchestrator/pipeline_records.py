"""Which job does the work of which step: written in one transaction with the job, so that none is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from tandem.orchestrator.jobs import Job, Submitter
from tandem.orchestrator.pipeline import Begin
from tandem.orchestrator.records import Records
from tandem.orchestrator.rows import jobs_of
from tandem.orchestrator.states import State
from tandem.orchestrator.tables import JobRow, PipelineStepRow


@dataclass(frozen=True)
class StepJob:
    """The job that does a step's work.

    Attributes:
        job: Its record.
        at: Since when it is that step's.
        by_hand: Whether somebody submitted it alone, and no pipeline.
    """

    job: Job
    at: float
    by_hand: bool

    @property
    def reused(self) -> bool:
        """Whether it was done before."""
        return self.job.ended_at is not None and self.job.ended_at <= self.at


class PipelineRecords:
    """The part of the job records that is the pipelines'.

    Args:
        records: The rest of them.
        clock: Seconds since the epoch.
    """

    def __init__(self, records: Records, clock: Callable[[], float]) -> None:
        self._records = records
        self._clock = clock

    def steps(self, pipelines: Sequence[str]) -> dict[str, dict[str, StepJob]]:
        """By pipeline and step, the jobs of those that have begun."""
        found: dict[str, dict[str, StepJob]] = {identifier: {} for identifier in pipelines}
        if not pipelines:
            return found
        query = (
            select(PipelineStepRow, JobRow)
            .join(JobRow, JobRow.id == PipelineStepRow.job_id)
            .where(PipelineStepRow.pipeline_id.in_(pipelines))
            .order_by(JobRow.seq)
        )
        with self._records.database.read() as session:
            rows = session.execute(query).all()
            jobs = jobs_of(session, [job for _, job in rows])
            ids = [job.id for job in jobs]
            begun = select(PipelineStepRow.job_id).where(PipelineStepRow.job_id.in_(ids), PipelineStepRow.anew)
            ours = set(session.scalars(begun))
            for (step, _), job in zip(rows, jobs, strict=True):
                found[step.pipeline_id][step.step] = StepJob(job, step.at, by_hand=job.id not in ours)
        return found

    def latest(self, spec: Mapping[str, Any]) -> Job | None:
        """The last job of a spec."""
        with self._records.database.read() as session:
            identifier = self._records.latest_id(session, spec["kind"], spec["name"], spec)
        return None if identifier is None else self._records.get(identifier)

    def begin(self, pipeline_id: str, step: Begin, *, judged: bool, by: Submitter) -> None:
        """Give a step a job, unless it has one, or a job of its spec was submitted since it was decided.

        Args:
            pipeline_id: The pipeline's.
            step: What was decided.
            judged: Whether a new job was found to fit the cluster.
            by: Who submitted the pipeline.
        """
        kind, name = step.spec["kind"], step.spec["name"]
        try:
            with self._records.acting() as session:
                if self._records.latest_id(session, kind, name, step.spec) != step.latest:
                    return
                job, _ = self._records.submit_in(session, kind, name, step.spec, again=step.anew, judged=judged, by=by)
                session.add(
                    PipelineStepRow(
                        pipeline_id=pipeline_id, step=step.step, job_id=job.id, anew=step.anew, at=self._clock()
                    )
                )
        except IntegrityError:
            # Another process was faster: the next look sees what it has written.
            return

    def stop(self, job_id: str) -> None:
        """Note that a step's job is to end, unless it has."""
        with self._records.acting() as session:
            row = session.scalars(select(JobRow).where(JobRow.id == job_id).with_for_update()).one()
            if not State(row.state).final:
                row.stop_requested = True
