"""From ``artifact:NAME`` in a Serve config to one version of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.artifacts.manifest import latest, read_manifest
from tandem.orchestrator.promotion import version_in
from tandem.specs.rag import RagSpec

SCHEME = "artifact:"


def pinned(value: Any, storage: Path, kept: Mapping[str, str]) -> Any:
    """A config with each ``artifact:NAME`` made ``artifact:NAME@ID``.

    A config that says the same as before changes nothing for Serve, so a newer artifact must show in it.

    Args:
        value: The config, or a part of it.
        storage: Where artifacts are looked up.
        kept: By name, versions to take instead of the newest.

    Raises:
        NotFoundError: No job of that name has made anything.
    """
    if isinstance(value, dict):
        return {key: pinned(item, storage, kept) for key, item in value.items()}
    if isinstance(value, list):
        return [pinned(item, storage, kept) for item in value]
    if isinstance(value, str) and value.startswith(SCHEME) and "@" not in value:
        name = value.removeprefix(SCHEME)
        return f"{value}@{kept.get(name) or newest(storage, name)}"
    return value


def newest(storage: Path, name: str) -> str:
    """The id of the newest artifact of a name."""
    return read_manifest(latest(storage, name)).id


def versions_in(spec: RagSpec) -> dict[str, str]:
    """By model, the versions in an application, canaries aside."""
    tried = spec.canary.model if spec.canary else None
    uris = [spec.model, *(each.uri for each in spec.adapters if each.name != tried)]
    return dict(named for uri in uris if (named := version_in(uri)))
