"""The routes of packages: working directories that jobs bring along."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from tandem.errors import NotFoundError
from tandem.orchestrator.packages import Packages
from tandem.server import answers
from tandem.server.faults import documented
from tandem.server.guard import submitter_of

Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the package, hex")]
_ZIP = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def packages_router(packages: Packages) -> APIRouter:
    """Packages."""
    router = APIRouter(prefix="/packages", tags=["packages"])

    @router.put(
        "/{sha256}",
        responses=documented(400, 403, 413, 422),
        openapi_extra={"requestBody": {"required": True, "content": _ZIP}},
        dependencies=[Depends(submitter_of)],
    )
    async def store_package(sha256: Sha256, request: Request) -> answers.Package:
        """Keep a zipped working directory; a spec names it as `package:SHA256`."""
        length = await packages.store(sha256, request.stream())
        return answers.Package(sha256=sha256, bytes=length)

    @router.get("/{sha256}", responses=documented(404, 422))
    def find_package(sha256: Sha256) -> answers.Package:
        """Whether a package is there."""
        if not packages.has(sha256):
            raise NotFoundError(f"no package {sha256}", remedy="`tandem submit --working-dir` sends it")
        return answers.Package(sha256=sha256, bytes=packages.path(sha256).stat().st_size)

    return router
