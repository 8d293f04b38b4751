"""The routes of API keys."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from tandem.orchestrator.roles import KeyHolder, KeyName, Role, ServerKeys
from tandem.server import answers
from tandem.server.bodies import Body
from tandem.server.faults import documented
from tandem.server.guard import admin_of

logger = logging.getLogger(__name__)


class KeyRequest(Body):
    """For whom a key is made, and what it shall allow."""

    name: KeyName
    role: Role


def keys_router(keys: ServerKeys) -> APIRouter:
    """API keys; all of it is for admins."""
    router = APIRouter(prefix="/keys", tags=["keys"])

    @router.post("", responses=documented(400, 403, 409, 413, 422))
    def add_key(body: KeyRequest, caller: Annotated[KeyHolder, Depends(admin_of)]) -> answers.NewKey:
        """Make a key. It is told once; only its hash is kept."""
        key, made = keys.add(body.name, body.role)
        logger.info("%s made a %s's key for %s", caller.name, made.role, made.name)
        return answers.NewKey(name=made.name, role=made.role, created_at=made.created_at, key=key)

    @router.get("", responses=documented(403), dependencies=[Depends(admin_of)])
    def list_keys() -> list[answers.Key]:
        """For whom there are keys."""
        return [answers.Key(name=each.name, role=each.role, created_at=each.created_at) for each in keys.holders()]

    @router.delete("/{name}", responses=documented(403, 404, 409, 422))
    def revoke_key(name: Annotated[KeyName, Path()], caller: Annotated[KeyHolder, Depends(admin_of)]) -> answers.Key:
        """Take a key back: it is refused from now on."""
        gone = keys.revoke(name)
        logger.info("%s took back the key of %s", caller.name, gone.name)
        return answers.Key(name=gone.name, role=gone.role, created_at=gone.created_at)

    return router
