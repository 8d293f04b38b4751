"""Files of rows, wherever they lie: local, or on any filesystem that pyarrow (or fsspec) knows.

a/rows.jsonl, file:a/rows.jsonl          one file
a/shards                                 a folder: every file below it of a type that can be read
a/shards/part-*.parquet, a/**/x.csv      a glob: * and ? within a folder's name or a file's, ** across folders
s3://…, gs://…, hdfs://…                 the same, read as a stream; fsspec+PROTOCOL://… for what fsspec knows
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tandem.errors import DataError

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
    """

    name: str
    path: str
    filesystem: Any
    size: int

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
        return cls(str(path), str(path), None, path.stat().st_size)

    @property
    def suffix(self) -> str:
        """In lower case, with its dot."""
        return Path(self.path).suffix.lower()

    def open(self) -> IO[bytes]:
        """A stream of its bytes, from the beginning on."""
        if self.filesystem is None:
            return Path(self.path).open("rb")
        return io.BufferedReader(self.filesystem.open_input_stream(self.path, compression=None))

    def open_seekable(self) -> Any:
        """The file for readers that jump about in it, as Parquet's does."""
        if self.filesystem is None:
            return self.path
        return self.filesystem.open_input_file(self.path)


def list_data_files(uri: str) -> list[DataFile]:
    """The files that a URI, a folder or a glob names, sorted by name: their order is the order of the rows.

    Files of other types are passed over in folders and globs; so is what begins with a dot or an underscore.

    Raises:
        DataError: Nothing is there, nothing of it can be read, or there is no such filesystem.
    """
    if "://" in uri and not uri.startswith("file://"):
        found = _remote(uri)
    else:
        scheme, _, rest = uri.partition(":")
        found = _local(rest if scheme == "file" else uri)
    if not found:
        raise DataError(
            "no file of rows here", where=uri, remedy=f"give files, a folder or a glob with {' '.join(READABLE)}"
        )
    return sorted(found, key=lambda file: file.name)


def _local(text: str) -> list[DataFile]:
    path = Path(text).expanduser().absolute()
    if not _WILD.search(str(path)):
        return _below(path, "**/*") if path.is_dir() else [DataFile.local(path)]
    fixed, pattern = _split(str(path))
    return _below(Path(fixed or "/"), pattern)


def _below(folder: Path, pattern: str) -> list[DataFile]:
    matching = _matcher(pattern)
    paths = (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else ()
    return [
        DataFile.local(path)
        for path in paths
        if _wanted(path.relative_to(folder).as_posix()) and matching.fullmatch(path.relative_to(folder).as_posix())
    ]


def _remote(uri: str) -> list[DataFile]:
    from pyarrow.fs import FileSelector, FileSystem, FileType
    from pyarrow.lib import ArrowException

    fixed, pattern = _split(uri) if _WILD.search(uri) else (uri, "**/*")
    try:
        filesystem, root = FileSystem.from_uri(fixed)
        if not _WILD.search(uri):
            info = filesystem.get_file_info(root)
            if info.type == FileType.File:
                return [DataFile(uri, root, filesystem, int(info.size))]
        selector = FileSelector(root, recursive=True, allow_not_found=True)
        infos = [info for info in filesystem.get_file_info(selector) if info.type == FileType.File]
    except (ArrowException, OSError, ValueError, ImportError) as error:
        raise DataError(
            f"can't be read: {str(error).splitlines()[0]}",
            where=uri,
            remedy="check the address, and the credentials in the environment of the cluster",
        ) from None
    matching = _matcher(pattern)
    base = root.rstrip("/") + "/"
    return [
        DataFile(f"{fixed.rstrip('/')}/{info.path.removeprefix(base)}", info.path, filesystem, int(info.size))
        for info in infos
        if _wanted(info.path.removeprefix(base)) and matching.fullmatch(info.path.removeprefix(base))
    ]


def _split(text: str) -> tuple[str, str]:
    """What stands before the first wildcard's segment, and the pattern from there on."""
    parts = text.split("/")
    first = next(place for place, part in enumerate(parts) if _WILD.search(part))
    return "/".join(parts[:first]), "/".join(parts[first:])


def _matcher(pattern: str) -> re.Pattern[str]:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(words.get(piece, re.escape(piece)) for piece in pieces))


def _wanted(relative: str) -> bool:
    hidden = any(part.startswith((".", "_")) for part in relative.split("/"))
    return not hidden and Path(relative).suffix.lower() in READABLE
