"""What becomes of an endpoint in which a version was promoted: decisions alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.orchestrator.deploying.app_status import AppStatus
from tandem.orchestrator.deploying.served import tried_of, version_of
from tandem.specs.rag import RagSpec


@dataclass(frozen=True)
class Up:
    """It answers."""


@dataclass(frozen=True)
class Wait:
    """It may yet come up."""

    why: str


@dataclass(frozen=True)
class TakeBack:
    """It won't."""

    why: str


@dataclass(frozen=True)
class Gone:
    """It is somebody else's now: whatever they did stays."""

    why: str


def look(
    facts: Mapping[str, Any], present: RagSpec | None, status: AppStatus | None, *, late: bool
) -> Up | Wait | TakeBack | Gone:
    """One look at an endpoint.

    Args:
        facts: Of the release: model, version, share, and `deployed_at` of what it replaced.
        present: What the endpoint answers with; None where it isn't deployed any more.
        status: How it stands.
        late: Whether it has had all the time that it may have.
    """
    model, version = str(facts["model"]), facts["version"]
    if present is None or status is None:
        return Gone("it isn't deployed any more; a deploy brings back what was promoted")
    now = version_of(present, model) if facts["share"] is None else tried_of(present, model)
    if now != version:
        return Gone(f"somebody else has put {now or 'another'} in its place meanwhile")
    fresh = status.deployed_at > float(facts.get("deployed_at") or 0.0)
    said = status.message or status.state
    if fresh and status.verdict == "running":
        return Up()
    # A replica may be unhealthy for other reasons, and be replaced; a version that can't be built or started stays so.
    if fresh and status.verdict == "failed" and status.state != "UNHEALTHY":
        return TakeBack(said)
    return TakeBack(f"not up in time: {said}") if late else Wait(said)
