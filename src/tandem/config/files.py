"""Files that are whole or not there, whoever is killed or whatever loses power meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

PARTIAL = ".partial"


def write_whole(path: Path, text: str, *, private: bool = False, durable: bool = True) -> None:
    """Write a text file (UTF-8) in one step: a reader sees what was there before, or all of this.

    Args:
        path: The file; its folder is there.
        text: What it is to hold.
        private: Nobody but its owner may read it, at no moment.
        durable: Have it on the disk when this returns; False for what is soon written anew.
    """
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(descriptor)
    partial.replace(path)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have on the disk which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network filesystems have no such call.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
