"""The server's HTTP API.

    GET    /healthz                     without a key: the server lives
    GET    /api/v1/status               server, Ray, jobs by state
    POST   /api/v1/jobs                 {spec, again} → the job, and whether it is new
    POST   /api/v1/jobs/plan            {spec} of a pipeline → what would become of each step; changes nothing
    GET    /api/v1/jobs                 ?state=…&name=…&kind=…&limit=…
    GET    /api/v1/jobs/ID              with events and attempts; a pipeline's also with its steps
    POST   /api/v1/jobs/ID/stop
    GET    /api/v1/jobs/ID/logs         ?offset=N: plain text; the next offset in X-Next-Offset
    GET    /api/v1/jobs/ID/progress     null before the job has said anything
    GET    /api/v1/jobs/ID/result
    PUT    /api/v1/apps                 a Serve config; GET lists, DELETE /api/v1/apps/NAME

Everything but /healthz wants `Authorization: Bearer KEY`. Errors are ``{"error": {type, what, where, remedy}}``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, ValidationError

import tandem
from tandem.errors import (
    AuthError,
    DatabaseError,
    InputError,
    InvalidSpecError,
    NotFoundError,
    SpecError,
    TandemError,
    UnreachableError,
)
from tandem.orchestrator.deploy import Deployer
from tandem.orchestrator.executor import Orchestrator, describe
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.records import Records
from tandem.orchestrator.states import State
from tandem.specs import JOB_KINDS, KINDS, PipelineSpec

NEXT_OFFSET = "X-Next-Offset"
# When the database is away a caller may ask again after so long.
RETRY_AFTER_S = 5
# The first class that an error is an instance of decides.
STATUSES: tuple[tuple[type[TandemError], int], ...] = (
    (NotFoundError, 404),
    (DatabaseError, 503),
    (AuthError, 502),
    (UnreachableError, 502),
    (InputError, 400),
    (TandemError, 500),
)


class Submission(BaseModel):
    """The body of a submission."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any]
    again: bool = False


class Plan(BaseModel):
    """The body of a question: what would a pipeline do?"""

    model_config = ConfigDict(extra="forbid")

    spec: PipelineSpec


class Deployment(BaseModel):
    """The body of a deploy."""

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any]


def create_app(records: Records, orchestrator: Orchestrator, deployer: Deployer, *, api_key: str) -> FastAPI:
    """The API over its parts.

    Args:
        records: The job records.
        orchestrator: Knows the jobs' folders and whether Ray answers; its loop runs elsewhere.
        deployer: Talks to Ray Serve.
        api_key: What a caller must present.
    """
    app = FastAPI(title="Tandem", version=tandem.__version__, docs_url=None, redoc_url=None, openapi_url=None)
    expected = hashlib.sha256(api_key.encode()).digest()

    @app.middleware("http")
    async def authenticate(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path == "/healthz":
            return await follow(request)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # Hashes have one length, and the comparison takes the same time wherever they differ.
        given = hashlib.sha256(key.strip().encode()).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, expected):
            refusal = AuthError(
                "the server refuses this API key" if key else "an API key is required",
                remedy="send `Authorization: Bearer KEY`; `tandem up` wrote the key to `api-key` in the storage folder",
            )
            return _error_response(refusal, 401)
        return await follow(request)

    @app.exception_handler(TandemError)
    async def tandem_error(_: Request, error: TandemError) -> Response:
        return _error_response(error, next(status for kind, status in STATUSES if isinstance(error, kind)))

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok", "version": tandem.__version__}

    api = APIRouter(prefix="/api/v1")
    api.include_router(_jobs(records, orchestrator))
    api.include_router(_apps(deployer))

    @api.get("/status")
    def status() -> dict[str, Any]:
        counts = Counter(str(job.state) for job in records.find())
        return {
            "version": tandem.__version__,
            "ray": orchestrator.ray_reachable,
            "acts": orchestrator.acts,
            "jobs": dict(counts),
        }

    app.include_router(api)
    return app


def _jobs(records: Records, orchestrator: Orchestrator) -> APIRouter:
    jobs = APIRouter(prefix="/jobs")

    def shown(job: Job) -> dict[str, Any]:
        return describe(job, orchestrator.files(job.id), orchestrator.waits(job.id))

    @jobs.post("")
    def submit(body: Submission) -> dict[str, Any]:
        spec = checked_spec(body.spec)
        known = not body.again and records.known(spec["kind"], spec["name"], spec)
        judged = not known and orchestrator.judge(spec)
        job, created = records.submit(spec["kind"], spec["name"], spec, again=body.again, judged=judged)
        if job.kind == "pipeline" and not created and not job.state.final:
            orchestrator.pipelines.requeue(job)
        return {**shown(job), "created": created}

    @jobs.post("/plan")
    def plan(body: Plan) -> list[dict[str, Any]]:
        return orchestrator.pipelines.plan(body.spec.canonical())

    @jobs.get("")
    def find(
        state: Annotated[list[State] | None, Query()] = None,
        name: str | None = None,
        kind: str | None = None,
        limit: Annotated[int | None, Query(ge=1)] = None,
    ) -> list[dict[str, Any]]:
        return [shown(job) for job in records.find(states=state or (), name=name, kind=kind, limit=limit)]

    @jobs.get("/{job_id}")
    def get(job_id: str) -> dict[str, Any]:
        job = records.get(job_id)
        return {
            **shown(job),
            "spec": job.spec,
            "events": records.events(job.id),
            "attempts": records.attempts(job.id),
            **({"steps": orchestrator.pipelines.describe(job, orchestrator.waits)} if job.kind == "pipeline" else {}),
        }

    @jobs.post("/{job_id}/stop")
    def stop(job_id: str) -> dict[str, Any]:
        return shown(records.request_stop(job_id))

    @jobs.get("/{job_id}/logs")
    def logs(job_id: str, offset: Annotated[int, Query(ge=0)] = 0) -> Response:
        data, position = orchestrator.files(records.get(job_id).id).read_log(offset)
        return PlainTextResponse(data, headers={NEXT_OFFSET: str(position)})

    @jobs.get("/{job_id}/progress")
    def progress(job_id: str) -> dict[str, Any] | None:
        return orchestrator.files(records.get(job_id).id).progress()

    @jobs.get("/{job_id}/result")
    def result(job_id: str) -> dict[str, Any]:
        job = records.get(job_id)
        data = orchestrator.files(job.id).result()
        if data is None or job.state is not State.SUCCEEDED:
            raise NotFoundError(f"job {job.id} has no result: it is {job.state}", remedy=f"`tandem show {job.id}`")
        return data

    return jobs


def _apps(deployer: Deployer) -> APIRouter:
    apps = APIRouter(prefix="/apps")

    @apps.put("")
    def deploy(body: Deployment) -> dict[str, Any]:
        return {"applications": deployer.deploy(body.config)}

    @apps.get("")
    def status() -> list[dict[str, Any]]:
        return [app.as_dict() for app in deployer.status()]

    @apps.delete("/{name}")
    def undeploy(name: str) -> dict[str, str]:
        deployer.undeploy(name)
        return {"name": name}

    return apps


def checked_spec(data: dict[str, Any]) -> dict[str, Any]:
    """A submitted spec in its canonical form.

    Raises:
        SpecError: It is none of a job.
    """
    kind = data.get("kind")
    if kind not in JOB_KINDS:
        raise SpecError(f"{kind!r} isn't a kind of job", where="kind", remedy=f"kinds of jobs: {', '.join(JOB_KINDS)}")
    try:
        return KINDS[kind].model_validate(data).canonical()
    except ValidationError as error:
        raise InvalidSpecError(
            [
                SpecError(detail["msg"], where=".".join(str(part) for part in detail["loc"]))
                for detail in error.errors(include_url=False)
            ]
        ) from None


def _error_response(error: TandemError, status: int) -> JSONResponse:
    body = {"type": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return JSONResponse({"error": body}, status_code=status, headers=headers)
