"""Files, wherever they lie: local, or on any filesystem that pyarrow (or fsspec) knows.

a/rows.jsonl, file:a/rows.jsonl          one file
a/shards                                 a folder: every file below it of a type that can be read
a/shards/part-*.parquet, a/**/x.csv      a glob: * and ? within a folder's name or a file's, ** across folders
s3://…, gs://…, hdfs://…                 the same, read as a stream; fsspec+PROTOCOL://… for what fsspec knows
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from tandem.artifacts.filesystems import is_remote, list_remote
from tandem.data.checked_stream import CheckedStream, reading_failed
from tandem.errors import DataError, UnreachableError

READABLE = (".jsonl", ".ndjson", ".csv", ".parquet")
_WILD = re.compile(r"[*?]")


@dataclass(frozen=True)
class DataFile:
    """One file of rows.

    Args:
        name: As it is shown to people: a path, or a URI.
        path: On its filesystem.
        filesystem: pyarrow's; None for this machine's own.
        size: Bytes.
        modified_at: When it was last changed: ISO 8601, UTC; None where its filesystem doesn't say.
    """

    name: str
    path: str
    filesystem: Any
    size: int
    modified_at: str | None = None

    @classmethod
    def local(cls, path: Path) -> DataFile:
        """A file on this machine.

        Raises:
            DataError: It isn't there.
        """
        if not path.is_file():
            raise DataError(
                "no such file", where=str(path), remedy="check the path; it is relative to the current folder"
            )
        state = path.stat()
        return cls(str(path), str(path), None, state.st_size, _iso(state.st_mtime_ns))

    @property
    def suffix(self) -> str:
        """In lower case, with its dot."""
        return Path(self.path).suffix.lower()

    def open(self) -> IO[bytes]:
        """A stream of its bytes, from the beginning on.

        Raises:
            DataError: It may not be read. Reading raises this too.
            UnreachableError: It can't be read now, as when a store throttles. Reading raises this too: what is left to
                be an OSError is a parser's word for broken content.
        """
        return self._open(lambda: self.filesystem.open_input_stream(self.path, compression=None))

    def open_seekable(self) -> IO[bytes]:
        """As `open`, for readers that jump about in it, as Parquet's does."""
        return self._open(lambda: self.filesystem.open_input_file(self.path))

    def _open(self, remote: Callable[[], Any]) -> IO[bytes]:
        try:
            raw = io.FileIO(self.path) if self.filesystem is None else remote()
        except OSError as error:
            raise reading_failed(self.name, error) from error
        return io.BufferedReader(CheckedStream(raw, self.name))


def list_data_files(uri: str) -> list[DataFile]:
    """The files of rows that a URI, a folder or a glob names, sorted by name: their order is the order of the rows.

    Files of other types are passed over in folders and globs; so is what begins with a dot or an underscore.

    Raises:
        DataError: Nothing is there, nothing of it can be read, or there is no such filesystem.
    """
    if is_remote(uri):
        root, pattern = split_glob(uri)
    else:
        root, pattern = split_glob(str(Path(uri.removeprefix("file:")).expanduser().absolute()))
        root = root or "/"
        if not pattern and not Path(root).is_dir():
            return [DataFile.local(Path(root))]
    matches = glob_matcher(pattern or "**/*")
    found = [file for relative, file in walk(root) if relative == "" or (_wanted(relative) and matches(relative))]
    if not found:
        raise DataError(
            "no file of rows here", where=uri, remedy=f"give files, a folder or a glob with {' '.join(READABLE)}"
        )
    return sorted(found, key=lambda file: file.name)


def walk(root: str) -> Iterator[tuple[str, DataFile]]:
    """Every file below a folder, by its path relative to it; a file that is named itself by the empty path.

    Args:
        root: A local path, or a URI with a filesystem.

    Raises:
        DataError: There is no such filesystem, or it refuses.
        InputError: A folder may not be listed.
        UnreachableError: A folder can't be listed now.
    """
    if is_remote(root):
        yield from _walk_remote(root)
    elif Path(root).is_file():
        yield "", DataFile.local(Path(root))
    else:
        for folder, _, names in os.walk(root, onerror=_refused):
            for path in (Path(folder, name) for name in names):
                if _is_file(path):
                    yield path.relative_to(root).as_posix(), DataFile.local(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise reading_failed(str(path), error) from error


def _refused(error: OSError) -> None:
    # A folder that can't be listed isn't one without files: what is indexed of them would be deleted.
    if not isinstance(error, FileNotFoundError):
        raise reading_failed(str(error.filename), error) from error


def _walk_remote(root: str) -> Iterator[tuple[str, DataFile]]:
    try:
        files = list_remote(root)
    except UnreachableError as error:
        raise DataError(error.what, where=error.where, remedy=error.remedy) from None
    for file in files:
        name = f"{root.rstrip('/')}/{file.relative}" if file.relative else root
        yield file.relative, DataFile(name, file.path, file.filesystem, file.size, _iso(file.modified_ns))


def _iso(time_ns: int | None) -> str | None:
    return None if time_ns is None else datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="seconds")


def split_glob(text: str) -> tuple[str, str]:
    """What stands before the first segment with a wildcard, and the pattern from there on; empty without one."""
    parts = text.split("/")
    first = next((place for place, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return "/".join(parts[:first]), "/".join(parts[first:])


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a relative path matches: * and ? within a name, [ab] for one of some characters, ** across folders."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", pattern)  # every second one is a wildcard
    translated = [words.get(piece, piece.replace("[!", "[^", 1)) for piece in pieces]
    translated[::2] = map(re.escape, pieces[::2])
    matching = re.compile("".join(translated))
    return lambda relative: matching.fullmatch(relative) is not None


def _wanted(relative: str) -> bool:
    hidden = any(part.startswith((".", "_")) for part in relative.split("/"))
    return not hidden and Path(relative).suffix.lower() in READABLE
