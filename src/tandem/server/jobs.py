"""The routes of jobs."""

# Annotations are no strings here: FastAPI would look for what is local to the router's function.
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from tandem.errors import ConflictError, ForbiddenError, NotFoundError
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.jobs import Job, Submitter
from tandem.orchestrator.listing import Wanted
from tandem.orchestrator.records import Records
from tandem.orchestrator.roles import KeyHolder, KeyName, Role
from tandem.orchestrator.runtime import check_submission, jobs_in
from tandem.orchestrator.states import FINAL, State
from tandem.server import answers
from tandem.server.bodies import Plan, Submission
from tandem.server.details import details
from tandem.server.faults import documented
from tandem.server.guard import forbidden, submitter_of
from tandem.specs.base import Name

PAGE = 100
MAX_PAGE = 1000
OPEN_STATES = tuple(state for state in State if state not in FINAL)

logger = logging.getLogger(__name__)

JobId = Annotated[str, Path(description="a job's id, or a job's name for the latest of that name")]
_ID = re.compile(r"[A-Za-z0-9._-]{1,90}")


def job_finder(records: Records) -> Callable[[str], Job]:
    """What finds the job that a path names."""

    def known(job_id: JobId) -> Job:
        if not _ID.fullmatch(job_id):
            raise NotFoundError(f"no job {job_id[:100]!r}", remedy="`tandem ps` lists the jobs")
        return records.get(job_id)

    return known


def job_shower(orchestrator: Orchestrator) -> Callable[[Job], dict[str, Any]]:
    """What makes the fields of a `JobView`."""
    return lambda job: answers.view(job, orchestrator.files(job.id), orchestrator.waits(job.id))


def jobs_router(records: Records, orchestrator: Orchestrator) -> APIRouter:
    """Jobs.

    Args:
        records: The job records.
        orchestrator: Knows the jobs' folders, and why they wait.
    """
    router = APIRouter(prefix="/jobs", tags=["jobs"])

    shown = job_shower(orchestrator)
    known = job_finder(records)

    @router.post("", responses=documented(400, 403, 413, 422))
    def submit_job(body: Submission, caller: Annotated[KeyHolder, Depends(submitter_of)]) -> answers.Submitted:
        """Queue a job; the same name and spec give the job that is there, and one's own that waits is queued anew."""
        spec = body.spec.canonical()
        kind, name = spec["kind"], spec["name"]
        if not caller.role.covers(Role.ADMIN) and any(each["kind"] == "promote" for each in jobs_in(spec)):
            raise forbidden(caller, Role.ADMIN)
        check_submission(spec, body.secrets, orchestrator.packages)
        fresh = body.again or not records.known(kind, name, spec)
        judged = fresh and orchestrator.judge(spec)
        origin = body.origin.model_dump(exclude_none=True)
        by = Submitter(
            caller.name,
            origin,
            before=lambda job_id: orchestrator.secrets.keep(job_id, body.secrets),
            admin=caller.role is Role.ADMIN,
        )
        job, created = records.submit(kind, name, spec, again=body.again, judged=judged, by=by)
        others = records.find(name=name, states=OPEN_STATES) if created else []
        same_name = [other.id for other in others if other.id != job.id and other.spec != job.spec]
        ours = by.may_change(job.user)
        if job.kind == "pipeline" and not created and not job.state.final and ours:
            orchestrator.pipelines.requeue(job)
        if created or (ours and not job.state.final):
            logger.info("%s: submitted %sby %s", job.id, "" if created else "again ", caller.name)
            orchestrator.pace.wake()
        return answers.Submitted(**shown(job), created=created, same_name=same_name)

    @router.post("/plan", responses=documented(400, 403, 413, 422), dependencies=[Depends(submitter_of)])
    def plan_pipeline(body: Plan) -> list[answers.PlannedStep]:
        """What would become of each step of a pipeline if it were submitted now; nothing is changed."""
        return [answers.PlannedStep(**step) for step in orchestrator.pipelines.plan(body.spec.canonical())]

    @router.get("", responses=documented(422))
    def list_jobs(
        state: Annotated[list[State] | None, Query(description="in one of these")] = None,
        name: Annotated[Name | None, Query()] = None,
        kind: Annotated[str | None, Query(pattern="^[a-z]{1,20}$")] = None,
        project: Annotated[Name | None, Query()] = None,
        user: Annotated[KeyName | None, Query()] = None,
        since: Annotated[datetime | None, Query(description="submitted then or later; UTC unless it says")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
        cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$", description="`next` of a page")] = None,
    ) -> answers.JobPage:
        """Jobs, the latest submitted first."""
        at = None if since is None else (since if since.tzinfo else since.replace(tzinfo=UTC)).timestamp()
        wanted = Wanted(tuple(state or ()), name=name, kind=kind, project=project, user=user, since=at)
        found, more = records.page(wanted, limit=limit, before=None if cursor is None else int(cursor))
        return answers.JobPage(
            jobs=[answers.JobView(**shown(job)) for job in found], next=None if more is None else str(more)
        )

    @router.get("/{job_id}", responses=documented(404, 422))
    def get_job(job: Annotated[Job, Depends(known)]) -> answers.JobDetails:
        """A job with all that is on record of it."""
        return answers.JobDetails(**shown(job), **details(job, records, orchestrator))

    @router.post("/{job_id}/stop", responses=documented(403, 404, 409, 422))
    def stop_job(
        job: Annotated[Job, Depends(known)], caller: Annotated[KeyHolder, Depends(submitter_of)]
    ) -> answers.JobView:
        """Ask for a job's end; a submitter may end its own jobs."""
        if caller.role is not Role.ADMIN and job.user != caller.name:
            raise ForbiddenError(
                f"{job.id} is a job of {job.user or 'nobody'}", remedy="who submitted it can stop it, or an admin"
            )
        stopped = records.request_stop(job.id)
        if stopped.state in (State.SUCCEEDED, State.FAILED):
            raise ConflictError(
                f"{job.id} can't be stopped: it has ended already, and is {stopped.state}",
                remedy=f"`tandem show {job.id}` tells how it went",
            )
        logger.info("%s: %s asks to stop it", job.id, caller.name)
        orchestrator.pace.wake()
        return answers.JobView(**shown(stopped))

    return router
