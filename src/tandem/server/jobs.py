"""The routes of jobs."""

# Annotations are no strings here: FastAPI would look for what is local to the router's function.
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tandem.errors import ForbiddenError, NotFoundError
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.listing import Wanted
from tandem.orchestrator.records import Records
from tandem.orchestrator.roles import KeyHolder, KeyName, Role
from tandem.orchestrator.runtime import check_runtime, runtime_of
from tandem.orchestrator.states import FINAL, State
from tandem.server import answers
from tandem.server.bodies import Submission
from tandem.server.details import details
from tandem.server.faults import documented
from tandem.server.following import POSITION, Follower, Position
from tandem.server.guard import submitter_of
from tandem.specs.base import Name

NEXT_OFFSET = "X-Next-Offset"
PAGE = 100
MAX_PAGE = 1000
MAX_INTEGER = 2**63 - 1  # what a database takes
OPEN_STATES = tuple(state for state in State if state not in FINAL)

logger = logging.getLogger(__name__)

JobId = Annotated[str, Path(description="a job's id, or a job's name for the latest of that name")]
_ID = re.compile(r"[A-Za-z0-9._-]{1,90}")
Pause = Callable[[float], Awaitable[None]]


def jobs_router(records: Records, orchestrator: Orchestrator, pause: Pause) -> APIRouter:
    """Jobs.

    Args:
        records: The job records.
        orchestrator: Knows the jobs' folders, and why they wait.
        pause: Waits between two looks at a job that is followed; seconds.
    """
    router = APIRouter(prefix="/jobs", tags=["jobs"])

    def shown(job: Job) -> dict[str, Any]:
        return answers.view(job, orchestrator.files(job.id), orchestrator.waits(job.id))

    def known(job_id: JobId) -> Job:
        if not _ID.fullmatch(job_id):
            raise NotFoundError(f"no job {job_id[:100]!r}", remedy="`tandem ps` lists the jobs")
        return records.get(job_id)

    @router.post("", responses=documented(400, 403, 413, 422))
    def submit_job(body: Submission, caller: Annotated[KeyHolder, Depends(submitter_of)]) -> answers.Submitted:
        """Queue a job; the same name and spec give the job that is there."""
        spec = body.spec.canonical()
        kind, name = spec["kind"], spec["name"]
        check_runtime(runtime_of(spec), body.secrets, orchestrator.packages)
        fresh = body.again or not records.known(kind, name, spec)
        judged = fresh and orchestrator.judge(spec)
        origin = body.origin.model_dump(exclude_none=True)
        job, created = records.submit(
            kind, name, spec, again=body.again, judged=judged, user=caller.name, origin=origin,
            before=lambda job_id: orchestrator.secrets.keep(job_id, body.secrets),
        )  # fmt: skip
        others = records.find(name=name, states=OPEN_STATES) if created else []
        same_name = [other.id for other in others if other.id != job.id and other.spec != job.spec]
        if created:
            logger.info("%s: submitted by %s", job.id, caller.name)
            orchestrator.wake()
        return answers.Submitted(**shown(job), created=created, same_name=same_name)

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
        logger.info("%s: %s asks to stop it", job.id, caller.name)
        orchestrator.wake()
        return answers.JobView(**shown(stopped))

    @router.get(
        "/{job_id}/logs",
        response_class=PlainTextResponse,
        responses={
            **documented(404, 422),
            200: {
                "description": "what it printed, at most a megabyte of it",
                "headers": {NEXT_OFFSET: {"required": True, "schema": {"type": "string"}}},
            },
        },
    )
    def read_logs(
        job: Annotated[Job, Depends(known)],
        offset: Annotated[int, Query(ge=0, le=MAX_INTEGER, description="the byte to begin at")] = 0,
    ) -> Response:
        """What a job printed, of all its attempts, from a byte on."""
        data, position = orchestrator.files(job.id).read_log(offset)
        return PlainTextResponse(data, headers={NEXT_OFFSET: str(position)})

    @router.get("/{job_id}/events", response_class=EventSourceResponse, responses=documented(404, 422))
    async def follow_job(
        job: Annotated[Job, Depends(known)],
        logs: Annotated[bool, Query(description="whether what it prints is told too")] = True,
        for_s: Annotated[
            float | None, Query(ge=0, le=1e9, allow_inf_nan=False, description="seconds after which the stream ends")
        ] = None,
        last_event_id: Annotated[
            str | None, Header(pattern=POSITION, description="the id of the last event that was received")
        ] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        """What happens to a job, as it happens, until it has ended.

        Events: `state` (a change), `log` (text), `progress`, and at its end `end` (the job). After a break send
        `Last-Event-ID`, and nothing is told twice or left out.
        """
        deadline = None if for_s is None else time.monotonic() + for_s
        follower = Follower(job.id, records, orchestrator.files(job.id), shown, pause)
        async for event in follower.events(Position.parse(last_event_id), logs=logs, deadline=deadline):
            yield event

    @router.get("/{job_id}/progress", responses=documented(404, 422))
    def read_progress(job: Annotated[Job, Depends(known)]) -> answers.Progress | None:
        """How far a job says that it is; null before it has said anything."""
        said = orchestrator.files(job.id).progress()
        return None if said is None else answers.Progress.model_validate(said)

    @router.get("/{job_id}/result", responses=documented(404, 422))
    def read_result(job: Annotated[Job, Depends(known)]) -> dict[str, Any]:
        """What a job that succeeded returned."""
        data = orchestrator.files(job.id).result()
        if data is None or job.state is not State.SUCCEEDED:
            raise NotFoundError(f"job {job.id} has no result: it is {job.state}", remedy=f"`tandem show {job.id}`")
        return data

    return router
