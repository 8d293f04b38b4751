"""Every version of every fine-tuned model: what comparisons say of it, and where it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tandem.orchestrator.deploying.served import canary_in, default_uri
from tandem.orchestrator.promotion.comparisons import comparisons
from tandem.orchestrator.promotion.evidence import newest_standing, versions
from tandem.orchestrator.promotion.rules import Standing, Version
from tandem.specs.rag import RagSpec


@dataclass(frozen=True)
class Serving:
    """Where a version answers.

    Attributes:
        app: The application.
        share: Of what is asked of the application's own name: 1 for all, 0 where only its own name reaches it.
    """

    app: str
    share: float


@dataclass(frozen=True)
class Listed:
    """A version, and what is known of it.

    Attributes:
        version: Which.
        standing: What the newest comparison says that asked it with passages, if one has.
        serving: Where it answers now; None where Ray Serve doesn't say.
    """

    version: Version
    standing: Standing | None
    serving: tuple[Serving, ...] | None


def list_models(storage: Path, endpoints: Mapping[str, RagSpec] | None) -> list[Listed]:
    """By model's name, the newest version first.

    Args:
        storage: The cluster's storage folder.
        endpoints: What the deployed ones answer with; None where Ray Serve can't be asked.
    """
    known = comparisons(storage)
    return [
        Listed(
            version,
            newest_standing(version, known),
            None if endpoints is None else _serving(endpoints, version),
        )
        for version in versions(storage)
    ]


def _serving(endpoints: Mapping[str, RagSpec], version: Version) -> tuple[Serving, ...]:
    found = []
    for name, spec in endpoints.items():
        if version.uri not in (spec.model, *(each.uri for each in spec.adapters)):
            continue
        tried = canary_in(spec, version.name)
        share = spec.canary.share if spec.canary and tried is not None else 0.0
        if tried is not None and tried.uri == version.uri:
            found.append(Serving(name, share))
        else:
            others = spec.canary.share if spec.canary else 0.0
            default = default_uri(spec) or spec.model
            found.append(Serving(name, 1.0 - others if default == version.uri else 0.0))
    return tuple(found)
