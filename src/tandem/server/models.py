"""The routes of fine-tuned models: which there are, what is promoted, and what goes back."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import Field

from tandem.errors import UnreachableError
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.promotion.changes import Change
from tandem.orchestrator.promotion.listing import list_models
from tandem.orchestrator.promotion.promoter import Promoter
from tandem.orchestrator.roles import KeyHolder
from tandem.server.bodies import Body
from tandem.server.faults import documented
from tandem.server.guard import admin_of
from tandem.server.model_answers import ModelChange, ModelVersion, model_version
from tandem.specs.base import Name

logger = logging.getLogger(__name__)

AppName = Annotated[str, Field(min_length=1, max_length=200)]


class Rollback(Body):
    """The body of a rollback."""

    app: AppName | None = Field(None, description="left out: the one that has the model, or the only one")
    dry_run: bool = Field(False, description="say what would be done, and do nothing")


class Promotion(Rollback):
    """The body of a promotion."""

    version: str | None = Field(None, max_length=90, description="the id of the job that made it; left out: the newest")
    canary: float | None = Field(
        None, gt=0, lt=1, description="the share that it gets of what is asked of the application; left out: all"
    )
    force: bool = Field(False, description="whatever the comparisons say; it is written down")


def models_router(storage: FilePath, deployer: Deployer) -> APIRouter:
    """Fine-tuned models.

    Args:
        storage: The cluster's storage folder.
        deployer: Changes endpoints.
    """
    router = APIRouter(prefix="/models", tags=["models"])
    promoter = Promoter(storage, deployer)

    @router.get("", responses=documented())
    def list_all() -> list[ModelVersion]:
        """Every version of every fine-tuned model."""
        try:
            endpoints = deployer.endpoints()
        except UnreachableError:
            endpoints = None
        return [model_version(each) for each in list_models(storage, endpoints)]

    @router.post("/{name}/promote", responses=documented(400, 403, 404, 409, 413, 422, 502))
    def promote(
        name: Annotated[Name, Path()], body: Promotion, caller: Annotated[KeyHolder, Depends(admin_of)]
    ) -> ModelChange:
        """Have a version answer what is asked of an endpoint's own name, or a share of that."""
        change = promoter.promote(
            name, body.version, app=body.app, share=body.canary, force=body.force, dry_run=body.dry_run, by=caller.name
        )
        if not body.dry_run:
            logger.info("%s: %s promoted by %s%s", change.app, change.version, caller.name,
                        f", against: {'; '.join(change.refusals)}" if change.refusals else "")  # fmt: skip
        return _view(change)

    @router.post("/{name}/rollback", responses=documented(400, 403, 404, 409, 413, 422, 502))
    def roll_back(
        name: Annotated[Name, Path()], body: Rollback, caller: Annotated[KeyHolder, Depends(admin_of)]
    ) -> ModelChange:
        """Have an endpoint answer with the version of a model that it had before; a canary of it just ends."""
        change = promoter.rollback(name, app=body.app, dry_run=body.dry_run, by=caller.name)
        if not body.dry_run:
            logger.info("%s: %s goes back from %s to %s, by %s", change.app, name, change.was, change.version,
                        caller.name)  # fmt: skip
        return _view(change)

    return router


def _view(change: Change) -> ModelChange:
    return ModelChange.model_validate({**asdict(change), "said": str(change)})
