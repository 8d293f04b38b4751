"""The routes of applications on Ray Serve."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from tandem.errors import ConflictError
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.lease import LeaseLostError
from tandem.orchestrator.records import Records
from tandem.orchestrator.roles import KeyHolder
from tandem.server import answers
from tandem.server.bodies import Body
from tandem.server.faults import documented
from tandem.server.guard import admin_of
from tandem.server.model_answers import ReleaseView, release_view

MAX_RELEASES = 1000


class Application(BaseModel):
    """One application of a Serve config; what else it may say is Ray Serve's to know."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, max_length=200)


class ServeConfig(BaseModel):
    """A Ray Serve config."""

    model_config = ConfigDict(extra="allow")

    applications: list[Application] = Field(min_length=1)
    http_options: dict[str, Any] | None = None


class Deployment(Body):
    """The body of a deploy."""

    config: ServeConfig


def only_where_it_acts(orchestrator: Orchestrator, records: Records) -> Callable[[], None]:
    """What refuses to change Ray Serve where another server acts (`Deployer`'s `check`)."""

    def check() -> None:
        stands_by = orchestrator.stands_by
        with suppress(LeaseLostError):
            # One that was frozen learns here that it was replaced.
            with records.acting():
                pass
            if not stands_by:
                return
        raise ConflictError(
            "another server acts: it alone deploys",
            remedy="send it there: `acts` in GET /api/v1/status says which it is",
        )

    return check


def apps_router(deployer: Deployer) -> APIRouter:
    """Applications."""
    router = APIRouter(prefix="/apps", tags=["applications"])

    @router.put("", responses=documented(400, 403, 404, 409, 413, 422, 502))
    def deploy(body: Deployment, caller: Annotated[KeyHolder, Depends(admin_of)]) -> answers.Deployed:
        """Hand a Serve config over; what is deployed under other names stays."""
        handed = deployer.deploy(body.config.model_dump(exclude_unset=True), by=caller.name)
        return answers.Deployed(applications=handed.names, notes=handed.notes)

    @router.get("", responses=documented(502))
    def applications() -> list[answers.App]:
        """Every application that Ray Serve has."""
        return [answers.App(**app.as_dict()) for app in deployer.status()]

    @router.delete("/{name}", responses=documented(403, 404, 409, 502))
    def undeploy(name: Annotated[str, Path()], caller: Annotated[KeyHolder, Depends(admin_of)]) -> answers.Undeployed:
        """Take an application down; what was promoted in it is forgotten with it."""
        deployer.undeploy(name, by=caller.name)
        return answers.Undeployed(name=name)

    @router.get("/{name}/releases", responses=documented(422))
    def releases(
        name: Annotated[str, Path()], limit: Annotated[int, Query(ge=1, le=MAX_RELEASES)] = 20
    ) -> list[ReleaseView]:
        """What an endpoint was told to answer with, by whom and on what grounds, the newest first."""
        return [release_view(each) for each in deployer.releases.of(name, limit=limit)]

    return router
