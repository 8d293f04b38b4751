"""A working directory as Ray would pack it: the same files, as a zip file whose hash follows from them alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tandem.errors import SpecError
from tandem.orchestrator.packages import MAX_PACKAGE_BYTES

WHERE = "runtime.working_dir"
# Of Ray's environment variables RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES and RAY_RUNTIME_ENV_IGNORE_GITIGNORE.
DEFAULT_EXCLUDES = ".git,.venv,venv,__pycache__"
LARGEST = 5
_TOP = "working_dir"  # Ray takes a single folder at the top away
_TIME = (1980, 1, 1, 0, 0, 0)
_MIB = 2**20


@dataclass(frozen=True)
class Found:
    """The files of a working directory that travel.

    Attributes:
        folder: The directory.
        files: Relative to it, sorted, with their sizes in bytes.
    """

    folder: Path
    files: tuple[tuple[str, int], ...]

    def holds(self, relative: str) -> bool:
        """Whether a file travels, or anything below a folder does."""
        return any(name == relative or name.startswith(f"{relative}/") for name, _ in self.files)


def look(folder: Path, *, limit: int = MAX_PACKAGE_BYTES) -> Found:
    """Which files travel: all but what the folder's .gitignore and .rayignore files and Ray's defaults leave out.

    Args:
        folder: An existing directory.
        limit: Bytes that they may have together.

    Raises:
        SpecError: No such directory, nothing in it travels, or it is larger than Ray allows.
    """
    if not folder.is_dir():
        raise SpecError(f"no such folder: {folder}", where=WHERE, remedy="check the path")
    files = tuple(sorted((str(path.relative_to(folder)), path.stat().st_size) for path in _walk(folder)))
    if not files:
        raise SpecError(f"nothing in {folder} travels", where=WHERE, remedy="see its .gitignore and .rayignore")
    size = sum(length for _, length in files)
    if size > limit:
        largest = sorted(files, key=lambda file: -file[1])[:LARGEST]
        named = ", ".join(f"{name} ({length / _MIB:.0f} MiB)" for name, length in largest)
        raise SpecError(
            f"{folder} has {size / _MIB:.0f} MiB, Ray takes {limit / _MIB:.0f} MiB; the largest files: {named}",
            where=WHERE,
            remedy="leave out what the job doesn't need in a .rayignore file; put data on the storage path",
        )
    return Found(folder, files)


@contextmanager
def packed(found: Found) -> Iterator[tuple[str, BinaryIO]]:
    """The files as a zip file; gives its SHA-256 and an open file at its beginning."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, _ in found.files:
                path = found.folder / name
                info = zipfile.ZipInfo(f"{_TOP}/{name}", _TIME)
                info.external_attr = (0o100755 if os.access(path, os.X_OK) else 0o100644) << 16
                with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, _MIB)
        file.seek(0)
        hashed = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        yield hashed, file


def _walk(folder: Path) -> Iterator[Path]:
    from pathspec import PathSpec

    excludes = os.environ.get("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", DEFAULT_EXCLUDES)
    git = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    names = [".gitignore", ".rayignore"] if git else [".rayignore"]
    lines = [line for line in excludes.split(",") if line]

    def rules(of: Path) -> list[tuple[Path, PathSpec[Any]]]:
        files = [of / name for name in names if (of / name).is_file()]
        return [(of, PathSpec.from_lines("gitignore", file.read_text().splitlines())) for file in files]

    def below(at: Path, known: Sequence[tuple[Path, PathSpec[Any]]], above: frozenset[Path]) -> Iterator[Path]:
        real = at.resolve()
        if any(spec.match_file(str(at.relative_to(base))) for base, spec in known):
            return
        if at.is_file():
            yield at
        # A link to a folder above would never come to an end.
        elif at.is_dir() and real not in above:
            inside = [*known, *rules(at)]
            for inner in at.iterdir():
                yield from below(inner, inside, above | {real})

    top = [(folder, PathSpec.from_lines("gitignore", lines)), *rules(folder)]
    for inner in folder.iterdir():
        yield from below(inner, top, frozenset({folder.resolve()}))
