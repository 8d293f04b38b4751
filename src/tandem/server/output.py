"""The routes of what comes out of a job: its log, what happens to it, how far it is, its result."""

# Annotations are no strings here: FastAPI would look for what is local to the router's function.
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tandem.errors import NotFoundError
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.records import Records
from tandem.orchestrator.states import State
from tandem.server import answers
from tandem.server.faults import documented
from tandem.server.following import POSITION, Follower, Position
from tandem.server.jobs import job_finder, job_shower

NEXT_OFFSET = "X-Next-Offset"
MAX_OFFSET = 2**63 - 1
Pause = Callable[[float], Awaitable[None]]


def output_router(records: Records, orchestrator: Orchestrator, pause: Pause) -> APIRouter:
    """What comes out of jobs.

    Args:
        records: The job records.
        orchestrator: Knows the jobs' folders.
        pause: Waits between two looks at a job that is followed; seconds.
    """
    router = APIRouter(prefix="/jobs", tags=["jobs"])
    known = job_finder(records)
    shown = job_shower(orchestrator)

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
        offset: Annotated[int, Query(ge=0, le=MAX_OFFSET, description="the byte to begin at")] = 0,
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
