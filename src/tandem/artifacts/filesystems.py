"""Files on any filesystem that pyarrow (or fsspec) knows: s3://…, gs://…, hdfs://…, fsspec+PROTOCOL://…"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO, Any

from tandem.errors import UnreachableError


@dataclass(frozen=True)
class RemoteFile:
    """One file on a filesystem that isn't this machine's.

    Args:
        relative: Its path below the folder that was listed, as the filesystem says it; empty when it was named itself.
        path: On its filesystem.
        filesystem: pyarrow's.
        size: Bytes.
        modified_ns: Since the epoch; None where the filesystem doesn't say.
    """

    relative: str
    path: str
    filesystem: Any
    size: int
    modified_ns: int | None

    def open(self) -> IO[bytes]:
        """A stream of its bytes, from the beginning on."""
        return io.BufferedReader(self.filesystem.open_input_stream(self.path, compression=None))

    def state(self) -> str:
        """Changes whenever the file does, as far as its filesystem tells: fsspec knows entity tags, pyarrow times."""
        fsspec = getattr(getattr(self.filesystem, "handler", None), "fs", None)
        return str(fsspec.ukey(self.path)) if fsspec is not None else f"{self.size} {self.modified_ns}"


def is_remote(uri: str) -> bool:
    """Whether it names a file or folder by its filesystem, as `s3://…` does."""
    return "://" in uri and not uri.startswith("file://")


def list_remote(root: str) -> list[RemoteFile]:
    """The file that a URI names, or every file below the folder; none where nothing is.

    Raises:
        UnreachableError: There is no such filesystem, or it refuses.
    """
    from pyarrow.fs import FileSelector, FileSystem, FileType
    from pyarrow.lib import ArrowException

    try:
        filesystem, path = FileSystem.from_uri(root)
        info = filesystem.get_file_info(path)
        if info.type == FileType.File:
            return [RemoteFile("", path, filesystem, int(info.size), info.mtime_ns)]
        infos = filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    except (ArrowException, OSError, ValueError, ImportError) as error:
        raise UnreachableError(
            f"can't be read: {str(error).splitlines()[0]}",
            where=root,
            remedy="check the address, and the credentials in the environment of the cluster",
        ) from None
    base = path.rstrip("/") + "/"
    return [
        RemoteFile(info.path.removeprefix(base), info.path, filesystem, int(info.size), info.mtime_ns)
        for info in infos
        if info.type == FileType.File
    ]
