"""The server's HTTP API; ``/openapi.json`` is its document.

    GET    /healthz                     without a key: the server lives, and its control loop goes on
    GET    /metrics                     for Prometheus
    GET    /api/v1/status               server, Ray, jobs by state
    GET    /api/v1/checks               what the server finds of the cluster, for `tandem doctor`
    POST   /api/v1/jobs                 {spec, again, origin, secrets} → the job, and whether it is new
    POST   /api/v1/jobs/plan            {spec} of a pipeline → what would become of each step; changes nothing
    GET    /api/v1/jobs                 ?state=…&name=…&kind=…&project=…&user=…&since=…&limit=…&cursor=…
    GET    /api/v1/jobs/ID              with all that is on record of it; a pipeline's also with its steps
    POST   /api/v1/jobs/ID/stop
    GET    /api/v1/jobs/ID/logs         ?offset=N: plain text; the next offset in X-Next-Offset
    GET    /api/v1/jobs/ID/events       server-sent events: its changes, log and progress, until it has ended
    GET    /api/v1/jobs/ID/progress     null before the job has said anything
    GET    /api/v1/jobs/ID/result
    PUT    /api/v1/packages/HASH        a working directory, zipped; GET says whether it is there
    PUT    /api/v1/apps                 a Serve config; GET lists, DELETE /api/v1/apps/NAME
    GET    /api/v1/apps/NAME/releases   what it was told to answer with
    GET    /api/v1/models               every version of every fine-tuned model
    POST   /api/v1/models/NAME/promote  {version, app, canary, force, dry_run} → what changes
    POST   /api/v1/models/NAME/rollback {app, dry_run} → what changes
    POST   /api/v1/keys                 {name, role} → the key; GET lists, DELETE /api/v1/keys/NAME

Everything but /healthz wants `Authorization: Bearer KEY`. Viewers read, submitters also submit and end their own jobs,
admins also deploy and make keys. Errors are ``{"error": {type, what, where, remedy}}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from fastapi import APIRouter, FastAPI, Response

import tandem
from tandem.errors import TandemError
from tandem.orchestrator.checks import as_answer
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.records import Records
from tandem.orchestrator.roles import ServerKeys
from tandem.server import answers
from tandem.server.apps import apps_router
from tandem.server.faults import add_schemas, documented, error_response, install
from tandem.server.guard import Guard
from tandem.server.jobs import jobs_router
from tandem.server.keys import keys_router
from tandem.server.metrics import metrics_router
from tandem.server.models import models_router
from tandem.server.output import output_router
from tandem.server.packages import packages_router

DESCRIPTION = (
    "Jobs on a Ray cluster, their records, and what is deployed. Viewers' keys read; submitters' keys also submit jobs "
    "and end their own; admins' keys also deploy, end any job and make keys."
)


def create_app(
    records: Records,
    orchestrator: Orchestrator,
    deployer: Deployer,
    keys: ServerKeys,
    *,
    pause: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> FastAPI:
    """The API over its parts.

    Args:
        records: The job records.
        orchestrator: Knows the jobs' folders and whether Ray answers; its loop runs elsewhere.
        deployer: Talks to Ray Serve.
        keys: Who may call, and what.
        pause: Waits between two looks at a job that is followed; seconds.
    """
    app = FastAPI(
        title="Tandem",
        version=tandem.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(Guard, keys=keys)
    install(app)

    stalled = {"description": "the control loop has stalled", "content": documented()[503]["content"]}

    @app.get(
        "/healthz", openapi_extra={"security": []}, response_model=answers.Health, responses={503: stalled}
    )  # fmt: skip
    def healthz() -> answers.Health | Response:
        """The server lives, and its control loop goes on."""
        if stalled_s := orchestrator.pace.stalled_s():
            what = f"the control loop hasn't come further for {stalled_s:.0f} s"
            return error_response(TandemError(what, remedy="logs/server.log says more; start the server again"), 503)
        return answers.Health(status="ok", version=tandem.__version__)

    api = APIRouter(prefix="/api/v1")
    api.include_router(jobs_router(records, orchestrator))
    api.include_router(output_router(records, orchestrator, pause))
    api.include_router(packages_router(orchestrator.packages))
    api.include_router(apps_router(deployer))
    api.include_router(models_router(orchestrator.cluster.storage, deployer))
    api.include_router(keys_router(keys))

    @api.get("/status", responses=documented(), tags=["server"])
    def status() -> answers.Status:
        """The server, Ray, and jobs by state."""
        return answers.Status(
            version=tandem.__version__,
            ray=orchestrator.ray_reachable,
            acts=orchestrator.acts,
            jobs=records.counts(),
        )

    @api.get("/checks", responses=documented(), tags=["server"])
    def checks() -> answers.Checks:
        """What the server finds of itself, its storage, database and cluster."""
        return answers.Checks.model_validate(as_answer(orchestrator.cluster, records, deployer.ray))

    app.include_router(api)
    app.include_router(metrics_router(records, orchestrator))
    _complete_document(app)
    return app


def _complete_document(app: FastAPI) -> None:
    """Say in the document what FastAPI doesn't see: the guard stands before the routes, and answers by itself."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
            add_schemas(document)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
