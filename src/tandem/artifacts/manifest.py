"""Artifacts: a folder whose manifest is written last, so that its existence means that it is complete."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tandem.config.files import PARTIAL, sync_folder, write_whole
from tandem.errors import ModelError, NotFoundError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ArtifactType = Literal["adapter", "model", "index", "report"]


@dataclass(frozen=True)
class Manifest:
    """What a job made.

    Attributes:
        name: The job's name; `artifact:NAME` finds the latest.
        id: The job's id.
        type: What it is.
        created_at: ISO 8601, UTC.
        files: SHA-256 (hex) of each file, by path relative to the folder.
        meta: Facts by type: base model, metrics, index snapshot, spec hash.
    """

    name: str
    id: str
    type: ArtifactType
    created_at: str
    files: dict[str, str]
    meta: dict[str, Any] = field(default_factory=dict)


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, *, name: str, id: str, type: ArtifactType, meta: dict[str, Any]) -> Manifest:
    """Hash every file in the folder, have it on the disk, then write the manifest in one step.

    Returns:
        The manifest as written.
    """
    there = sorted(folder.rglob("*"))
    files = {
        str(path.relative_to(folder)): _stored_sha256(path)
        for path in there
        if path.is_file() and path.name not in (MANIFEST, MANIFEST + PARTIAL)
    }
    # The folder may be as new as what is in it, and so may that of its name.
    for each in (*filter(Path.is_dir, there), folder, *folder.parents[:2]):
        sync_folder(each)
    manifest = Manifest(name, id, type, datetime.now(UTC).isoformat(timespec="microseconds"), files, meta)
    write_whole(folder / MANIFEST, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")
    return manifest


def _stored_sha256(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete artifact.

    Raises:
        ModelError: There is none, it can't be read, or a file that it names is missing.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise ModelError(
            "not a complete artifact: it has no manifest.json", where=str(folder), remedy="run the job that makes it"
        ) from None
    except (ValueError, TypeError) as error:
        raise ModelError(f"a manifest that can't be read: {error}", where=str(path)) from None
    missing = [name for name in manifest.files if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"incomplete: {', '.join(missing[:3])} missing", where=str(folder), remedy="run the job that makes it again"
        )
    return manifest


def latest(storage: Path, name: str, id: str | None = None) -> Path:
    """The folder of the newest complete artifact of this name, or of the one with this id.

    Raises:
        NotFoundError: There is none; the message names those that exist.
        ModelError: The newest isn't what it should be.
    """
    root = storage / "artifacts"
    found = []
    broken: list[tuple[float, ModelError]] = []
    for path in (root / name).glob(f"*/{MANIFEST}"):
        folder = path.parent
        if id is not None and folder.name != id:
            continue
        try:
            found.append((read_manifest(folder).created_at, folder))
        except ModelError as error:
            broken.append((path.stat().st_mtime, error))
    newest = max(found)[1] if found else None
    for at, fault in broken:
        # An older one in its place, without a word, would be another model.
        if newest is None or at > (newest / MANIFEST).stat().st_mtime:
            raise fault
        logger.warning("passed over: %s", fault)
    if newest is not None:
        return newest
    known = sorted({path.parents[1].name for path in root.glob(f"*/*/{MANIFEST}")})
    wanted = f"artifact:{name}" + (f"@{id}" if id else "")
    raise NotFoundError(
        f"no artifact {wanted}",
        where=str(root),
        remedy=f"there are: {', '.join(known)}" if known else "no job has made one yet",
    )
