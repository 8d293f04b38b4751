"""From ``artifact:NAME`` in a Serve config to one version of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tandem.artifacts.manifest import latest, read_manifest
from tandem.specs.promote import ARTIFACT_SCHEME


def pinned(value: Any, storage: Path) -> Any:
    """A config with each ``artifact:NAME`` made ``artifact:NAME@ID``.

    A config that says the same as before changes nothing for Serve, so a newer artifact must show in it.

    Args:
        value: The config, or a part of it.
        storage: Where artifacts are looked up.

    Raises:
        NotFoundError: No job of that name has made anything.
    """
    if isinstance(value, dict):
        return {key: pinned(item, storage) for key, item in value.items()}
    if isinstance(value, list):
        return [pinned(item, storage) for item in value]
    if isinstance(value, str) and value.startswith(ARTIFACT_SCHEME) and "@" not in value:
        return f"{value}@{newest(storage, value.removeprefix(ARTIFACT_SCHEME))}"
    return value


def newest(storage: Path, name: str) -> str:
    """The id of the newest artifact of a name."""
    return read_manifest(latest(storage, name)).id
