"""Files that are whole or not there, whoever is killed meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = ".partial"


def write_whole(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file (UTF-8) in one step: a reader sees what was there before, or all of this.

    Args:
        path: The file; its folder is there.
        text: What it is to hold.
        private: Nobody but its owner may read it, at no moment.
    """
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
