"""What the API answers with of fine-tuned models and of what endpoints answered with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from tandem.orchestrator.deploying.releases import Act, Release
from tandem.orchestrator.jobs import iso
from tandem.orchestrator.promotion.listing import Listed
from tandem.server.answers import Answer


class AgainstView(Answer):
    """What a paired test says of a version and what it would take the place of."""

    what: str = Field(description="a version's id, or the base model")
    report: str
    diff: float = Field(description="mean of the version less mean of the other, in units of the metric")
    ci95: tuple[float, float]
    n: int = Field(description="questions")


class StandingView(Answer):
    """What a comparison says of a version, asked with passages."""

    report: str = Field(description="the comparison's id")
    arm: str
    metric: str
    value: float | None
    n: int = Field(description="questions")
    adapters: int = Field(description="trained with different seeds; the figure is their mean")
    snapshot: str | None = Field(description="of the index then")
    top_k: int
    margin: float = Field(description="differences below it count as none")
    faults: list[str] = Field(description="in what it asked otherwise than the application would")
    against: AgainstView | None


class ServingView(Answer):
    """Where a version answers."""

    app: str
    share: float = Field(description="of what is asked of the application's own name; 0: only its own name reaches it")


class ModelVersion(Answer):
    """One version of a fine-tuned model."""

    name: str
    version: str = Field(description="the id of the job that made it")
    kind: Literal["adapter", "model"]
    base: str | None = Field(description="what it was trained from")
    created_at: str
    standing: StandingView | None = Field(description="the newest comparison's; null: none has asked it with passages")
    serving: list[ServingView] | None = Field(description="null where Ray Serve doesn't say")


class ModelChange(Answer):
    """What a promotion or a rollback does to an application."""

    app: str
    model: str
    version: str | None = Field(description="what it stands for from then on; null: it is taken out")
    was: str | None = Field(description="what it stood for; null: it wasn't there")
    share: float | None = Field(description="of a canary; null: it takes over whole")
    answers: str = Field(description="what answers then what is asked of the application's own name, in words")
    answered: str = Field(description="what does now")
    changed: list[str] = Field(description="places of the application's spec")
    standing: StandingView | None
    refusals: list[str] = Field(description="what speaks against it; a promotion that isn't forced is refused for it")
    notes: list[str]
    said: str = Field(description="all of it in a line")


class ReleaseView(Answer):
    """What an endpoint was told to answer with."""

    number: int
    act: Act
    at: str
    by: str = Field(description="whose key it was asked with")
    spec: dict[str, Any]
    facts: dict[str, Any] = Field(
        description="`index`: the collection's snapshot; of a deploy `file`, what that says; else the change"
    )


def model_version(listed: Listed) -> ModelVersion:
    """As the API shows it."""
    version = listed.version
    return ModelVersion(
        name=version.name,
        version=version.id,
        kind=version.kind,
        base=version.meta.get("base_model"),
        created_at=version.created_at,
        standing=None if listed.standing is None else StandingView(**asdict(listed.standing)),
        serving=None if listed.serving is None else [ServingView(**asdict(each)) for each in listed.serving],
    )


def release_view(release: Release) -> ReleaseView:
    """As the API shows it."""
    return ReleaseView(
        number=release.number,
        act=release.act,
        at=iso(release.at),
        by=release.by,
        spec=release.spec,
        facts=release.facts,
    )
