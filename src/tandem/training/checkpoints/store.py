"""A run's checkpoints as files: stored with a manifest per worker, written last; verified before they are loaded.

    step-000025/rank-00000.json      that worker's files, with sizes and SHA-256, and how many workers there were
                rank-00001.json
                deepspeed/…          what they name

A checkpoint is complete when every worker's manifest is there, and sound when the files are what the manifests say.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.artifacts.manifest import sha256_file
from tandem.config.files import write_whole

_PREFIX = "step-"


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that can't be gone on from.

    Attributes:
        name: Its folder's.
        why: What is wrong with it, in one line.
    """

    name: str
    why: str


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"{_PREFIX}{step:06d}"


def checkpoint_step(folder: Path) -> int:
    """The optimizer steps that were done when a checkpoint was made."""
    return int(folder.name.removeprefix(_PREFIX))


def checkpoints(root: Path) -> list[Path]:
    """The folders of all checkpoints, complete or not, oldest first."""
    found = [path for path in root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=checkpoint_step)


def local_folder(root: Path, rank: int) -> Path:
    """A fresh folder on this machine's disk, in which a worker writes its part of a checkpoint before it is stored.

    Args:
        root: The folder of all checkpoints.
        rank: The worker.
    """
    return Path(tempfile.mkdtemp(prefix=f"{_local_prefix(root)}{rank}-"))


def clear_local(root: Path) -> None:
    """Remove what killed workers of this run left on this machine's disk."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_local_prefix(root)}*"):
        # Another worker of this machine may be removing it too.
        shutil.rmtree(folder, ignore_errors=True)


def _local_prefix(root: Path) -> str:
    return f"tandem-checkpoint-{hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:12]}-"


def store(local: Path, target: Path, *, rank: int, workers: int) -> None:
    """Copy one worker's part of a checkpoint, then write its manifest, and remove what was copied.

    Args:
        local: The part, on this machine's disk.
        target: The checkpoint's folder, into which all workers write.
        rank: This worker.
        workers: How many there are.
    """
    target.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(local.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(local))
        # Of what was saved, not of what was copied: a copy that went wrong must show.
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, copy)
    manifest = {"schema": 1, "rank": rank, "workers": workers, "files": files}
    write_whole(_manifest(target, rank), json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(local)


def workers_of(folder: Path) -> int:
    """How many workers made a checkpoint; at least the first one's part must be there."""
    return int(json.loads(_manifest(folder, 0).read_text(encoding="utf-8"))["workers"])


def incomplete(folder: Path) -> str | None:
    """What parts a checkpoint lacks, without a look into its files; None if none."""
    try:
        workers = workers_of(folder)
    except FileNotFoundError:
        return "half written: the first worker's part has no manifest"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return f"{_manifest(folder, 0).name} can't be read"
    missing = [rank for rank in range(workers) if not _manifest(folder, rank).is_file()]
    if missing:
        return f"half written: worker {missing[0]} of {workers} has no manifest"
    return None


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, every byte of it read; None if it is sound."""
    what = incomplete(folder)
    if what is not None:
        return what
    for rank in range(workers_of(folder)):
        try:
            manifest = json.loads(_manifest(folder, rank).read_text(encoding="utf-8"))
            for name, wanted in manifest["files"].items():
                path = folder / name
                if not path.is_file():
                    return f"{name} is missing"
                if path.stat().st_size != wanted["bytes"]:
                    return f"{name} has {path.stat().st_size} bytes instead of {wanted['bytes']}"
                if sha256_file(path) != wanted["sha256"]:
                    return f"{name} isn't what was written (SHA-256)"
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            return f"{_manifest(folder, rank).name} can't be read"
    return None


def newest_sound(root: Path) -> tuple[Path | None, list[Skipped]]:
    """The checkpoint to go on from, and those after it that are broken."""
    skipped: list[Skipped] = []
    for folder in reversed(checkpoints(root)):
        why = fault(folder)
        if why is None:
            return folder, skipped
        skipped.append(Skipped(folder.name, why))
    return None, skipped


def discard_after(root: Path, step: int) -> None:
    """Remove the checkpoints of later steps: whoever goes on from `step` will make them again."""
    for folder in checkpoints(root):
        if checkpoint_step(folder) > step:
            shutil.rmtree(folder)


def superfluous(steps: Sequence[int], *, keep: int, best: int | None) -> list[int]:
    """Which of these complete checkpoints to remove: all but the last `keep` and the best.

    Args:
        steps: Of the complete checkpoints.
        keep: How many of the last ones stay.
        best: The step with the lowest evaluation loss, if there was an evaluation.
    """
    return [step for step in sorted(steps)[:-keep] if step != best]


def thin_out(root: Path, *, keep: int, best: int | None, before: int) -> None:
    """Remove what `superfluous` says, and what was left half written.

    Args:
        root: The folder of all checkpoints.
        keep: How many of the last complete ones stay.
        best: The step of the best one, which stays too.
        before: Checkpoints of this step and later may still be on their way, and aren't touched.
    """
    older = [folder for folder in checkpoints(root) if checkpoint_step(folder) < before]
    whole = [checkpoint_step(folder) for folder in older if incomplete(folder) is None]
    stay = set(whole) - set(superfluous(whole, keep=keep, best=best))
    for folder in older:
        if checkpoint_step(folder) not in stay:
            shutil.rmtree(folder)


def _manifest(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.json"
