"""From ``artifact:NAME`` in a Serve config to one version of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.artifacts.manifest import latest, read_manifest
from tandem.orchestrator.releases import Releases

SCHEME = "artifact:"


class Pins:
    """Makes each ``artifact:NAME`` of applications ``artifact:NAME@ID``.

    A config that says the same as before changes nothing for Serve, so a newer artifact must show in it. But what was
    promoted, or taken back, stays as it is: a deploy for another reason must not undo it.

    Args:
        storage: Where artifacts are looked up.
        releases: What was promoted.
    """

    def __init__(self, storage: Path, releases: Releases) -> None:
        self._storage = storage
        self._releases = releases
        self.notes: list[str] = []

    def pinned(self, application: Mapping[str, Any]) -> dict[str, Any]:
        """An application with each artifact at one version.

        Raises:
            NotFoundError: No job of that name has made anything.
        """
        promoted = self._releases.promoted(str(application["name"]))
        found: dict[str, Any] = self._pin(dict(application), promoted)
        return found

    def _pin(self, value: Any, promoted: Mapping[str, str]) -> Any:
        if isinstance(value, dict):
            return {key: self._pin(item, promoted) for key, item in value.items()}
        if isinstance(value, list):
            return [self._pin(item, promoted) for item in value]
        if not isinstance(value, str) or not value.startswith(SCHEME) or "@" in value:
            return value
        name = value.removeprefix(SCHEME)
        newest = read_manifest(latest(self._storage, name)).id
        kept = promoted.get(name, newest)
        if kept != newest:
            self.notes.append(f"{name} stays {kept}, as promoted; the newest is {newest}: `tandem promote {name}`")
        return f"{value}@{kept}"
